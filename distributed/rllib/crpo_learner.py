"""The learner: one CRPO update of its module, made by the functions of ``policies/``."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.core import ALL_MODULES, DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner

from distributed.rllib.crpo_module import CRPOModule
from distributed.rllib.episode_batches import transitions_of
from policies.neural.update import UpdateReport, improve

_STREAM = 72


class CRPOLearner(TorchLearner):
    """Has no optimizer and no loss: the actor takes a natural-gradient step, the critic is fitted."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """None: see :meth:`update`."""

    def compute_loss_for_module(self, **kwargs: Any) -> Any:
        """CRPO has no loss.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("CRPO has no loss to differentiate; its learner overrides update")

    def update(self, *, training_data: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """One update from the pieces of :meth:`distributed.rllib.crpo_runner.CRPOEnvRunner.sample_copies`.

        Raises:
            CostError: a step has no usable costs.
            NonFiniteError: a value on the way is not finite.
        """
        del kwargs
        config: Any = self.config
        modules: Any = self.module
        module: CRPOModule = modules[DEFAULT_MODULE_ID]
        data = transitions_of(
            training_data.episodes, config.steps_per_copy, len(config.cost_limits), config.environment_name
        )
        number = int(module.updates)
        rng = np.random.default_rng([_STREAM, config.run_seed, number])
        if config.known_horizon is None and not data.ended.any(axis=0).all():
            raise ValueError(
                f"{config.environment_name}: a copy ended no episode in {config.steps_per_copy} steps: give "
                "config.training(horizon=...), a larger train_batch_size or fewer environments"
            )
        policy, report = improve(
            module.policy, data, config.problem(tuple(module.rates.tolist())), config.neural_settings(), rng
        )
        module.policy = policy
        module.updates += 1
        self._weights_seq_no += 1
        self._log(report, data.signals.shape[0] * data.signals.shape[1])
        return self.metrics.reduce()

    def _log(self, report: UpdateReport, steps: int) -> None:
        """Numbers of the update, for the results."""
        numbers = {
            "branch": report.branch,
            "reward": report.values[0],
            **{f"cost_{number}": value for number, value in enumerate(report.values[1:], start=1)},
            "num_episodes": report.num_episodes,
            "kl": report.step.kl,
            "requested_kl": report.step.requested_kl,
            "step_scale": report.step.scale,
            "cg_iterations": report.step.cg_iterations,
            "backtracks": report.step.backtracks,
            "explained_variance": report.predicted_variance[0],
            "update_seconds": report.update_seconds,
            "critic_seconds": report.critic_seconds,
        }
        for name, value in numbers.items():
            self.metrics.log_value((DEFAULT_MODULE_ID, name), float(value), window=1)
        self.metrics.log_value((ALL_MODULES, "num_env_steps_trained"), steps, reduce="sum")
