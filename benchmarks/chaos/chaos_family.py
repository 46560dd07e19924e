"""Lakes that take their time, and some of whose environments fail: the family under ``make chaos``."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium

from tasks.contract.task import Parameters, Split
from tasks.lakes.frozen_lake import FrozenLake


class ChaosLake(FrozenLake):
    """FrozenLake whose training tasks fail as ``fails`` says by index, the first ``times`` times each.

    ``folder`` has a line for every failure; each reset takes ``pause`` seconds, so that a fault meets a task under way.
    """

    folder: str
    fails: dict[str, str]
    times: int = 99
    pause: float = 0.0

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        """As a lake's, with the name that ``fails`` uses."""
        return {**super().parameters(split, index, attempt), "name": f"{split}-{index}"}

    def make(self, parameters: Parameters, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
        """A lake that may fail."""
        return _Chaos(super().make(parameters, render_mode), self, str(parameters["name"]))


class _Chaos(gymnasium.Wrapper[Any, Any, Any, Any]):
    def __init__(self, env: gymnasium.Env[Any, Any], family: ChaosLake, task: str) -> None:
        super().__init__(env)
        self._family, self._task = family, task
        self._notes = Path(family.folder) / f"{task}.failures"

    def reset(self, **keywords: Any) -> Any:
        """Reset, after a pause, or fail."""
        time.sleep(self._family.pause)
        how = self._family.fails.get(self._task)
        failures = self._notes.read_text().count("x") if self._notes.exists() else 0
        if how is not None and failures < self._family.times:
            with self._notes.open("a") as file:
                file.write("x")
            _fail(how)
        return self.env.reset(**keywords)


def _fail(how: str) -> None:
    if how == "raise":
        raise ArithmeticError("the integrator failed")
    if how == "exit":
        sys.exit()
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "leave":
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
