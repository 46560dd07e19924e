"""Copies of a user's environment: made, told apart, compared, and closed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import gymnasium

from tasks.contract.task import TaskError
from tasks.contract.timeout import made


class WorkingDirectory:
    """The working directory at the time this is made; user code may change it, :meth:`restore` goes back."""

    def __init__(self) -> None:
        self._path: str | None = None
        with contextlib.suppress(OSError):
            self._path = os.getcwd()

    def restore(self) -> None:
        """Go back, if the directory was changed and still exists."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                os.chdir(self._path)


class Copies:
    """``count`` environments from ``make``, each an object of its own, all with the spaces of the first.

    :meth:`close` closes them and goes back to the working directory in which they were made, since an environment may
    have changed it.

    Args:
        make: returns a new environment.
        count: how many.
        label: names the task in messages.
        fault: why an environment with these spaces cannot be solved; None where it can.

    Raises:
        TaskError: ``make`` raises, gives something else than an environment, or gives one twice; or the spaces fail.
    """

    def __init__(
        self, make: Callable[[], Any], count: int, label: str, fault: Callable[[Any, Any], str | None]
    ) -> None:
        self._before = WorkingDirectory()
        self.envs: list[gymnasium.Env[Any, Any]] = []
        try:
            for _ in range(count):
                self.envs.append(_made(make, label))
            self._require_own(label)
            self._require_spaces(label, fault)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close every environment."""
        try:
            for env in self.envs:
                if isinstance(env, gymnasium.Env):
                    env.close()  # type: ignore[no-untyped-call]
        finally:
            self._before.restore()

    def _require_own(self, label: str) -> None:
        first: dict[int, int] = {}
        for number, env in enumerate(self.envs):
            earlier = first.setdefault(id(env.unwrapped), number)
            if earlier != number:
                raise TaskError(
                    f"{label}: make gave one {type(env.unwrapped).__name__} for copies {earlier} and {number}; copies "
                    "are stepped in turn, so make must return a new environment, with a state of its own, at each call"
                )

    def _require_spaces(self, label: str, fault: Callable[[Any, Any], str | None]) -> None:
        spaces = [(getattr(env, "observation_space", None), getattr(env, "action_space", None)) for env in self.envs]
        found = fault(*spaces[0])
        if found is not None:
            raise TaskError(f"{label}: {found}")
        for number, pair in enumerate(spaces):
            for now, wanted in zip(pair, spaces[0], strict=True):
                if now is not wanted and now != wanted:
                    raise TaskError(f"{label}: copy 0 has {wanted}, copy {number} has {now}; copies need the same")


def _made(make: Callable[[], Any], label: str) -> gymnasium.Env[Any, Any]:
    env = made(make, label)
    if not isinstance(env, gymnasium.Env):
        raise TaskError(f"{label}: make must return a gymnasium.Env, got {type(env).__name__}")
    return env
