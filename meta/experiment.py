"""One experiment: draw the tasks, learn across them, compare starts on held-out tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from meta.baselines import Bench, EvaluationSettings, HeldOut, Method, hold_out, make_starts
from meta.dualdice import DICESettings
from meta.evaluation import Similarity, similarity
from meta.learner import MetaSettings, MetaState, initial_state
from meta.pool import Pool
from policies.crpo import WithinTaskSettings
from policies.rollouts import discrete_shape
from policies.solving import NO_MODEL, Start
from tasks.base import Task, TaskError
from tasks.registry import FamilySpec


@dataclass(frozen=True)
class Experiment:
    """Everything that decides what is computed; where and how fast it runs is not in here."""

    family: FamilySpec
    tasks_per_round: int
    within: WithinTaskSettings
    dice: DICESettings
    meta: MetaSettings
    evaluation: EvaluationSettings

    def with_seed(self, seed: int) -> Experiment:
        """The same experiment with another seed."""
        return dataclasses.replace(self, family=dataclasses.replace(self.family, seed=seed))


@dataclass(frozen=True)
class Drawn:
    """The tasks of an experiment. ``shape`` is (S, A)."""

    train: Sequence[Task]
    test: Sequence[Task]
    shape: tuple[int, int]
    num_costs: int

    def initial_state(self, meta: MetaSettings) -> MetaState:
        """The state before the first task."""
        return initial_state(meta, *self.shape, self.num_costs)


def draw(pool: Pool, experiment: Experiment) -> Drawn:
    """Draw all training and held-out tasks, so that a bad one is known before any work is done.

    Raises:
        TaskError: a task is infeasible or malformed, or a setting does not fit the number of costs.
    """
    family = experiment.family.make()
    num_costs = len(family.cost_names)
    experiment.within.tolerances(num_costs)
    experiment.meta.learning_rates.initial_rates(num_costs)
    pool.use(experiment.family)
    train = pool.draw("train", range(experiment.family.num_tasks))
    test = pool.draw("test", range(experiment.evaluation.num_test_tasks))
    if experiment.within.evaluation == "exact" and family.model(train[0].parameters) is None:
        raise TaskError(f"task {train[0].label}: {NO_MODEL}")
    return Drawn(train, test, discrete_shape(family, train[0]), num_costs)


def measure_similarity(pool: Pool, experiment: Experiment, drawn: Drawn) -> Similarity | None:
    """D*^2 and V_psi^2 of the training tasks; None without an exact model."""
    if experiment.family.make().model(drawn.train[0].parameters) is None:
        return None
    solutions = (solution for solution in pool.references(drawn.train) if solution is not None)
    segments = min(experiment.evaluation.num_segments, len(drawn.train))
    return similarity(solutions, segments, len(drawn.train))


def compare_starts(
    pool: Pool,
    experiment: Experiment,
    drawn: Drawn,
    methods: Sequence[Method],
    meta_srl: Start,
    similar: Similarity | None,
) -> dict[str, HeldOut]:
    """Make the start of each method and try it on the held-out tasks."""
    bench = Bench(
        pool=pool,
        tasks=drawn.train,
        within=experiment.within,
        evaluation=experiment.evaluation,
        shrinkage=experiment.meta.initialization.shrinkage,
        shape=drawn.shape,
        num_costs=drawn.num_costs,
    )
    comparator = None if similar is None else similar.comparator
    starts = make_starts(methods, bench, experiment.tasks_per_round, comparator, lambda: meta_srl)
    return {name: hold_out(pool, drawn.test, start, experiment.within) for name, start in starts.items()}
