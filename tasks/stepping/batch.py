"""Step many copies of one task's environment together: the protocol, and an implementation for any environment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tasks.contract import returned
from tasks.contract.contextual_family import plain_family
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.contract.timeout import STEP_SECONDS, failure, made, step_seconds, time_limit
from tasks.stepping.context_batch import with_context
from tasks.stepping.copies import Copies
from tasks.stepping.spaces import float32_bounds, form_fault, space_fault, value_fault

Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
_SINGLE = 4
"""Bytes of a float32."""


@runtime_checkable
class BatchEnvironment(Protocol):
    """n copies of one task's environment. The next ``step`` or ``reset`` overwrites the arrays.

    Copies do not reset by themselves: after an end, ``observations`` holds the episode's last observation until the
    caller resets that copy. Every copy must be reset once before the first step. The bits of an episode depend only on
    its own seed and actions, neither on n nor on the other copies.
    """

    num_copies: int
    """n."""
    observation_size: int
    """Size of one observation."""
    num_costs: int
    """p."""
    action_low: Float32Array | None
    """[A], the smallest action of each actuator; None if actions are discrete."""
    action_high: Float32Array | None
    """[A], the largest action of each actuator; None if actions are discrete."""
    num_actions: int | None
    """Number of discrete actions 0, 1, ...; None if actions are continuous."""
    horizon: int
    """Steps after which an episode is truncated."""
    observations: Float32Array
    """[n, observation_size], after the latest step or reset."""
    reward: FloatArray
    """[n], of the latest step."""
    costs: FloatArray
    """[n, p], of the latest step."""
    terminated: BoolArray
    """[n], the environment ended the episode."""
    truncated: BoolArray
    """[n], the horizon ended the episode; can be true together with ``terminated``."""

    def reset(self, copies: NDArray[Any], seeds: NDArray[Any]) -> None:
        """Start a new episode in copy ``copies[k]`` (an index) from ``seeds[k]`` (an integer >= 0), for every k."""

    def step(self, actions: NDArray[Any]) -> None:
        """Step every copy: ``actions`` [n] integers or [n, A] reals, clipped to the action bounds before use.

        Raises:
            TaskError: an action or a result breaks the contract; the message names task, step and copy.
        """

    def close(self) -> None:
        """Release the environments' resources."""


def make_batch(family: TaskFamily, task: Task, num_copies: int) -> BatchEnvironment:
    """The fastest batch for a task: from the family's ``batch`` method, or otherwise a :class:`GymnasiumBatch`.

    Observations of a family with contexts carry the task's context (:mod:`tasks.stepping.context_batch`).
    """
    return with_context(family, task, make_plain_batch(plain_family(family), task, num_copies))


def make_plain_batch(family: TaskFamily, task: Task, num_copies: int) -> BatchEnvironment:
    """As :func:`make_batch`, of a family without contexts."""
    own: Callable[..., BatchEnvironment] | None = getattr(family, "batch", None)
    if own is not None:
        return made(lambda: own(task.parameters, num_copies, label=task.label), task.label)
    return GymnasiumBatch(
        lambda: family.make(task.parameters),
        num_copies,
        len(family.cost_names),
        family.horizon,
        task.label,
        step_seconds(family),
    )


def continuous_actions(
    actions: NDArray[Any], low: Float32Array, high: Float32Array, out: Float32Array, label: str, elapsed: IntArray
) -> None:
    """Write ``actions`` [n, A], clipped to the bounds, to ``out``; raise TaskError for a wrong shape or number."""
    if actions.shape != out.shape:
        raise TaskError(f"{label}: actions must have shape {list(out.shape)}, got {list(actions.shape)}")
    np.maximum(actions, low, out=out, casting="same_kind")
    np.minimum(out, high, out=out)
    if not np.isfinite(actions).all():
        copy = int(np.flatnonzero(~np.isfinite(actions).all(axis=1))[0])
        raise TaskError(f"{label}, step {elapsed[copy] + 1}, copy {copy}: the action {actions[copy]} is not finite")


def discrete_actions(actions: NDArray[Any], num_copies: int, num_actions: int, label: str, elapsed: IntArray) -> None:
    """Raise TaskError unless ``actions`` are [n] integers in 0..num_actions-1."""
    if actions.shape != (num_copies,) or actions.dtype.kind not in "iu":
        raise TaskError(
            f"{label}: actions must be [{num_copies}] integers, got {actions.dtype} of shape {list(actions.shape)}"
        )
    wrong = np.flatnonzero((actions < 0) | (actions >= num_actions))
    if wrong.size:
        copy = int(wrong[0])
        raise TaskError(
            f"{label}, step {elapsed[copy] + 1}, copy {copy}: action {actions[copy]} is not one of 0..{num_actions - 1}"
        )


def check_started(elapsed: IntArray, label: str) -> bool:
    """Return True, or raise TaskError if a copy was never reset (``elapsed`` [n] is -1)."""
    if elapsed.min() < 0:
        raise TaskError(
            f"{label}: copy {int(np.argmin(elapsed))} was never reset; reset every copy before the first step"
        )
    return True


class GymnasiumBatch:
    """Ordinary Gymnasium environments, stepped one after the other, with every number checked.

    ``make`` returns a new environment with a Box observation space (flattened here) and a Discrete or Box action space;
    its ``step`` reports the costs [p] in ``info["cost"]`` or as the third of six values. ``label`` names the task in
    messages. A reset or step of one copy must not take longer than ``seconds``.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env[Any, Any]],
        num_copies: int,
        num_costs: int,
        horizon: int,
        label: str,
        seconds: float = STEP_SECONDS,
    ) -> None:
        if num_copies < 1:
            raise TaskError(f"{label}: a batch needs at least one copy, got {num_copies}")
        self._label, self._seconds, self._current = label, seconds, 0
        self._copies = Copies(make, num_copies, label, _network_fault)
        self._envs: Sequence[gymnasium.Env[Any, Any]] = self._copies.envs
        if "mujoco" in sys.modules:
            from tasks.contract.instability import listen

            listen()
        space = self._envs[0].observation_space
        assert isinstance(space, gymnasium.spaces.Box)
        self._box = space
        self._low, self._high = float32_bounds(space)
        self.num_copies, self.num_costs, self.horizon = num_copies, num_costs, horizon
        self.observation_size = int(self._low.size)
        self.action_low, self.action_high, self.num_actions, self._first_action = _actions_of(self._envs[0])
        self._actions = self._envs[0].action_space
        self._clipped = np.zeros((num_copies, 0 if self.action_low is None else self.action_low.size), np.float32)
        self._elapsed = np.full(num_copies, -1)
        self.observations = np.zeros((num_copies, self.observation_size), np.float32)
        self.reward = np.zeros(num_copies)
        self.costs = np.zeros((num_copies, num_costs))
        self.terminated = np.zeros(num_copies, np.bool_)
        self.truncated = np.zeros(num_copies, np.bool_)

    def reset(self, copies: NDArray[Any], seeds: NDArray[Any]) -> None:
        """See :class:`BatchEnvironment`."""
        try:
            with time_limit(self._seconds, lambda: f"{self._where(self._current)}: reset") as again:
                for copy, seed in zip(copies.tolist(), seeds.tolist(), strict=True):
                    again()
                    self._reset_copy(copy, seed)
            self._check_observations()
        except TaskError as error:
            error.step = int(self._elapsed[self._current])
            raise

    def step(self, actions: NDArray[Any]) -> None:
        """See :class:`BatchEnvironment`."""
        check_started(self._elapsed, self._label)
        given = self._environment_actions(actions)
        try:
            with time_limit(self._seconds, lambda: f"{self._where(self._current)}: step") as again:
                for copy, action in enumerate(given):
                    again()
                    self._step_copy(copy, action)
            np.logical_or(self.truncated, self._elapsed >= self.horizon, out=self.truncated)
            self._check_observations()
        except TaskError as error:
            error.step = int(self._elapsed[self._current])
            raise

    def close(self) -> None:
        """Close every environment."""
        self._copies.close()

    def _reset_copy(self, copy: int, seed: int) -> None:
        env = self._envs[copy]
        self._current, self._elapsed[copy] = copy, 0
        try:
            result = env.reset(seed=seed)
        except BaseException as error:
            raise failure(error, self._where(copy), returned.raised("reset", error, seed)) from error
        returned.space_stays(env.observation_space, self._box, self._here)
        returned.space_stays(env.action_space, self._actions, self._here)
        self._observe(copy, returned.first_observation(result, self._here))

    def _step_copy(self, copy: int, action: Any) -> None:
        self._current = copy
        self._elapsed[copy] += 1
        try:
            result = self._envs[copy].step(action)
        except BaseException as error:
            raise failure(error, self._where(copy), returned.raised("step", error)) from error
        self._check_stable(copy, action)
        observation, reward, terminated, truncated, info = returned.step_values(result, self._here)
        self._observe(copy, observation)
        self.reward[copy] = returned.number(reward, "the reward", self._here)
        self.costs[copy] = returned.costs(info, self.num_costs, self._here)
        self.terminated[copy], self.truncated[copy] = terminated, truncated

    def _check_stable(self, copy: int, action: Any) -> None:
        """Raise TaskError if MuJoCo has warned since the reset; Gymnasium's robots keep MuJoCo's data in ``data``."""
        warnings = getattr(getattr(self._envs[copy].unwrapped, "data", None), "warning", None)
        counts = getattr(warnings, "number", None)
        if not isinstance(counts, np.ndarray) or not counts.any():
            return
        from tasks.contract.instability import warning_texts

        raise TaskError(
            f"{self._where(copy)}: MuJoCo warns: {warning_texts(counts)} "
            f"Observation before the step: {self.observations[copy].tolist()}, action {np.ravel(action).tolist()}"
        )

    def _environment_actions(self, actions: NDArray[Any]) -> Sequence[Any]:
        if self.num_actions is not None:
            discrete_actions(actions, self.num_copies, self.num_actions, self._label, self._elapsed)
            return [self._first_action + action for action in actions.tolist()]
        assert self.action_low is not None
        assert self.action_high is not None
        continuous_actions(actions, self.action_low, self.action_high, self._clipped, self._label, self._elapsed)
        return list(self._clipped.copy().reshape(self.num_copies, *(self._actions.shape or ())))

    def _where(self, copy: int) -> str:
        return f"{self._label}, step {self._elapsed[copy]}, copy {copy}"

    def _here(self) -> str:
        return self._where(self._current)

    def _observe(self, copy: int, observation: object) -> None:
        box = self._box
        if not isinstance(observation, np.ndarray) or observation.dtype != box.dtype or observation.shape != box.shape:
            raise TaskError(f"{self._where(copy)}: {form_fault(observation, box)}")
        if box.dtype.itemsize <= _SINGLE:
            self.observations[copy] = observation.ravel()
            return
        with np.errstate(over="ignore"):  # too large a number becomes infinite, and is found below
            self.observations[copy] = observation.ravel()

    def _check_observations(self) -> None:
        right = (self.observations >= self._low) & (self.observations <= self._high) & np.isfinite(self.observations)
        right[self._elapsed < 0] = True
        if right.all():
            return
        copy = int(np.argwhere(~right)[0][0])
        raise TaskError(f"{self._where(copy)}: {value_fault(self._box, self.observations[copy])}")


def _network_fault(observations: Any, actions: Any) -> str | None:
    """Why a network cannot be learned over these spaces; None where it can."""
    if isinstance(observations, gymnasium.spaces.Discrete):
        return f"observations must come from a Box space, got {observations}"
    return space_fault(observations, actions)


def _actions_of(env: gymnasium.Env[Any, Any]) -> tuple[Float32Array | None, Float32Array | None, int | None, int]:
    """Bounds [A] of a Box or the number of discrete actions, and the first discrete action."""
    space = env.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return None, None, int(space.n), int(space.start)
    assert isinstance(space, gymnasium.spaces.Box)
    return *float32_bounds(space), None, 0
