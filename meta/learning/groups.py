"""Several meta-initialisations for a family of tasks in groups: who learns from which task, without labels.

Each initialisation has its own rates, sums and memory: it is a complete state of the plain meta-learner, which sees
only the tasks of that initialisation. A task belongs to the initialisation with the least bound on it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from meta.learning.kinds import Item, SingleState, learning_named, learning_of_policy
from meta.learning.settings import GroupSettings, MetaSettings
from policies.common.policy import Policy
from policies.common.results import Candidates, Selection, Start, Starts
from tasks.contract.tabular_model import FloatArray


@dataclass(frozen=True, slots=True)
class GroupedState:
    """K meta-initialisations after ``num_rounds`` updates from ``num_tasks`` tasks.

    ``groups`` [K] the state of each, ``idle`` [K] rounds since its last task, ``assigned`` [B] the groups of
    the newest round's tasks, in task order, ``spread`` how far apart the tasks of a round are, a running mean.
    ``selection`` and ``probe_episodes`` define how a new task chooses its start.
    """

    num_rounds: int
    num_tasks: int
    groups: tuple[SingleState, ...]
    idle: NDArray[np.int64]
    assigned: NDArray[np.int64]
    spread: float
    selection: Selection
    probe_episodes: int | None

    KIND: ClassVar[str] = "grouped"
    warm_up_rounds: ClassVar[int] = 0
    """Several initialisations take no direct steps."""

    @property
    def starts(self) -> tuple[Start, ...]:
        """The starts of the groups that have tasks (they come first); initially all groups have the same start."""
        return tuple(group.starts[0] for group in self.groups if group.num_tasks) or self.groups[0].starts

    @property
    def start(self) -> Starts:
        """What the next tasks start from."""
        starts = self.starts
        return starts[0] if len(starts) == 1 else Candidates(starts, self.selection, self.probe_episodes)

    @property
    def rate_units(self) -> FloatArray | None:
        """u [1+p], the same for all groups."""
        return self.groups[0].rate_units

    def to_arrays(self) -> dict[str, Any]:
        """Everything by name, as a checkpoint keeps it; numbers are plain."""
        parts: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for number, group in enumerate(parts.pop("groups")):
            parts |= {f"group_{number}.{name}": part for name, part in group.to_arrays().items()}
        return parts | {"kind": self.groups[0].KIND, "num_groups": len(self.groups)}

    @staticmethod
    def from_arrays(parts: Mapping[str, Any]) -> GroupedState:
        """The inverse of :meth:`to_arrays`."""
        own = {name: part for name, part in parts.items() if not name.startswith("group_")}
        kind, count = learning_named(own.pop("kind")).state, own.pop("num_groups")
        groups = []
        for number in range(count):
            prefix = f"group_{number}."
            found = {name.removeprefix(prefix): part for name, part in parts.items() if name.startswith(prefix)}
            groups.append(kind.from_arrays(found))
        return GroupedState(groups=tuple(groups), **own)

    def sha256(self) -> str:
        """Digest of every bit of the state."""
        digest = hashlib.sha256(f"{self.num_rounds} {self.num_tasks} {self.idle.tolist()}".encode())
        for group in self.groups:
            digest.update(group.sha256().encode())
        return digest.hexdigest()


def first_groups(state: SingleState, count: int, settings: GroupSettings) -> GroupedState:
    """``count`` groups that all begin at ``state``."""
    nobody = np.zeros(0, dtype=np.int64)
    idle = np.zeros(count, dtype=np.int64)
    return GroupedState(0, 0, (state,) * count, idle, nobody, 0.0, settings.selection, settings.probe_episodes)


def update_groups(
    state: GroupedState, items: Sequence[Item], settings: MetaSettings, num_iterations: int
) -> GroupedState:
    """One online step of every group on the tasks of the round that are its own."""
    kind = learning_named(state.groups[0].KIND)
    ordered = sorted(items, key=lambda item: item.task_index)
    plan = split(state, ordered, settings) if is_whole(state) else assign(state, ordered, settings)
    groups = list(state.groups)
    for number in range(len(groups)):
        own = [item for item, group in zip(ordered, plan.assigned, strict=True) if group == number]
        if own:
            before = kind.without_memory(state.groups[plan.begun[number]]) if number in plan.begun else groups[number]
            groups[number] = kind.step(before, own, settings, num_iterations)
    present = np.isin(np.arange(len(groups)), plan.assigned)
    return dataclasses.replace(
        state,
        num_rounds=state.num_rounds + 1,
        num_tasks=state.num_tasks + len(ordered),
        groups=tuple(groups),
        idle=np.where(present, 0, state.idle + 1),
        assigned=plan.assigned,
        spread=plan.spread,
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """The groups [B] of a round's tasks; the groups that restart, each with the group whose state it takes over
    without its memory; and the new ``spread``.
    """

    assigned: NDArray[np.int64]
    begun: Mapping[int, int]
    spread: float


def is_whole(state: GroupedState) -> bool:
    """Whether the tasks so far have all gone to the first group."""
    return not any(group.num_tasks for group in state.groups[1:])


def split(state: GroupedState, ordered: Sequence[Item], settings: MetaSettings) -> Plan:
    """Everything to the first group, until the tasks of a round are good centres: then each to the nearest centre.

    The centres are policies of tasks: the first that of greatest f_hat, each further one the farthest from all before
    it (Gonzalez 1985). They are good when ``split_after`` rounds are over and the second one lies at least half as far
    from the first as in the rounds before (a running mean): a round may have tasks of one group only.
    """
    common = _losses(ordered, state.groups[0].starts[0].initialization)
    distances = np.zeros((len(ordered), 0))
    nearest, apart = np.where(_sound(ordered), common, -1.0), 0.0
    while distances.shape[1] < len(state.groups):
        farthest = int(np.argmax(nearest))
        if nearest[farthest] <= 0.0:
            break
        distances = np.column_stack([distances, _distances_to(ordered, farthest, settings)])
        nearest = np.where(_sound(ordered), distances.min(axis=1), -1.0)
        apart = float(nearest.max()) if distances.shape[1] == 1 else apart
    spread = apart if state.num_rounds == 0 else 0.5 * (state.spread + apart)
    if state.num_rounds < settings.groups.split_after or apart < 0.5 * state.spread or distances.shape[1] < 2:
        return Plan(np.zeros(len(ordered), dtype=np.int64), {}, spread)
    return Plan(distances.argmin(axis=1), dict.fromkeys(range(distances.shape[1]), 0), spread)


def assign(state: GroupedState, ordered: Sequence[Item], settings: MetaSettings) -> Plan:
    """Each task to the group where its f_hat is least, and with it the bound U at the bound's best rate.

    A group without tasks, or idle for ``restart_after`` rounds, first takes as its centre the policy of the task
    farthest from all other groups.
    """
    idle = np.where([group.num_tasks for group in state.groups], state.idle, settings.groups.restart_after)
    vacant = np.flatnonzero(idle >= settings.groups.restart_after)
    losses = np.array([_losses(ordered, group.starts[0].initialization) for group in state.groups]).T
    losses[:, vacant] = np.inf
    begun: dict[int, int] = {}
    for number in vacant.tolist():
        nearest = np.where(_sound(ordered), losses.min(axis=1), -1.0)
        farthest = int(np.argmax(nearest))
        if not 0.0 < nearest[farthest] < np.inf:
            break
        begun[number] = int(losses[farthest].argmin())
        losses[:, number] = _distances_to(ordered, farthest, settings)
    return Plan(losses.argmin(axis=1), begun, state.spread)


def _sound(items: Sequence[Item]) -> NDArray[np.bool_]:
    return np.array([item.weight > 0.0 for item in items])


def _distances_to(items: Sequence[Item], centre: int, settings: MetaSettings) -> FloatArray:
    """f_hat of every task for the policy of one of them, which is at distance 0 from itself."""
    distances = _losses(items, _centre(items[centre], settings))
    distances[centre] = 0.0
    return distances


def _losses(items: Sequence[Item], start: Policy) -> FloatArray:
    """f_hat of every task for the start phi."""
    kind = learning_of_policy(start)
    return np.array([kind.loss(item, start) for item in items])


def _centre(item: Item, settings: MetaSettings) -> Policy:
    """The policy of a task as a start."""
    policy: Policy = learning_of_policy(item.policy).with_support(item.policy, settings)
    return policy
