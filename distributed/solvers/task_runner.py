"""The environment runner of a task: every batch begins with a reset of all copies, whatever algorithm asks for it."""

from __future__ import annotations

from typing import Any

from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from distributed.rllib.crpo_runner import CRPOEnvRunner


class TaskRunner(CRPOEnvRunner):
    """Gives an algorithm that calls ``sample()`` the batch that its iterate is measured by."""

    _batches = 0

    def sample(self, **given: Any) -> list[SingleAgentEpisode]:
        """Without arguments the next batch of all copies, else as RLlib's runner."""
        if given:
            return list(super().sample(**given))
        number, self._batches = self._batches, self._batches + 1
        config: Any = self.config
        return self.sample_copies(steps_of_copy(config), int(config.seed), number)


def steps_of_copy(config: Any) -> int:
    """T, steps of each copy in one iteration of any algorithm's configuration."""
    copies = max(1, int(config.num_env_runners)) * int(config.num_envs_per_env_runner)
    return int(config.total_train_batch_size) // copies
