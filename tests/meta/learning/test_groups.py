"""Several initialisations: who learns from which task, against what follows by hand, and tasks whose group is known."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from meta.learning.bounds import initialization_loss
from meta.learning.groups import GroupedState, assign, is_whole, split, update_groups
from meta.learning.neural import NeuralContribution, neural_update
from meta.learning.online import STATES, first_state, step
from meta.learning.settings import (
    GroupSettings,
    InitializationSettings,
    LearningRateSettings,
    MetaSettings,
    NeuralInitializationSettings,
)
from meta.learning.tabular import Contribution, MetaState, update
from meta.reporting.summarising import groups_summary
from policies.common.results import Candidates, Start
from policies.neural.policy_state import no_observations
from tasks.contract.tabular_model import FloatArray
from tests.meta.learning.test_learner import SOUND
from tests.meta.learning.test_neural_learner import COSTS, fresh, learned, rows_of

STATES_, ACTIONS, ITERATIONS = 5, 3, 7


def settings(count: int = 2, method: str = "ftl", **groups: Any) -> MetaSettings:
    return MetaSettings(
        num_initializations=count,
        initialization=InitializationSettings(method=method),  # type: ignore[arg-type]
        neural=NeuralInitializationSettings(steps=20, step_size=0.01),
        learning_rates=LearningRateSettings(method="ftl"),
        groups=GroupSettings.model_validate({"split_after": 1, **groups}),
    )


def centre(group: int) -> FloatArray:
    """What the tasks of a group do: action ``group`` in every state."""
    return np.tile(0.85 * np.eye(ACTIONS)[group] + 0.05, (STATES_, 1))


def task(index: int, group: int, weight: float = 1.0) -> Contribution:
    """A task of a known group: its centre, and some noise of its own."""
    rng = np.random.default_rng([index, 5])
    policy = 0.9 * centre(group) + 0.1 * rng.dirichlet(np.ones(ACTIONS), size=STATES_)
    occupancy = rng.dirichlet(np.ones(STATES_))
    return Contribution(index, occupancy, policy, 0.3, rng.uniform(0.5, 2.0, size=2), weight, SOUND, ())


def neural_task(index: int, group: int) -> NeuralContribution:
    """A task of a known group whose policy is that of the group, moved a little."""
    rows, policy = rows_of(index), learned(50 + group)
    rng = np.random.default_rng([index, 6])
    noise = 0.01 * rng.normal(size=policy.actor.vector.size).astype(np.float32)
    actor = dataclasses.replace(policy.actor, vector=policy.actor.vector + noise)
    return NeuralContribution(
        task_index=index,
        observations=rows,
        statistics=no_observations(rows.shape[1]).merged(rows),
        policy=dataclasses.replace(policy, actor=actor),
        loss=0.3,
        curvature=rng.uniform(0.5, 2.0, size=1 + COSTS),
    )


def first(chosen: MetaSettings) -> GroupedState:
    state = first_state(chosen, np.full((STATES_, ACTIONS), 1.0 / ACTIONS), 1)
    assert isinstance(state, GroupedState)
    return state


def after(chosen: MetaSettings, *rounds: list[Contribution], state: GroupedState | None = None) -> GroupedState:
    state = first(chosen) if state is None else state
    for batch in rounds:
        state = update_groups(state, batch, chosen, ITERATIONS)
    return state


def sequence(groups: str, size: int, begin: int = 0) -> list[list[Contribution]]:
    """Tasks of the groups that are written, in rounds of ``size``."""
    items = [task(begin + index, int(group)) for index, group in enumerate(groups)]
    return [items[at : at + size] for at in range(0, len(items), size)]


def labelled(state: GroupedState) -> list[int]:
    """The action that the start of each group with tasks prefers."""
    return [int(np.argmax(np.asarray(start.initialization).mean(axis=0))) for start in state.starts]


# One initialisation is what it was


def test_one_initialisation_is_the_plain_learner_bit_for_bit() -> None:
    state = first_state(settings(1), np.full((STATES_, ACTIONS), 1.0 / ACTIONS), 1)
    assert isinstance(state, MetaState)
    plain = state
    for batch in sequence("010210", 3):
        state = step(state, batch, settings(1), ITERATIONS)
        plain = update(plain, batch, settings(1), ITERATIONS)
    assert state.sha256() == plain.sha256()
    assert isinstance(state.start, Start)


def test_before_the_split_the_first_group_is_the_plain_learner() -> None:
    chosen = settings(2, split_after=3)
    state = after(chosen, *sequence("010101", 2))
    plain: Any = first_state(settings(1), np.full((STATES_, ACTIONS), 1.0 / ACTIONS), 1)
    for batch in sequence("010101", 2):
        plain = update(plain, batch, chosen, ITERATIONS)
    assert state.groups[0].sha256() == plain.sha256()
    assert is_whole(state)
    assert isinstance(state.start, Start)
    np.testing.assert_array_equal(state.assigned, 0)


# The split


@pytest.mark.parametrize("count", [2, 3])
def test_groups_are_found_and_each_start_comes_from_its_own_tasks_alone(count: int) -> None:
    groups = ("012" * 8)[: 8 * count] if count == 3 else "01" * 8
    chosen = settings(count)
    rounds = sequence(groups, 2 * count)
    state = after(chosen, *rounds)
    assert sorted(labelled(state)) == list(range(count))
    assert state.num_tasks == 8 * count
    for batch in sequence(groups, 2 * count, begin=100):
        state = after(chosen, batch, state=state)
        found = [labelled(state)[number] for number in state.assigned]
        assert found == [int(np.argmax(item.policy.mean(axis=0))) for item in batch]


def test_after_the_split_a_group_remembers_only_what_was_given_to_it() -> None:
    """ftl's sums are those of the group's own tasks; rates go on from the common ones."""
    chosen = settings(2)
    warm, *rounds = sequence("0101" * 4, 4)
    state = after(chosen, warm, *rounds)
    items = [item for batch in rounds for item in batch]
    for group, label in zip(state.groups, labelled(state), strict=True):
        assert isinstance(group, MetaState)
        own = [item for item in items if np.argmax(item.policy.mean(axis=0)) == label]
        expected = sum(item.occupancy[:, None] * item.policy for item in own)
        np.testing.assert_allclose(group.policy_sum, expected, rtol=1e-12)
        np.testing.assert_allclose(group.loss_sum, 0.3 * (4 + len(own)), rtol=1e-12)
        assert group.num_tasks == len(own)


def test_a_round_of_one_group_only_does_not_split() -> None:
    chosen = settings(2)
    warm, alone, both = sequence("010100000101", 4)
    state = after(chosen, warm, alone)
    assert is_whole(state)
    assert sorted(labelled(after(chosen, both, state=state))) == [0, 1]


def test_a_task_without_weight_is_not_a_centre() -> None:
    chosen = settings(2, split_after=0)
    odd = task(2, 2, weight=0.0)
    plan = split(first(chosen), [task(0, 0), task(1, 1), odd, task(3, 0)], chosen)
    assert plan.assigned[[0, 1]].tolist() in ([0, 1], [1, 0])
    assert plan.assigned[3] == plan.assigned[0]
    silent = [dataclasses.replace(task(index, index % 2), weight=0.0) for index in range(4)]
    assert not split(first(chosen), silent, chosen).begun


# Afterwards


def split_state(chosen: MetaSettings) -> GroupedState:
    return after(chosen, *sequence("01010101", 4))


def test_a_task_goes_where_its_loss_is_least() -> None:
    chosen = settings(2)
    state = split_state(chosen)
    batch = [task(20 + index, index % 3) for index in range(6)]
    plan = assign(state, batch, chosen)
    for item, group in zip(batch, plan.assigned, strict=True):
        losses = [
            initialization_loss(item.occupancy, item.policy, np.asarray(start.initialization)) for start in state.starts
        ]
        assert group == int(np.argmin(losses))
    following = after(chosen, batch, state=state)
    for number, group in enumerate(state.groups):
        own = [item for item, chosen_group in zip(batch, plan.assigned, strict=True) if chosen_group == number]
        assert isinstance(group, MetaState)
        expected = update(group, own, chosen, ITERATIONS) if own else group
        assert following.groups[number].sha256() == expected.sha256()


def test_order_of_arrival_does_not_change_a_bit() -> None:
    chosen, batch = settings(2), [task(30 + index, index % 2) for index in range(4)]
    digests = {
        after(chosen, list(order), state=split_state(chosen)).sha256() for order in itertools.permutations(batch)
    }
    assert len(digests) == 1


def test_an_idle_group_begins_anew_at_the_farthest_task() -> None:
    chosen = settings(2, restart_after=3)
    state = after(chosen, *sequence("00000000", 4, begin=40), state=split_state(chosen))
    idle = int(np.argmax(state.idle))
    assert state.idle[idle] == 2
    assert sorted(labelled(state)) == [0, 1], "a group that is only resting keeps its start"
    state = after(chosen, *sequence("0000", 4, begin=50), state=state)
    assert state.idle[idle] == 3
    state = after(chosen, *sequence("0200", 4, begin=60), state=state)
    assert labelled(state)[idle] == 2
    group = state.groups[idle]
    assert isinstance(group, MetaState)
    item = task(61, 2)
    np.testing.assert_allclose(group.policy_sum, item.occupancy[:, None] * item.policy, rtol=1e-12)


def test_with_fewer_tasks_per_round_than_groups_the_others_follow() -> None:
    state = after(settings(3, split_after=0), *sequence("01" + "2" + "012" * 4, 2))
    assert sorted(labelled(state)) == [0, 1, 2]


def test_a_new_task_may_choose_among_the_groups_that_have_tasks() -> None:
    chosen = settings(3, split_after=0, selection="round_robin", probe_episodes=4)
    start = after(chosen, *sequence("01", 2)).start
    assert isinstance(start, Candidates)
    assert (len(start.starts), start.selection, start.probe_episodes) == (2, "round_robin", 4)


# Checkpoints and reports


@pytest.mark.parametrize("method", ["ftl", "ogd"])
def test_a_state_survives_a_checkpoint(method: str) -> None:
    chosen = settings(2, method)
    state = split_state(chosen)
    again = STATES[state.KIND].from_arrays(state.to_arrays())
    assert isinstance(again, GroupedState)
    assert again.sha256() == state.sha256()
    batch = [task(70 + index, index % 2) for index in range(4)]
    assert after(chosen, batch, state=again).sha256() == after(chosen, batch, state=state).sha256()


def test_the_digest_sees_every_group() -> None:
    state = split_state(settings(2))
    for number in range(2):
        groups = list(state.groups)
        changed = dataclasses.replace(groups[number], num_rounds=groups[number].num_rounds + 1)  # type: ignore[type-var]
        groups[number] = changed
        assert dataclasses.replace(state, groups=tuple(groups)).sha256() != state.sha256()


def test_the_summary_counts_tasks_and_starts() -> None:
    state = split_state(settings(2))
    rows: list[Any] = [{"start": 0, "probe_steps": 0}] * 5 + [{"start": 1, "probe_steps": 7}] * 3
    found = groups_summary(rows, state)
    assert found is not None
    assert (found.starts_used, found.probe_steps, sum(found.tasks)) == ((5, 3), 21, 4)
    assert groups_summary(rows, state.groups[0]) is None


# Neural


def test_neural_groups_are_found_and_learned_apart() -> None:
    chosen = settings(2)
    state: Any = first_state(chosen, fresh(), COSTS)
    rounds = [[neural_task(4 * number + index, index % 2) for index in range(4)] for number in range(6)]
    for batch in rounds:
        state = step(state, batch, chosen, ITERATIONS)
    assert not is_whole(state)
    assert state.assigned.tolist() in ([0, 1, 0, 1], [1, 0, 1, 0])
    number = int(state.assigned[0])
    group = state.groups[number]
    following = step(state, [neural_task(90, 0), neural_task(91, 0)], chosen, ITERATIONS)
    expected = neural_update(group, [neural_task(90, 0), neural_task(91, 0)], chosen, ITERATIONS)
    assert following.groups[number].sha256() == expected.sha256()
    assert following.groups[1 - number].sha256() == state.groups[1 - number].sha256()
    again = STATES[state.KIND].from_arrays(state.to_arrays())
    assert again.sha256() == state.sha256()
