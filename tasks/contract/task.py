"""The contract of a task and of a family of tasks."""

from __future__ import annotations

import hashlib
import json
import math
import numbers
import re
from collections.abc import Mapping, Sequence
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


def numbers_fault(family: object) -> str | None:
    """What is wrong with the costs' names, the discount or the horizon of a family; None where nothing is."""
    names, discount, horizon = (getattr(family, part) for part in ("cost_names", "discount", "horizon"))
    if not isinstance(names, tuple) or not names or not all(isinstance(one, str) and one for one in names):
        return f"cost_names must be a tuple of at least one name, got {names!r}"
    if len(set(names)) < len(names):
        return f"cost_names must differ from each other, got {names!r}"
    if not isinstance(discount, numbers.Real) or not 0.0 < float(discount) < 1.0:
        return (
            f"discount must lie strictly between 0 and 1, got {discount!r}; for limits on plain sums of costs set "
            "within_task.returns to episodic (with algorithm neural_crpo) and keep a discount such as 0.99 for learning"
        )
    if not isinstance(horizon, numbers.Integral) or int(horizon) < 1:
        return f"horizon must be a whole number of steps of at least 1, got {horizon!r}"
    return None


def limits_fault(limits: Sequence[float], names: Sequence[str]) -> str | None:
    """What is wrong with given limits on the costs called ``names``; None where nothing is."""
    if len(limits) != len(names):
        return f"{len(limits)} limit(s) for {len(names)} cost(s) ({', '.join(names)}); give one for each"
    try:
        right = all(math.isfinite(limit) and limit >= 0.0 for limit in limits)
    except TypeError:
        right = False
    return None if right else f"limits must be finite and not negative, got {list(limits)}"


def fraction_fault(fraction: float) -> str | None:
    """What is wrong with a limit fraction; None where nothing is."""
    return None if 0.0 < fraction < 1.0 else f"the limit fraction must lie strictly between 0 and 1, got {fraction:g}"


NEEDS_MODEL = "a limit fraction needs an exact model; give the limits themselves instead"
"""What is wrong with a limit fraction of a family without a model."""


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
