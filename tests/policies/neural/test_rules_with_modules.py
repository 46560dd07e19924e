"""A rule takes the same step whether the actor is the NumPy network or a module of torch with its weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from policies.networks.distributions import LOG_STD
from policies.networks.mlp import Network
from policies.networks.module_network import ModuleSpec, initial_network
from policies.neural.crpo import fresh_policy
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import Parameters, PolicyState
from policies.neural.rollouts import NeuralRollouts
from policies.neural.update import Problem, improve
from policies.rules.rule_registry import RULES, MethodSettings
from policies.steps.natural_gradient import TrustRegionSettings
from tests.policies.neural.test_neural_rules import METHODS
from tests.support.point_batch import PointBatch

TANH = "tests.support.modules:Tanh"
SETTINGS = NeuralSettings(
    steps_per_iteration=400,
    num_copies=10,
    hidden=(8, 8),
    critic_hidden=(8, 8),
    returns="episodic",
    trust_region=TrustRegionSettings(delta_max=0.05, preconditioner="none"),
)


def with_module(policy: PolicyState) -> PolicyState:
    """The same policy with a module as its actor."""
    mlp, vector = policy.actor.network, policy.actor.vector
    assert isinstance(mlp, Network)
    network, other = initial_network(ModuleSpec(TANH), mlp.num_inputs, mlp.num_outputs, mlp.extras, 0)
    for number, name in enumerate(("body.0", "body.1", "head")):
        network.part(other, f"{name}.weight")[:] = mlp.part(vector, f"weights_{number}").T
        network.part(other, f"{name}.bias")[:] = mlp.part(vector, f"bias_{number}")
    network.part(other, LOG_STD)[:] = mlp.part(vector, LOG_STD)
    return dataclasses.replace(policy, actor=Parameters(network, other))


@pytest.mark.parametrize("method", RULES)
def test_the_step_is_that_of_the_numpy_network(method: str) -> None:
    rule = MethodSettings.model_validate({"name": method, **METHODS.get(method, {})})
    settings = SETTINGS.model_copy(update={"method": rule})
    policy = fresh_policy(PointBatch(10), settings, 0)
    problem = Problem(np.full(2, 0.1), np.full(1, 0.5), np.zeros(1), 0.95, 20)
    data = NeuralRollouts(PointBatch(10), 40, 0, "point/0").collect(policy, 0)
    first, _ = improve(policy, data, problem, settings, np.random.default_rng(0))
    data = NeuralRollouts(PointBatch(10), 40, 0, "point/0").collect(first, 1)
    steps = [improve(one, data, problem, settings, np.random.default_rng(1))[0] for one in (first, with_module(first))]
    observations = data.flat(data.observations)
    before, (numpy_outputs, numpy_std), (torch_outputs, torch_std) = (
        first.act(observations)[0],
        *(one.act(observations) for one in steps),
    )
    moved = np.abs(numpy_outputs - before).max()
    assert moved > 1e-3
    np.testing.assert_allclose(torch_outputs, numpy_outputs, atol=0.02 * moved)
    np.testing.assert_allclose(torch_std, numpy_std, atol=1e-3)
