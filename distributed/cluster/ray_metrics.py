"""Metrics of a run for Prometheus: Ray exports them as ``ray_<name>`` on the metrics port of every node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from ray.util.metrics import Counter, Gauge

from distributed.cluster.meta_learner import RayLearner
from distributed.cluster.ray_pool import RayPool
from distributed.tracking.run_tracker import RunContext, RunStart, RunTracker
from meta.learning.online import State
from meta.training.loop import Finished
from meta.training.records import Row, column, cost_columns
from policies.common.results import TaskResult


@dataclass(frozen=True, slots=True)
class Exported:
    """A metric: its name without Ray's prefix (and a counter's suffix ``_total``), its description and its tags."""

    name: str
    kind: Literal["counter", "gauge"]
    description: str
    tags: tuple[str, ...] = ()

    @property
    def prometheus(self) -> str:
        """The name in Prometheus."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"


EXPORTED = (
    Exported("metasrl_tasks_done", "counter", "training tasks solved and estimated"),
    Exported("metasrl_tasks_retried", "counter", "tasks run again because their worker died"),
    Exported("metasrl_tasks_left_out", "counter", "tasks whose estimate was too poor to learn from (weight 0)"),
    Exported("metasrl_seconds", "counter", "seconds of all workers and the meta-learner by phase", ("phase",)),
    Exported("metasrl_env_steps", "counter", "environment steps of training tasks"),
    Exported("metasrl_queue_depth", "gauge", "tasks of the current round that are not finished"),
    Exported("metasrl_round", "gauge", "rounds finished"),
    Exported("metasrl_staleness", "gauge", "updates between the start of the last task and the newest one (0: rounds)"),
    Exported("metasrl_dice_effective_sample_size", "gauge", "share, mean over the round's estimates"),
    Exported("metasrl_dice_flow_residual", "gauge", "mean over the round's estimates"),
    Exported("metasrl_taog", "gauge", "mean gap of all training tasks so far; absent without an exact model"),
    Exported("metasrl_reward", "gauge", "mean J_0 of the round's outputs"),
    Exported("metasrl_violation", "gauge", "mean violation of the round's outputs", ("cost",)),
    Exported("metasrl_violation_during", "gauge", "mean violation during adaptation in the round", ("cost",)),
    Exported("metasrl_learning_rate", "gauge", "learned rate of the next round", ("objective",)),
)
"""Every metric; each has the tag ``run`` as well."""
PHASES = ("rollout", "update", "critic", "solve", "estimation", "meta_update")
"""Values of the tag ``phase``; ``solve`` is a tabular task, which is measured as one phase."""


class RayMetricsTracker(RunTracker):
    """Updates the metrics while the run trains. Ray must be running once :meth:`follow` is called."""

    def __init__(self, run: str, tasks_per_round: int) -> None:
        self._run, self._size = run, tasks_per_round
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._pool: RayPool | None = None
        self._learner: RayLearner | None = None
        self._counted_retries, self._counted_seconds = 0, (0.0, 0.0)
        self._in_round, self._gaps = 0, list[float]()

    @classmethod
    def of(cls, context: RunContext) -> Self | None:
        """None unless the pool is Ray."""
        config = context.config
        return cls(config.name, config.cluster.tasks_per_round) if config.cluster.pool == "ray" else None

    def started(self, start: RunStart) -> None:
        """Register the metrics."""
        assert isinstance(start.pool, RayPool)
        assert isinstance(start.learner, RayLearner)
        self.follow(start.pool, start.learner)

    def follow(self, pool: RayPool, learner: RayLearner) -> None:
        """Register the metrics of a pool and a meta-learner."""
        self._pool, self._learner = pool, learner
        for metric in EXPORTED:
            keys = (*metric.tags, "run")
            if metric.kind == "counter":
                self._counters[metric.name] = Counter(metric.name, metric.description, tag_keys=keys)
                self._counters[metric.name].set_default_tags({"run": self._run})
            else:
                self._gauges[metric.name] = Gauge(metric.name, metric.description, tag_keys=keys)
                self._gauges[metric.name].set_default_tags({"run": self._run})

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """Count the task, its environment steps and its seconds by phase."""
        assert self._pool is not None
        self._in_round += 1
        self._add("metasrl_tasks_done", 1.0)
        self._add("metasrl_tasks_left_out", float(finished.contribution.weight == 0.0))
        self._add("metasrl_env_steps", float(result.env_steps))
        parts = {phase: float(result.facts.get(f"{phase}_seconds", 0.0)) for phase in ("rollout", "update", "critic")}
        if not any(parts.values()):
            parts = {"solve": result.seconds}
        for phase, seconds in parts.items():
            self._add("metasrl_seconds", seconds, phase=phase)
        self._set("metasrl_queue_depth", float(max(0, self._size - self._in_round)))
        self._add("metasrl_tasks_retried", float(self._pool.retried - self._counted_retries))
        self._counted_retries = self._pool.retried

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """Export the measures of the round."""
        assert self._learner is not None
        self._in_round = 0
        self._set("metasrl_round", float(state.num_rounds))
        self._set("metasrl_staleness", 0.0)
        spent = self._learner.seconds()
        for phase, now, before in zip(("estimation", "meta_update"), spent, self._counted_seconds, strict=True):
            self._add("metasrl_seconds", max(0.0, now - before), phase=phase)
        self._counted_seconds = spent
        given = list(rows)
        self._gaps += column(given, "gap").tolist()
        self._set("metasrl_taog", float(np.mean(self._gaps)))
        self._set("metasrl_reward", float(column(given, "reward").mean()))
        for name in ("effective_sample_size", "flow_residual"):
            self._set(f"metasrl_dice_{name}", float(column(given, f"dice_{name}").mean()))
        for name in ("violation", "violation_during"):
            for cost, value in enumerate(cost_columns(given, name).mean(axis=0), start=1):
                self._set(f"metasrl_{name}", float(value), cost=str(cost))
        for objective, rate in enumerate(state.starts[0].learning_rates):
            self._set("metasrl_learning_rate", float(rate), objective=str(objective))

    def _add(self, name: str, value: float, **tags: str) -> None:
        if value > 0.0:
            self._counters[name].inc(value, tags=tags)

    def _set(self, name: str, value: float, **tags: str) -> None:
        if np.isfinite(value):
            self._gauges[name].set(value, tags=tags)
