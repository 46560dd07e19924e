"""RLlib's CRPO learns, restores to the same bits, begins from a start, and refuses what it cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.schedulers import PopulationBasedTraining

from distributed.rllib.crpo_algorithm import CRPO, CRPOConfig
from distributed.rllib.episode_batches import transitions_of
from distributed.settings.errors import ConfigurationError
from policies.neural.update import improve
from tests.distributed.rllib.test_crpo_module import ACTIONS, OBSERVATIONS, SETTINGS, module, start
from tests.support.cost_env import LineEnv

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Overriding environment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]
LINE = {"hidden": [8, 8], "critic_hidden": [8, 8], "trust_region": {"delta_max": 0.05}}


def config(runners: int = 0, env: dict[str, Any] | None = None, **training: Any) -> CRPOConfig:
    """Points on a line, five in each process; 1,000 steps an iteration."""
    given = {"cost_limits": [1.0], "learning_rates": 0.1, "train_batch_size": 1000, "gamma": 0.95, "settings": LINE}
    return (
        CRPOConfig()
        .environment(LineEnv, env_config=env or {})
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=5)
        .training(**{**given, **training})
    )


def learned(algorithm: CRPO) -> dict[str, float]:
    """Numbers of the next iteration."""
    return {name: float(value) for name, value in algorithm.train()["learners"]["default_policy"].items()}


@pytest.mark.slow
def test_it_learns_the_reward_and_keeps_the_limit(ray_cluster: str) -> None:
    """The best of limit 1 is about 18. Measured on the seeds 0 to 2, means of the iterations 20 to 29.

    Reward 16.1 to 16.8, cost 0.94 to 1.13; the first iterate's reward is -0.1 to 1.2.
    """
    algorithm = config().build_algo()
    try:
        results = [learned(algorithm) for _ in range(30)]
        rewards, costs = (np.array([one[name] for one in results]) for name in ("reward", "cost_1"))
        assert rewards[0] < 1.0
        assert rewards[-10:].mean() > 11.0
        assert costs[-10:].mean() < 1.7
        assert {one["branch"] for one in results} == {0.0, 1.0}
        evaluated = algorithm.env_runner.sample(num_episodes=5, explore=False)
        assert len(evaluated) >= 5
    finally:
        algorithm.stop()


def test_the_update_is_that_of_policies(ray_cluster: str) -> None:
    """The same episodes through ``improve`` by hand give the same bits."""
    algorithm = config().build_algo()
    try:
        learned(algorithm)
        before = algorithm.get_learner_module().policy
        data = transitions_of(algorithm.env_runner.sample_copies(200, 0, 1), 200, 1, "line")
        rng = np.random.default_rng([72, 0, 1])
        chosen = algorithm.config
        expected, report = improve(before, data, chosen.problem(), chosen.neural_settings(), rng)
        numbers = learned(algorithm)
        for name, value in expected.to_arrays().items():
            np.testing.assert_array_equal(algorithm.get_learner_module().policy.to_arrays()[name], value)
            np.testing.assert_array_equal(algorithm.get_module().policy.to_arrays()[name], value)
        assert numbers["reward"] == report.values[0]
        assert numbers["cost_1"] == report.values[1]
    finally:
        algorithm.stop()


def test_a_restored_algorithm_makes_the_same_next_iteration(ray_cluster: str, tmp_path: Path) -> None:
    algorithm = config(env={"ends_at": 0.6}, settings=SETTINGS["module"]).build_algo()
    again = None
    try:
        for _ in range(2):
            learned(algorithm)
        folder = algorithm.save_to_path(str(tmp_path / "saved"))
        assert list(Path(folder).rglob("*.pkl")), "docs/security.md: RLlib pickles"
        expected = learned(algorithm)
        again = CRPO.from_checkpoint(folder)
        found = learned(again)
        timeless = {name for name in expected if not name.endswith(("seconds", "parameters"))}
        assert {name: found[name] for name in timeless} == {name: expected[name] for name in timeless}
        for name, value in algorithm.get_learner_module().get_state().items():
            np.testing.assert_array_equal(again.get_learner_module().get_state()[name], value)
        assert again.training_iteration == algorithm.training_iteration == 3
    finally:
        algorithm.stop()
        if again is not None:
            again.stop()


@pytest.mark.slow
def test_two_remote_runners_learn_as_one_process_does(ray_cluster: str) -> None:
    algorithm = config(runners=2).build_algo()
    try:
        results = [learned(algorithm) for _ in range(20)]
        rewards, costs = (np.array([one[name] for one in results]) for name in ("reward", "cost_1"))
        assert rewards[-5:].mean() > 9.0
        assert costs[-5:].mean() < 2.0
        states = algorithm.env_runner_group.foreach_env_runner(lambda one: one.module.get_state())
        for state in states:
            for name, value in algorithm.get_learner_module().get_state().items():
                np.testing.assert_array_equal(state[name], value)
    finally:
        algorithm.stop()


@pytest.mark.slow
def test_evaluation_and_callbacks_are_those_of_rllib(ray_cluster: str) -> None:
    seen = list[float]()
    chosen = config(horizon=20).evaluation(evaluation_interval=2, evaluation_duration=4)
    chosen = chosen.callbacks(on_train_result=lambda *, result, **_: seen.append(result["training_iteration"]))
    algorithm = chosen.build_algo()
    try:
        assert "evaluation" not in algorithm.train()
        evaluated = algorithm.train()["evaluation"]["env_runners"]
        assert evaluated["num_episodes"] == 4
        assert -5.0 < evaluated["episode_return_mean"] < 20.0
        assert seen == [1, 2]
    finally:
        algorithm.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tune_runs_trials_as_of_any_algorithm(ray_cluster: str, tmp_path: Path) -> None:
    """A trial makes the same iterations as the algorithm in this process."""
    space = config(gamma=tune.grid_search([0.9, 0.95]))
    stop = tune.RunConfig(stop={"training_iteration": 2}, storage_path=str(tmp_path), verbose=0)
    trials = tune.Tuner(CRPO, param_space=space, run_config=stop).fit()
    assert not trials.errors
    rewards = {one.config["gamma"]: one.metrics["learners"]["default_policy"]["reward"] for one in trials}
    algorithm = config().build_algo()
    try:
        learned(algorithm)
        assert learned(algorithm)["reward"] == float(rewards[0.95])
        assert rewards[0.9] != rewards[0.95]
    finally:
        algorithm.stop()


def scored(*, result: dict[str, Any], **_: Any) -> None:
    """What the population is judged by: the reward, less a price on what is over the limit."""
    numbers = result["learners"]["default_policy"]
    result["score"] = float(numbers["reward"]) - 10.0 * max(0.0, float(numbers["cost_1"]) - 1.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_population_of_four_gives_the_rates_of_the_best_on(ray_cluster: str, tmp_path: Path) -> None:
    """Two rates make no step to speak of. They take over policy and rate of the better half, the rate changed."""
    space = config(learning_rates=tune.grid_search([1e-6, 2e-6, 0.1, 0.2])).callbacks(on_train_result=scored)
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=6,
        quantile_fraction=0.5,
        resample_probability=0.0,
        hyperparam_mutations={"learning_rates": tune.loguniform(1e-6, 1.0)},
        synch=True,
    )
    trials = tune.Tuner(
        CRPO,
        param_space=space,
        tune_config=tune.TuneConfig(metric="score", mode="max", scheduler=scheduler),
        run_config=tune.RunConfig(stop={"training_iteration": 8}, storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert not trials.errors
    rates = sorted(one.config["learning_rates"] for one in trials)
    assert rates[0] > 0.05, "the small ones took over a large one, times 0.8 or 1.2"
    assert {round(rate, 3) for rate in rates} <= {0.08, 0.096, 0.1, 0.12, 0.16, 0.192, 0.2, 0.24, 0.288}
    assert min(one.metrics["learners"]["default_policy"]["reward"] for one in trials) > 3.0


class Still(gymnasium.Env[Any, Any]):
    """An environment of the spaces of test_crpo_module's starts."""

    observation_space, action_space = OBSERVATIONS, ACTIONS["continuous"]

    def __init__(self, config: Any = None) -> None:
        self._age = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._age = 0
        return np.zeros((3, 2), np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._age += 1
        seen = np.full((3, 2), self._age / 10, np.float32)
        return seen, float(action[0]), False, self._age >= 10, {"cost": abs(float(action[1]))}


def still(initialization: Path | str, **training: Any) -> CRPOConfig:
    given = {"cost_limits": [5.0], "train_batch_size": 100, "settings": SETTINGS["mlp"]}
    chosen = CRPOConfig().environment(Still).env_runners(num_envs_per_env_runner=5)
    return chosen.training(**{**given, **training, "initialization": str(initialization)})


def test_it_begins_from_a_learned_start(ray_cluster: str, tmp_path: Path) -> None:
    policy = module().policy
    run = start(tmp_path, policy, SETTINGS["mlp"])
    algorithm = still(run).build_algo()
    try:
        for one in (algorithm.get_learner_module(), algorithm.get_module()):
            for name, value in policy.to_arrays().items():
                np.testing.assert_array_equal(one.policy.to_arrays()[name], value)
        np.testing.assert_array_equal(algorithm.get_learner_module().rates.numpy(), [0.1, 0.5])
        learned(algorithm)
        assert not np.array_equal(algorithm.get_learner_module().policy.actor.vector, policy.actor.vector)
    finally:
        algorithm.stop()
    with pytest.raises(ConfigurationError, match=r"must name the networks of the start: \{'hidden': \["):
        still(run, settings={}).build_algo()
    with pytest.raises(ConfigurationError, match=r"was learned under 1 costs .*, and cost_limits has 2"):
        still(run, cost_limits=[1.0, 2.0]).build_algo()
    with pytest.raises(ConfigurationError, match="of 2 numbers; the environment has observations of 2"):
        config(initialization=str(run)).build_algo()


@pytest.mark.slow
def test_ppo_goes_on_from_a_start(ray_cluster: str, tmp_path: Path) -> None:
    before = module()
    saved = before.save_to_path(str(tmp_path / "module"))
    spec = RLModuleSpec(module_class=type(before), model_config=before.model_config, load_state_path=saved)
    ppo = (
        PPOConfig()
        .environment(Still)
        .env_runners(num_env_runners=0)
        .training(train_batch_size=200, minibatch_size=50, num_epochs=1)
        .rl_module(rl_module_spec=spec)
        .build_algo()
    )
    try:
        np.testing.assert_array_equal(ppo.get_module().policy.actor.vector, before.policy.actor.vector)
        ppo.train()
        policy = ppo.get_module().policy
        assert not np.array_equal(policy.actor.vector, before.policy.actor.vector)
        np.testing.assert_array_equal(policy.statistics.mean, before.policy.statistics.mean)
    finally:
        ppo.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.training(cost_limits=[]), r"cost_limits must be a list of numbers >= 0, .* got \[\]"),
        (lambda c: c.training(cost_limits=[-1.0]), "cost_limits must be a list of numbers >= 0"),
        (
            lambda c: c.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False),
            "new API stack only",
        ),
        (lambda c: c.multi_agent(policies={"one", "two"}), "learns one policy from environments: no multi_agent"),
        (lambda c: c.offline_data(input_="somewhere"), "learns one policy from environments: no multi_agent"),
        (lambda c: c.learners(num_learners=2), "num_learners must be 0, got 2"),
        (lambda c: c.training(learning_rates=[1.0, 1.0, 1.0]), "learning_rates must be one positive number, or 2"),
        (
            lambda c: c.training(horizon=300),
            "200 steps of each, and an episode may have 300: set it to at least 1500",
        ),
        (lambda c: c.training(settings={"num_copies": 3}), "num_copies is not set here: config.env_runners"),
        (lambda c: c.training(settings={"widths": 3}), "Extra inputs are not permitted"),
        (lambda c: c.training(settings={"method": {"name": "pcrpo"}}), "method must be crpo here, got pcrpo"),
        (lambda c: c.training(settings={"tolerance": [1.0, 2.0]}), "tolerance"),
        (
            lambda c: c.rl_module(rl_module_spec=RLModuleSpec(module_class=dict)),
            "rl_module_spec: dict is not a CRPOModule",
        ),
        (lambda c: c.env_runners(env_runner_cls=dict), "env_runner_cls must be a CRPOEnvRunner, got dict"),
    ],
)
def test_a_wrong_configuration_is_refused(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change(config()).validate()


def test_an_episode_of_unknown_length_must_end_within_the_batch(ray_cluster: str) -> None:
    algorithm = config(train_batch_size=50).build_algo()
    try:
        with pytest.raises(ValueError, match=r"LineEnv: a copy ended no episode in 10 steps: give config"):
            algorithm.train()
    finally:
        algorithm.stop()


@pytest.mark.parametrize("costs", ["missing", "nan"])
def test_wrong_costs_end_the_training(ray_cluster: str, costs: str) -> None:
    algorithm = config(env={"costs": costs}).build_algo()
    try:
        with pytest.raises(ValueError, match="LineEnv, copy 0 of runner 0, step"):
            algorithm.train()
    finally:
        algorithm.stop()
