from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policies.networks.distributions import distribution_of, extra_of
from policies.networks.mlp import Array, Network, apply
from policies.rules.rule import ClippedSettings, Decision
from policies.steps.clipped import Surrogate, clipped_step, surrogate_of, value_and_gradient
from policies.steps.combined import NaturalGradients, Room
from policies.steps.natural_gradient import Samples, TrustRegionSettings, equal_weights

ACTORS = {"categorical": Network((4, 5, 3)), "gaussian": Network((4, 5, 3), (("log_std", 3),))}


def _natural(network: Network, rows: int = 40, delta_max: float = 1e9) -> NaturalGradients:
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(rows, 4))
    actions = rng.normal(size=(rows, 3)) if network.extras else rng.integers(3, size=rows)
    advantages = rng.normal(size=(rows, 3))
    samples = Samples(inputs, actions, advantages - advantages.mean(axis=0), equal_weights(inputs))
    vector = 0.3 * rng.normal(size=network.num_parameters)
    return NaturalGradients(network, vector, samples, 0.9, TrustRegionSettings(delta_max=delta_max))


def _before(natural: NaturalGradients) -> Array:
    outputs = apply(natural.network, natural.vector, natural.samples.inputs)
    extra = extra_of(natural.network, natural.vector)
    return distribution_of(natural.network).log_probability(outputs, extra, natural.samples.actions)


def _at(natural: NaturalGradients, vector: Array, surrogate: Surrogate) -> tuple[float, Array]:
    samples = natural.samples
    return value_and_gradient(natural.network, vector, samples.inputs, samples.actions, _before(natural), surrogate)


@pytest.mark.parametrize("name", ACTORS)
@pytest.mark.parametrize("hinged", [False, True])
def test_the_gradient_is_that_of_finite_differences(name: str, hinged: bool) -> None:
    """P3O's penalty, with one hinge above and one below its corner, and PPO's combined surrogate; some rows clipped."""
    natural = _natural(ACTORS[name])
    rng = np.random.default_rng(4)
    hinges = np.array([2.0, 3.0]) if hinged else None
    decision = Decision(np.array([1.0, -0.5, -0.2]), 0, (), hinges=hinges)
    surrogate = surrogate_of(natural.samples, decision, Room(5.0, np.array([-2.0, 4.0])), 0.1)
    vector = natural.vector + 0.05 * rng.normal(size=natural.vector.size)
    outputs = apply(natural.network, vector, natural.samples.inputs)
    extra = extra_of(natural.network, vector)
    now = distribution_of(natural.network).log_probability(outputs, extra, natural.samples.actions)
    clipped = np.abs(np.exp(now - _before(natural)) - 1.0) > 0.1
    assert 0 < clipped.sum() < clipped.size
    gradient = _at(natural, vector, surrogate)[1]
    for direction in rng.normal(size=(4, vector.size)):
        sides = [_at(natural, vector + size * direction, surrogate)[0] for size in (1e-6, -1e-6)]
        assert gradient @ direction == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", ACTORS)
def test_at_the_batchs_policy_it_is_the_policy_gradient(name: str) -> None:
    natural = _natural(ACTORS[name])
    coefficients = np.array([0.4, -0.1, -0.3])
    surrogate = surrogate_of(natural.samples, Decision(coefficients, 0, ()), Room(1.0, np.ones(2)), 0.2)
    gain = natural.samples.advantages @ coefficients
    expected = coefficients @ natural.gradients * 0.1 / np.sqrt((gain**2).mean())
    np.testing.assert_allclose(_at(natural, natural.vector, surrogate)[1], expected, rtol=1e-9, atol=1e-12)


def test_the_value_is_the_papers_formula() -> None:
    """Two rows, ratios 1.5 and 0.5, clip 0.2, by hand."""
    network, inputs, actions = Network((1, 2)), np.zeros((2, 1)), np.array([0, 1])
    vector = np.zeros(4)
    before = np.log(0.5) - np.log([1.5, 0.5])
    surrogate = Surrogate(np.array([1.0, -2.0]), np.array([[1.0], [3.0]]), np.array([4.0]), np.array([-0.25]), 0.2)
    value, _ = value_and_gradient(network, vector, inputs, actions, before, surrogate)
    reward = (min(1.5, 1.2) + min(-1.0, -1.6)) / 2.0
    cost = (max(1.5, 1.2) + max(1.5, 2.4)) / 2.0
    assert value == pytest.approx(reward - 4.0 * max(0.0, cost - 0.25))


@pytest.mark.parametrize("name", ACTORS)
@pytest.mark.parametrize("hinges", [None, np.array([3.0, 3.0])])
def test_a_step_ascends_and_ends_with_the_trust_region(name: str, hinges: Any) -> None:
    natural = _natural(ACTORS[name], rows=300)
    decision = Decision(np.array([1.0, -1.0, -1.0]), 0, (), hinges=hinges)
    room, settings = Room(5.0, np.array([-2.0, -2.0])), ClippedSettings(minibatch=64, learning_rate=3e-3)
    moved, report = clipped_step(natural, decision, room, settings, np.random.default_rng(0))
    again, _ = clipped_step(natural, decision, room, settings, np.random.default_rng(0))
    np.testing.assert_array_equal(moved, again)
    assert report.cap == "none"
    assert report.backtracks == settings.epochs
    surrogate = surrogate_of(natural.samples, decision, room, settings.clip)
    assert _at(natural, moved, surrogate)[0] > _at(natural, natural.vector, surrogate)[0] + 0.01
    assert report.surrogate[1:].max() < 0.0
    held = _natural(ACTORS[name], rows=300, delta_max=1e-6)
    kept = settings.model_copy(update={"shorten": False})
    passing, one = clipped_step(held, decision, room, kept, np.random.default_rng(0))
    assert (one.cap, one.backtracks, one.scale) == ("trust_region", 1, 1.0)
    assert 1e-6 < one.kl < report.kl
    shorter, short = clipped_step(held, decision, room, settings, np.random.default_rng(0))
    assert (short.cap, short.backtracks, short.requested_kl) == ("trust_region", 1, one.kl)
    assert 0.5e-6 < short.kl <= 1e-6
    np.testing.assert_allclose(shorter - held.vector, short.scale * (passing - held.vector), rtol=1e-9, atol=1e-15)


def test_a_way_that_nothing_shortens_enough_is_refused() -> None:
    natural = _natural(ACTORS["gaussian"], rows=300, delta_max=1e-6)
    strict = NaturalGradients(
        natural.network,
        natural.vector,
        natural.samples,
        0.9,
        natural.settings.model_copy(update={"max_backtracks": 0}),
    )
    decision, settings = Decision(np.array([1.0, -1.0, -1.0]), 0, ()), ClippedSettings(minibatch=64)
    moved, report = clipped_step(strict, decision, Room(5.0, np.ones(2)), settings, np.random.default_rng(0))
    np.testing.assert_array_equal(moved, natural.vector)
    assert (report.cap, report.scale, report.kl) == ("refused", 0.0, 0.0)
    assert report.requested_kl > 1e-6
