"""A task of a family as a Gymnasium environment for RLlib, stepped and checked as everywhere else in this project."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Self

import gymnasium
import numpy as np
from numpy.typing import NDArray
from ray import cloudpickle

from tasks.contract.contextual_family import plain_family
from tasks.contract.family_registry import loaded_class
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.stepping.batch import BatchEnvironment, Float32Array, make_batch

SOURCE = "source"
"""Key of RLlib's ``env_config`` that holds a :class:`TaskSource`."""
FAULT = "fault"
"""Key of ``info`` that says how the environment broke its contract; there are no costs then."""
_SEEDS = 2**32


@dataclass(frozen=True)
class TaskSource:
    """What an environment is made of; RLlib copies its configuration often, and the family stays one object.

    A runner in another process finds the family's code where this process found it: on its import path, or in the file
    that the family was named by, from the working directory.
    """

    family: TaskFamily
    task: Task

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        kind = type(plain_family(self.family))
        dumps: Callable[[object], bytes] = cloudpickle.dumps
        return _arrived, (tuple(sys.path), kind.__module__, _file_of(kind), dumps((self.family, self.task)))

    def batch(self) -> BatchEnvironment:
        """One copy of the task."""
        return make_batch(self.family, self.task, 1)


def _file_of(kind: type[Any]) -> str | None:
    """path/to/file.py:Class of a class that no import would find; None for others."""
    module = kind.__module__
    if module == "__main__" or PathFinder.find_spec(module.partition(".")[0]) is not None:
        return None
    file, here = Path(str(sys.modules[module].__file__)), Path.cwd()
    return f"{file.relative_to(here) if file.is_relative_to(here) else file}:{kind.__name__}"


def _arrived(paths: tuple[str, ...], module: str, file: str | None, content: bytes) -> TaskSource:
    """The source in another process."""
    sys.path.extend(path for path in paths if path not in sys.path)
    if file is not None:
        sys.modules.setdefault(module, sys.modules[loaded_class(file).__module__])
    return TaskSource(*cloudpickle.loads(content))


class TaskEnv(gymnasium.Env[Float32Array, Any]):
    """One copy of a task; costs [p] are in ``info["cost"]``, and a context is part of the observation.

    Every number is checked by the batch (:class:`tasks.stepping.batch.GymnasiumBatch`). RLlib drops the message of an
    error in an environment and ends the runner, so a fault, such as a missing cost, is handed on in ``info["fault"]``:
    from then on every step ends an episode, with that text and without costs (:func:`fault_of`).
    """

    def __init__(self, config: Any) -> None:
        self._batch = config[SOURCE].batch()
        self.observation_space, self.action_space = spaces_of_batch(self._batch)
        self._fault = ""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """A new episode; without a ``seed`` the next one of the last seed's stream."""
        super().reset(seed=seed, options=options)
        seeds = self.np_random.integers(_SEEDS, size=1, dtype=np.uint32)
        if not self._sound(lambda: self._batch.reset(np.array([0]), seeds)):
            return np.zeros(self._batch.observation_size, np.float32), {FAULT: self._fault}
        return self._batch.observations[0].copy(), {}

    def step(self, action: Any) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """One step."""
        batch = self._batch
        actions: NDArray[Any] = np.asarray(action)[None]
        if not self._sound(
            lambda: batch.step(actions if batch.num_actions is not None else actions.astype(np.float32))
        ):
            return np.zeros(batch.observation_size, np.float32), 0.0, False, True, {FAULT: self._fault}
        ended = bool(batch.terminated[0]), bool(batch.truncated[0])
        info = {"cost": batch.costs[0].astype(np.float64)}
        return batch.observations[0].copy(), float(batch.reward[0]), *ended, info

    def close(self) -> None:
        """Release the environment."""
        self._batch.close()

    def _sound(self, act: Callable[[], None]) -> bool:
        """Whether the environment has kept its contract so far, and does in ``act``."""
        if not self._fault:
            try:
                act()
            except TaskError as error:
                self._fault = str(error)
        return not self._fault


def fault_of(infos: Iterable[Any]) -> str:
    """The first fault that an environment handed on in ``infos``; empty without one."""
    return next((str(info[FAULT]) for info in infos if FAULT in info), "")


def spaces_of_batch(batch: BatchEnvironment) -> tuple[gymnasium.spaces.Box, gymnasium.Space[Any]]:
    """Observations as flat vectors, and actions as the environment takes them."""
    observations = gymnasium.spaces.Box(-np.inf, np.inf, (batch.observation_size,), np.float32)
    if batch.num_actions is not None:
        return observations, gymnasium.spaces.Discrete(batch.num_actions)
    assert batch.action_low is not None
    assert batch.action_high is not None
    return observations, gymnasium.spaces.Box(batch.action_low, batch.action_high, dtype=np.float32)
