from __future__ import annotations

import numpy as np
import pytest

from policies.exact.softmax import (
    kl_divergence,
    log_normalizer,
    log_policy,
    logits_of,
    natural_gradient_step,
    probabilities,
)
from policies.exact.solver import ExactModel, evaluate, occupancy
from tasks.contract.tabular_model import FloatArray
from tests.support.problems import random_cmdp, random_policy


def _logits(seed: int, *shape: int) -> FloatArray:
    return 3.0 * np.random.default_rng(seed).normal(size=shape)


def test_probabilities_are_normalised_exponentials() -> None:
    logits = _logits(0, 5, 3)
    weights = np.exp(logits)
    np.testing.assert_allclose(probabilities(logits), weights / weights.sum(axis=1, keepdims=True), rtol=1e-13)
    np.testing.assert_allclose(log_policy(logits), np.log(probabilities(logits)), rtol=1e-12)


def test_probabilities_do_not_overflow_and_ignore_a_constant() -> None:
    np.testing.assert_array_equal(probabilities(np.array([[1e4, 0.0, -1e4]])), [[1.0, 0.0, 0.0]])
    logits = _logits(1, 2, 4, 3)
    np.testing.assert_allclose(probabilities(logits + 5.0), probabilities(logits), rtol=1e-12)


def test_logits_of_is_the_inverse_of_probabilities() -> None:
    policy = random_policy(0, 6, 4)
    np.testing.assert_allclose(probabilities(logits_of(policy)), policy, rtol=1e-14)
    logits = log_policy(_logits(2, 6, 4))
    np.testing.assert_allclose(logits_of(probabilities(logits)), logits, rtol=1e-12)


@pytest.mark.parametrize("zero", [0.0, -0.1, float("nan")])
def test_logits_of_a_policy_without_full_support_are_refused(zero: float) -> None:
    with pytest.raises(ValueError, match="positive probabilities"):
        logits_of(np.array([[zero, 1.0 - zero]]))


def test_divergence_closed_forms() -> None:
    half, skewed, sure = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]]), np.array([[1.0, 0.0]])
    np.testing.assert_allclose(kl_divergence(half, skewed), 0.5 * np.log(2.0) + 0.5 * np.log(2.0 / 3.0), rtol=1e-13)
    np.testing.assert_allclose(kl_divergence(sure, half), np.log(2.0), rtol=1e-14)
    np.testing.assert_array_equal(kl_divergence(skewed, skewed), [0.0])
    np.testing.assert_array_equal(kl_divergence(half, sure), [np.inf])


@pytest.mark.parametrize("rate", [1.0, 0.05, -0.3])
@pytest.mark.parametrize("objective", [0, 1, 2])
def test_divergence_of_one_step_is_the_log_normaliser(rate: float, objective: int) -> None:
    model = ExactModel(random_cmdp(3, 5, 3, 2, 0.9))
    logits = _logits(4, 5, 3)
    advantage = evaluate(model, probabilities(logits)).advantages()[objective]
    after = natural_gradient_step(logits, advantage, rate, 0.9)
    divergence = kl_divergence(probabilities(logits), probabilities(after))
    np.testing.assert_allclose(log_normalizer(logits, advantage, rate, 0.9), divergence, rtol=1e-9, atol=1e-15)
    assert (divergence > 0.0).all()


@pytest.mark.parametrize("rate", [0.4, -0.4])
def test_step_is_the_policy_of_raised_action_values(rate: float) -> None:
    model = ExactModel(random_cmdp(5, 4, 3, 1, 0.8))
    logits = _logits(6, 4, 3)
    result = evaluate(model, probabilities(logits))
    expected = probabilities(logits + rate * result.action_values[0] / (1.0 - 0.8))
    stepped = natural_gradient_step(logits, result.advantages()[0], rate, 0.8)
    np.testing.assert_allclose(np.exp(stepped), expected, rtol=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_step_is_the_natural_gradient_of_an_explicit_fisher_matrix(seed: int) -> None:
    """theta + rate * pinv(F) grad J with F and grad J built without any advantage."""
    states, actions, discount, rate = 3, 3, 0.7, 0.3
    model = ExactModel(random_cmdp(seed, states, actions, 1, discount))
    logits = 0.3 * _logits(seed, states, actions)
    policy = probabilities(logits)
    scores = np.zeros((states, actions, states, actions))
    for state in range(states):
        scores[state, :, state, :] = np.eye(actions) - policy[state]
    weights = occupancy(model, policy)[:, None] * policy
    flat = scores.reshape(states * actions, -1)
    fisher = flat.T @ (weights.reshape(-1, 1) * flat)
    gradient = np.zeros(states * actions)
    for i, direction in enumerate(np.eye(states * actions).reshape(-1, states, actions) * 1e-5):
        ahead, behind = (evaluate(model, probabilities(logits + d)).values[0] for d in (direction, -direction))
        gradient[i] = (ahead - behind) / 2e-5
    natural = (np.linalg.pinv(fisher, rcond=1e-10) @ gradient).reshape(states, actions)
    stepped = natural_gradient_step(logits, evaluate(model, policy).advantages()[0], rate, discount)
    np.testing.assert_allclose(np.exp(stepped), probabilities(logits + rate * natural), rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_ascent_raises_and_descent_lowers_a_value(seed: int) -> None:
    model = ExactModel(random_cmdp(seed, 5, 3, 1, 0.9))
    logits = _logits(seed, 5, 3)
    before = evaluate(model, probabilities(logits))
    for objective, rate in ((0, 0.1), (1, -0.1)):
        after = natural_gradient_step(logits, before.advantages()[objective], rate, 0.9)
        change = evaluate(model, np.exp(after)).values[objective] - before.values[objective]
        assert change * rate > 0.0
