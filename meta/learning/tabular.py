"""The meta-learner: frozen state in, state out. It estimates each task's loss and takes one online step per round."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from meta.learning.bounds import initialization_loss
from meta.learning.experts import Experts, alike, average, next_weights, step_size_grid
from meta.learning.settings import (
    InitializationSettings,
    MetaSettings,
)
from meta.learning.updates import (
    initialization_gradient,
    next_rates,
    project_to_shrunk_simplex,
    rate_sums,
    scheduled_step,
)
from meta.offline.diagnostics import Diagnostics
from policies.common.codec import Nested, Record
from policies.common.results import Start
from policies.tabular.kernel_table import ContextTable, KernelTable, leader, shrink
from policies.tabular.log_linear_table import LogLinearTable, all_effects, no_tasks
from tasks.contract.contextual_family import Contexts
from tasks.contract.tabular_model import FloatArray


@dataclass(frozen=True, slots=True)
class MetaState(Record):
    """Everything the meta-learner knows after ``num_rounds`` updates from ``num_tasks`` tasks.

    ``initialization`` [S, A] phi; ``learning_rates`` [1+p] alpha; ``policy_sum`` [S, A] what ftl and fal average;
    ``policy_count`` the number (or discounted number) of policies in it; ``loss_sum``, ``curvature_sum`` [1+p] the sums
    of ftl on rates; ``experts`` those of ``schedule: mixture``; ``memory`` makes phi a function of the context;
    ``rate_units`` [1+p] as in :func:`meta.learning.updates.units_of`.
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
    memory: ContextTable | None = None
    rate_units: FloatArray | None = None

    KIND: ClassVar[str] = "tabular"
    NESTED: ClassVar[Mapping[str, Nested]] = {
        "experts": Nested(Experts.from_arrays, "experts."),
        "memory": Nested(lambda parts: memory_from_arrays(parts), "memory."),
    }
    assigned: ClassVar[None] = None
    """One start for all tasks: none is assigned to a group."""
    warm_up_rounds: ClassVar[int] = 0
    """Tables take no direct steps."""

    @property
    def start(self) -> Start:
        """What the next tasks start from."""
        return Start(self.initialization if self.memory is None else self.memory, self.learning_rates)

    @property
    def starts(self) -> tuple[Start, ...]:
        """The one start, as a tuple."""
        return (self.start,)

    def sha256(self) -> str:
        """Digest of every bit of the state."""
        digest = hashlib.sha256()
        for name, part in self.to_arrays().items():
            if name == "rate_units" and part is None:
                continue  # a state without them keeps the digest that it had before there were any
            if isinstance(part, str):
                digest.update(f"{name}{part}".encode())
                continue
            value = np.ascontiguousarray(part, dtype=np.float64)
            digest.update(f"{name}{value.shape}".encode())
            digest.update(value.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Contribution(Record):
    """What one solved task contributes to the meta-update; a few kilobytes.

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
    context: FloatArray | None = None

    KIND: ClassVar[str] = "tabular"
    NESTED: ClassVar[Mapping[str, Nested]] = {"diagnostics": Nested(lambda parts: Diagnostics(**parts))}


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


def update(
    state: MetaState, contributions: Sequence[Contribution], settings: MetaSettings, num_iterations: int
) -> MetaState:
    """One online step on the summed losses of a round, taken in task order whatever order they arrived in."""
    ordered = sorted(contributions, key=lambda item: item.task_index)
    state = _remember(state, ordered, settings)
    if state.memory is not None:
        state = dataclasses.replace(state, memory=remember_contexts(state.memory, ordered, settings))
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


def remember_contexts(memory: ContextTable, ordered: Sequence[Contribution], settings: MetaSettings) -> ContextTable:
    """The memory with a round's tasks; the shares of its maps by their losses *before* the round.

    p_h becomes proportional to p_h exp(-lambda sum_t w_t f_hat_t(phi_h(.; c_t))): regret log(H) / lambda + lambda T F^2
    / 8 to the best map, F the largest loss (Cesa-Bianchi, Lugosi 2006, theorem 2.2).
    """
    losses = np.zeros(memory.shares.size)
    for item in ordered:
        losses += item.weight * np.array([loss_of(item, table) for table in memory.tables(_context_of(item))])
    raised = memory.shares * np.exp(-settings.contexts.bandwidth_rate * (losses - losses.min()))
    return memory.with_tasks(
        np.array([_context_of(item) for item in ordered]).reshape(len(ordered), -1),
        np.array([item.weight * np.maximum(item.occupancy, 0.0)[:, None] * item.policy for item in ordered]),
        settings.initialization.forgetting,
        raised / raised.sum(),
    )


def no_memory(settings: MetaSettings, shape: tuple[int, int], contexts: Contexts) -> ContextTable:
    """The map from contexts to tables before the first task: uniform for every context."""
    own, space = settings.initialization, contexts.space
    if settings.contexts.map == "log_linear":
        units = np.ones(space.size) if contexts.effects is None else 1.0 / space.scale
        effects = all_effects(*shape, space.size, None) if contexts.effects is None else contexts.effects
        ridges = np.array(settings.contexts.ridges)
        return no_tasks(effects, units, ridges, shape, own.shrinkage, own.prior_weight)
    bandwidths = np.array(settings.contexts.bandwidths)
    return KernelTable(
        contexts=np.zeros((0, space.size)),
        weighted=np.zeros((0, *shape)),
        bandwidths=bandwidths,
        shares=np.full(bandwidths.size, 1.0 / bandwidths.size),
        shrinkage=own.shrinkage,
        prior_weight=own.prior_weight,
        distance=space.distance,
    )


def memory_from_arrays(parts: Mapping[str, Any]) -> ContextTable:
    """The inverse of ``to_arrays`` of either map."""
    return LogLinearTable.from_arrays(parts) if "effects" in parts else KernelTable.from_arrays(parts)


def _context_of(item: Contribution) -> FloatArray:
    if item.context is None:
        raise ValueError(f"task {item.task_index}: brings no context, which meta.context asks for")
    return item.context


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
