"""meta_srl: the method itself, online steps on upper bounds with estimated corrections."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from meta.learning.kinds import Item
from meta.learning.online import State
from meta.learning.settings import MetaSettings
from meta.methods.workbench import Learned, Method, Workbench
from meta.training.disturbance import DisturbedLearner
from meta.training.evaluation_settings import GridPoint
from meta.training.loop import Finished, Position, train, training_plan
from meta.training.pool import Done, Learner, LocalLearner, Pending
from meta.training.records import Row
from policies.common.results import TaskResult
from policies.mixtures.team import TeamStep


def learn(bench: Workbench, point: GridPoint) -> Learned:
    """The method itself: its own training loop, its learned start and rates."""
    experiment = bench.experiment
    meta = with_point(experiment.meta, point, bench.kind.section)
    local: Learner = LocalLearner(meta, experiment.dice, experiment.within.num_iterations)
    if bench.disturbance is not None:
        local = DisturbedLearner(local, bench.disturbance, meta)
    learner, seen = _Timed(local), _Recorder()
    state = train(
        training_plan(experiment, bench.drawn, bench.tasks),
        bench.pool,
        learner,
        [seen],
        Position(bench.drawn.initial_state(meta)),
    )
    results = [seen.results[task.index] for task in bench.tasks]
    solving, updates = sum(result.seconds for result in results), len(bench.tasks) * experiment.within.num_iterations
    return Learned(
        experiment.held_out_starts(state.start),
        updates,
        sum(result.env_steps for result in results) + seen.warm_up_steps,
        results=results,
        rows=seen.rows,
        state=state,
        facts={
            "training_solve_seconds": solving / len(results),
            "estimate_seconds": learner.estimate_seconds / len(results),
            "update_seconds": learner.update_seconds / state.num_rounds,
        },
    )


def with_point(meta: MetaSettings, point: GridPoint, section: str) -> MetaSettings:
    """The meta-learner's settings with a grid point's values in place; ``section`` is the one for learning phi."""
    given = {"step_size": point.step, "forgetting": point.forgetting}
    part = getattr(meta, section).model_copy(update={name: value for name, value in given.items() if value is not None})
    rates = meta.learning_rates
    if point.rate is not None:
        rates = rates.model_copy(update={"initial": point.rate})
    return meta.model_copy(update={section: part, "learning_rates": rates})


class _Timed:
    """A learner that measures itself."""

    def __init__(self, learner: Learner) -> None:
        self._learner, self.estimate_seconds, self.update_seconds = learner, 0.0, 0.0

    def restore(self, state: State) -> None:
        self._learner.restore(state)

    def estimate(self, dataset: Any, label: str) -> Pending:
        began = time.perf_counter()
        item = self._learner.estimate(dataset, label).result()
        self.estimate_seconds += time.perf_counter() - began
        return Done(item)

    def update(self, contributions: Sequence[Item]) -> State:
        began = time.perf_counter()
        state = self._learner.update(contributions)
        self.update_seconds += time.perf_counter() - began
        return state

    def warm_up(self, steps: Sequence[TeamStep]) -> State:
        return self._learner.warm_up(steps)


@dataclass(slots=True)
class _Recorder:
    """Keeps rows and results as they come; a :class:`meta.training.loop.Tracker`."""

    rows: list[Row] = field(default_factory=list)
    results: dict[int, TaskResult] = field(default_factory=dict)
    warm_up_steps: int = 0

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        del finished
        self.results[result.task.index] = result

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        del state
        self.rows += rows

    def warmed_up(self, state: State, steps: Sequence[TeamStep]) -> None:
        del state
        self.warm_up_steps += sum(step.env_steps for step in steps)


METHOD = Method(
    name="meta_srl",
    label="Meta-SRL (this library)",
    place=4,
    colour="#d62728",
    marker="circle",
    forms={"tabular": learn, "neural": learn},
    uses=("rate", "step", "forgetting", "margin"),
    in_training=True,
    default_for=frozenset({"tabular", "neural"}),
)
