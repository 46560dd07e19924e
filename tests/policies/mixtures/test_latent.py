"""Latent contexts: their gradient and Fisher matrix against definitions, and the size of their steps."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from policies.mixtures.latent import (
    Latents,
    first_latents,
    gradient_and_fisher,
    latent_space,
    latent_steps,
    moved,
    normalized,
)
from policies.networks.distributions import LOG_STD, distribution_of, extra_of
from policies.networks.mlp import Network, apply, initialize
from policies.neural.policy_state import Parameters
from policies.steps.natural_gradient import Samples, equal_weights

STEPS, TASKS, COPIES, SIZE, PLAIN = 7, 3, 2, 2, 4


def _case(gaussian: bool) -> tuple[Parameters, Samples, NDArray[np.float64], NDArray[np.float64]]:
    """phi, a batch of all tasks, what its samples ascend on [T, n], and the contexts [G, k]."""
    rng = np.random.default_rng(3)
    network = Network((PLAIN + SIZE, 8, 2), ((LOG_STD, 2),) if gaussian else ())
    vector = initialize(network, 1, 1.0, np.float64)
    extra_of(network, vector)[:] = -0.5
    latents = rng.normal(size=(TASKS, SIZE))
    contexts = np.tile(np.repeat(latents, COPIES, axis=0), (STEPS, 1))
    inputs = np.column_stack([rng.normal(size=(STEPS * TASKS * COPIES, PLAIN)), contexts])
    actions = rng.normal(size=(len(inputs), 2)) if gaussian else rng.integers(0, 2, len(inputs))
    samples = Samples(inputs, actions, np.zeros((len(inputs), 1)), equal_weights(inputs))
    return Parameters(network, vector), samples, rng.normal(size=(STEPS, TASKS * COPIES)), latents


def _at(samples: Samples, latents: NDArray[np.float64]) -> NDArray[np.float64]:
    contexts = np.tile(np.repeat(latents, COPIES, axis=0), (STEPS, 1))
    return np.column_stack([samples.inputs[:, :PLAIN], contexts])


def _per_task(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values.reshape(STEPS, TASKS, COPIES).mean(axis=(0, 2)))


@pytest.mark.parametrize("gaussian", [True, False])
def test_the_gradient_is_that_of_the_surrogate_in_each_tasks_own_context(gaussian: bool) -> None:
    actor, samples, ascents, latents = _case(gaussian)
    gradient, _ = gradient_and_fisher(actor, samples, ascents, latents.shape)
    distribution, extra = distribution_of(actor.network), extra_of(actor.network, actor.vector)

    def surrogate(contexts: NDArray[np.float64]) -> NDArray[np.float64]:
        outputs = apply(actor.network, actor.vector, _at(samples, contexts))
        return _per_task(ascents.ravel() * distribution.log_probability(outputs, extra, samples.actions))

    for entry in range(SIZE):
        change = np.zeros_like(latents)
        change[:, entry] = 1e-5
        slope = (surrogate(latents + change) - surrogate(latents - change)) / 2e-5
        np.testing.assert_allclose(gradient[:, entry], slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("gaussian", [True, False])
def test_the_fisher_matrix_is_the_second_derivative_of_the_divergence(gaussian: bool) -> None:
    actor, samples, ascents, latents = _case(gaussian)
    _, fisher = gradient_and_fisher(actor, samples, ascents, latents.shape)
    distribution, extra = distribution_of(actor.network), extra_of(actor.network, actor.vector)
    outputs, direction = apply(actor.network, actor.vector, samples.inputs), np.array([0.6, -0.8])
    length = 1e-3
    new = apply(actor.network, actor.vector, _at(samples, latents + length * direction))
    divergence = _per_task(distribution.kl(outputs, extra, new, extra))
    np.testing.assert_allclose(divergence, 0.5 * length**2 * (direction @ fisher @ direction), rtol=5e-3)


def test_a_step_causes_no_more_than_its_divergence_and_goes_uphill() -> None:
    actor, samples, ascents, latents = _case(gaussian=True)
    gradient, fisher = gradient_and_fisher(actor, samples, ascents, latents.shape)
    small, large = (latent_steps(actor, samples, ascents, Latents(latents, rate, 1e-4)) for rate in (1e-3, 10.0))
    assert ((gradient * small).sum(axis=1) > 0.0).all()
    divergence = 0.5 * np.einsum("gi,gij,gj->g", large, fisher, large)
    np.testing.assert_allclose(divergence, 1e-4)
    cosine = (small * large).sum(axis=1) / np.linalg.norm(small, axis=1) / np.linalg.norm(large, axis=1)
    np.testing.assert_allclose(cosine, 1.0)


def test_contexts_stay_normalized_and_only_the_tasks_of_a_team_move() -> None:
    latents = first_latents(6, 2, seed=1)
    np.testing.assert_allclose(latents.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(latents.std(axis=0), 1.0)
    assert not np.array_equal(latents, first_latents(6, 2, seed=2))
    step = np.array([[0.3, 0.0], [0.0, -0.2]])
    by_hand = latents.copy()
    by_hand[[4, 1]] += step
    np.testing.assert_array_equal(moved(latents, [((4, 1), step)]), normalized(by_hand))
    np.testing.assert_array_equal(normalized(np.ones((3, 2))), np.zeros((3, 2)))
    assert latent_space(2).names == ("latent 1", "latent 2")
