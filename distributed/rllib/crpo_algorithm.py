"""CRPO as an algorithm of RLlib (new API stack): ``CRPOConfig().environment(...).training(cost_limits=[25.0])``.

RLlib samples, evaluates, checkpoints and calls back; the update is the one of ``policies/neural/update.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.from_config import NotProvided
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from distributed.rllib.crpo_learner import CRPOLearner
from distributed.rllib.crpo_module import CRPOModule
from distributed.rllib.crpo_runner import CRPOEnvRunner, sampled_copies
from distributed.rllib.starts import start_of
from policies.neural.neural_settings import NeuralSettings
from policies.neural.update import Problem
from policies.rules.rule_registry import CRPO_METHOD

OF_RLLIB = {
    "num_iterations": "algorithm.train() makes one iteration",
    "final_log_std": "algorithm.train() makes one iteration, and none is the last",
    "final_noise_share": "algorithm.train() makes one iteration, and none is the last",
    "steps_per_iteration": "config.training(train_batch_size=...)",
    "num_copies": "config.env_runners(num_env_runners=..., num_envs_per_env_runner=...)",
    "evaluate_last": "config.evaluation(...)",
    "dataset_size": "it is for learning across tasks",
    "dataset_transitions": "it is for learning across tasks",
    "output": "it is for learning across tasks",
}
"""Keys of ``within_task`` that RLlib has another place for."""
_SECONDS_TO_SYNC = 60.0


class CRPOConfig(AlgorithmConfig):
    """The configuration of :class:`CRPO`; what :meth:`training` does not name is as for RLlib's other algorithms."""

    seed: Any
    train_batch_size: Any
    rollout_fragment_length: Any
    num_env_runners: Any
    num_envs_per_env_runner: Any
    env_runner_cls: Any

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class or CRPO)
        self.cost_limits: tuple[float, ...] = ()
        self.learning_rates: Any = None
        self.horizon: int | None = None
        self.initialization: str | None = None
        self.settings: dict[str, Any] = {}
        self.context_size = 0  # inputs at an observation's end that are the task's context, and normalised already
        self.seed = 0
        self.gamma = 0.99
        self.train_batch_size = 4000
        self.rollout_fragment_length = "auto"
        self.num_env_runners = 0
        self.num_envs_per_env_runner = 4
        self.env_runner_cls = CRPOEnvRunner

    def training(
        self,
        *,
        cost_limits: Sequence[float] | Any = NotProvided,
        learning_rates: float | Sequence[float] | Any = NotProvided,
        horizon: int | Any | None = NotProvided,
        initialization: str | Any | None = NotProvided,
        settings: Mapping[str, Any] | Any = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set what CRPO needs.

        Args:
            cost_limits: d, one for each cost in ``info["cost"]``; on the plain sum of an episode's costs, or on the
                discounted one with ``settings={"returns": "discounted"}``.
            learning_rates: alpha of the reward and of each cost (1 + p), or one number for all; by default 1, or those
                of the start; a domain of Tune is searched. The trust region caps the step that they ask for.
            horizon: the most steps of an episode; by default that of the registered environment. Where it is unknown,
                each copy must end an episode in each batch.
            initialization: a learned start: a run directory, a folder with a start, or ``models:/NAME@champion``.
            settings: keys of a run file's ``within_task`` section: ``hidden``, ``network``, ``tolerance``,
                ``trust_region``, ``critic``, ... (docs/configuration.md).
            **kwargs: as for every algorithm: ``gamma``, ``train_batch_size`` (steps of one iteration over all copies).

        Returns:
            This configuration.
        """
        super().training(**kwargs)
        if cost_limits is not NotProvided:
            self.cost_limits = tuple(map(float, np.atleast_1d(cost_limits)))
        if learning_rates is not NotProvided:
            self.learning_rates = learning_rates
        if horizon is not NotProvided:
            self.horizon = horizon
        if initialization is not NotProvided:
            self.initialization = initialization
        if settings is not NotProvided:
            self.settings = dict(settings)
        return self

    @property
    def copies(self) -> int:
        """Environments that are sampled together, over all runners."""
        return max(1, int(self.num_env_runners)) * int(self.num_envs_per_env_runner)

    @property
    def steps_per_copy(self) -> int:
        """T, steps of each copy in one iteration."""
        return int(self.total_train_batch_size) // self.copies

    @property
    def run_seed(self) -> int:
        """Of networks, resets and actions."""
        return int(self.seed or 0)

    @property
    def environment_name(self) -> str:
        """For messages."""
        return self.env if isinstance(self.env, str) else getattr(self.env, "__name__", str(self.env))

    def neural_settings(self) -> NeuralSettings:
        """The settings as those of a run file.

        Raises:
            ValueError: a key is unknown or belongs to RLlib, or the method is another than CRPO.
        """
        for key, place in OF_RLLIB.items():
            if key in self.settings:
                raise ValueError(f"settings: {key} is not set here: {place}")
        given = {"returns": "episodic", **self.settings, "num_iterations": 1, "num_copies": self.copies}
        settings = NeuralSettings.model_validate({**given, "steps_per_iteration": self.copies * self.steps_per_copy})
        if settings.method != CRPO_METHOD:
            raise ValueError(f"settings: method must be crpo here, got {settings.method.name}: RLlib keeps no memory")
        return settings

    def problem(self, of_start: tuple[float, ...] | None = None) -> Problem:
        """Rates, limits, tolerance, discount and horizon of an update; ``of_start`` are rates where none are given.

        Raises:
            ValueError: there is another number of rates or tolerances than of costs.
        """
        settings, num_costs = self.neural_settings(), len(self.cost_limits)
        given = next((one for one in (self.learning_rates, of_start) if one is not None), 1.0)
        rates = np.atleast_1d(np.asarray(given, np.float64))
        if len(rates) not in (1, 1 + num_costs) or not all(np.isfinite(rate) and rate > 0.0 for rate in rates):
            raise ValueError(
                f"learning_rates must be one positive number, or {1 + num_costs} (the reward's, then one for each of "
                f"the {num_costs} cost_limits), got {rates.tolist()}"
            )
        limits = (1.0 - settings.safety_margin) * np.array(self.cost_limits)
        return Problem(
            np.broadcast_to(rates, (1 + num_costs,)).copy(),
            limits,
            settings.tolerances(num_costs),
            float(self.gamma),
            self.known_horizon or self.steps_per_copy,
            self.context_size,
        )

    @property
    def known_horizon(self) -> int | None:
        """The most steps of an episode, given or of a registered environment; None where nothing says."""
        if self.horizon is not None or not isinstance(self.env, str) or self.env not in gymnasium.registry:
            return self.horizon
        return gymnasium.registry[self.env].max_episode_steps

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """A fresh :class:`CRPOModule`."""
        content = {"num_costs": len(self.cost_limits), "seed": self.run_seed, "settings": self.settings}
        return RLModuleSpec(module_class=CRPOModule, model_config=content)

    def get_default_learner_class(self) -> type[CRPOLearner]:
        """:class:`CRPOLearner`."""
        return CRPOLearner

    def validate(self) -> None:
        """Check everything that can be checked before environments are made.

        Raises:
            ValueError: a setting is wrong; the message says what would be right.
        """
        if not (self.enable_rl_module_and_learner and self.enable_env_runner_and_connector_v2):
            raise ValueError(
                "CRPO runs on RLlib's new API stack only: leave config.api_stack(...) at its defaults "
                "(enable_rl_module_and_learner=True, enable_env_runner_and_connector_v2=True)"
            )
        if not self.cost_limits or not all(np.isfinite(limit) and limit >= 0.0 for limit in self.cost_limits):
            raise ValueError(
                "cost_limits must be a list of numbers >= 0, one for each cost in info['cost'], got "
                f"{list(self.cost_limits)}: config.training(cost_limits=[25.0])"
            )
        if self.num_learners:
            raise ValueError(f"num_learners must be 0, got {self.num_learners}: CRPO's step is made in one process")
        if self.is_multi_agent or self.is_offline:
            raise ValueError(
                "CRPO learns one policy from environments: no multi_agent(...), no offline_data(input_=...)"
            )
        if not issubclass(self.env_runner_cls, CRPOEnvRunner):
            raise ValueError(f"env_runner_cls must be a CRPOEnvRunner, got {self.env_runner_cls.__name__}")
        spec = self._rl_module_spec
        if spec is not None and not issubclass(getattr(spec, "module_class", None) or CRPOModule, CRPOModule):
            raise ValueError(
                f"rl_module_spec: {spec.module_class.__name__} is not a CRPOModule; name a module of torch by "
                "config.training(settings={'network': 'my_module:Actor'})"
            )
        horizon = self.known_horizon
        if not self.in_evaluation and self.steps_per_copy < max(1, horizon or 1):
            raise ValueError(
                f"train_batch_size {self.total_train_batch_size} over {self.copies} copies are {self.steps_per_copy} "
                f"steps of each, and an episode may have {horizon}: set it to at least {self.copies * (horizon or 1)}, "
                "or use fewer environments"
            )
        self.problem()
        super().validate()


class CRPO(Algorithm):
    """Constraint-rectified policy optimisation (Xu, Liang, Lan 2021), one iteration for each call of ``train``."""

    config: Any
    env_runner_group: Any
    learner_group: Any
    metrics: Any

    @classmethod
    def get_default_config(cls) -> CRPOConfig:
        """The configuration with its defaults."""
        return CRPOConfig()

    def setup(self, config: Any) -> None:
        """Build runners and learner; begin from the learned start, where one is named.

        Raises:
            ConfigurationError: there is no such start, or it does not fit the environment and the limits.
        """
        super().setup(config)
        if self.config.initialization is None:
            return
        module: Any = self.get_learner_module()
        start = start_of(self.config.initialization, module, len(self.config.cost_limits))
        module.policy = start.initialization
        with torch.no_grad():
            module.rates.copy_(torch.from_numpy(start.learning_rates))
        self._sync()

    def get_learner_module(self) -> CRPOModule:
        """The module that is learned; :meth:`get_module` gives the copy of a runner."""
        module: CRPOModule = self.learner_group._learner.module[DEFAULT_MODULE_ID]
        return module

    def training_step(self) -> None:
        """Sample every copy, make one update, send the policy to the runners.

        Raises:
            CostError: a step has no usable costs.
        """
        steps, number = self.config.steps_per_copy, int(self.get_learner_module().updates)
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            sampled = self.env_runner_group.foreach_env_runner(
                functools.partial(sampled_copies, steps=steps, seed=self.config.run_seed, iteration=number),
                local_env_runner=self.env_runner_group.num_remote_workers() <= 0,
            )
        if not sampled:
            raise RuntimeError("no environment runner answered; see the log for what they died of")
        self.metrics.aggregate([results for _, results in sampled], key=ENV_RUNNER_RESULTS)
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            learned = self.learner_group.update(
                episodes=[piece for pieces, _ in sampled for piece in pieces],
                timesteps={
                    NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek(
                        (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)
                    )
                },
            )
        self.metrics.aggregate(learned, key=LEARNER_RESULTS)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self._sync()

    def _sync(self) -> None:
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group, timeout_seconds=_SECONDS_TO_SYNC, inference_only=True
        )
