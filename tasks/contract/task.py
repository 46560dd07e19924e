"""The contract of a task and of a family of tasks."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import gymnasium

from tasks.contract.tabular_model import TabularModel

Split = Literal["train", "test"]
Origin = Split | Literal["own"]
"""Where a task comes from: drawn for a split, or own, made from parameters that somebody gave."""
Parameters = Mapping[str, Any]
"""The varying parameters of a task as JSON-like values (strings, numbers, lists)."""


_LONGEST_LABEL, _LONGEST_STEM = 80, 40


class TaskError(ValueError):
    """A task cannot be used; the message names the family and the task, and what would be right.

    ``step`` is the step of the episode in which its environment failed, where that is known.
    """

    step: int | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One constrained MDP of a family, in a few kilobytes that pickle by value; it holds no open environment.

    ``limits`` [p] are d_1..d_p on the expected discounted cost; ``seed`` determines every random number of the task.
    ``index`` is the place of a drawn task in its split, and of an own task in the list that it was given in.
    """

    family: str
    split: Origin
    index: int
    seed: int
    parameters: Parameters
    limits: tuple[float, ...]

    @property
    def label(self) -> str:
        """The name of this task in messages, logs and dashboards."""
        if self.split != "own":
            return f"{self.family}/{self.split}/{self.index}"
        told = ", ".join(f"{name}: {_short(value)}" for name, value in self.parameters.items())
        room = _LONGEST_LABEL - len(self.family)
        return f"{self.family} own {{{told if len(told) <= room else told[: room - 3] + '...'}}}"

    @property
    def stem(self) -> str:
        """The stem of this task's files, without a dot; an own task's has parameters if there is room, and a digest."""
        if self.split != "own":
            return f"{self.split}-{self.index}"
        plain = {name: value for name, value in self.parameters.items() if not isinstance(value, list | dict)}
        told = "-".join(f"{name}-{_short(value)}" for name, value in plain.items())
        content = json.dumps([dict(self.parameters), self.limits], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:6]
        readable = re.sub(r"[^\w-]+", "_", told, flags=re.ASCII)[:_LONGEST_STEM].strip("_-")
        return "-".join(part for part in ("own", readable, digest) if part)


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@runtime_checkable
class TaskFamily(Protocol):
    """A distribution over constrained MDPs that share states, actions and costs.

    The class is called with ``seed``, ``num_tasks`` (the length of the training sequence) and its own parameters, all
    by keyword. Drawing is pure: equal arguments always give equal parameters.
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
        """The parameters of a task; ``attempt`` counts redraws after draws whose constraint cannot bind."""

    def make(self, parameters: Parameters) -> gymnasium.Env[Any, Any]:
        """A new environment whose ``step`` reports the p costs in ``info["cost"]``."""

    def model(self, parameters: Parameters) -> TabularModel | None:
        """The exact model, or None (then only sampled evaluation works)."""

    def limits(self, parameters: Parameters) -> tuple[float, ...] | float:
        """Limits [p], or a fraction of the way from the least reachable cost to the unconstrained optimum's cost."""
