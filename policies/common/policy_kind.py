"""Kinds of policy: everything that differs between a table and a network, in one place.

A kind is a class with the methods of :class:`PolicyKind`. The registry :mod:`policies.solving.algorithms` finds the
kind of a within-task algorithm and of a policy; an unknown one is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from policies.common.policy import Policy, PolicyT
from policies.common.results import Start, TaskResult
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskFamily

SettingsT = TypeVar("SettingsT", contravariant=True)
DatasetT = TypeVar("DatasetT", covariant=True)
PlayedStep = tuple[float, FloatArray, bool]
"""Reward, costs [p], and whether the step is the episode's last."""


@dataclass(frozen=True)
class Spaces:
    """What a policy takes and returns.

    ``observation``: number of states (tabular) or of numbers in an observation. ``actions``: number of actions, 0 where
    they are vectors within ``low`` and ``high`` [k] (None: not bounded).
    """

    tabular: bool
    observation: int
    actions: int
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()

    def __str__(self) -> str:
        taken = f"{self.observation} states" if self.tabular else f"observations of {self.observation} numbers"
        return f"{taken}, " + (f"{self.actions} actions" if self.actions else f"actions of {len(self.low)} numbers")

    @property
    def sizes(self) -> tuple[bool, int, int, int]:
        """The part that two spaces must share for a policy to fit both; bounds may differ."""
        return self.tabular, self.observation, self.actions, len(self.low)


@dataclass(frozen=True)
class Settled:
    """A task with its context: the ``family`` that gives it, the ``start`` for it, and what finding it took.

    ``context`` [k] is normalised, None where tasks have none.
    """

    family: TaskFamily
    start: Start
    context: FloatArray | None = None
    steps: int = 0


class PolicyKind(Protocol[PolicyT, SettingsT, DatasetT]):
    """One kind of policy, with the settings of its within-task algorithm and the datasets that it produces."""

    name: str
    """Name of the kind in files."""

    def owns(self, policy: Policy) -> bool:
        """Whether ``policy`` is of this kind."""

    def fresh(self, family: TaskFamily, task: Task, settings: SettingsT, seed: int) -> PolicyT:
        """The policy that has learned nothing; ``task`` has the shapes.

        Raises:
            TaskError: the settings do not fit the task.
        """

    def settle(self, family: TaskFamily, task: Task, start: Start, settings: SettingsT) -> Settled:
        """Find the context of ``task``, where it is hidden, and the start for it; without contexts nothing changes.

        Raises:
            TaskError: the context does not fit the training tasks, or the environment breaks its contract.
        """

    def solve(
        self,
        family: TaskFamily,
        task: Task,
        start: Start,
        settings: SettingsT,
        *,
        collect: bool,
        on_iteration: Callable[[int], None],
    ) -> tuple[TaskResult, DatasetT | None]:
        """Solve ``task`` from ``start``; with ``collect`` also return the dataset for the meta-learner.

        Raises:
            TaskError: the environment breaks its contract, or the start or a setting does not fit the task.
        """

    def values(
        self,
        family: TaskFamily,
        task: Task,
        policies: Sequence[Policy],
        settings: SettingsT,
        episodes: int | None,
    ) -> tuple[FloatArray, int]:
        """J [K, 1+p] of ``policies`` on ``task`` from short rollouts, and the environment steps that they took.

        ``episodes`` of each policy are run; None runs as many as an iteration has.

        Raises:
            TaskError: the environment breaks its contract, or a policy does not fit the task.
        """

    def act(self, policy: PolicyT, observations: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Actions drawn from ``policy`` for observations [n] (states) or [n, d]."""

    def most_probable(self, policy: PolicyT, observations: NDArray[Any]) -> NDArray[Any]:
        """The most probable actions for observations [n] (states) or [n, d]; of a Gaussian the means."""

    def play(
        self, env: gymnasium.Env[Any, Any], family: TaskFamily, task: Task, policy: PolicyT, seed: int
    ) -> Iterator[PlayedStep]:
        """One episode in ``env``: the start (no reward, no costs), then each step.

        Raises:
            TaskError: the policy does not fit, or the environment breaks its contract.
        """

    def spaces(self, family: TaskFamily, task: Task) -> Spaces:
        """The spaces of a family's tasks.

        Raises:
            TaskError: they are not of the kind that the algorithm needs.
        """

    def to_arrays(self, policy: PolicyT) -> dict[str, NDArray[Any]]:
        """The policy as named arrays, as safetensors stores it."""

    def from_arrays(self, arrays: Mapping[str, NDArray[Any]], spaces: Spaces) -> PolicyT:
        """The inverse of :meth:`to_arrays`.

        Raises:
            ValueError: an array is missing or does not fit ``spaces``.
        """
