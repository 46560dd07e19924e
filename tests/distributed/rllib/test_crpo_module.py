"""RLModules and policies: the same distributions to the last bit, both ways; and episodes as transitions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns

from distributed.models.meta_policy import STEM, MetaPolicy, save_meta_policy
from distributed.rllib.crpo_algorithm import CRPOConfig
from distributed.rllib.crpo_module import CRPOModule, spaces_of
from distributed.rllib.crpo_runner import CRPOEnvRunner
from distributed.rllib.episode_batches import CostError, transitions_of
from distributed.rllib.starts import load_start, module_of_start, policy_of_checkpoint
from distributed.settings.errors import ConfigurationError
from policies.common.policy_kind import Spaces
from policies.common.results import Start
from policies.networks.module_network import NETWORKS, ModuleError
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import ObservationStatistics, PolicyState, new_policy
from tests.support.cost_env import LineEnv

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Overriding environment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]
SETTINGS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [8], "critic_hidden": [6]},
    "module": {
        "network": "tests.support.modules:Normed",
        "critic_network": "tests.support.modules:Tanh",
        "trust_region": {"preconditioner": "none"},
    },
}
OBSERVATIONS = gymnasium.spaces.Box(-np.inf, np.inf, (3, 2), np.float32)
ACTIONS = {"discrete": gymnasium.spaces.Discrete(4), "continuous": gymnasium.spaces.Box(-2.0, 1.0, (2,), np.float32)}


def module(networks: str = "mlp", actions: str = "continuous") -> CRPOModule:
    """A module whose statistics are not those of a fresh policy, in all their bits."""
    content = {"num_costs": 1, "seed": 3, "settings": SETTINGS[networks]}
    made = CRPOModule(observation_space=OBSERVATIONS, action_space=ACTIONS[actions], model_config=content)
    made.policy = seen(made.policy)
    return made


def seen(policy: PolicyState) -> PolicyState:
    rng = np.random.default_rng(0)
    size = policy.statistics.mean.size
    statistics = ObservationStatistics(rng.standard_normal(size), rng.uniform(0.5, 3.0, size), 100.0)
    return dataclasses.replace(policy, statistics=statistics)


def batch() -> dict[str, torch.Tensor]:
    return {Columns.OBS: torch.from_numpy(np.random.default_rng(1).standard_normal((5, 3, 2)).astype(np.float32))}


@pytest.mark.parametrize("networks", SETTINGS)
@pytest.mark.parametrize("actions", ACTIONS)
def test_distributions_are_those_of_the_policy_to_the_last_bit(networks: str, actions: str) -> None:
    made = module(networks, actions)
    rows = batch()[Columns.OBS].numpy().reshape(5, -1)
    outputs, extra = made.policy.act(rows)
    found = made.forward_exploration(batch())[Columns.ACTION_DIST_INPUTS]
    distribution = made.get_exploration_action_dist_cls().from_logits(found)
    if actions == "discrete":
        np.testing.assert_array_equal(found.numpy(), outputs)
        probabilities = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(distribution._dist.probs.numpy(), probabilities, rtol=1e-5)
    else:
        np.testing.assert_array_equal(distribution._dist.loc.numpy(), outputs)
        np.testing.assert_array_equal(distribution._dist.scale.log().numpy().round(5), np.tile(extra, (5, 1)).round(5))
    np.testing.assert_array_equal(made.forward_inference(batch())[Columns.ACTION_DIST_INPUTS].numpy(), found.numpy())


@pytest.mark.parametrize("networks", SETTINGS)
@pytest.mark.parametrize("actions", ACTIONS)
def test_the_function_for_losses_is_the_same_and_has_gradients(networks: str, actions: str) -> None:
    made = module(networks, actions)
    found = made.forward_train(batch())[Columns.ACTION_DIST_INPUTS]
    expected = made.forward_exploration(batch())[Columns.ACTION_DIST_INPUTS]
    torch.testing.assert_close(found.detach(), expected, atol=1e-5, rtol=1e-5)
    rows = batch()[Columns.OBS].numpy().reshape(5, -1)
    values = made.compute_values(batch())
    np.testing.assert_allclose(values.detach().numpy(), made.policy.values(rows)[:, 0], atol=1e-5)
    (found.sum() + values.sum()).backward()
    for vector, network in ((made.actor, made.networks[0]), (made.critic, made.networks[1])):
        assert vector.grad is not None
        parts = {name: vector.grad[place].abs().max() for name, place in network.places.items()}
        untouched = {"target_mean", "target_scale", "input_scale", "input_shift"}
        assert all(size == 0.0 for name, size in parts.items() if name in untouched)
        assert any(size > 0.0 for size in parts.values())


def test_a_state_keeps_every_bit_and_another_network_is_refused() -> None:
    first, other = (
        module(),
        CRPOModule(
            observation_space=OBSERVATIONS,
            action_space=ACTIONS["continuous"],
            model_config={"num_costs": 1, "seed": 4, "settings": SETTINGS["mlp"]},
        ),
    )
    other.set_state(first.get_state())
    for name, value in first.get_state().items():
        np.testing.assert_array_equal(other.get_state()[name], value)
    assert first.get_state()["mean"].dtype == np.float64
    with pytest.raises(ValueError, match=r"the actor is an mlp of widths \[6, 8, 2\], and that of the policy is tests"):
        other.policy = module("module").policy


def start(folder: Path, policy: PolicyState, settings: dict[str, Any], costs: int = 1) -> Path:
    """A learned start in ``folder``, as a run leaves it."""
    spaces = spaces_of(OBSERVATIONS, ACTIONS["continuous"])
    within = NeuralSettings.model_validate(settings).model_dump(mode="json")
    content = {"name": "line", "seed": 0, "family": {"name": "half_cheetah"}, "within_task": within}
    names = tuple(f"cost {number}" for number in range(costs))
    learned = Start(policy, np.linspace(0.1, 0.5, 1 + costs))
    save_meta_policy(folder / STEM, MetaPolicy(learned, content, spaces, names, None, {}))
    return folder


@pytest.mark.parametrize("networks", SETTINGS)
def test_a_start_becomes_a_module_and_comes_back(
    networks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = module(networks).policy
    run = start(tmp_path, policy, SETTINGS[networks])
    if networks == "module":
        with pytest.raises(ModuleError, match="come from a file that names this class"):
            module_of_start(str(run), OBSERVATIONS, ACTIONS["continuous"])
        monkeypatch.setenv(NETWORKS, "tests.support.modules:Normed,tests.support.modules:Tanh")
    made = module_of_start(str(run), OBSERVATIONS, ACTIONS["continuous"])
    saved = made.save_to_path(str(tmp_path / "module"))
    back = policy_of_checkpoint(saved)
    for name, value in policy.to_arrays().items():
        np.testing.assert_array_equal(back.to_arrays()[name], value)
    rows = np.random.default_rng(2).standard_normal((4, 6)).astype(np.float32)
    np.testing.assert_array_equal(back.act(rows)[0], policy.act(rows)[0])


def test_a_start_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    run = str(start(tmp_path, module().policy, SETTINGS["mlp"]))
    with pytest.raises(ConfigurationError, match="actions of 2 numbers; the environment has"):
        module_of_start(run, OBSERVATIONS, ACTIONS["discrete"])
    with pytest.raises(ConfigurationError, match="initialization: nowhere: holds no finished start"):
        load_start("nowhere")
    table = MetaPolicy(Start(np.full((4, 2), 0.5), np.ones(2)), {"family": {}}, Spaces(True, 4, 2), ("cost",), None, {})
    save_meta_policy(tmp_path / "table" / STEM, table)
    with pytest.raises(ConfigurationError, match="is a table of probabilities; RLlib needs a network"):
        module_of_start(str(tmp_path / "table"), OBSERVATIONS, ACTIONS["continuous"])


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (gymnasium.spaces.Discrete(3), ACTIONS["discrete"], "needs observations that are a Box"),
        (OBSERVATIONS, gymnasium.spaces.Box(-1.0, 1.0, (2, 2), np.float32), "Discrete or a flat Box"),
        (OBSERVATIONS, gymnasium.spaces.MultiDiscrete([2, 2]), "Discrete or a flat Box"),
    ],
)
def test_other_spaces_are_refused(observations: Any, actions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spaces_of(observations, actions)


def runner(**env: Any) -> CRPOEnvRunner:
    config = (
        CRPOConfig()
        .environment(LineEnv, env_config=env)
        .env_runners(num_envs_per_env_runner=3)
        .training(cost_limits=[1.0], settings=SETTINGS["mlp"])
    )
    return CRPOEnvRunner(config=config, worker_index=0)


@pytest.mark.parametrize("ends_at", [np.inf, 0.4])
def test_transitions_are_those_of_the_environment(ends_at: float) -> None:
    """x' = x + 0.25 clip(a), reward x', cost 1 beyond 1: in every step, also where episodes end early."""
    made = runner(ends_at=ends_at)
    data = transitions_of(made.sample_copies(50, 0, 0), 50, 1, "line")
    assert data.observations.shape == (50, 3, 2)
    following = np.empty_like(data.observations)
    following[:-1] = data.observations[1:]
    times, copies = data.final_steps.T
    following[times, copies] = data.final_observations
    assert set(map(tuple, data.final_steps.tolist())) == {(t, c) for t, c in np.argwhere(data.ended).tolist()} | {
        (49, c) for c in range(3)
    }
    moved = data.observations[..., 0] + 0.25 * np.clip(data.actions[..., 0], -1.0, 1.0)
    np.testing.assert_allclose(following[..., 0], moved, atol=1e-6)
    np.testing.assert_allclose(data.reward, following[..., 0], atol=1e-6)
    np.testing.assert_array_equal(data.costs[..., 0], np.abs(following[..., 0]) > 1.0)
    np.testing.assert_array_equal(data.terminated, np.abs(following[..., 0]) > ends_at)
    np.testing.assert_array_equal(data.truncated, np.isclose(following[..., 1], 1.0))
    begins = np.concatenate([np.ones((1, 3), bool), data.ended[:-1]])
    np.testing.assert_array_equal(begins, data.observations[..., 1] == 0.0)
    assert data.terminated.any() == (ends_at < 1.0)


def test_random_numbers_depend_on_seed_and_iteration_alone() -> None:
    made = runner()
    torch.manual_seed(5)
    first = transitions_of(made.sample_copies(30, 0, 2), 30, 1, "line")
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after), "those of the process are not touched"
    again = transitions_of(made.sample_copies(30, 0, 2), 30, 1, "line")
    np.testing.assert_array_equal(again.actions, first.actions)
    np.testing.assert_array_equal(again.observations, first.observations)
    for seed, iteration in ((1, 2), (0, 3)):
        other = transitions_of(made.sample_copies(30, seed, iteration), 30, 1, "line")
        assert not np.array_equal(other.observations, first.observations)
        assert not np.array_equal(other.actions, first.actions)


@pytest.mark.parametrize(
    ("costs", "limits", "message"),
    [
        ("missing", 1, r"line, copy 0 of runner 0, step 5: info has no 'cost' \(it holds speed\)"),
        ("nan", 1, "line, copy 0 of runner 0, step 0: info\\['cost'\\] is not finite: nan"),
        ("number", 2, "has 1 costs, and cost_limits has 2 limits: give one limit for each cost"),
        ("vector", 1, "has 2 costs, and cost_limits has 1 limits"),
    ],
)
def test_costs_that_are_missing_or_wrong_are_named(costs: str, limits: int, message: str) -> None:
    pieces = runner(costs=costs).sample_copies(30, 0, 0)
    with pytest.raises(CostError, match=message):
        transitions_of(pieces, 30, limits, "line")


def test_a_fresh_module_is_the_fresh_policy_of_the_same_seed() -> None:
    made = CRPOModule(
        observation_space=OBSERVATIONS,
        action_space=ACTIONS["continuous"],
        model_config={"num_costs": 1, "seed": 3, "settings": SETTINGS["mlp"]},
    )
    policy = new_policy(6, 2, 1, continuous=True, hidden=(8,), critic_hidden=(6,), seed=3)
    np.testing.assert_array_equal(made.policy.actor.vector, policy.actor.vector)
    np.testing.assert_array_equal(made.policy.critic.vector, policy.critic.vector)
