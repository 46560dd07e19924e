"""One experiment: draw the tasks, learn across them, compare starts on held-out tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel

from meta.learning.kinds import LEARNERS, learning_of
from meta.learning.online import State, first_state
from meta.learning.settings import MetaSettings
from meta.learning.tabular import no_memory
from meta.measuring.similarity import ContextMaps, Similarity, similarity
from meta.offline.dice_settings import DICESettings
from meta.training.evaluation_settings import EvaluationSettings
from meta.training.held_out_tasks import held_out_settings, held_out_starts, held_out_tasks
from meta.training.pool import Pool, solve_in_order
from meta.training.warm_up import rounds_of
from policies.common.policy import Policy, table_of
from policies.common.results import Start, Starts, TaskResult
from policies.mixtures.latent import first_latents, latent_space
from policies.networks.distributions import LOG_STD
from policies.neural.policy_state import PolicyState
from policies.solving.algorithms import WithinTask, kind_of
from policies.tabular.log_linear_table import Effects, all_effects
from policies.tabular.rollouts import discrete_shape
from tasks.contract.context import context_space
from tasks.contract.contextual_family import Contexts
from tasks.contract.family_registry import FamilySpec
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError, TaskFamily


@dataclass(frozen=True)
class Experiment:
    """Everything that decides what is computed; where and how fast it runs is not part of it."""

    family: FamilySpec
    tasks_per_round: int
    within: WithinTask
    dice: DICESettings
    meta: MetaSettings
    evaluation: EvaluationSettings

    @property
    def held_out_within(self) -> WithinTask:
        """How a held-out task is solved."""
        return held_out_settings(self.within, self.evaluation)

    def held_out_starts(self, learned: Starts) -> Starts:
        """The start that was learned from training tasks, as a held-out task takes it."""
        return held_out_starts(learned, self.within, self.held_out_within, self.meta.learning_rates)

    @property
    def training_within(self) -> WithinTask:
        """How a training task is solved: without keeping transitions that no estimator reads."""
        within: WithinTask = learning_of(self.within).training_settings(self.within, self.dice)
        return within

    @property
    def steps_of_task(self) -> int:
        """Environment steps of a training task; 0 where only tabular evaluation says."""
        return (self.within.num_iterations + self.within.final_batches) * self.within.steps_of_batch

    @property
    def warm_up_steps(self) -> int:
        """Environment steps of all rounds before the online steps; the first round has one team."""
        per_copy = self.within.steps_of_batch // self.within.num_copies
        return self.meta.warm_up.tasks_before(rounds_of(self.meta)) * per_copy

    @property
    def unused_from(self) -> int:
        """The first training task, by its index, from which nothing is learned."""
        return max(training_counts(self))

    def with_seed(self, seed: int) -> Experiment:
        """The same experiment with another seed."""
        return dataclasses.replace(self, family=dataclasses.replace(self.family, seed=seed))


def require_matching_sections(within: WithinTask, dice: DICESettings, meta: MetaSettings) -> None:
    """Check that the settings of all sections are for the same algorithm, so that none is without effect.

    Raises:
        ValueError: a setting is for another kind of policy; the message explains what would be right.
    """
    kind = learning_of(within)
    kind.require_settings(within, dice, meta)
    for other in LEARNERS.values():
        if other.section != kind.section and getattr(meta, other.section) != _default(other.section):
            raise ValueError(
                f"meta.{other.section}: has no effect where within_task.algorithm is {within.algorithm}; "
                f"meta.{kind.section} is its section"
            )


def _default(section: str) -> object:
    return MetaSettings.model_fields[section].default


def require_noise(within: WithinTask, meta: MetaSettings, fresh: Policy) -> None:
    """Check that no setting of the noise is given to a network whose actions are discrete.

    Raises:
        TaskError: one is; the message names it.
    """
    if not isinstance(fresh, PolicyState) or LOG_STD in fresh.actor.network.places:
        return
    sections: tuple[tuple[str, BaseModel], ...] = (("within_task", within), ("meta.warm_up", meta.warm_up))
    for section, settings in sections:
        for name, field in type(settings).model_fields.items():
            if name.endswith(LOG_STD) and getattr(settings, name) != field.default:
                raise TaskError(f"{section}.{name}: has no effect where actions are discrete; leave it out")


@dataclass(frozen=True)
class TrainingTasks:
    """Training tasks by use, each the first ones of the training split.

    ``online`` take online steps, ``together`` direct ones; ``budget`` are for methods that take no direct steps and as
    many environment steps; ``known`` are those that meta_srl meets.
    """

    online: Sequence[Task]
    together: Sequence[Task]
    budget: Sequence[Task]
    known: Sequence[Task]


@dataclass(frozen=True)
class Drawn:
    """The tasks of an experiment, and the policy that has learned nothing: uniform [S, A], or a fresh network.

    ``family`` is that of the tasks, with their contexts where ``meta.context`` asks for them; ``together`` are the
    training tasks of the direct steps, ``budget`` as many as the steps of all training would solve one by one.
    ``units`` [1+p] are the scale of the returns where ``meta.learning_rates.units`` is observed (:func:`observed`).
    """

    train: Sequence[Task]
    test: Sequence[Task]
    fresh: Policy
    num_costs: int
    family: FamilySpec
    together: Sequence[Task] = ()
    budget: Sequence[Task] = ()
    units: FloatArray | None = None

    @property
    def for_baselines(self) -> Sequence[Task]:
        """The training tasks of the other methods: as many as take the environment steps that meta_srl has."""
        return self.budget or self.train

    def initial_state(self, meta: MetaSettings) -> State:
        """The state before the first task."""
        return first_state(meta, self.fresh, self.num_costs, self.family.contexts, self.units)

    def continued(self, state: State) -> Drawn:
        """The same tasks with the units that ``state`` has learned with."""
        return dataclasses.replace(self, units=state.rate_units)


def draw(pool: Pool, experiment: Experiment) -> Drawn:
    """Draw all training and held-out tasks, and observe the units of the returns where settings ask for them.

    Raises:
        TaskError: as :func:`draw_tasks`, or the environments of too many tasks fail.
    """
    return observed(pool, experiment, draw_tasks(pool, experiment))


def draw_tasks(pool: Pool, experiment: Experiment) -> Drawn:
    """Draw all training and held-out tasks, so that a bad one is found before any work is done.

    Raises:
        TaskError: a task is infeasible or malformed, or a setting does not fit the number of costs or the actions.
    """
    family = experiment.family.make()
    num_costs = len(family.cost_names)
    experiment.within.tolerances(num_costs)
    experiment.meta.learning_rates.initial_rates(num_costs)
    pool.use(experiment.family)
    tasks = training_tasks(pool, experiment)
    test = held_out_tasks(pool, experiment.family, experiment.evaluation)
    spec = with_contexts(experiment, tasks.known)
    pool.use(spec)
    fresh = kind_of(experiment.within).fresh(spec.make(), tasks.online[0], experiment.within, experiment.family.seed)
    require_noise(experiment.within, experiment.meta, fresh)
    return Drawn(tasks.online, test, fresh, num_costs, spec, tasks.together, tasks.budget)


def observed(pool: Pool, experiment: Experiment, drawn: Drawn) -> Drawn:
    """``drawn`` with u [1+p], the scale of the returns; without where ``meta.learning_rates.units`` is absolute.

    All are means over the first round's tasks (one iteration each, whose environment steps are not counted). A cost's
    is the size of its limit, or |J_i| of the fresh policy where the limits are 0. The reward's is what there is to
    gain, J_0* - J_0 of the fresh policy, or |J_0| without an exact model. Of networks both are those of one step,
    (1 - gamma) times as large, as their trust region bounds a step. An objective that is always 0 has the unit 1.

    Raises:
        TaskError: the environments of too many tasks fail.
    """
    if experiment.meta.learning_rates.units == "absolute":
        return drawn
    within = experiment.training_within.model_copy(update={"num_iterations": 1})
    start = Start(drawn.fresh, np.full(1 + drawn.num_costs, experiment.meta.learning_rates.minimum))
    ahead, results = list(drawn.train), list[TaskResult]()
    while ahead and (missing := experiment.tasks_per_round - len(results)) > 0:  # the next one for each set aside
        results += solve_in_order(pool, ahead[:missing], start, within)
        del ahead[:missing]
    if not results:  # all are set aside: there is nothing to learn from
        return drawn
    return dataclasses.replace(drawn, units=units_of_returns(results, drawn.family.make().discount))


def units_of_returns(results: Sequence[TaskResult], discount: float) -> FloatArray:
    """u [1+p] of tasks that a fresh policy was measured on; see :func:`observed`."""
    sizes = np.abs([result.values[0] for result in results]).mean(axis=0)
    gains = [result.reference.values[0] - result.values[0, 0] for result in results if result.reference is not None]
    if gains and np.mean(gains) > 0.0:
        sizes[0] = np.mean(gains)
    limits = np.abs([result.task.limits for result in results]).mean(axis=0)
    sizes[1:] = np.where(limits > 0.0, limits, sizes[1:])
    sizes *= 1.0 - discount if results[0].solution is None else 1.0
    return np.where(sizes > 0.0, sizes, 1.0)


def training_tasks(pool: Pool, experiment: Experiment) -> TrainingTasks:
    """Draw all training tasks."""
    online, together, budget = training_counts(experiment)
    drawn = pool.draw("train", range(max(together, budget)))
    return TrainingTasks(drawn[:online], drawn[:together], drawn[:budget], drawn[: max(online, together)])


def training_counts(experiment: Experiment) -> tuple[int, int, int]:
    """Numbers of training tasks for online steps, for direct steps, and for methods without direct steps."""
    online = experiment.family.num_tasks
    together = experiment.meta.warm_up.distinct_tasks or online
    return online, together, online + round(experiment.warm_up_steps / max(1, experiment.steps_of_task))


def family_of(pool: Pool, experiment: Experiment) -> FamilySpec:
    """The family of a run's tasks, with their contexts where ``meta.context`` asks for them."""
    if experiment.meta.context == "none":
        return experiment.family
    return with_contexts(experiment, training_tasks(pool, experiment).known)


def with_contexts(experiment: Experiment, train: Sequence[Task]) -> FamilySpec:
    """The family's specification with the contexts of its training tasks, where ``meta.context`` asks for them.

    Raises:
        ContextError: the tasks have no usable context, or the family's effects of it do not fit; the message names the
            entry.
    """
    meta = experiment.meta
    if meta.context == "none":
        return experiment.family
    if meta.context == "learned":
        size = meta.contexts.latent_size
        known = first_latents(len(train), size, experiment.family.seed)
        return dataclasses.replace(
            experiment.family, contexts=Contexts(latent_space(size), known, hidden=False, latent=True)
        )
    family = experiment.family.make()
    space, known = context_space(family, train, limits=meta.contexts.limits)
    effects = _effects(family, train[0], space.size) if meta.contexts.map == "log_linear" else None
    contexts = Contexts(space, known, hidden=meta.context != "given", effects=effects)
    return dataclasses.replace(experiment.family, contexts=contexts)


def _effects(family: TaskFamily, task: Task, size: int) -> Effects | None:
    """The family's own effects of a context of ``size`` entries, completed; None where it has none."""
    own = getattr(family, "context_effects", None)
    if own is None:
        return None
    states, actions = discrete_shape(family, task)
    return all_effects(states, actions, size, own())


def measure_similarity(pool: Pool, experiment: Experiment, drawn: Drawn) -> Similarity | None:
    """D*^2, V_psi^2 and with contexts D*^2_Phi of the training tasks; None without an exact model."""
    if experiment.family.make().model(drawn.train[0].parameters) is None:
        return None
    solutions = (solution for solution in pool.references(drawn.train) if solution is not None)
    segments = min(experiment.evaluation.num_segments, len(drawn.train))
    return similarity(solutions, segments, len(drawn.train), _context_maps(experiment, drawn))


def _context_maps(experiment: Experiment, drawn: Drawn) -> ContextMaps | None:
    """The maps from contexts to tables that ``meta.contexts`` learns among; None without contexts."""
    contexts = drawn.family.contexts
    if contexts is None:
        return None
    states, actions = table_of(drawn.fresh).shape
    known = contexts.known[: len(drawn.train)]
    return ContextMaps(known, no_memory(experiment.meta, (states, actions), contexts))
