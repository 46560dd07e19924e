"""The meta-learner as the loop, the actors and the checkpoints see it: of any kind, with one start or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from meta.learning.groups import GroupedState, first_groups, update_groups
from meta.learning.kinds import LEARNERS, Item, SingleState, learning_of_policy
from meta.learning.settings import MetaSettings
from meta.offline.dice_settings import DICESettings
from policies.common.policy import Policy
from policies.solving.algorithms import Dataset

State = SingleState | GroupedState
STATES: dict[str, type[State]] = {
    **{kind.name: kind.state for kind in LEARNERS.values()},
    GroupedState.KIND: GroupedState,
}
"""Classes by their names in checkpoints."""
_STEPS: dict[str, Callable[[Any, Sequence[Item], MetaSettings, int], State]] = {
    **{kind.name: kind.step for kind in LEARNERS.values()},
    GroupedState.KIND: update_groups,
}
ITEMS: dict[str, type[Item]] = {kind.name: kind.item for kind in LEARNERS.values()}
"""Classes by their names in checkpoints."""


def first_state(settings: MetaSettings, fresh: Policy, num_costs: int) -> State:
    """The state before the first task: ``fresh`` (uniform probabilities, or a fresh network) and the initial rates."""
    one: SingleState = learning_of_policy(fresh).first_state(settings, fresh, num_costs)
    count = settings.num_initializations
    return one if count == 1 else first_groups(one, count, settings.groups)


def contribute(dataset: Dataset, dice: DICESettings, settings: MetaSettings) -> Item:
    """What a solved task contributes to the meta-update."""
    item: Item = learning_of_policy(dataset.policy).contribute(dataset, dice, settings)
    return item


def step(state: State, items: Sequence[Item], settings: MetaSettings, num_iterations: int) -> State:
    """One online step on a round of tasks."""
    return _STEPS[state.KIND](state, items, settings, num_iterations)
