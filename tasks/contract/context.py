"""Contexts: what is known of a task, as a vector of named numbers that a start can depend on.

By default the context holds the numbers of the task's parameters, and on request its limits. A family may define its
own: a method ``context(parameters)`` that returns numbers by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError, TaskFamily

Distance = Literal["differing", "euclidean"]
"""How far two contexts are apart: the number of entries that differ, or the length of their scaled difference."""


class ContextError(TaskError):
    """A context that cannot be used; the message names the entry."""


def raw_context(family: TaskFamily, task: Task, *, limits: bool) -> dict[str, float]:
    """The context of ``task`` by entry: the family's own, or the numbers of its parameters; with ``limits`` d_i too.

    Raises:
        ContextError: an entry is not a finite number, or the task has no numbers.
    """
    own = getattr(family, "context", None)
    parts = dict(own(task.parameters)) if own is not None else dict(numbers_in(task.parameters))
    if limits:
        parts |= {f"limit of {name}": limit for name, limit in zip(family.cost_names, task.limits, strict=True)}
    if not parts:
        raise ContextError(
            f"{task.label}: its parameters hold no numbers to make a context of; give the family a method "
            "context(parameters), or set meta.context to learned or none"
        )
    found: dict[str, float] = {}
    for name, value in parts.items():
        if isinstance(value, bool | str) or not isinstance(value, int | float | np.number):
            raise ContextError(f"{task.label}: the context's entry {name} must be a number, got {value!r}")
        if not math.isfinite(value):
            raise ContextError(f"{task.label}: the context's entry {name} is {value}; it must be finite")
        found[name] = float(value)
    return found


def numbers_in(parameters: Mapping[str, Any]) -> Sequence[tuple[str, float]]:
    """The numbers among parameters: a name for each, lists with their positions."""
    found: list[tuple[str, float]] = []
    for name, value in parameters.items():
        entries = list(enumerate(value)) if isinstance(value, list | tuple) else [(None, value)]
        for place, entry in entries:
            if isinstance(entry, int | float) and not isinstance(entry, bool):
                found.append((name if place is None else f"{name}[{place}]", entry))
    return found


def context_distance(family: TaskFamily) -> Distance:
    """How contexts of the family are compared: its own ``context_distance``, else by their scaled difference."""
    return getattr(family, "context_distance", "euclidean")


@dataclass(frozen=True, eq=False)
class ContextSpace:
    """The contexts of a family's training tasks: names [k] of the entries, and what normalises them.

    ``mean`` and ``scale`` [k] are taken over tasks, not over steps; ``low`` and ``high`` [k] are the training range.
    ``limits``: whether the limits are part of it. ``distance`` compares two contexts.
    """

    names: tuple[str, ...]
    mean: FloatArray
    scale: FloatArray
    low: FloatArray
    high: FloatArray
    limits: bool
    distance: Distance = "euclidean"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ContextSpace) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.names, self.limits))

    def to_json(self) -> dict[str, Any]:
        """The space as JSON."""
        numbers = {name: getattr(self, name).tolist() for name in ("mean", "scale", "low", "high")}
        return {"names": list(self.names), "limits": self.limits, "distance": self.distance, **numbers}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> ContextSpace:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: a part is missing, of another length or not finite.
        """
        names, limits = tuple(map(str, content["names"])), bool(content["limits"])
        parts = [np.array(content[name], np.float64) for name in ("mean", "scale", "low", "high")]
        if not names or any(part.shape != (len(names),) or not np.isfinite(part).all() for part in parts):
            raise ValueError(f"a context of {len(names)} entries needs as many finite numbers of each kind")
        mean, scale, low, high = parts
        if content["distance"] not in get_args(Distance):
            raise ValueError(f"distance must be one of {', '.join(get_args(Distance))}, got {content['distance']!r}")
        return ContextSpace(names, mean, scale, low, high, limits, content["distance"])

    @property
    def size(self) -> int:
        """k."""
        return len(self.names)

    def entries(self, context: FloatArray) -> dict[str, float]:
        """A normalised ``context`` [k] in the family's own units, by entry."""
        return dict(zip(self.names, (context / self.scale + self.mean).tolist(), strict=True))

    def of(self, family: TaskFamily, task: Task) -> FloatArray:
        """The normalised context [k] of ``task``.

        Raises:
            ContextError: it has other entries than the training tasks.
        """
        return self.normalized(raw_context(family, task, limits=self.limits), task.label)

    def normalized(self, entries: Mapping[str, float], label: str) -> FloatArray:
        """(c - mean) / scale [k].

        Raises:
            ContextError: an entry is missing or unknown; the message names it.
        """
        missing = [name for name in self.names if name not in entries]
        unknown = [name for name in entries if name not in self.names]
        if missing or unknown:
            what = f"lacks {', '.join(missing)}" if missing else f"has the unknown entry {', '.join(unknown)}"
            raise ContextError(f"{label}: its context {what}; training tasks have {', '.join(self.names)}")
        for name, value in entries.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ContextError(f"{label}: the context's entry {name} must be a finite number, got {value!r}")
        values = np.array([entries[name] for name in self.names], np.float64)
        return np.asarray((values - self.mean) * self.scale)

    def outside(self, context: FloatArray, effects: NDArray[np.int64] | None = None) -> list[str]:
        """The entries of a normalised ``context`` [k] outside the training range, each with value and range.

        With ``effects`` [E, 4], rows (state, action, entry, number of the weight), an entry is not outside where most
        of its effects have weights that other entries share, which had such values in training.
        """
        values = context / self.scale + self.mean
        wrong = _beyond(values, self.low, self.high)
        if effects is not None:
            wrong &= self._told_by_others(values, effects[:, 2], effects[:, 3]) <= 0.5
        return [
            f"{name} {value:.6g} (trained on {low:.6g} to {high:.6g})"
            for name, value, low, high, out in zip(self.names, values, self.low, self.high, wrong, strict=True)
            if out
        ]

    def _told_by_others(self, values: FloatArray, entry: NDArray[np.int64], weight: NDArray[np.int64]) -> FloatArray:
        """Share [k] of each entry's effects whose weight was trained on such values, by entries that vary."""
        varies = (self.low < self.high)[entry]
        low, high = (np.full(int(weight.max(initial=-1)) + 1, bound) for bound in (np.inf, -np.inf))
        np.minimum.at(low, weight[varies], self.low[entry[varies]])
        np.maximum.at(high, weight[varies], self.high[entry[varies]])
        trained = low <= high
        low, high = np.where(trained, low, 0.0), np.where(trained, high, 0.0)
        told = trained[weight] & ~_beyond(values[entry], low[weight], high[weight])
        counts = np.bincount(entry, minlength=self.size)
        return np.asarray(np.bincount(entry, told, self.size) / np.maximum(counts, 1))


def _beyond(values: FloatArray, low: FloatArray, high: FloatArray) -> NDArray[np.bool_]:
    """Which values lie outside their range by more than rounding."""
    slack = 1e-9 * np.maximum(np.abs(low), np.abs(high))
    return (values < low - slack) | (values > high + slack)


def raw_contexts(family: TaskFamily, tasks: Sequence[Task], *, limits: bool) -> list[dict[str, float]]:
    """:func:`raw_context` of every task.

    Raises:
        ContextError: as there, or tasks have different entries.
    """
    raw = [raw_context(family, task, limits=limits) for task in tasks]
    names = tuple(raw[0])
    for task, entries in zip(tasks, raw, strict=True):
        if tuple(entries) != names:
            raise ContextError(
                f"{task.label}: its context has {len(entries)} entries ({', '.join(entries)}), {tasks[0].label} has "
                f"{len(names)} ({', '.join(names)}); all tasks of a family need the same"
            )
    return raw


def context_space(family: TaskFamily, tasks: Sequence[Task], *, limits: bool) -> tuple[ContextSpace, FloatArray]:
    """The space of the training ``tasks``, and their normalised contexts [T, k].

    Raises:
        ContextError: tasks have different entries, or an entry is the same in all of them.
    """
    raw = raw_contexts(family, tasks, limits=limits)
    names = tuple(raw[0])
    values = np.array([list(entries.values()) for entries in raw])
    spread = values.std(axis=0)
    constant = spread <= 1e-12 * np.maximum(1.0, np.abs(values).max(axis=0))
    own = getattr(family, "context_distance", None)
    if constant.any() and own is None:
        name = names[int(np.flatnonzero(constant)[0])]
        raise ContextError(
            f"{tasks[0].family}: the context's entry {name} is {values[0, int(np.flatnonzero(constant)[0])]:g} in all "
            f"{len(tasks)} training tasks, so nothing can be learned of it; leave it out of context(parameters), "
            "vary it, or set meta.context to none"
        )
    scale = np.where(constant, 1.0, 1.0 / np.where(constant, 1.0, spread))
    space = ContextSpace(
        names, values.mean(axis=0), scale, values.min(axis=0), values.max(axis=0), limits, context_distance(family)
    )
    return space, np.asarray((values - space.mean) * space.scale)
