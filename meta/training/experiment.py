"""One experiment: draw the tasks, learn across them, compare starts on held-out tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from meta.learning.online import State, first_state
from meta.learning.settings import MetaSettings
from meta.measuring.measures import Similarity, similarity
from meta.methods.baselines import Bench, HeldOut, hold_out, make_starts
from meta.offline.dice_settings import DICESettings, Estimator
from meta.training.evaluation_settings import EvaluationSettings, Method, chosen_methods
from meta.training.pool import Learner, Pool
from policies.common.policy import Policy
from policies.common.results import Starts
from policies.neural.crpo import fresh_policy as fresh_network
from policies.neural.crpo import require_whole_episodes
from policies.neural.update import NeuralSettings
from policies.solving.kinds import WithinTask
from policies.tabular.rollouts import discrete_shape
from policies.tabular.solving import NO_MODEL
from tasks.contract.family_registry import FamilySpec
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.stepping.batch import make_batch


@dataclass(frozen=True)
class Experiment:
    """Everything that decides what is computed; where and how fast it runs is not in here."""

    family: FamilySpec
    tasks_per_round: int
    within: WithinTask
    dice: DICESettings
    meta: MetaSettings
    evaluation: EvaluationSettings

    @property
    def held_out_within(self) -> WithinTask:
        """How a held-out task is solved."""
        own = {"num_iterations": self.evaluation.num_iterations, "safety_margin": self.evaluation.safety_margin}
        return self.within.model_copy(update={name: value for name, value in own.items() if value is not None})

    @property
    def training_within(self) -> WithinTask:
        """How a training task is solved: without keeping transitions that no estimator reads."""
        if not isinstance(self.within, NeuralSettings) or self.dice.resolved(neural=True).estimator != "none":
            return self.within
        return self.within.model_copy(update={"dataset_transitions": 0})

    def with_seed(self, seed: int) -> Experiment:
        """The same experiment with another seed."""
        return dataclasses.replace(self, family=dataclasses.replace(self.family, seed=seed))


def require_matching_sections(
    within: WithinTask, dice: DICESettings, meta: MetaSettings, evaluation: EvaluationSettings
) -> None:
    """Check that the settings of all sections are for the same algorithm, so that none is without effect.

    Raises:
        ValueError: one is for the other algorithm; the message says what would be right.
    """
    chosen_methods(evaluation, within)
    neural, algorithm = isinstance(within, NeuralSettings), within.algorithm
    if isinstance(within, NeuralSettings):
        _require_neural_estimates(dice, within, meta)
    elif dice.linear.features == "last_layer":
        raise ValueError("dice.linear.features: last_layer needs within_task.algorithm neural_crpo")
    unused, used = ("initialization", "neural") if neural else ("neural", "initialization")
    if getattr(meta, unused) != MetaSettings.model_fields[unused].default:
        raise ValueError(
            f"meta.{unused}: has no effect where within_task.algorithm is {algorithm}; meta.{used} is its section"
        )


def _require_neural_estimates(dice: DICESettings, within: NeuralSettings, meta: MetaSettings) -> None:
    chosen = dice.resolved(neural=True).estimator
    if chosen == "dualdice_tabular":
        raise ValueError(
            "dice.estimator: dualdice_tabular needs a table; with within_task.algorithm neural_crpo it must be one of "
            f"{', '.join(name for name in get_args(Estimator) if name != chosen)}"
        )
    if chosen != "none" and dice.linear.features == "one_hot":
        raise ValueError("dice.linear.features: one_hot needs a table; use random_fourier or last_layer")
    if chosen != "none" and not within.dataset_transitions:
        raise ValueError(f"within_task.dataset_transitions: must be above 0 where dice.estimator is {chosen}")
    for name, field in DICESettings.model_fields.items():
        unused = name == "ridge" or (chosen == "none" and name != "estimator")
        if unused and getattr(dice, name) != field.default:
            reason = "is of dualdice_tabular" if name == "ridge" else "has no effect where dice.estimator is none"
            raise ValueError(f"dice.{name}: {reason}; within_task.algorithm is neural_crpo")
    if meta.learning_rates.curvature == "worst_case":
        raise ValueError(
            "meta.learning_rates.curvature: worst_case counts states and actions, which neural_crpo does not have; "
            "must be measured or measured_shared"
        )


@dataclass(frozen=True)
class Drawn:
    """The tasks of an experiment, and the policy that has learned nothing: uniform [S, A], or a fresh network."""

    train: Sequence[Task]
    test: Sequence[Task]
    fresh: Policy
    num_costs: int

    def initial_state(self, meta: MetaSettings) -> State:
        """The state before the first task."""
        return first_state(meta, self.fresh, self.num_costs)


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
    return Drawn(train, test, fresh_policy(family, train[0], experiment.within, experiment.family.seed), num_costs)


def evaluation_of(within: WithinTask) -> str:
    """``exact`` or ``sampled``; values of neural policies are always estimates from rollouts."""
    return "sampled" if isinstance(within, NeuralSettings) else within.evaluation


def fresh_policy(family: TaskFamily, task: Task, within: WithinTask, seed: int) -> Policy:
    """The policy that has learned nothing; ``task`` tells the shapes.

    Raises:
        TaskError: the within-task settings do not fit the task.
    """
    if isinstance(within, NeuralSettings):
        batch = make_batch(family, task, 1)
        try:
            require_whole_episodes(within, batch.horizon, task.label)
            return fresh_network(batch, within, seed)
        finally:
            batch.close()
    if within.evaluation == "exact" and family.model(task.parameters) is None:
        raise TaskError(f"task {task.label}: {NO_MODEL}")
    states, actions = discrete_shape(family, task)
    return np.full((states, actions), 1.0 / actions)


def measure_similarity(pool: Pool, experiment: Experiment, drawn: Drawn) -> Similarity | None:
    """D*^2 and V_psi^2 of the training tasks; None without an exact model."""
    if experiment.family.make().model(drawn.train[0].parameters) is None:
        return None
    solutions = (solution for solution in pool.references(drawn.train) if solution is not None)
    segments = min(experiment.evaluation.num_segments, len(drawn.train))
    return similarity(solutions, segments, len(drawn.train))


def compare_starts(
    pool: Pool,
    learner: Learner,
    experiment: Experiment,
    drawn: Drawn,
    methods: Sequence[Method],
    meta_srl: Starts,
    similar: Similarity | None,
) -> dict[str, HeldOut]:
    """Make the start of each method and try it on the held-out tasks."""
    bench = Bench(
        pool=pool,
        learner=learner,
        tasks=drawn.train,
        within=experiment.training_within,
        evaluation=experiment.evaluation,
        meta=experiment.meta,
        fresh=drawn.fresh,
        num_costs=drawn.num_costs,
    )
    comparator = None if similar is None else similar.comparator
    starts = make_starts(methods, bench, experiment.tasks_per_round, comparator, lambda: meta_srl)
    return {name: hold_out(pool, drawn.test, start, experiment.held_out_within) for name, start in starts.items()}
