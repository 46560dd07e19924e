"""A task of a family as a Gymnasium environment for RLlib, stepped and checked as everywhere else in this project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tasks.contract.task import Task, TaskFamily
from tasks.stepping.batch import BatchEnvironment, Float32Array, make_batch

SOURCE = "source"
"""Key of RLlib's ``env_config`` that holds a :class:`TaskSource`."""
_SEEDS = 2**32


@dataclass(frozen=True)
class TaskSource:
    """What an environment is made of; RLlib copies its configuration often, and the family stays one object."""

    family: TaskFamily
    task: Task

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def batch(self) -> BatchEnvironment:
        """One copy of the task."""
        return make_batch(self.family, self.task, 1)


class TaskEnv(gymnasium.Env[Float32Array, Any]):
    """One copy of a task; costs [p] are in ``info["cost"]``, and a context is part of the observation.

    Every number is checked by the batch (:class:`tasks.stepping.batch.GymnasiumBatch`), so a missing cost is a
    TaskError that names task and step.
    """

    def __init__(self, config: Any) -> None:
        self._batch = config[SOURCE].batch()
        self.observation_space, self.action_space = spaces_of_batch(self._batch)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """A new episode; without a ``seed`` the next one of the last seed's stream."""
        super().reset(seed=seed, options=options)
        self._batch.reset(np.array([0]), self.np_random.integers(_SEEDS, size=1, dtype=np.uint32))
        return self._batch.observations[0].copy(), {}

    def step(self, action: Any) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """One step.

        Raises:
            TaskError: the environment breaks its contract.
        """
        batch = self._batch
        actions: NDArray[Any] = np.asarray(action)[None]
        batch.step(actions if batch.num_actions is not None else actions.astype(np.float32))
        ended = bool(batch.terminated[0]), bool(batch.truncated[0])
        info = {"cost": batch.costs[0].astype(np.float64)}
        return batch.observations[0].copy(), float(batch.reward[0]), *ended, info

    def close(self) -> None:
        """Release the environment."""
        self._batch.close()


def spaces_of_batch(batch: BatchEnvironment) -> tuple[gymnasium.spaces.Box, gymnasium.Space[Any]]:
    """Observations as flat vectors, and actions as the environment takes them."""
    observations = gymnasium.spaces.Box(-np.inf, np.inf, (batch.observation_size,), np.float32)
    if batch.num_actions is not None:
        return observations, gymnasium.spaces.Discrete(batch.num_actions)
    assert batch.action_low is not None
    assert batch.action_high is not None
    return observations, gymnasium.spaces.Box(batch.action_low, batch.action_high, dtype=np.float32)
