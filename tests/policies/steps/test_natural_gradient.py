from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pydantic
import pytest
import torch

from policies.exact.softmax import log_policy
from policies.exact.softmax import natural_gradient_step as tabular_step
from policies.exact.solver import ExactModel, evaluate, occupancy
from policies.networks import kronecker
from policies.networks.distributions import distribution_of, extra_of
from policies.networks.kronecker import kronecker_preconditioner
from policies.networks.mlp import Array, Network, initialize, linearize
from policies.steps.natural_gradient import (
    Constraints,
    Samples,
    TrustRegionSettings,
    conjugate_gradient,
    equal_weights,
    fisher_product,
    natural_gradient_direction,
    natural_gradient_step,
    policy_gradient,
)
from tests.policies.networks.test_networks import torch_network
from tests.support.problems import random_cmdp

ACTORS = {
    "categorical": Network((4, 5, 6, 3)),
    "gaussian": Network((4, 5, 6, 3), (("log_std", 3),)),
}
FREE = TrustRegionSettings(delta_max=1e9, cg_iterations=400, cg_residual=1e-12, cg_damping=0.0, preconditioner="none")


def _vector(network: Network, seed: int = 0) -> Array:
    return 0.4 * np.random.default_rng(seed).normal(size=network.num_parameters)


def _samples(network: Network, rows: int = 9, seed: int = 1, heads: int = 2) -> Samples:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, 4))
    actions = rng.normal(size=(rows, 3)) if network.extras else rng.integers(3, size=rows)
    weights = rng.random(rows)
    return Samples(inputs, actions, rng.normal(size=(rows, heads)), weights / weights.sum())


def _torch_distribution(network: Network, inputs: Array, vector: torch.Tensor) -> Any:
    outputs = torch_network(network, inputs)(vector)
    if not network.extras:
        return torch.distributions.Categorical(logits=outputs)
    std = vector[network.places["log_std"]].exp()
    return torch.distributions.Independent(torch.distributions.Normal(outputs, std.expand_as(outputs)), 1)


def _kl_hessian(network: Network, vector: Array, samples: Samples) -> Any:
    fixed, weights = torch.from_numpy(vector), torch.from_numpy(samples.weights)

    def divergence(moved: torch.Tensor) -> torch.Tensor:
        old = _torch_distribution(network, samples.inputs, fixed)
        return weights @ torch.distributions.kl_divergence(old, _torch_distribution(network, samples.inputs, moved))

    return torch.autograd.functional.hessian(divergence, fixed.clone()).numpy()


def _explicit_fisher(network: Network, vector: Array, samples: Samples) -> Any:
    """sum over actions (or Gauss-Hermite nodes) of pi(a|s) grad log pi grad log pi'."""
    size = network.num_parameters
    total = np.zeros((size, size))
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(4)
    for row, weight in zip(samples.inputs, samples.weights, strict=True):

        def log_probabilities(moved: torch.Tensor, row: Array = row) -> torch.Tensor:
            given = _torch_distribution(network, row[None], torch.from_numpy(vector))
            now = _torch_distribution(network, row[None], moved)
            if not network.extras:
                return now.logits[0]
            grid = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 3)
            actions = given.base_dist.loc + given.base_dist.scale * torch.from_numpy(grid)
            return now.log_prob(actions)

        start = torch.from_numpy(vector)
        scores = torch.autograd.functional.jacobian(log_probabilities, start).numpy()
        if network.extras:
            shares = np.einsum("i,j,k->ijk", node_weights, node_weights, node_weights).ravel()
            probabilities = shares / shares.sum()
        else:
            probabilities = np.exp(log_probabilities(start).numpy())
        total += weight * np.einsum("a,ap,aq->pq", probabilities, scores, scores)
    return total


def _dense(network: Network, vector: Array, samples: Samples) -> Array:
    linear = linearize(network, vector, samples.inputs)
    columns = [fisher_product(network, linear, samples.weights, unit) for unit in np.eye(network.num_parameters)]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("name", ACTORS)
def test_fisher_products_match_the_fisher_matrix_and_the_hessian_of_the_kl(name: str) -> None:
    network = ACTORS[name]
    vector, samples = _vector(network), _samples(network)
    products = _dense(network, vector, samples)
    np.testing.assert_allclose(products, _explicit_fisher(network, vector, samples), atol=1e-6)
    np.testing.assert_allclose(products, _kl_hessian(network, vector, samples), atol=1e-6)
    np.testing.assert_allclose(products, products.T, atol=1e-12)


@pytest.mark.parametrize("name", ACTORS)
def test_the_policy_gradient_matches_autograd(name: str) -> None:
    network = ACTORS[name]
    vector, samples = _vector(network), _samples(network)
    moved = torch.from_numpy(vector).requires_grad_()
    log_probability = _torch_distribution(network, samples.inputs, moved).log_prob(torch.from_numpy(samples.actions))
    (log_probability * torch.from_numpy(samples.weights * samples.advantages[:, 1])).sum().backward()
    gradient = policy_gradient(network, linearize(network, vector, samples.inputs), samples, 1)
    assert moved.grad is not None
    np.testing.assert_allclose(gradient, moved.grad.numpy(), atol=1e-12)


@pytest.mark.parametrize("name", ACTORS)
def test_distributions_match_torch(name: str) -> None:
    network = ACTORS[name]
    vector, other, samples = _vector(network), _vector(network, 7), _samples(network)
    distribution = distribution_of(network)
    old, new = (linearize(network, v, samples.inputs).outputs for v in (vector, other))
    extra, new_extra = extra_of(network, vector), extra_of(network, other)
    reference, moved = (_torch_distribution(network, samples.inputs, torch.from_numpy(v)) for v in (vector, other))
    np.testing.assert_allclose(
        distribution.log_probability(old, extra, samples.actions),
        reference.log_prob(torch.from_numpy(samples.actions)).numpy(),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        distribution.kl(old, extra, new, new_extra),
        torch.distributions.kl_divergence(reference, moved).numpy(),
        rtol=1e-10,
    )


@pytest.mark.parametrize("name", ACTORS)
def test_samples_follow_the_distribution(name: str) -> None:
    network = ACTORS[name]
    distribution, rows = distribution_of(network), 100_000
    outputs = np.tile(np.array([0.5, -0.3, 0.1]), (rows, 1))
    extra = np.array([-0.5, 0.0, 0.3]) if network.extras else np.zeros(0)
    noise = distribution.noise(np.random.default_rng(0), rows, 3)
    np.testing.assert_array_equal(distribution.noise(np.random.default_rng(0), 7, 3), noise[:7])
    actions = distribution.sample(outputs, extra, noise)
    if network.extras:
        np.testing.assert_allclose(actions.mean(axis=0), outputs[0], atol=0.02)
        np.testing.assert_allclose(actions.std(axis=0), np.exp(extra), rtol=0.02)
    else:
        np.testing.assert_allclose(np.bincount(actions) / rows, np.exp(log_policy(outputs[:1]))[0], atol=0.01)


def test_conjugate_gradient_matches_a_direct_solve() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(30, 30))
    matrix, right = root @ root.T + np.eye(30), rng.normal(size=30)
    solution, used, residual = conjugate_gradient(lambda v: matrix @ v, right, 200, 1e-12)
    np.testing.assert_allclose(solution, np.linalg.solve(matrix, right), rtol=1e-8)
    assert used < 200
    assert residual <= 1e-12


def test_conjugate_gradient_stops_at_the_residual_and_reports_it() -> None:
    matrix = np.diag(np.linspace(1.0, 100.0, 50))
    right = np.ones(50)
    solution, used, residual = conjugate_gradient(lambda v: matrix @ v, right, 100, 0.2)
    assert 0 < used < 20
    assert residual <= 0.2
    assert np.linalg.norm(right - matrix @ solution) / np.linalg.norm(right) == pytest.approx(residual, rel=1e-9)
    _, none, zero = conjugate_gradient(lambda v: matrix @ v, np.zeros(50), 100, 0.2)
    assert (none, zero) == (0, 0.0)


@pytest.mark.parametrize("rate", [0.3, -0.2])
@pytest.mark.parametrize("branch", [0, 1])
def test_on_a_table_the_step_is_the_tabular_one(rate: float, branch: int) -> None:
    """One-hot observations, a linear network and exact advantages weighted by nu(s) pi(a|s)."""
    states, actions = 5, 3
    model = ExactModel(random_cmdp(2, states, actions, 1, 0.9))
    logits = np.random.default_rng(3).normal(size=(states, actions))
    policy = np.exp(log_policy(logits))
    advantages = evaluate(model, policy).advantages()
    network = Network((states, actions))
    vector = np.concatenate([logits.ravel(), np.zeros(actions)])
    weights = (occupancy(model, policy)[:, None] * policy).ravel()
    samples = Samples(
        np.repeat(np.eye(states), actions, axis=0),
        np.tile(np.arange(actions), states),
        advantages.reshape(2, -1).T,
        weights / weights.sum(),
    )
    moved, report = natural_gradient_step(network, vector, samples, branch, rate, 0.9, FREE)
    outputs = linearize(network, moved, np.eye(states)).outputs
    expected = tabular_step(logits, advantages[branch], rate, 0.9)
    np.testing.assert_allclose(log_policy(outputs), expected, atol=1e-8)
    assert (report.cap, report.scale, report.backtracks) == ("none", 1.0, 0)


@pytest.mark.parametrize("name", ACTORS)
def test_the_preconditioner_saves_products_and_keeps_the_solution(name: str) -> None:
    network = Network((17, 32, 32, 6), (("log_std", 6),) if ACTORS[name].extras else ())
    rng, number = np.random.default_rng(0), 800
    inputs = rng.normal(size=(number, 17)) * 3.0 * 0.7 ** np.arange(17) @ np.linalg.qr(rng.normal(size=(17, 17)))[0]
    actions = rng.normal(size=(number, 6)) if network.extras else rng.integers(6, size=number)
    samples = Samples(inputs, actions, rng.normal(size=(number, 1)), equal_weights(inputs))
    linear = linearize(network, initialize(network, 0, 1.0, np.float64), inputs)
    gradient = policy_gradient(network, linear, samples, 0)

    def solved(preconditioner: Literal["none", "kronecker"], residual: float) -> tuple[Array, int]:
        settings = TrustRegionSettings(
            cg_damping=0.01, cg_residual=residual, cg_iterations=500, preconditioner=preconditioner
        )
        direction, used, reached = natural_gradient_direction(network, linear, samples, gradient, settings)
        assert reached <= residual
        return direction, used

    plain, direct = solved("none", 1e-8)[0], solved("kronecker", 1e-8)[0]
    np.testing.assert_allclose(plain, direct, atol=1e-6 * np.abs(plain).max())
    assert solved("kronecker", 0.1)[1] <= 0.5 * solved("none", 0.1)[1]
    with pytest.raises(pydantic.ValidationError, match="needs cg_damping above 0"):
        TrustRegionSettings(cg_damping=0.0)


def test_a_wide_layer_has_no_factor_of_its_inputs_and_the_same_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for images: the mean eigenvalue stands for the factor, which takes more products to the same end."""
    network, rng = Network((17, 16, 6)), np.random.default_rng(0)
    inputs = rng.normal(size=(400, 17)) * 0.7 ** np.arange(17)
    samples = Samples(inputs, rng.integers(6, size=400), rng.normal(size=(400, 1)), equal_weights(inputs))
    linear = linearize(network, initialize(network, 0, 1.0, np.float64), inputs)
    gradient = policy_gradient(network, linear, samples, 0)
    settings = TrustRegionSettings(cg_damping=0.01, cg_residual=1e-8, cg_iterations=500)
    exact = natural_gradient_direction(network, linear, samples, gradient, settings)
    monkeypatch.setattr(kronecker, "WIDEST", 17)  # the first layer has 17 inputs and a bias
    capped = natural_gradient_direction(network, linear, samples, gradient, settings)
    np.testing.assert_allclose(capped[0], exact[0], atol=1e-6 * np.abs(exact[0]).max())
    assert capped[1] > exact[1]


@pytest.mark.parametrize("preconditioner", ["kronecker", "none"])
def test_damping_in_units_of_the_fisher_matrix_solves_the_stated_system(
    preconditioner: Literal["kronecker", "none"],
) -> None:
    network = ACTORS["gaussian"]
    vector = _vector(network)
    log_std = np.log([0.1, 0.2, 0.4])
    vector[network.places["log_std"]] = log_std
    samples = _samples(network, 50)
    linear = linearize(network, vector, samples.inputs)
    gradient = policy_gradient(network, linear, samples, 0)
    settings = TrustRegionSettings(
        cg_damping=0.1,
        damping_unit="fisher",
        cg_residual=1e-10,
        cg_iterations=2000,
        preconditioner=preconditioner,
    )
    found, _, _ = natural_gradient_direction(network, linear, samples, gradient, settings)
    damping = np.full(network.num_parameters, 0.1 * (100.0 + 25.0 + 6.25) / 3.0)
    damping[network.places["log_std"]] = 0.2
    wanted = np.linalg.solve(_explicit_fisher(network, vector, samples) + np.diag(damping), gradient)
    np.testing.assert_allclose(found, wanted, atol=1e-6 * np.abs(wanted).max())


def test_what_an_absolute_damping_holds_back_depends_on_the_noise_and_one_in_fisher_units_does_not() -> None:
    """A linear actor, the same inputs, standardised actions and advantages: only the scale of the noise changes."""
    network = Network((4, 3), (("log_std", 3),))
    rng = np.random.default_rng(0)
    inputs, standard = rng.normal(size=(40, 4)) * np.array([3.0, 1.0, 0.3, 0.03]), rng.normal(size=(40, 3))
    advantages = rng.normal(size=(40, 2))

    def cosine(unit: Literal["absolute", "fisher"]) -> float:
        directions = []
        for std in (1.0, 0.03):
            vector = np.concatenate([np.zeros(15), np.full(3, np.log(std))])
            samples = Samples(inputs, std * standard, advantages, equal_weights(inputs))
            linear = linearize(network, vector, inputs)
            settings = TrustRegionSettings(damping_unit=unit, cg_residual=1e-10, cg_iterations=500)
            gradient = policy_gradient(network, linear, samples, 0)
            directions.append(natural_gradient_direction(network, linear, samples, gradient, settings)[0][:15])
        one, other = directions
        return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))

    assert cosine("fisher") == pytest.approx(1.0, abs=1e-9)
    assert cosine("absolute") < 0.9


def test_kronecker_factors_are_exact_for_one_sample_of_a_linear_network() -> None:
    """One observation: the block is a a' (x) G exactly, and G the Fisher matrix of the drawn actions."""
    network = Network((3, 2), (("log_std", 2),))
    vector = np.random.default_rng(0).normal(size=network.num_parameters)
    rows = 200_000
    inputs = np.tile(np.array([[0.5, -1.0, 2.0]]), (rows, 1))
    weights = equal_weights(inputs)
    precondition = kronecker_preconditioner(linearize(network, vector, inputs), weights, 1e-8, 1e-8)
    direction = np.random.default_rng(1).normal(size=network.num_parameters)
    right = fisher_product(network, linearize(network, vector, inputs[:1]), np.ones(1), direction)
    again = fisher_product(network, linearize(network, vector, inputs[:1]), np.ones(1), precondition(right))
    np.testing.assert_allclose(again, right, rtol=0.02, atol=0.01)


def test_a_small_step_has_the_kl_of_the_quadratic_model() -> None:
    network = ACTORS["gaussian"]
    vector, samples = _vector(network), _samples(network, 200)
    settings = TrustRegionSettings(delta_max=1.0, cg_damping=1e-3, cg_residual=1e-6, cg_iterations=300)
    moved, report = natural_gradient_step(network, vector, samples, 0, 1e-4, 0.9, settings)
    assert report.kl == pytest.approx(report.requested_kl, rel=0.02)
    assert report.surrogate[0] > 0.0
    _, down = natural_gradient_step(network, vector, samples, 0, -1e-4, 0.9, settings)
    assert down.surrogate[0] < 0.0
    assert not np.array_equal(moved, vector)


@pytest.mark.parametrize("name", ACTORS)
def test_the_trust_region_caps_and_counts(name: str) -> None:
    network = ACTORS[name]
    vector, samples = _vector(network), _samples(network, 200)
    settings = TrustRegionSettings(delta_max=0.01)
    moved, report = natural_gradient_step(network, vector, samples, 0, 5.0, 0.9, settings)
    assert report.cap == "trust_region"
    assert 0.0 < report.scale < 1.0
    assert report.requested_kl > settings.delta_max
    assert 0.2 * settings.delta_max < report.kl <= settings.delta_max
    distribution = distribution_of(network)
    old, new = (linearize(network, v, samples.inputs).outputs for v in (vector, moved))
    kl = samples.weights @ distribution.kl(old, extra_of(network, vector), new, extra_of(network, moved))
    assert kl == pytest.approx(report.kl)


def test_a_satisfied_cost_can_shorten_or_refuse_a_step() -> None:
    network = ACTORS["gaussian"]
    vector, free = _vector(network), _samples(network, 200)
    samples = Samples(free.inputs, free.actions, np.repeat(free.advantages[:, :1], 2, axis=1), free.weights)
    settings = TrustRegionSettings(delta_max=0.01, keep_satisfied=True)
    _, full = natural_gradient_step(network, vector, samples, 0, 5.0, 0.9, settings)
    room = 0.5 * float(full.surrogate[1])
    _, short = natural_gradient_step(network, vector, samples, 0, 5.0, 0.9, settings, Constraints((1,), (room,)))
    assert short.cap == "satisfied_cost"
    assert 0.0 < float(short.surrogate[1]) <= room
    assert short.scale < full.scale
    same, none = natural_gradient_step(network, vector, samples, 0, 5.0, 0.9, settings, Constraints((1,), (-1.0,)))
    assert (none.cap, none.scale, none.kl) == ("refused", 0.0, 0.0)
    np.testing.assert_array_equal(same, vector)


def test_a_step_far_too_long_overflows_nothing() -> None:
    network = ACTORS["gaussian"]
    vector, samples = _vector(network), _samples(network, 200)
    huge = TrustRegionSettings(delta_max=1e300, cg_damping=0.01)
    same, report = natural_gradient_step(network, vector, samples, 0, 1e6, 0.9, huge)
    assert np.isfinite(same).all()
    assert report.cap in {"none", "trust_region", "refused"}


def test_thinned_fisher_products_give_nearly_the_same_direction() -> None:
    network = ACTORS["gaussian"]
    vector, samples = _vector(network), _samples(network, 2000)
    samples = Samples(samples.inputs, samples.actions, samples.advantages, equal_weights(samples.inputs))
    steps = []
    for count in (2000, 1000):
        settings = TrustRegionSettings(delta_max=1.0, fisher_samples=count)
        steps.append(natural_gradient_step(network, vector, samples, 0, 0.01, 0.9, settings)[0] - vector)
    cosine = steps[0] @ steps[1] / np.linalg.norm(steps[0]) / np.linalg.norm(steps[1])
    assert cosine > 0.95
