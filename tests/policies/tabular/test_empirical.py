from __future__ import annotations

import numpy as np
import pytest

from policies.exact.solver import ExactModel, evaluate
from policies.tabular.empirical import TransitionCounts, empirical_model, evaluate_empirical
from policies.tabular.transitions import Transitions, concatenate
from tasks.contract.tabular_model import FloatArray, TabularModel
from tests.support.problems import dense_transitions, random_cmdp, random_policy, tabular


def transitions(steps: FloatArray, reward: FloatArray, costs: FloatArray, terminated: FloatArray) -> Transitions:
    """Every row (state, action, next state) of ``steps`` as an episode of its own."""
    states, actions, next_states = steps.T.astype(np.int32)
    number = np.arange(len(steps), dtype=np.int32)
    return Transitions(
        states=states,
        actions=actions,
        reward=reward,
        costs=costs,
        next_states=next_states,
        terminated=terminated.astype(np.bool_),
        truncated=~terminated.astype(np.bool_),
        episodes=number,
        iterations=np.zeros_like(number),
    )


def _rational_model(seed: int, denominator: int = 12, weights: tuple[int, ...] = (1, 1, 1, 1)) -> TabularModel:
    """4 states, 3 actions, probabilities that are multiples of 1 / ``denominator``, rho proportional to ``weights``."""
    rng = np.random.default_rng(seed)
    kernel = rng.multinomial(denominator, np.full(4, 0.25), size=(4, 3)) / denominator
    initial = np.array(weights) / sum(weights)
    return tabular(kernel, rng.random((4, 3)), rng.random((2, 4, 3)), initial, 0.9)


def _data_of(
    model: TabularModel, denominator: int = 12, weights: tuple[int, ...] = (1, 1, 1, 1), end: int = -1
) -> Transitions:
    """Data whose counts are exactly the model's probabilities; a step into state ``end`` terminates."""
    counts = np.rint(dense_transitions(model) * denominator).astype(int) * np.array(weights)[:, None, None]
    counts[[end] if end >= 0 else []] = 0
    steps = np.repeat(np.argwhere(counts > 0), counts[counts > 0], axis=0)
    steps = np.random.default_rng(0).permutation(steps)
    state, action, following = steps.T
    return transitions(steps, model.reward[state, action], model.costs[:, state, action].T, following == end)


def _sampled(model: TabularModel, count: int, seed: int) -> Transitions:
    """``count`` steps from uniformly drawn pairs."""
    rng = np.random.default_rng(seed)
    state, action = rng.integers(model.num_states, size=count), rng.integers(model.num_actions, size=count)
    cumulative = dense_transitions(model).cumsum(axis=-1)[state, action, :-1]
    steps = np.stack([state, action, (rng.random((count, 1)) >= cumulative).sum(axis=1)], axis=1)
    return transitions(steps, model.reward[state, action], model.costs[:, state, action].T, np.zeros(count))


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (3, 1, 2, 5)])
@pytest.mark.parametrize("seed", range(3))
def test_evaluation_is_exact_where_counts_are_the_probabilities(seed: int, weights: tuple[int, ...]) -> None:
    model, policy = _rational_model(seed, weights=weights), random_policy(seed, 4, 3)
    found = evaluate_empirical(empirical_model(_data_of(model, weights=weights), 4, 3, 0.9), policy)
    expected = evaluate(ExactModel(model), policy)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-12)
    np.testing.assert_allclose(found.state_values, expected.state_values, rtol=1e-12)
    np.testing.assert_allclose(found.action_values, expected.action_values, rtol=1e-12)


def test_a_terminal_step_is_worth_its_reward_alone() -> None:
    """State 3 ends the episode: the exact model with an absorbing, rewardless state 3 gives the same values."""
    model, policy = _rational_model(1, weights=(1, 1, 1, 0)), random_policy(1, 4, 3)
    kernel, reward, costs = dense_transitions(model), model.reward.copy(), model.costs.copy()
    kernel[3], reward[3], costs[:, 3] = np.eye(4)[3], 0.0, 0.0
    expected = evaluate(ExactModel(tabular(kernel, reward, costs, model.initial, 0.9)), policy)
    found = evaluate_empirical(empirical_model(_data_of(model, end=3), 4, 3, 0.9), policy)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-12)
    np.testing.assert_allclose(found.action_values, expected.action_values, rtol=1e-12)
    np.testing.assert_array_equal(found.state_values[:, 3], 0.0)


def test_a_terminal_step_is_not_followed_by_the_state_it_reports() -> None:
    """Half of the steps from 0 to 0 end the episode: V = 1 + 0.9 V / 2."""
    data = transitions(np.zeros((2, 3)), np.ones(2), np.zeros((2, 1)), np.array([True, False]))
    found = evaluate_empirical(empirical_model(data, 1, 1, 0.9), np.ones((1, 1)))
    np.testing.assert_allclose(found.values, [1.0 / 0.55, 0.0], rtol=1e-13)


def test_noisy_rewards_are_averaged() -> None:
    steps = np.zeros((4, 3))
    gains, costs = np.array([0.0, 1.0, 2.0, 5.0]), np.array([[1.0], [1.0], [0.0], [0.0]])
    found = evaluate_empirical(
        empirical_model(transitions(steps, gains, costs, np.zeros(4)), 1, 1, 0.5), np.ones((1, 1))
    )
    np.testing.assert_allclose(found.values, [2.0 / 0.5, 0.5 / 0.5], rtol=1e-14)


def test_counts_are_visits_of_pairs() -> None:
    data = _sampled(random_cmdp(0, 4, 3, 1, 0.9), 500, 0)
    counts = empirical_model(data, 4, 3, 0.9).counts
    for state in range(4):
        for action in range(3):
            assert counts[state, action] == sum((data.states == state) & (data.actions == action))


def test_adding_batches_is_counting_them_together() -> None:
    model, counts = random_cmdp(0, 4, 3, 2, 0.9), TransitionCounts(4, 3, 2)
    batches = [_sampled(model, 100, seed) for seed in range(3)]
    for batch in batches:
        counts.add(batch)
    added, joined = counts.model(0.9), empirical_model(concatenate(batches), 4, 3, 0.9)
    np.testing.assert_array_equal(added.counts, joined.counts)
    np.testing.assert_array_equal(dense_transitions(added.model.tabular), dense_transitions(joined.model.tabular))
    np.testing.assert_allclose(added.model.tabular.objectives, joined.model.tabular.objectives, rtol=1e-13)
    np.testing.assert_array_equal(added.model.tabular.initial, joined.model.tabular.initial)


def test_initial_states_are_counted_once_per_episode() -> None:
    steps = np.array([[0, 0, 1], [1, 0, 1], [1, 0, 1], [1, 0, 0]])
    data = transitions(steps, np.zeros(4), np.zeros((4, 1)), np.zeros(4))
    joined = Transitions(
        *(getattr(data, name) for name in Transitions.__slots__[:7]), np.array([0, 0, 0, 1]), data.iterations
    )
    np.testing.assert_allclose(empirical_model(joined, 2, 1, 0.9).model.tabular.initial, [0.5, 0.5, 0.0])


def test_an_action_without_data_has_advantage_zero_and_takes_no_part() -> None:
    """Action 2 was never tried: the others keep their proportions, V = (0.2 * 1 + 0.6 * 3) / 0.8 / (1 - gamma)."""
    steps = np.array([[0, 0, 0], [0, 1, 0]])
    data = transitions(steps, np.array([1.0, 3.0]), np.array([[0.0], [1.0]]), np.zeros(2))
    found = evaluate_empirical(empirical_model(data, 1, 3, 0.9), np.array([[0.2, 0.6, 0.2]]))
    np.testing.assert_allclose(found.values, [25.0, 7.5], rtol=1e-13)
    np.testing.assert_array_equal(found.advantages()[:, 0, 2], 0.0)
    np.testing.assert_allclose(found.advantages()[0, 0, :2], [1.0 - 2.5, 3.0 - 2.5], rtol=1e-12)


def test_a_state_without_data_is_worth_nothing() -> None:
    """A step into state 1, which has no data, is worth its reward alone."""
    data = transitions(np.array([[0, 0, 1]]), np.array([4.0]), np.array([[2.0]]), np.zeros(1))
    found = evaluate_empirical(empirical_model(data, 2, 2, 0.9), np.full((2, 2), 0.5))
    np.testing.assert_allclose(found.state_values, [[4.0, 0.0], [2.0, 0.0]], rtol=1e-14)
    np.testing.assert_array_equal(found.advantages(), 0.0)


def test_error_shrinks_as_one_over_the_root_of_the_data() -> None:
    model, policy = random_cmdp(0, 4, 3, 1, 0.8), random_policy(0, 4, 3)
    exact = evaluate(ExactModel(model), policy).state_values
    errors = {}
    for count in (400, 6400):
        found = [evaluate_empirical(empirical_model(_sampled(model, count, s), 4, 3, 0.8), policy) for s in range(30)]
        errors[count] = np.mean([np.abs(one.state_values - exact).max() for one in found])
    assert 2.5 < errors[400] / errors[6400] < 6.0
    assert errors[6400] < 0.05
