"""The meta-learner: frozen state in, state out. It estimates each task's loss and takes one online step a round."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from meta.estimators.closed_form import estimate
from meta.estimators.estimation import Estimate, estimate_corrections
from meta.estimators.trusted_estimate import NO_ESTIMATE, Trusted, trusted
from meta.learning.bounds import initialization_loss, measured_curvature, shared_curvature, worst_case_curvature
from meta.learning.mixture import PREFIX, Experts, alike, average, next_weights, step_size_grid
from meta.learning.rates import next_rates, rate_sums
from meta.learning.updates import (
    GroupSettings,
    InitializationSettings,
    LearningRateSettings,
    NeuralInitializationSettings,
    initialization_gradient,
    leader,
    project_to_shrunk_simplex,
    scheduled_step,
    shrink,
)
from meta.offline.diagnostics import Diagnostics, EstimateError
from meta.offline.dice_settings import DICESettings
from meta.offline.target_policy import TableTarget
from policies.common.results import Start, table_of
from policies.common.transition_sample import TransitionSample, tabular_sample
from policies.solving.solve_task import TaskDataset
from tasks.contract.tabular_model import FloatArray


class MetaSettings(BaseModel):
    """How the start of a task is learned: the ``meta`` section of a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    initialization: InitializationSettings = InitializationSettings()
    """The initialisation phi of tabular policies."""
    neural: NeuralInitializationSettings = NeuralInitializationSettings()
    """The initialisation phi of neural policies."""
    learning_rates: LearningRateSettings = LearningRateSettings()
    """The learning rates alpha."""
    num_initializations: int = Field(default=1, gt=0)
    """K, initialisations learned side by side, each with rates of its own; 1 is one for all tasks."""
    groups: GroupSettings = GroupSettings()
    """How tasks find their initialisation where there are several."""


@dataclass(frozen=True, slots=True)
class MetaState:
    """All that the meta-learner knows after ``num_rounds`` updates from ``num_tasks`` tasks.

    ``initialization`` [S, A] phi; ``learning_rates`` [1+p] alpha; ``policy_sum`` [S, A] what ftl and fal average;
    ``policy_count`` the number (or discounted number) of policies in it; ``loss_sum``, ``curvature_sum`` [1+p] the sums
    of ftl on rates; ``experts`` those of ``schedule: mixture``.
    """

    num_rounds: int
    num_tasks: int
    policy_count: float
    initialization: FloatArray
    learning_rates: FloatArray
    policy_sum: FloatArray
    loss_sum: FloatArray
    curvature_sum: FloatArray
    experts: Experts | None = None

    KIND: ClassVar[str] = "tabular"

    @property
    def start(self) -> Start:
        """What the next tasks start from."""
        return Start(self.initialization, self.learning_rates)

    @property
    def starts(self) -> tuple[Start, ...]:
        """The one start, as a tuple."""
        return (self.start,)

    def to_arrays(self) -> dict[str, Any]:
        """Everything by name, as a checkpoint keeps it; numbers are plain."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        experts: Experts | None = parts.pop("experts")
        return parts if experts is None else parts | experts.to_arrays()

    @staticmethod
    def from_arrays(parts: Mapping[str, Any]) -> MetaState:
        """The inverse of :meth:`to_arrays`."""
        rest = {name: part for name, part in parts.items() if not name.startswith(PREFIX)}
        return MetaState(**rest, experts=Experts.from_arrays(parts))

    def sha256(self) -> str:
        """Digest of every bit of the state."""
        digest = hashlib.sha256()
        for name, part in self.to_arrays().items():
            value = np.ascontiguousarray(part, dtype=np.float64)
            digest.update(f"{name}{value.shape}".encode())
            digest.update(value.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one solved task brings to the meta-update; a few kilobytes.

    ``occupancy`` [S] nu_hat; ``policy`` [S, A] pi_hat; ``loss`` f_hat_t(phi_t); ``curvature`` [1+p] b_t, NaN where not
    measured; ``weight`` in [0, 1], ``failures`` and ``problem`` as in
    :class:`meta.estimators.trusted_estimate.Trusted`. Without an estimate nu_hat
    is the distribution of the states seen.
    """

    task_index: int
    occupancy: FloatArray
    policy: FloatArray
    loss: float
    curvature: FloatArray
    weight: float
    diagnostics: Diagnostics | None
    failures: tuple[str, ...]
    problem: str = ""

    KIND: ClassVar[str] = "tabular"

    def to_arrays(self) -> dict[str, Any]:
        """Everything by name, as a checkpoint keeps it: arrays and plain values."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return parts | {"diagnostics": None if self.diagnostics is None else dataclasses.asdict(self.diagnostics)}

    @staticmethod
    def from_arrays(parts: Mapping[str, Any]) -> Contribution:
        """The inverse of :meth:`to_arrays`."""
        found = parts["diagnostics"]
        made = {"failures": tuple(parts["failures"]), "diagnostics": None if found is None else Diagnostics(**found)}
        return Contribution(**{**parts, **made})


def initial_state(settings: MetaSettings, num_states: int, num_actions: int, num_costs: int) -> MetaState:
    """The uniform policy and the initial rates."""
    return MetaState(
        num_rounds=0,
        num_tasks=0,
        policy_count=0.0,
        initialization=np.full((num_states, num_actions), 1.0 / num_actions),
        learning_rates=settings.learning_rates.initial_rates(num_costs),
        policy_sum=np.zeros((num_states, num_actions)),
        loss_sum=np.zeros(1 + num_costs),
        curvature_sum=np.zeros(1 + num_costs),
    )


def contribution(dataset: TaskDataset, dice: DICESettings, settings: MetaSettings) -> Contribution:
    """Estimate nu_hat with the estimator of ``dice`` and from it f_hat_t and b_t."""
    states, actions = dataset.policy.shape
    dice = dice.resolved(neural=False)
    if dice.estimator == "dualdice_tabular":
        found, occupancy = _closed_form(dataset, dice)
    else:
        sample = _sample_of(dataset)
        found = trusted(lambda: _estimated(dataset, sample, dice), dice)
        mass = np.full(len(sample), 1.0 / max(1, len(sample))) if found.estimate is None else found.estimate.mass
        occupancy = np.bincount(dataset.transitions.states, mass, states).astype(np.float64)
    rates = dataset.start.learning_rates
    kind, branches = settings.learning_rates.curvature, dataset.solution.branches
    if kind != "worst_case":
        curvature = measured_curvature(dataset.solution.log_normalizers, branches, rates, occupancy)
        curvature = shared_curvature(curvature, branches) if kind == "measured_shared" else curvature
    else:
        curvature = np.full(rates.size, worst_case_curvature(1.0, states, actions, dataset.discount))
    return Contribution(
        task_index=dataset.task_index,
        occupancy=occupancy,
        policy=dataset.policy,
        loss=initialization_loss(occupancy, dataset.policy, table_of(dataset.start.initialization)),
        curvature=curvature,
        weight=found.weight,
        diagnostics=found.diagnostics,
        failures=found.failures,
        problem=found.problem,
    )


def _closed_form(dataset: TaskDataset, dice: DICESettings) -> tuple[Trusted, FloatArray]:
    """The table's closed form on aggregated transitions, and nu_hat; much cheaper than the way through a sample."""
    try:
        found = estimate(dataset.transitions, dataset.policy, dataset.discount, dataset.horizon, dice)
    except EstimateError as error:
        seen = np.bincount(dataset.transitions.states, minlength=len(dataset.policy)) / max(1, len(dataset.transitions))
        return Trusted(None, None, dice.failed_weight, (NO_ESTIMATE,), str(error)), seen
    diagnostics = found.diagnostics
    told = Trusted(None, diagnostics, diagnostics.trust(dice), diagnostics.failures(dice))
    return told, found.occupancy


def _sample_of(dataset: TaskDataset) -> TransitionSample:
    data = dataset.transitions
    return tabular_sample(data, dataset.solution.iterates[data.iterations, data.states, data.actions])


def _estimated(dataset: TaskDataset, sample: TransitionSample, dice: DICESettings) -> Estimate:
    target = TableTarget(dataset.policy)
    return estimate_corrections(sample, target, dataset.discount, dataset.horizon, dice, dataset.task_index)


def update(
    state: MetaState, contributions: Sequence[Contribution], settings: MetaSettings, num_iterations: int
) -> MetaState:
    """One online step on the summed losses of a round, taken in task order whatever order they arrived in."""
    ordered = sorted(contributions, key=lambda item: item.task_index)
    state = _remember(state, ordered, settings)
    if settings.initialization.method == "ogd":
        state = _descend(state, ordered, settings.initialization)
    return dataclasses.replace(
        state,
        num_rounds=state.num_rounds + 1,
        num_tasks=state.num_tasks + len(ordered),
        initialization=_next_initialization(state, settings.initialization),
        learning_rates=next_rates(state, ordered, settings.learning_rates, num_iterations),
    )


def _remember(state: MetaState, ordered: Sequence[Contribution], settings: MetaSettings) -> MetaState:
    keep, plain = settings.initialization.forgetting, settings.initialization.method == "fal"
    policy_sum, count = keep * state.policy_sum, keep * state.policy_count
    for item in ordered:
        weight = np.ones(item.occupancy.size) if plain else item.weight * np.maximum(item.occupancy, 0.0)
        policy_sum = policy_sum + weight[:, None] * item.policy
        count += 1.0
    loss_sum, curvature_sum = rate_sums(state, ordered, settings.learning_rates)
    return dataclasses.replace(
        state, policy_sum=policy_sum, policy_count=count, loss_sum=loss_sum, curvature_sum=curvature_sum
    )


def _next_initialization(state: MetaState, settings: InitializationSettings) -> FloatArray:
    if settings.method == "fal":
        if state.policy_count == 0.0:  # nothing to average yet
            return state.initialization
        return shrink(state.policy_sum / state.policy_count, settings.shrinkage)
    if settings.method == "ftl":
        return shrink(leader(state.policy_sum, settings.prior_weight), settings.shrinkage)
    return state.initialization


def _descend(state: MetaState, ordered: Sequence[Contribution], settings: InitializationSettings) -> MetaState:
    """One gradient step of phi on the round's losses; with ``mixture`` one of every expert, each from its own point."""
    if settings.schedule != "mixture":
        size = scheduled_step(settings.step_size, settings.schedule, state.num_rounds + 1)
        return dataclasses.replace(state, initialization=_stepped(state.initialization, ordered, size, settings))
    experts = state.experts or alike(state.initialization, settings.num_experts)
    sizes = step_size_grid(settings.step_size, settings.num_experts).tolist()
    losses = np.array([sum(item.weight * loss_of(item, point) for item in ordered) for point in experts.points])
    points = [_stepped(point, ordered, size, settings) for point, size in zip(experts.points, sizes, strict=True)]
    weights = next_weights(experts.weights, losses, sum(item.weight for item in ordered), settings.switching)
    experts = Experts(np.array(points), weights)
    return dataclasses.replace(state, initialization=average(experts), experts=experts)


def _stepped(
    point: FloatArray, ordered: Sequence[Contribution], size: float, settings: InitializationSettings
) -> FloatArray:
    gradient = np.zeros_like(point)
    for item in ordered:
        occupancy = item.weight * np.maximum(item.occupancy, 0.0)
        gradient = gradient + initialization_gradient(occupancy, item.policy, point)
    return project_to_shrunk_simplex(point - size * gradient, settings.shrinkage)


def loss_of(item: Contribution, initialization: FloatArray) -> float:
    """f_hat of a task for any start [S, A], as the updates see it: negative entries of nu_hat are read as 0."""
    return initialization_loss(np.maximum(item.occupancy, 0.0), item.policy, initialization)
