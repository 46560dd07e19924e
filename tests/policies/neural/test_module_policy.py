"""Policies whose actor and critic are modules of torch: CRPO learns with them, and files keep them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pydantic
import pytest

from policies.common.results import Start
from policies.exact.drawing import draw_task
from policies.mixtures.contextual import condition
from policies.networks.mlp import Network, initialize
from policies.networks.module_network import ModuleError, ModuleNetwork, ModuleSpec, initial_network, modules_allowed
from policies.neural.critic import CriticSettings, fit_critic
from policies.neural.crpo import fresh_policy, solve_neural
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import (
    TARGET_MEAN,
    TARGET_SCALE,
    ObservationStatistics,
    Parameters,
    critic_values,
    new_policy,
    policy_from_arrays,
)
from policies.neural.solving import solve_neural_task
from policies.steps.natural_gradient import TrustRegionSettings
from tasks.contract.task import TaskError
from tests.support.few_variants import few
from tests.support.point_batch import PointBatch, PointFamily

NORMED, TANH, HEADLESS = (f"tests.support.modules:{name}" for name in ("Normed", "Tanh", "Headless"))
HEADS = ((TARGET_MEAN, 2), (TARGET_SCALE, 2))
SETTINGS = NeuralSettings(
    num_iterations=4,
    steps_per_iteration=200,
    num_copies=5,
    network=NORMED,
    network_arguments={"width": 8},
    critic_network=TANH,
    returns="episodic",
    trust_region=TrustRegionSettings(delta_max=0.05, preconditioner="none"),
)
FAMILY = PointFamily(0, 4)


@pytest.mark.parametrize("discrete", few([True, False], 1))
def test_it_learns_the_reward_and_keeps_the_limit(discrete: bool) -> None:
    """As the NumPy network does (test_neural_crpo); the best of limit 1 is about 18, a random policy earns about 0.

    Measured on the seeds 0 to 3: reward 15.2 to 17.1, cost 0.44 to 0.98.
    """
    settings = SETTINGS.model_copy(update={"num_iterations": 30, "steps_per_iteration": 1000, "num_copies": 10})
    batch = PointBatch(10, discrete=discrete)
    start = fresh_policy(batch, settings, 0)
    solution = solve_neural(batch, start, np.full(2, 0.1), np.array([1.0]), settings, 0, discount=0.95, label="point/0")
    reward, cost = solution.values[solution.output]
    assert solution.feasible
    assert reward > 12.0
    assert cost <= 1.0
    assert set(solution.branches.tolist()) == {0, 1}


def critics(seed: int) -> tuple[Parameters, Parameters]:
    """An mlp and the module of the same weights, with two heads."""
    mlp = Network((3, 8, 8, 2), HEADS)
    vector = initialize(mlp, seed, 0.3)
    mlp.part(vector, TARGET_SCALE)[:] = 1.0
    network, other = initial_network(ModuleSpec(TANH), 3, 2, HEADS, 0)
    for number, name in enumerate(("body.0", "body.1", "head")):
        network.part(other, f"{name}.weight")[:] = mlp.part(vector, f"weights_{number}").T
        network.part(other, f"{name}.bias")[:] = mlp.part(vector, f"bias_{number}")
    network.part(other, TARGET_SCALE)[:] = 1.0
    return Parameters(mlp, vector), Parameters(network, other)


def data(rows: int = 300) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((rows, 3)).astype(np.float32)
    targets = np.stack([50.0 + 10.0 * np.sin(inputs[:, 0]), inputs[:, 1] * inputs[:, 2]], axis=1)
    return inputs, targets.astype(np.float32)


def test_a_critic_with_a_head_is_fitted_as_the_mlp_is() -> None:
    """The last layer is solved in the same way, and Adam takes the same steps."""
    inputs, targets = data()
    settings = CriticSettings(epochs=2, minibatch=100)
    first, second = (fit_critic(critic, inputs, targets, settings, np.random.default_rng(0)) for critic in critics(0))
    values = critic_values(first, inputs)
    np.testing.assert_allclose(critic_values(second, inputs), values, atol=2e-3)
    again = fit_critic(second, inputs, targets, settings, np.random.default_rng(1))
    expected = fit_critic(first, inputs, targets, settings, np.random.default_rng(1))
    np.testing.assert_allclose(critic_values(again, inputs), critic_values(expected, inputs), atol=5e-3)


def test_a_critic_without_a_head_is_fitted_by_adam_in_units_of_its_targets() -> None:
    """Linear targets, for which the least squares are known: the fit comes near to them from afar."""
    inputs, _ = data()
    targets = (inputs @ np.array([[3.0, -100.0], [0.0, 200.0], [1.0, 0.0]]) + [1000.0, 0.0]).astype(np.float32)
    network, vector = initial_network(ModuleSpec(HEADLESS), 3, 2, HEADS, 0)
    network.part(vector, TARGET_SCALE)[:] = 1.0
    settings = CriticSettings(epochs=60, minibatch=50, learning_rate=0.03)
    fitted = fit_critic(Parameters(network, vector), inputs, targets, settings, np.random.default_rng(0))
    error = critic_values(fitted, inputs) - targets
    assert (error.var(axis=0) / targets.var(axis=0) < 1e-4).all()
    assert (np.abs(error.mean(axis=0)) < 0.01 * targets.std(axis=0)).all()
    np.testing.assert_allclose(network.part(fitted.vector, TARGET_MEAN), targets.mean(axis=0), rtol=1e-5)


def policy() -> Any:
    return new_policy(2, 1, 1, continuous=True, seed=4, modules=SETTINGS.modules)


def test_a_policy_goes_through_arrays_bit_for_bit() -> None:
    first = policy()
    with modules_allowed(SETTINGS.model_dump()):
        again = policy_from_arrays(first.to_arrays())
    assert (again.actor.network, again.critic.network) == (first.actor.network, first.critic.network)
    observations = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    for one, other in zip(first.act(observations), again.act(observations), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first.values(observations), again.values(observations))
    assert isinstance(again.actor.network, ModuleNetwork)
    assert again.actor.network.spec == ModuleSpec(NORMED, '{"width": 8}')


def test_other_statistics_keep_actions_and_values() -> None:
    seen = np.random.default_rng(0).normal(3.0, 5.0, size=(40, 2)).astype(np.float32)
    first = policy()
    first = dataclasses.replace(first, statistics=first.statistics.merged(seen))
    moved = first.with_statistics(ObservationStatistics(np.array([2.0, 1.0]), np.array([9.0, 49.0]), 50.0))
    np.testing.assert_allclose(moved.act(seen)[0], first.act(seen)[0], atol=1e-5)
    np.testing.assert_allclose(moved.values(seen), first.values(seen), atol=1e-5)


def test_a_number_that_had_never_changed_gets_the_new_scale() -> None:
    """A pixel that was 0.3 in all that was seen: the function of it stays, and what it becomes later is no outlier."""
    rng = np.random.default_rng(1)
    seen = np.stack([rng.standard_normal(50), np.full(50, 0.3)], axis=1).astype(np.float32)
    first = policy()
    first = dataclasses.replace(first, statistics=first.statistics.merged(seen))
    later = np.stack([rng.standard_normal(50), rng.uniform(0.0, 1.0, 50)], axis=1).astype(np.float32)
    moved = first.with_statistics(first.statistics.merged(later))
    np.testing.assert_allclose(moved.act(seen)[0], first.act(seen)[0], atol=1e-5)
    np.testing.assert_allclose(moved.actor.network.part(moved.actor.vector, "input_scale"), 1.0, atol=0.3)
    assert np.abs(moved.actor.network.part(moved.actor.vector, "input_shift")).max() < 2.0


def test_a_task_is_solved_from_a_start_of_the_same_modules_only() -> None:
    task = draw_task(FAMILY, "point", 0, "train", 0)
    fresh = fresh_policy(PointBatch(1), SETTINGS, 0)
    result, dataset = solve_neural_task(FAMILY, task, Start(fresh, np.full(2, 0.1)), SETTINGS, collect=True)
    assert dataset is not None
    assert result.policy.actor.network == fresh.actor.network  # type: ignore[union-attr]
    other = fresh_policy(PointBatch(1), SETTINGS.model_copy(update={"network_arguments": {"width": 4}}), 0)
    with pytest.raises(TaskError, match=r'within_task.network is .*:Normed \{"width": 8\}, and the start'):
        solve_neural_task(FAMILY, task, Start(other, np.full(2, 0.1)), SETTINGS, collect=False)
    plain = NeuralSettings(steps_per_iteration=200, num_copies=5, num_iterations=1)
    with pytest.raises(TaskError, match=r"within_task\.network is mlp, and the start has tests"):
        solve_neural_task(FAMILY, task, Start(fresh, np.full(2, 0.1)), plain, collect=False)


def test_what_needs_the_layers_of_an_mlp_says_so() -> None:
    first = policy()
    with pytest.raises(TypeError, match="built into an mlp only"):
        condition(first, np.zeros(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": NORMED}, "preconditioner kronecker needs the layers of an mlp; set it to none"),
        ({"network_arguments": {"width": 3}}, "network_arguments has no effect where network is mlp"),
        ({"critic_network_arguments": {"width": 3}}, "critic_network_arguments has no effect where critic_network is"),
        ({"network": NORMED, "hidden": (3,)}, "hidden has no effect where network is tests"),
        (
            {"critic_network": NORMED, "critic_hidden": (3,)},
            "critic_hidden has no effect where critic_network is",
        ),
        ({"device": "cuda"}, "device cuda has no effect where network and critic_network are mlp"),
        ({"device": "tpu", "critic_network": NORMED}, "Input should be 'cpu' or 'cuda'"),
        ({"network": ""}, "at least 1 character"),
    ],
)
def test_settings_that_do_not_belong_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        NeuralSettings.model_validate(changes)


def test_outputs_that_become_not_finite_end_the_task_with_their_name() -> None:
    fresh = policy()
    vector = fresh.actor.vector.copy()
    fresh.actor.network.part(vector, "head.bias")[:] = np.inf
    broken = dataclasses.replace(fresh, actor=Parameters(fresh.actor.network, vector))
    with pytest.raises(ModuleError, match=r"Normed: outputs are not finite"):
        broken.act(np.zeros((3, 2), np.float32))
