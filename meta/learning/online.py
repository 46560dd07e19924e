"""The meta-learner as the loop, the actors and the checkpoints see it: of any kind, with one start or several."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from meta.learning.groups import GroupedState, first_groups, update_groups
from meta.learning.kinds import LEARNERS, Item, SingleState, learning_of_policy
from meta.learning.neural import NeuralMetaState, warm_up_update
from meta.learning.settings import MetaSettings
from meta.offline.dice_settings import DICESettings
from policies.common.policy import Policy
from policies.mixtures.team import TeamStep
from policies.solving.algorithms import Dataset
from tasks.contract.contextual_family import Contexts
from tasks.contract.tabular_model import FloatArray

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
_WARM_UPS: dict[str, Callable[[Any, Sequence[TeamStep]], State]] = {NeuralMetaState.KIND: warm_up_update}
ITEMS: dict[str, type[Item]] = {kind.name: kind.item for kind in LEARNERS.values()}
"""Classes by their names in checkpoints."""


def first_state(
    settings: MetaSettings,
    fresh: Policy,
    num_costs: int,
    contexts: Contexts | None = None,
    units: FloatArray | None = None,
) -> State:
    """The state before the first task: ``fresh`` (uniform probabilities, or a fresh network) and the initial rates.

    ``contexts`` of the training tasks, where a start depends on them; ``units`` [1+p] of the rates
    (:func:`meta.learning.updates.units_of`).
    """
    one: SingleState = learning_of_policy(fresh).first_state(settings, fresh, num_costs, contexts)
    if units is not None:
        one = dataclasses.replace(one, rate_units=units, learning_rates=one.learning_rates / units)
    count = settings.num_initializations
    return one if count == 1 else first_groups(one, count, settings.groups)


def contribute(dataset: Dataset, dice: DICESettings, settings: MetaSettings) -> Item:
    """What a solved task contributes to the meta-update."""
    item: Item = learning_of_policy(dataset.policy).contribute(dataset, dice, settings)
    return item


def step(state: State, items: Sequence[Item], settings: MetaSettings, num_iterations: int) -> State:
    """One online step on a round of tasks."""
    return _STEPS[state.KIND](state, items, settings, num_iterations)


def warm_up(state: State, steps: Sequence[TeamStep]) -> State:
    """One round of direct steps.

    Raises:
        TypeError: the state is not of one network.
    """
    step_of_kind = _WARM_UPS.get(state.KIND)
    if step_of_kind is None:
        raise TypeError(f"a {state.KIND} state takes no direct steps")
    return step_of_kind(state, steps)
