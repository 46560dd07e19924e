"""Averages of neural policies as starts: distilled onto states of the tasks, never averaged as weights (THEORY 6)."""

from __future__ import annotations

from collections.abc import Sequence

from meta.learning.kinds import Item
from meta.learning.neural import (
    NeuralContribution,
    NeuralMetaState,
    initial_neural_state,
    neural_update,
    next_policy,
    task_targets,
)
from meta.learning.reservoir import Reservoir, offer
from meta.learning.settings import LearningRateSettings, MetaSettings, NeuralInitializationSettings
from policies.neural.policy_state import PolicyState


def neural_items(items: Sequence[Item]) -> list[NeuralContribution]:
    """The contributions of tasks that were solved with neural policies, in task order.

    Raises:
        TypeError: one was not.
    """
    found = [item for item in items if isinstance(item, NeuralContribution)]
    if len(found) < len(items):
        raise TypeError("a tabular task has no neural policy to average")
    return sorted(found, key=lambda item: item.task_index)


def average_policy(
    fresh: PolicyState, items: Sequence[Item], settings: NeuralInitializationSettings, num_rounds: int
) -> PolicyState:
    """One network that imitates the policies of all tasks, every row alike; statistics of all, the mean critic.

    As many Adam steps from ``fresh`` as the meta-learner takes in ``num_rounds`` rounds, on as many rows at most as it
    would remember.
    """
    ordered = neural_items(items)
    reservoir: Reservoir | None = None
    for item in ordered:
        reservoir = offer(reservoir, task_targets(item), settings.reservoir, item.task_index)
    changes = {"method": "ftl", "steps": settings.steps * num_rounds, "schedule": "dynamic", "critic_share": 1.0}
    return next_policy(fresh, ordered, settings.model_copy(update=changes), 0, reservoir)


def average_leader(meta: MetaSettings, rate: float) -> MetaSettings:
    """The settings under which the meta-learner follows the average leader: every task alike, one fixed rate."""
    schedule = "dynamic" if meta.neural.schedule == "mixture" else meta.neural.schedule
    neural = meta.neural.model_copy(update={"method": "ftl", "forgetting": 1.0, "schedule": schedule})
    return MetaSettings(neural=neural, learning_rates=LearningRateSettings(method="fixed", initial=rate))


def first_leader(fresh: PolicyState, meta: MetaSettings, rate: float) -> NeuralMetaState:
    """Where following the average leader begins."""
    return initial_neural_state(average_leader(meta, rate), fresh)


def follow_leader(
    state: NeuralMetaState, items: Sequence[Item], meta: MetaSettings, num_iterations: int
) -> NeuralMetaState:
    """One round further."""
    rate = float(state.learning_rates[0])
    return neural_update(state, neural_items(items), average_leader(meta, rate), num_iterations)
