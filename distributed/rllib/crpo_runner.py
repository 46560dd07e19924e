"""The environment runner: every copy runs the same number of steps from a reset, with random numbers of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

COPY = "copy"
"""Key of an episode's custom data: (number of the runner, number of the environment in it)."""
_STREAM = 71


class CRPOEnvRunner(SingleAgentEnvRunner):
    """RLlib's runner, which remembers in which copy an episode was played."""

    def _new_episode(self, env_index: int, episodes: Any = None) -> None:
        super()._new_episode(env_index, episodes)  # type: ignore[no-untyped-call]
        made: Any = episodes if episodes is not None else self._ongoing_episodes
        made[env_index].custom_data[COPY] = (int(self.worker_index or 0), env_index)

    def sample_copies(self, steps: int, seed: int, iteration: int) -> list[SingleAgentEpisode]:
        """At least ``steps`` steps of each copy, all begun by a reset: whole episodes and pieces of episodes.

        Resets and actions depend on (``seed``, number of the runner, ``iteration``) alone, and random numbers of this
        process are not touched: a restored algorithm goes on as the saved one would have.
        """
        key = np.random.SeedSequence([_STREAM, seed, int(self.worker_index or 0), iteration])
        of_resets, of_actions = (int(number) for number in key.generate_state(2))
        self._seed, self._needs_initial_reset = of_resets % 2**31, True
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(of_actions)
            pieces = list[SingleAgentEpisode](self.sample(num_timesteps=steps * self.num_envs, force_reset=True))
            while (missing := steps - min(steps_of_copies(pieces, self.num_envs))) > 0:
                pieces += self.sample(num_timesteps=missing * self.num_envs)
        return pieces


def steps_of_copies(pieces: list[SingleAgentEpisode], copies: int) -> list[int]:
    """How many steps each of a runner's ``copies`` has in ``pieces``."""
    counts = [0] * copies
    for piece in pieces:
        counts[piece.custom_data[COPY][1]] += len(piece)
    return counts


def sampled_copies(runner: Any, steps: int, seed: int, iteration: int) -> tuple[list[Any], Any]:
    """Episodes of :meth:`CRPOEnvRunner.sample_copies`, and the runner's metrics."""
    return runner.sample_copies(steps, seed, iteration), runner.get_metrics()
