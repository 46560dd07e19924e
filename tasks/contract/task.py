"""What a task and a family of tasks are: the contract between a user's problem and everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import gymnasium

from tasks.contract.tabular_model import TabularModel

Split = Literal["train", "test"]
Parameters = Mapping[str, Any]
"""JSON-like values (strings, numbers, lists): what varies between the tasks of a family."""


class TaskError(ValueError):
    """A task that cannot be used; the message names the family, the task and what would be right."""


@dataclass(frozen=True, slots=True)
class Task:
    """One constrained MDP of a family: a few kilobytes that pickle by value, never an open environment.

    ``limits`` [p] are d_1..d_p on the expected discounted cost; ``seed`` starts every random number of the task.
    """

    family: str
    split: Split
    index: int
    seed: int
    parameters: Parameters
    limits: tuple[float, ...]

    @property
    def label(self) -> str:
        """How messages, logs and dashboards call this task."""
        return f"{self.family}/{self.split}/{self.index}"


@runtime_checkable
class TaskFamily(Protocol):
    """A distribution over constrained MDPs that share states, actions and costs.

    A family is a class made with ``seed``, ``num_tasks`` (length of the training sequence) and its own parameters, all
    by keyword. Drawing is pure: the same arguments always give the same parameters.
    """

    @property
    def cost_names(self) -> tuple[str, ...]:
        """Names of the p costs, in the order of ``info["cost"]``."""

    @property
    def discount(self) -> float:
        """gamma, strictly between 0 and 1."""

    @property
    def horizon(self) -> int:
        """Steps after which an episode is truncated."""

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        """Parameters of a task; ``attempt`` counts redraws after a draw whose constraint could not bind."""

    def make(self, parameters: Parameters) -> gymnasium.Env[Any, Any]:
        """A fresh environment whose ``step`` reports the p costs in ``info["cost"]``."""

    def model(self, parameters: Parameters) -> TabularModel | None:
        """The exact model, or None where there is none (then only sampled evaluation works)."""

    def limits(self, parameters: Parameters) -> tuple[float, ...] | float:
        """Limits [p], or a fraction: how far from the least reachable cost to the unconstrained optimum's cost."""
