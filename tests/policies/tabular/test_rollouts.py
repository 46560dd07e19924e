from __future__ import annotations

import dataclasses
import time
from typing import Any

import gymnasium
import numpy as np
import pytest

from policies.exact.solver import ExactModel, evaluate, occupancy
from policies.tabular.rollouts import TabularRollouts, discrete_shape
from policies.tabular.transitions import Transitions, concatenate
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.lakes.frozen_lake import FrozenLake
from tests.support.problems import random_policy
from tests.support.user_families import FAULTS, NUM_STATES, CourierFamily, LostAtStart, WrongSpaces

LAKE = ["SFFF", "FHFH", "FFFH", "HFFG"]


def _task(family: TaskFamily, **changes: Any) -> Task:
    parameters = {"desc": LAKE} if isinstance(family, FrozenLake) else family.parameters("train", 1, 0)
    limits = tuple(1.0 for _ in family.cost_names)
    task = Task("courier", "train", 1, seed=5, parameters=parameters, limits=limits)
    return dataclasses.replace(task, **changes)


def _collect(
    family: TaskFamily, policy: FloatArray, num_episodes: int, num_copies: int = 4, iteration: int = 0, **changes: Any
) -> Transitions:
    rollouts = TabularRollouts(family, _task(family, **changes), num_copies)
    try:
        return rollouts.collect(policy, iteration, num_episodes)
    finally:
        rollouts.close()


def _lake(**settings: Any) -> FrozenLake:
    return FrozenLake(seed=0, map_size=4, **settings)


def _assert_same_bits(one: Transitions, other: Transitions) -> None:
    for name in Transitions.__slots__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype


def _per_episode(data: Transitions, values: FloatArray, discount: float) -> FloatArray:
    """sum_k gamma^k values_k of every episode, [episodes, ...]."""
    starts = np.flatnonzero(data.episode_starts)
    times = np.arange(len(data)) - np.repeat(starts, np.diff([*starts, len(data)]))
    weights = (discount**times).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray(np.add.reduceat(weights * values, starts))


@pytest.mark.parametrize("hole_ends_episode", [False, True])
def test_episodes_are_those_of_gymnasium_stepped_by_hand(hole_ends_episode: bool) -> None:
    family = _lake(horizon=30, hole_ends_episode=hole_ends_episode)
    task = _task(family)
    data = _collect(family, random_policy(0, 16, 4), 12, iteration=3)
    desc = LAKE if hole_ends_episode else [row.replace("H", "F") for row in LAKE]
    env = gymnasium.make("FrozenLake-v1", desc=desc, success_rate=0.8, max_episode_steps=30)
    holes = [i for i, tile in enumerate("".join(LAKE)) if tile == "H"]
    position = 0
    for episode in range(12):
        seeds = np.random.SeedSequence([task.seed, 3, episode])
        state, _ = env.reset(seed=int(seeds.generate_state(1)[0]))
        ended = False
        while not ended:
            assert data.episodes[position] == episode
            assert data.states[position] == state
            following, reward, terminated, truncated, _ = env.step(int(data.actions[position]))
            assert data.next_states[position] == following
            assert data.reward[position] == reward
            assert data.costs[position, 0] == float(following in holes and following != state)
            assert data.terminated[position] == terminated
            assert data.truncated[position] == (truncated and not terminated)
            state, ended, position = following, terminated or truncated, position + 1
    assert position == len(data)
    assert set(data.iterations) == {3}


def test_actions_are_those_of_a_deterministic_policy() -> None:
    chosen = np.random.default_rng(0).integers(4, size=16)
    data = _collect(_lake(), np.eye(4)[chosen], 20)
    np.testing.assert_array_equal(data.actions, chosen[data.states])


@pytest.mark.parametrize("family", [_lake(horizon=40), CourierFamily(0, 4)])
def test_number_of_copies_changes_no_bit(family: TaskFamily) -> None:
    states, actions = (16, 4) if isinstance(family, FrozenLake) else (NUM_STATES, 3)
    alone, three, ten = (_collect(family, random_policy(1, states, actions), 10, copies) for copies in (1, 3, 10))
    _assert_same_bits(alone, three)
    _assert_same_bits(alone, ten)


def test_an_episode_depends_on_seed_iteration_and_number_alone() -> None:
    policy, family = random_policy(1, 16, 4), _lake()
    rollouts = TabularRollouts(family, _task(family), 3)
    first = rollouts.collect(policy, 0, 8)
    second = rollouts.collect(policy, 1, 8)
    _assert_same_bits(first, rollouts.collect(policy, 0, 8))
    rollouts.close()
    fewer = _collect(family, policy, 5)
    np.testing.assert_array_equal(fewer.states, first.states[first.episodes < 5])
    assert not np.array_equal(first.states, second.states)
    assert not np.array_equal(first.states, _collect(family, policy, 8, seed=6).states)


def test_transitions_are_connected_and_in_order() -> None:
    data = _collect(_lake(horizon=25), random_policy(2, 16, 4), 30)
    inside = ~data.episode_starts[1:]
    np.testing.assert_array_equal(data.states[1:][inside], data.next_states[:-1][inside])
    np.testing.assert_array_equal(np.unique(data.episodes), np.arange(30))
    assert (np.diff(data.episodes) >= 0).all()
    assert data.episode_starts.sum() == 30


def test_an_episode_ends_once_terminated_at_the_goal_or_truncated_at_the_horizon() -> None:
    horizon = 25
    data = _collect(_lake(horizon=horizon), random_policy(2, 16, 4), 60)
    last = np.append(data.episode_starts[1:], True)
    np.testing.assert_array_equal(data.terminated | data.truncated, last)
    assert not (data.terminated & data.truncated).any()
    np.testing.assert_array_equal(data.terminated, data.next_states == 15)
    np.testing.assert_array_equal(data.reward, data.terminated.astype(float))
    lengths = np.bincount(data.episodes)
    assert (lengths[data.episodes[data.truncated]] == horizon).all()
    assert data.terminated.sum() > 5
    assert data.truncated.sum() > 5


def test_a_truncation_by_the_environment_itself_ends_the_episode() -> None:
    class Impatient(CourierFamily):
        def make(self, parameters: Any) -> gymnasium.Env[Any, Any]:
            return gymnasium.wrappers.TimeLimit(super().make(parameters), 4)

    data = _collect(Impatient(0, 4), np.tile([1.0, 0.0, 0.0], (NUM_STATES, 1)), 20)
    assert np.bincount(data.episodes).max() == 4
    np.testing.assert_array_equal(np.bincount(data.episodes[data.truncated]), 1)


def test_returns_and_visits_match_the_exact_values_and_occupancy() -> None:
    """2000 episodes: every mean within 5 standard errors, beside the horizon's remainder gamma^100 / (1 - gamma)."""
    family = _lake(horizon=100, discount=0.9)
    model = ExactModel(family.model({"desc": LAKE}))
    policy, count, remainder = random_policy(3, 16, 4), 2000, 0.9**100 / 0.1
    data = _collect(family, policy, count, num_copies=50)
    exact, nu = evaluate(model, policy), occupancy(model, policy)
    collected = np.column_stack([data.reward, data.costs, 0.1 * np.eye(16)[data.states][:, :15]])
    samples = _per_episode(data, collected, 0.9)
    expected = np.concatenate([exact.values, nu[:15]])
    error = 5.0 * samples.std(axis=0, ddof=1) / np.sqrt(count)
    assert (np.abs(samples.mean(axis=0) - expected) <= error + remainder).all()
    assert (error[:2] < 0.2 * exact.values).all()


def test_actions_and_successors_have_the_frequencies_of_policy_and_model() -> None:
    """One-step frequencies of (state, action) and of its successors within 5 standard errors of their probabilities."""
    family = _lake(horizon=100)
    policy = random_policy(3, 16, 4)
    data = _collect(family, policy, 1000, num_copies=50)
    transitions = ExactModel(family.model({"desc": LAKE})).transitions.toarray()
    visits = np.bincount(data.states * 4 + data.actions, minlength=64)
    in_state = np.repeat(visits.reshape(16, 4).sum(axis=1), 4)
    seen = in_state > 0
    spread = np.sqrt(in_state * policy.ravel() * (1.0 - policy.ravel()))
    assert (np.abs(visits - in_state * policy.ravel()) <= 5.0 * spread)[seen].all()
    successors = np.zeros((64, 16))
    np.add.at(successors, (data.states * 4 + data.actions, data.next_states), 1.0)
    spread = np.sqrt(visits[:, None] * transitions * (1.0 - transitions))
    assert (np.abs(successors - visits[:, None] * transitions) <= 5.0 * spread + 1e-9).all()


def test_two_costs_keep_their_order() -> None:
    family = CourierFamily(0, 4)
    for action, expected in enumerate([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]):
        data = _collect(family, np.tile(np.eye(3)[action], (NUM_STATES, 1)), 5)
        np.testing.assert_array_equal(data.costs, np.tile(expected, (len(data), 1)))


def test_concatenation_keeps_order_and_counts_episodes_of_each_iteration() -> None:
    policy, family = random_policy(2, 16, 4), _lake(horizon=10)
    parts = [_collect(family, policy, 3, iteration=iteration) for iteration in (0, 1)]
    joined = concatenate(parts)
    assert len(joined) == len(parts[0]) + len(parts[1])
    np.testing.assert_array_equal(joined.states, np.concatenate([part.states for part in parts]))
    assert joined.episode_starts.sum() == 6
    single = [_collect(family, policy, 1, iteration=iteration) for iteration in (0, 1)]
    assert concatenate(single).episode_starts.sum() == 2


@pytest.mark.parametrize("num_copies", [1, 4])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_contract_names_task_and_step(fault: str, num_copies: int) -> None:
    reported = {
        "no_cost": r'no info\["cost"\]; it must hold 2 number\(s\) \(fuel, damage\)',
        "one_cost": r"must hold 2 number\(s\), got 1.0 \(fuel, damage\)",
        "three_costs": r"must hold 2 number\(s\), got \[1.0, 1.0, 1.0\] \(fuel, damage\)",
        "cost_not_a_number": r'info\["cost"\] is nan; it must be finite',
        "infinite_cost": r'info\["cost"\] is inf; it must be finite',
        "cost_is_text": r"""info\["cost"\] must be a number, got .*'low'""",
        "reward_not_a_number": "the reward is nan; it must be finite",
        "observation_too_large": r"the observation 6 is not a state in 0\.\.5",
        "observation_negative": r"the observation -1 is not a state in 0\.\.5",
    }[fault]
    family = CourierFamily(0, 4, fault=fault, fault_step=2)
    walking = np.tile([1.0, 0.0, 0.0], (NUM_STATES, 1))
    with pytest.raises(TaskError, match=reported) as caught:
        _collect(family, walking, 6, num_copies, iteration=7)
    assert str(caught.value).startswith("task courier/train/1, iteration 7, episode 0, step 2:")
    assert isinstance(caught.value, TaskError)


def test_one_missing_cost_in_a_family_of_one_is_not_read_as_zero() -> None:
    class Free(FrozenLake):
        def make(self, parameters: Any) -> gymnasium.Env[Any, Any]:
            return super().make(parameters).env

    with pytest.raises(TaskError, match=r'step 0: step reports no info\["cost"\].*1 number\(s\) \(holes'):
        _collect(Free(seed=0, map_size=4), random_policy(0, 16, 4), 1)


@pytest.mark.parametrize("fault", ["observation_space/box", "action_space/box", "action_space/from_one"])
def test_spaces_that_are_no_table_are_refused(fault: str) -> None:
    space = fault.split("/")[0].replace("_", " ")
    family = WrongSpaces(0, 4, fault=fault)
    with pytest.raises(TaskError, match=rf"task courier/train/1: .*the {space} must be Discrete\(n\)"):
        TabularRollouts(family, _task(family), 2)


def test_shape_of_a_task_is_that_of_its_spaces() -> None:
    assert discrete_shape(_lake(), _task(_lake())) == (16, 4)
    assert discrete_shape(CourierFamily(0, 4), _task(CourierFamily(0, 4))) == (NUM_STATES, 3)


def test_a_first_observation_out_of_range_is_refused() -> None:
    with pytest.raises(TaskError, match=r"courier/train/1, iteration 0, episode 0.*observation -1"):
        _collect(LostAtStart(0, 4), random_policy(0, NUM_STATES, 3), 3)


@pytest.mark.parametrize("observation", [1.5, None, np.array([1])], ids=["fraction", "none", "array"])
def test_an_observation_that_is_not_an_integer_is_refused(observation: object) -> None:
    class Vague(CourierFamily):
        def make(self, parameters: Any) -> gymnasium.Env[Any, Any]:
            return gymnasium.wrappers.TransformObservation(super().make(parameters), lambda _: observation, None)

    with pytest.raises(TaskError, match="task courier/train/1, iteration 0, episode 0"):
        _collect(Vague(0, 4), random_policy(0, NUM_STATES, 3), 3)


class _Odd(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A courier that does something odd in its third step, or in its reset."""

    def __init__(self, env: gymnasium.Env[Any, Any], odd: str) -> None:
        super().__init__(env)
        self._odd, self._steps = odd, 0

    def reset(self, **arguments: Any) -> Any:
        if self._odd == "reset raises":
            raise OSError("no such road")
        if self._odd == "spaces change":
            self.action_space = gymnasium.spaces.Discrete(4)
        result = self.env.reset(**arguments)
        return result[0] if self._odd == "reset gives one value" else result

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._odd == "six values":
            return observation, reward, info.pop("cost"), terminated, truncated, info
        self._steps += 1
        if self._steps == 3 and self._odd == "step raises":
            raise RuntimeError("flat tyre")
        while self._steps == 3 and self._odd == "step hangs":
            time.sleep(0.01)
        if self._steps == 3 and self._odd == "step gives four values":
            return observation, reward, terminated, info
        return observation, reward, "no" if self._odd == "ends in words" else terminated, truncated, info


def _odd_rollouts(odd: str) -> TabularRollouts:
    class OddFamily(CourierFamily):
        step_seconds = 0.2

        def make(self, parameters: Any) -> gymnasium.Env[Any, Any]:
            return _Odd(super().make(parameters), odd)

    family = OddFamily(0, 4)
    return TabularRollouts(family, _task(family), 1)


@pytest.mark.parametrize(
    ("odd", "reported"),
    [
        ("step raises", "step 2: step raised RuntimeError: flat tyre"),
        ("step hangs", r"step 2: step: no answer within 0\.2 seconds"),
        ("step gives four values", r"step 2: step must return \(observation, reward, terminated.*, got 4 values"),
        ("ends in words", "step 0: .*ends that are True or False and a dictionary, got terminated 'no'"),
        ("reset raises", "step 0: reset raised OSError: no such road"),
        ("reset gives one value", r"step 0: reset must return \(observation, info\), got a int"),
        ("spaces change", r"step 0: the space was Discrete\(3\) and has become Discrete\(4\); spaces must stay"),
    ],
)
def test_an_environment_that_does_not_keep_up_is_reported_with_task_and_step(odd: str, reported: str) -> None:
    walking = np.tile([1.0, 0.0, 0.0], (NUM_STATES, 1))
    with pytest.raises(TaskError, match=f"task courier/train/1, iteration 5, episode 0, {reported}"):
        _odd_rollouts(odd).collect(walking, 5, 2)


def test_a_six_value_step_gives_the_same_transitions() -> None:
    policy = random_policy(0, NUM_STATES, 3)
    _assert_same_bits(_odd_rollouts("six values").collect(policy, 0, 4), _odd_rollouts("").collect(policy, 0, 4))
