from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from policies.exact.softmax import log_policy
from policies.exact.softmax import natural_gradient_step as tabular_step
from policies.exact.solver import ExactModel, evaluate, occupancy
from policies.networks.mlp import Array, Network
from policies.rules.rule import Barrier, Decision
from policies.steps.combined import NaturalGradients, Room, combined_step
from policies.steps.natural_gradient import Samples, TrustRegionSettings, fisher_product, natural_gradient_step
from policies.tabular.crpo import ExactEvaluator
from policies.tabular.geometry import Products, combined
from tests.support.problems import random_cmdp

ACTORS = {"categorical": Network((4, 5, 6, 3)), "gaussian": Network((4, 5, 6, 3), (("log_std", 3),))}
FREE = TrustRegionSettings(delta_max=1e9, cg_iterations=400, cg_residual=1e-12, cg_damping=0.0, preconditioner="none")
DAMPED = TrustRegionSettings(delta_max=0.01, cg_iterations=400, cg_residual=1e-12)
ROOM = Room(2.0, np.array([np.inf, np.inf]))


def _natural(network: Network, settings: TrustRegionSettings, discount: float = 0.9) -> NaturalGradients:
    rng = np.random.default_rng(1)
    inputs, weights = rng.normal(size=(60, 4)), rng.random(60)
    actions = rng.normal(size=(60, 3)) if network.extras else rng.integers(3, size=60)
    samples = Samples(inputs, actions, rng.normal(size=(60, 3)), weights / weights.sum())
    return NaturalGradients(network, 0.4 * rng.normal(size=network.num_parameters), samples, discount, settings)


def _decided(coefficients: Any, **given: Any) -> Decision:
    return Decision(np.array(coefficients), 0, (), **given)


@pytest.mark.parametrize("name", ACTORS)
@pytest.mark.parametrize("settings", [DAMPED, TrustRegionSettings(delta_max=1e-5)], ids=["alone", "capped"])
def test_one_objective_is_crpos_step(name: str, settings: TrustRegionSettings) -> None:
    natural = _natural(ACTORS[name], settings)
    given = (natural.network, natural.vector, natural.samples)
    expected, report = natural_gradient_step(*given, 1, -0.02, 0.9, settings)
    found, own = combined_step(natural, Decision(np.array([0.0, -0.02, 0.0]), 1, ()), ROOM)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert (own.branch, own.cap, own.backtracks) == (report.branch, report.cap, report.backtracks)
    assert own.rate == report.rate
    assert own.requested_kl == pytest.approx(report.requested_kl)


@pytest.mark.parametrize("name", ACTORS)
def test_steps_from_known_directions_are_those_solved_together(name: str) -> None:
    """Also: products are those of the damped Fisher matrix, and symmetric."""
    natural, coefficients = _natural(ACTORS[name], DAMPED), np.array([0.3, -0.2, 0.1])
    together, used, _ = natural.step(coefficients)
    assert used > 0
    damping = DAMPED.damping(natural.network, natural.vector)[0]

    def metric(direction: Array) -> Array:
        return fisher_product(natural.network, natural.linear, natural.samples.weights, direction) + damping * direction

    expected = [[one @ metric(other) for other in natural.directions] for one in natural.directions]
    np.testing.assert_allclose(natural.products(), expected, rtol=1e-6, atol=1e-12)
    apart, used, _ = natural.step(coefficients)
    assert used == 0
    np.testing.assert_allclose(apart, together, rtol=1e-6, atol=1e-10)


def test_a_linear_network_on_one_hot_states_is_a_table() -> None:
    """The same K, and the same policy after a step on three objectives at once."""
    model = ExactModel(random_cmdp(5, 4, 3, 2, 0.8))
    rng = np.random.default_rng(0)
    logits = log_policy(rng.normal(size=(4, 3)))
    policy, network = np.exp(logits), Network((4, 3))
    found, visits = evaluate(model, policy), occupancy(model, policy)
    states, actions = (part.ravel() for part in np.meshgrid(range(4), range(3), indexing="ij"))
    weights = (visits[:, None] * policy).ravel()
    samples = Samples(np.eye(4)[states], actions, found.advantages().reshape(3, -1).T, weights)
    vector = np.concatenate([logits.ravel(), np.zeros(3)])
    natural = NaturalGradients(network, vector, samples, 0.8, FREE)
    products = Products(policy, found.advantages(), 0.8, ExactEvaluator(model))
    np.testing.assert_allclose(natural.products(), products.matrix(), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(natural.spreads(), products.spreads(), rtol=1e-12)
    coefficients = np.array([0.2, -0.3, 0.1])
    moved, report = combined_step(natural, _decided(coefficients), ROOM)
    weights_0, bias = network.layers(moved)[0]
    expected = tabular_step(logits, combined(coefficients, found.advantages()), 1.0, 0.8)
    np.testing.assert_allclose(log_policy(weights_0 + bias), expected, atol=1e-6)
    assert report.requested_kl == pytest.approx(0.5 * coefficients @ products.matrix() @ coefficients, rel=1e-6)


@pytest.mark.parametrize("name", ACTORS)
def test_kept_costs_bound_their_surrogates(name: str) -> None:
    natural = _natural(ACTORS[name], DAMPED)
    decision = _decided([0.02, 0.02, 0.0], kept=(1,))
    free = combined_step(natural, _decided([0.02, 0.02, 0.0]), ROOM)[1]
    rise = 2.0 * float(free.surrogate[1])
    assert rise > 0.0
    _, report = combined_step(natural, decision, Room(2.0, np.array([0.5 * rise, np.inf])))
    assert report.cap == "satisfied_cost"
    assert 0.0 < report.scale < free.scale
    assert 2.0 * report.surrogate[1] <= 0.5 * rise
    settings = natural.settings.model_copy(update={"keep_satisfied": True})
    asked = dataclasses.replace(natural, settings=settings)
    _, by_setting = combined_step(asked, _decided([0.02, 0.02, 0.0]), Room(2.0, np.array([0.5 * rise, np.inf])))
    assert (by_setting.cap, by_setting.scale) == ("satisfied_cost", report.scale)
    same, refused = combined_step(natural, decision, Room(2.0, np.array([-1.0, np.inf])))
    assert refused.cap == "refused"
    np.testing.assert_array_equal(same, natural.vector)


@pytest.mark.parametrize("form", ["entropy", "logarithm"])
def test_a_barrier_counts_as_divergence(form: Any) -> None:
    natural = _natural(ACTORS["categorical"], DAMPED)
    free = combined_step(natural, _decided([0.0, 0.02, 0.0]), ROOM)[1]
    rise = 2.0 * float(free.surrogate[1])
    slack = np.array([0.9 * rise, 1e9])
    decision = _decided([0.0, 0.02, 0.0], barrier=Barrier(1e-3, form, slack))
    _, report = combined_step(natural, decision, ROOM)
    assert report.cap == "trust_region"
    assert 2.0 * report.surrogate[1] < slack[0]
    assert report.kl < free.kl
