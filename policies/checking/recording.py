"""Episodes of random actions, stored exactly as an environment returned them: the evidence for checking a family."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tasks.contract import returned
from tasks.contract.task import TaskError
from tasks.contract.timeout import is_of_others, time_limit

Spaces = tuple[Any, Any]
"""The spaces of observations and of actions."""
_ACTIONS_SEED = 29
_WIDE = 1.0
"""Actions without bounds are drawn from a normal distribution of this deviation."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One episode, complete or cut off.

    ``start`` is what ``reset`` returned, ``steps`` what each ``step`` returned. ``failure`` is what ended it early
    (an exception, or no answer in time), ``complete`` whether it reached the episode's end or the horizon.
    ``spaces`` are those of the environment when it was made, ``spaces_after`` those at the end.
    """

    seed: int
    spaces: Spaces
    spaces_after: Spaces
    start: Any
    steps: tuple[Any, ...]
    seconds: float
    failure: str | None
    complete: bool


def random_actions(space: Any, steps: int, rng: np.random.Generator) -> NDArray[Any]:
    """Actions [steps, ...] spread over ``space``, a Discrete or a Box."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(space.start) + rng.integers(int(space.n), size=steps)
    bounded = np.isfinite(space.low) & np.isfinite(space.high)
    low, high = np.where(bounded, space.low, 0.0), np.where(bounded, space.high, 0.0)
    shape = (steps, *space.shape)
    free = rng.normal(0.0, _WIDE, shape)
    return np.clip(np.where(bounded, rng.uniform(low, high, shape), free), space.low, space.high).astype(space.dtype)


def fixed_actions(space: Any, steps: int) -> NDArray[Any]:
    """The actions of every recording."""
    return random_actions(space, steps, np.random.default_rng(_ACTIONS_SEED))


@dataclass(frozen=True, slots=True)
class Bounds:
    """When a recording stops: at the horizon, after ``seconds``, or when one call takes ``step_seconds``, a failure."""

    horizon: int
    seconds: float
    step_seconds: float


class Companion:
    """Another copy that runs episodes of its own, one step for each of the recorded copy's, as in training."""

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int, horizon: int) -> None:
        self._env, self._seed, self._actions = env, seed, fixed_actions(env.action_space, horizon)[::-1]
        self._number, self._running = 0, False

    def tick(self) -> None:
        """Begin an episode, or take one step of it."""
        if not self._running:
            self._env.reset(seed=self._seed)
            self._seed, self._number, self._running = self._seed - 1, 0, True
            return
        action = self._actions[self._number]
        self._number += 1
        values = self._env.step(action.item() if action.ndim == 0 else action)
        self._running = self._number < len(self._actions) and not _ended(values)


def record(env: gymnasium.Env[Any, Any], seed: int, bounds: Bounds, beside: Companion | None = None) -> Recording:
    """Run one episode of ``env`` from ``seed``, with the same actions in every call.

    ``beside`` is stepped in turn with it: nothing that it does may change the recording.
    """
    spaces = (env.observation_space, env.action_space)
    start, steps, failure, complete = None, list[Any](), None, False
    actions = fixed_actions(env.action_space, bounds.horizon)
    began, call, at = time.perf_counter(), "reset", "step 0"
    try:
        with time_limit(bounds.step_seconds, lambda: f"{at}: {call}") as again:
            start = _own(env.reset(seed=seed))
            for number, action in enumerate(actions, start=1):
                call, at = "step", f"step {number}"
                again()
                if beside is not None:
                    beside.tick()
                steps.append(_own(env.step(action.item() if action.ndim == 0 else action)))
                complete = number == bounds.horizon or _ended(steps[-1])
                if complete or time.perf_counter() - began > bounds.seconds:
                    break
    except BaseException as error:
        if not is_of_others(error):
            raise
        raised = returned.raised(call, error, seed if call == "reset" else None)
        failure = str(error) if isinstance(error, TaskError) else f"{at}: {raised}"
    taken = time.perf_counter() - began
    after = (env.observation_space, env.action_space)
    return Recording(seed, spaces, after, start, tuple(steps), taken, failure, complete)


def _own(values: Any) -> Any:
    """A copy, since an environment may write into the arrays that it returned before."""
    return tuple(copy.copy(value) for value in values) if isinstance(values, tuple) else values


def _ended(values: Any) -> bool:
    if not isinstance(values, tuple) or len(values) not in (5, 6):
        return False
    return any(isinstance(value, bool | np.bool_) and bool(value) for value in values[-3:-1])
