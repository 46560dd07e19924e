"""Families that note what is done with them, die, wait or break their contract at a chosen task."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from tasks.contract.tabular_model import TabularModel
from tasks.contract.task import Parameters, Split
from tasks.lakes.frozen_lake import FrozenLake
from tests.support.point_batch import PointBatch, PointFamily
from tests.support.user_families import CourierFamily


class NotedLake(FrozenLake):
    """FrozenLake that writes a line to ``folder`` for every task that is run in an environment (with one copy of it).

    ``kill`` names a training task whose environment kills its own process in its fourth step, the first ``kills``
    times. ``hold`` names one that waits in its fourth step until ``folder`` has a file ``go``.
    """

    folder: str
    kill: int = -1
    kills: int = 1
    hold: int = -1

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        return {**super().parameters(split, index, attempt), "split": split, "index": index}

    def make(self, parameters: Parameters) -> gymnasium.Env[Any, Any]:
        return _Noted(super().make(parameters), self, f"{parameters['split']}/{parameters['index']}")


class _Noted(gymnasium.Wrapper[Any, Any, Any, Any]):
    def __init__(self, env: gymnasium.Env[Any, Any], family: NotedLake, task: str) -> None:
        super().__init__(env)
        self._family, self._task, self._steps = family, task, 0

    def step(self, action: Any) -> Any:
        if self._steps == 0:
            note(self._family.folder, "runs", self._task)
        self._steps += 1
        if self._steps == 4 and self._task == f"train/{self._family.kill}":
            self._die()
        if self._steps == 4 and self._task == f"train/{self._family.hold}":
            self._wait()
        return self.env.step(action)

    def _die(self) -> None:
        if len(notes(self._family.folder, "deaths")) < self._family.kills:
            note(self._family.folder, "deaths", self._task)
            os.kill(os.getpid(), signal.SIGKILL)

    def _wait(self) -> None:
        note(self._family.folder, "waiting", str(os.getpid()))
        while not (Path(self._family.folder) / "go").exists():
            time.sleep(0.02)


@dataclasses.dataclass(frozen=True)
class NotedPoints(PointFamily):
    """Points on a line; notes in ``folder`` every task that is run. ``kill`` as for :class:`NotedLake`, once."""

    folder: str = ""
    kill: int = -1

    def batch(self, parameters: Parameters, num_copies: int, label: str) -> PointBatch:
        return _NotedPoint(self, parameters, num_copies)


class _NotedPoint(PointBatch):
    def __init__(self, family: NotedPoints, parameters: Parameters, num_copies: int) -> None:
        costs = len(family.cost_names)
        super().__init__(num_copies, family.horizon, costs, discrete=family.discrete, push=parameters["push"])
        self._family, self._task, self._steps = family, parameters["task"], 0

    def step(self, actions: Any) -> None:
        folder = self._family.folder
        if folder and self._steps == 0:
            note(folder, "runs", self._task)
        self._steps += 1
        if self._steps == 4 and self._task == f"train/{self._family.kill}" and not notes(folder, "deaths"):
            note(folder, "deaths", self._task)
            os.kill(os.getpid(), signal.SIGKILL)
        super().step(actions)


def note(folder: str | Path, name: str, line: str) -> None:
    """Append a line to a file that several processes write to."""
    with (Path(folder) / name).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def notes(folder: str | Path, name: str) -> list[str]:
    """The lines noted so far."""
    path = Path(folder) / name
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


class FaultyAt(CourierFamily):
    """A courier whose environment breaks its contract only in training task 2."""

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        return {**super().parameters(split, index, attempt), "sound": split == "test" or index != 2}

    def make(self, parameters: Parameters) -> gymnasium.Env[Any, Any]:
        env = super().make(parameters)
        return env.env if parameters["sound"] and isinstance(env, gymnasium.Wrapper) else env


class HangsAt(CourierFamily):
    """A courier whose environment hangs in the third step of training task 2."""

    step_seconds = 0.3

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        return {**super().parameters(split, index, attempt), "hangs": split == "train" and index == 2}

    def make(self, parameters: Parameters) -> gymnasium.Env[Any, Any]:
        env = super().make(parameters)
        return _Hanging(env) if parameters["hangs"] else env


class _Hanging(gymnasium.Wrapper[Any, Any, Any, Any]):
    _steps = 0

    def step(self, action: Any) -> Any:
        self._steps += 1
        if self._steps == 3:
            time.sleep(30.0)
        return self.env.step(action)


class LongLimits(CourierFamily):
    """Three limits for two costs."""

    def limits(self, parameters: Parameters) -> tuple[float, ...] | float:
        return (1.0, 1.0, 1.0)


class OddNames(CourierFamily):
    """A task parameter with a name that MLflow does not take."""

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        return {**super().parameters(split, index, attempt), "load {kg} = a": 1.5}


class NeverBinds(CourierFamily):
    """The reward never opposes a cost: there is none."""

    def model(self, parameters: Parameters) -> TabularModel | None:
        model = super().model(parameters)
        assert model is not None
        return dataclasses.replace(model, reward=0.0 * model.reward)


class BrokenModel(CourierFamily):
    """An exact model with a reward that is no number."""

    def model(self, parameters: Parameters) -> TabularModel | None:
        model = super().model(parameters)
        assert model is not None
        return dataclasses.replace(model, reward=np.nan * model.reward)


def counts(lines: list[str]) -> dict[str, int]:
    """How often each line occurs."""
    return {line: lines.count(line) for line in sorted(set(lines))}


def modules_of_the_driver(actor: Any) -> list[str]:
    """Which modules that only the driver needs are imported in the process of ``actor``."""
    del actor
    return [name for name in ("mlflow", "distributed.tracking", "distributed.tracking.outbox") if name in sys.modules]


class FailingLake(FrozenLake):
    """FrozenLake with tasks that fail in their fourth step, in the ``how`` that ``fails`` gives by split and index.

    Each task fails the first ``times`` times; ``folder`` has a line for every failure.
    """

    folder: str
    fails: dict[str, str]
    times: int = 99

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        return {**super().parameters(split, index, attempt), "name": f"{split}/{index}"}

    def make(self, parameters: Parameters) -> gymnasium.Env[Any, Any]:
        env, how = super().make(parameters), self.fails.get(parameters["name"])
        return env if how is None else _Failing(env, self, parameters["name"], how)


class _Failing(gymnasium.Wrapper[Any, Any, Any, Any]):
    def __init__(self, env: gymnasium.Env[Any, Any], family: FailingLake, task: str, how: str) -> None:
        super().__init__(env)
        self._family, self._task, self._how, self._steps = family, task, how, 0

    def step(self, action: Any) -> Any:
        self._steps += 1
        if self._steps == 4 and notes(self._family.folder, "failures").count(self._task) < self._family.times:
            note(self._family.folder, "failures", self._task)
            fail(self._how)
        return self.env.step(action)


def fail(how: str) -> None:
    """Do what an environment of a user may do."""
    match how:
        case "raise":
            raise ArithmeticError("the integrator failed")
        case "exit":
            sys.exit()
        case "leave":
            os._exit(0)
        case "interrupt":
            raise KeyboardInterrupt
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "signal":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5.0)
