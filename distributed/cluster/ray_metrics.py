"""Numbers of a run for Prometheus, through Ray: every node exports them on its metrics port as ``ray_<name>``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ray.util.metrics import Counter, Gauge

from meta.learning.online import State
from meta.training.loop import Finished
from meta.training.records import Row, column, cost_columns
from policies.common.results import TaskResult


@dataclass(frozen=True, slots=True)
class Exported:
    """A metric: its name without Ray's prefix (and without the ``_total`` of counters), what it says and its tags."""

    name: str
    kind: Literal["counter", "gauge"]
    description: str
    tags: tuple[str, ...] = ()

    @property
    def prometheus(self) -> str:
        """The name that Prometheus sees."""
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
"""Every metric; all have the tag ``run`` too."""
PHASES = ("rollout", "update", "critic", "solve", "estimation", "meta_update")
"""Values of the tag ``phase``; ``solve`` is a tabular task, whose parts are not measured apart."""


class RayMetricsTracker:
    """Feeds the metrics from the driver as the run goes; a :class:`meta.training.loop.Tracker`. Ray must be running."""

    def __init__(
        self,
        run: str,
        tasks_per_round: int,
        retried: Callable[[], int],
        meta_seconds: Callable[[], tuple[float, float]],
    ) -> None:
        """``retried`` counts tasks run again so far; ``meta_seconds`` are those of estimates and of updates so far."""
        made: dict[str, Any] = {}
        for metric in EXPORTED:
            kind = Counter if metric.kind == "counter" else Gauge
            made[metric.name] = kind(metric.name, metric.description, tag_keys=(*metric.tags, "run"))
            made[metric.name].set_default_tags({"run": run})
        self._metrics, self._size = made, tasks_per_round
        self._retried, self._meta_seconds = retried, meta_seconds
        self._told_retries, self._told_seconds = 0, (0.0, 0.0)
        self._in_round, self._gaps = 0, list[float]()

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """Count the task, its steps and where its time went."""
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
        self._add("metasrl_tasks_retried", float(self._retried() - self._told_retries))
        self._told_retries = self._retried()

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """What the round showed."""
        self._in_round = 0
        self._set("metasrl_round", float(state.num_rounds))
        self._set("metasrl_staleness", 0.0)
        spent = self._meta_seconds()
        for phase, now, before in zip(("estimation", "meta_update"), spent, self._told_seconds, strict=True):
            self._add("metasrl_seconds", max(0.0, now - before), phase=phase)
        self._told_seconds = spent
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
            self._metrics[name].inc(value, tags=tags)

    def _set(self, name: str, value: float, **tags: str) -> None:
        if np.isfinite(value):
            self._metrics[name].set(value, tags=tags)
