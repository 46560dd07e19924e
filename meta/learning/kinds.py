"""Tabular and neural meta-learners behind one interface: what the loop, the actors and the checkpoints work with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from meta.learning.groups import GroupedState, GroupItem, GroupState, first_groups, update_groups
from meta.learning.neural import (
    NeuralContribution,
    NeuralMetaState,
    initial_neural_state,
    neural_update,
)
from meta.learning.neural_contribution import neural_contribution
from meta.learning.tabular import Contribution, MetaSettings, MetaState, contribution, initial_state, update
from meta.offline.dice_settings import DICESettings
from policies.common.results import Policy
from policies.neural.policy_state import PolicyState
from policies.neural.solving import NeuralDataset
from policies.solving.solve_task import Dataset

State = MetaState | NeuralMetaState | GroupedState
Item = Contribution | NeuralContribution

STATES: dict[str, type[State]] = {kind.KIND: kind for kind in (MetaState, NeuralMetaState, GroupedState)}
ITEMS: dict[str, type[Item]] = {kind.KIND: kind for kind in (Contribution, NeuralContribution)}


def first_state(settings: MetaSettings, fresh: Policy, num_costs: int) -> State:
    """The state before the first task: ``fresh`` (uniform probabilities, or a fresh network) and the initial rates."""
    one: GroupState
    if isinstance(fresh, PolicyState):
        one = initial_neural_state(settings, fresh)
    else:
        one = initial_state(settings, fresh.shape[0], fresh.shape[1], num_costs)
    count = settings.num_initializations
    return one if count == 1 else first_groups(one, count, settings.groups)


def contribute(dataset: Dataset, dice: DICESettings, settings: MetaSettings) -> Item:
    """What a solved task brings to the meta-update."""
    if isinstance(dataset, NeuralDataset):
        return neural_contribution(dataset, dice, settings)
    return contribution(dataset, dice, settings)


def step(state: State, items: Sequence[Item], settings: MetaSettings, num_iterations: int) -> State:
    """One online step on a round of tasks."""
    if isinstance(state, GroupedState):
        return update_groups(state, items, settings, num_iterations, step_alone)
    return step_alone(state, items, settings, num_iterations)


def step_alone(
    state: GroupState, items: Sequence[GroupItem], settings: MetaSettings, num_iterations: int
) -> GroupState:
    """One online step of one initialisation."""
    if isinstance(state, NeuralMetaState):
        return neural_update(state, cast("Sequence[NeuralContribution]", items), settings, num_iterations)
    return update(state, cast("Sequence[Contribution]", items), settings, num_iterations)
