"""The meta-learner: frozen state in, state out. It estimates each task's loss and takes one online step a round."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from meta.bounds import initialization_loss, measured_curvature, shared_curvature, worst_case_curvature
from meta.dualdice import Diagnostics, DICESettings, estimate
from meta.updates import (
    InitializationSettings,
    LearningRateSettings,
    NeuralInitializationSettings,
    initialization_gradient,
    leader,
    leading_rates,
    log_rate_gradient,
    project_to_shrunk_simplex,
    scheduled_step,
    shrink,
)
from policies.results import Start, table_of
from policies.solving import TaskDataset
from tasks.model import FloatArray


class MetaSettings(BaseModel):
    """How the start of a task is learned: the ``meta`` section of a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    initialization: InitializationSettings = InitializationSettings()
    """The initialisation phi of tabular policies."""
    neural: NeuralInitializationSettings = NeuralInitializationSettings()
    """The initialisation phi of neural policies."""
    learning_rates: LearningRateSettings = LearningRateSettings()
    """The learning rates alpha."""


@dataclass(frozen=True, slots=True)
class MetaState:
    """All that the meta-learner knows after ``num_rounds`` updates from ``num_tasks`` tasks.

    ``initialization`` [S, A] phi; ``learning_rates`` [1+p] alpha; ``policy_sum`` [S, A] what ftl and fal average;
    ``policy_count`` the number (or discounted number) of policies in it; ``loss_sum``, ``curvature_sum`` [1+p] the sums
    of ftl on rates.
    """

    num_rounds: int
    num_tasks: int
    policy_count: float
    initialization: FloatArray
    learning_rates: FloatArray
    policy_sum: FloatArray
    loss_sum: FloatArray
    curvature_sum: FloatArray

    KIND: ClassVar[str] = "tabular"

    @property
    def start(self) -> Start:
        """What the next tasks start from."""
        return Start(self.initialization, self.learning_rates)

    def to_arrays(self) -> dict[str, Any]:
        """Everything by name, as a checkpoint keeps it; numbers are plain."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @staticmethod
    def from_arrays(parts: Mapping[str, Any]) -> MetaState:
        """The inverse of :meth:`to_arrays`."""
        return MetaState(**parts)

    def sha256(self) -> str:
        """Digest of every bit of the state."""
        digest = hashlib.sha256()
        for field in dataclasses.fields(self):
            value = np.ascontiguousarray(getattr(self, field.name), dtype=np.float64)
            digest.update(f"{field.name}{value.shape}".encode())
            digest.update(value.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one solved task brings to the meta-update; a few kilobytes.

    ``occupancy`` [S] nu_hat; ``policy`` [S, A] pi_hat; ``loss`` f_hat_t(phi_t); ``curvature`` [1+p] b_t, NaN where not
    measured; ``weight`` in [0, 1] from the diagnostics.
    """

    task_index: int
    occupancy: FloatArray
    policy: FloatArray
    loss: float
    curvature: FloatArray
    weight: float
    diagnostics: Diagnostics
    failures: tuple[str, ...]

    KIND: ClassVar[str] = "tabular"

    def to_arrays(self) -> dict[str, Any]:
        """Everything by name, as a checkpoint keeps it: arrays and plain values."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return parts | {"diagnostics": dataclasses.asdict(self.diagnostics)}

    @staticmethod
    def from_arrays(parts: Mapping[str, Any]) -> Contribution:
        """The inverse of :meth:`to_arrays`."""
        made = {"failures": tuple(parts["failures"]), "diagnostics": Diagnostics(**parts["diagnostics"])}
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
    """Estimate nu_hat with DualDICE and from it f_hat_t and b_t."""
    corrections = estimate(dataset.transitions, dataset.policy, dataset.discount, dataset.horizon, dice)
    occupancy = corrections.occupancy
    failures = corrections.diagnostics.failures(dice)
    rates = dataset.start.learning_rates
    kind, branches = settings.learning_rates.curvature, dataset.solution.branches
    if kind != "worst_case":
        curvature = measured_curvature(dataset.solution.log_normalizers, branches, rates, occupancy)
        curvature = shared_curvature(curvature, branches) if kind == "measured_shared" else curvature
    else:
        states, actions = dataset.policy.shape
        curvature = np.full(rates.size, worst_case_curvature(1.0, states, actions, dataset.discount))
    return Contribution(
        task_index=dataset.task_index,
        occupancy=occupancy,
        policy=dataset.policy,
        loss=initialization_loss(occupancy, dataset.policy, table_of(dataset.start.initialization)),
        curvature=curvature,
        weight=dice.failed_weight if failures else 1.0,
        diagnostics=corrections.diagnostics,
        failures=failures,
    )


def update(
    state: MetaState, contributions: Sequence[Contribution], settings: MetaSettings, num_iterations: int
) -> MetaState:
    """One online step on the summed losses of a round, taken in task order whatever order they arrived in."""
    ordered = sorted(contributions, key=lambda item: item.task_index)
    state = _remember(state, ordered, settings)
    return dataclasses.replace(
        state,
        num_rounds=state.num_rounds + 1,
        num_tasks=state.num_tasks + len(ordered),
        initialization=_next_initialization(state, ordered, settings.initialization),
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


class RateState(Protocol):
    """The part of a state that learning rates are learned from."""

    @property
    def num_rounds(self) -> int:
        """Updates so far."""

    @property
    def learning_rates(self) -> FloatArray:
        """alpha, [1+p]."""

    @property
    def loss_sum(self) -> FloatArray:
        """[1+p], of ftl."""

    @property
    def curvature_sum(self) -> FloatArray:
        """[1+p], of ftl."""


class RateItem(Protocol):
    """The part of a contribution that learning rates are learned from."""

    @property
    def loss(self) -> float:
        """f_hat_t(phi_t)."""

    @property
    def curvature(self) -> FloatArray:
        """b_t, [1+p]."""

    @property
    def weight(self) -> float:
        """In [0, 1]."""


def rate_sums(
    state: RateState, ordered: Sequence[RateItem], settings: LearningRateSettings
) -> tuple[FloatArray, FloatArray]:
    """ftl's sums of losses and curvatures with a round's tasks added; objectives that were not measured add nothing."""
    loss_sum, curvature_sum = settings.forgetting * state.loss_sum, settings.forgetting * state.curvature_sum
    for item in ordered:
        measured = np.isfinite(item.curvature)
        loss_sum = loss_sum + np.where(measured, item.weight * max(item.loss, 0.0), 0.0)
        curvature_sum = curvature_sum + np.where(measured, item.weight * item.curvature, 0.0)
    return loss_sum, curvature_sum


def _next_initialization(
    state: MetaState, ordered: Sequence[Contribution], settings: InitializationSettings
) -> FloatArray:
    if settings.method == "fixed":
        return state.initialization
    if settings.method == "fal":
        if state.policy_count == 0.0:  # nothing to average yet
            return state.initialization
        return shrink(state.policy_sum / state.policy_count, settings.shrinkage)
    if settings.method == "ftl":
        return shrink(leader(state.policy_sum, settings.prior_weight), settings.shrinkage)
    gradient = np.zeros_like(state.initialization)
    for item in ordered:
        occupancy = item.weight * np.maximum(item.occupancy, 0.0)
        gradient = gradient + initialization_gradient(occupancy, item.policy, state.initialization)
    step = scheduled_step(settings.step_size, settings.schedule, state.num_rounds + 1)
    return project_to_shrunk_simplex(state.initialization - step * gradient, settings.shrinkage)


def next_rates(
    state: RateState, ordered: Sequence[RateItem], settings: LearningRateSettings, num_iterations: int
) -> FloatArray:
    """alpha after a round whose sums are in ``state`` already (see :func:`rate_sums`)."""
    rates = state.learning_rates
    if settings.method == "fixed":
        return rates
    if settings.method == "ftl":
        led = leading_rates(state.loss_sum, state.curvature_sum, num_iterations, settings.regularizer)
        return np.clip(np.where(state.curvature_sum > 0.0, led, rates), settings.minimum, settings.maximum)
    gradient, weight = np.zeros(rates.size), np.zeros(rates.size)
    for item in ordered:
        slope = log_rate_gradient(max(item.loss, 0.0), rates, num_iterations, item.curvature)
        measured = np.isfinite(slope)
        gradient = gradient + np.where(measured, item.weight * np.nan_to_num(slope), 0.0)
        weight = weight + item.weight * measured
    step = scheduled_step(settings.step_size, settings.schedule, state.num_rounds + 1)
    mean = gradient / np.maximum(weight, 1.0)
    return np.clip(rates * np.exp(-step * mean), settings.minimum, settings.maximum)
