"""A family whose tasks carry a context: what is known of a task beyond its observations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tasks.contract.context import ContextError, ContextSpace
from tasks.contract.tabular_model import FloatArray, TabularModel
from tasks.contract.task import Parameters, Split, Task, TaskFamily


@dataclass(frozen=True, eq=False)
class Contexts:
    """The contexts of a run: their ``space``, and the normalised contexts ``known`` [T, k] of the training tasks.

    ``hidden``: a new task does not reveal its context; it is found by a first batch of rollouts. ``latent``: the family
    tells nothing of its tasks, and the contexts are learned: ``known`` are random until a start carries them, hidden.
    ``effects`` [E, 4] are the family's context_effects(), completed; a start carries those that it was learned with,
    so no file holds them here.
    """

    space: ContextSpace
    known: FloatArray
    hidden: bool
    latent: bool = False
    effects: NDArray[np.int64] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Contexts) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.space, self.hidden))

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON."""
        content = {"space": self.space.to_json(), "known": self.known.tolist(), "hidden": self.hidden}
        return content | ({"latent": True} if self.latent else {})

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Contexts:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: a part is of another shape or not finite.
        """
        space, known = ContextSpace.from_json(content["space"]), np.array(content["known"], np.float64)
        if known.ndim != 2 or known.shape[1] != space.size or not len(known) or not np.isfinite(known).all():
            raise ValueError(f"known contexts must be finite numbers [T, {space.size}], got shape {list(known.shape)}")
        return Contexts(space, known, bool(content["hidden"]), bool(content.get("latent", False)))


@dataclass(frozen=True)
class ContextualFamily:
    """``plain`` with contexts; a :class:`tasks.contract.task.TaskFamily`.

    Batches of its tasks append the normalised context to every observation (``tasks.stepping``). ``chosen`` [k] is the
    context of every task of this object, where one was found.
    """

    plain: TaskFamily
    contexts: Contexts
    chosen: tuple[float, ...] | None = None

    @property
    def cost_names(self) -> tuple[str, ...]:
        """See :class:`tasks.contract.task.TaskFamily`."""
        return self.plain.cost_names

    @property
    def discount(self) -> float:
        """See :class:`tasks.contract.task.TaskFamily`."""
        return self.plain.discount

    @property
    def horizon(self) -> int:
        """See :class:`tasks.contract.task.TaskFamily`."""
        return self.plain.horizon

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        """See :class:`tasks.contract.task.TaskFamily`."""
        return self.plain.parameters(split, index, attempt)

    def make(self, parameters: Parameters) -> gymnasium.Env[Any, Any]:
        """A new environment; its observations carry no context."""
        return self.plain.make(parameters)

    def model(self, parameters: Parameters) -> TabularModel | None:
        """See :class:`tasks.contract.task.TaskFamily`."""
        return self.plain.model(parameters)

    def limits(self, parameters: Parameters) -> tuple[float, ...] | float:
        """See :class:`tasks.contract.task.TaskFamily`."""
        return self.plain.limits(parameters)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "plain":  # asked for while an object is being copied or unpickled
            raise AttributeError(name)
        return getattr(self.plain, name)

    def must_find(self, task: Task) -> bool:
        """Whether the context of ``task`` is hidden and was not found yet."""
        return self.contexts.hidden and task.split != "train" and self.chosen is None

    def context_of(self, task: Task) -> FloatArray:
        """The normalised context [k] of ``task``.

        Raises:
            ContextError: it has other entries than the training tasks, or is hidden and was not found yet.
        """
        if self.chosen is not None:
            return np.array(self.chosen)
        if self.must_find(task):
            raise ContextError(f"{task.label}: its context is hidden; find it by probing first")
        if self.contexts.latent:
            return self._latent_of(task)
        return self.contexts.space.of(self.plain, task)

    def _latent_of(self, task: Task) -> FloatArray:
        """The learned context of a training task; 0 before any is learned, which tells nothing."""
        if not self.contexts.hidden:
            return np.zeros(self.contexts.space.size)
        if task.index >= len(self.contexts.known):
            raise ContextError(
                f"{task.label}: no context was learned for it, only for the first {len(self.contexts.known)} training "
                "tasks; raise meta.warm_up.distinct_tasks"
            )
        return np.array(self.contexts.known[task.index])

    def with_contexts(self, contexts: Contexts) -> ContextualFamily:
        """The same family with other ``contexts``, as a start carries them."""
        return dataclasses.replace(self, contexts=contexts)

    def with_context(self, context: FloatArray) -> ContextualFamily:
        """The same family with ``context`` [k] for every task."""
        return dataclasses.replace(self, chosen=tuple(context.tolist()))


def contexts_of(family: TaskFamily) -> Contexts | None:
    """The contexts of a family, or None where its tasks carry none."""
    return family.contexts if isinstance(family, ContextualFamily) else None


def context_size(family: TaskFamily) -> int:
    """k, how many of an observation's last numbers are the task's context; 0 where tasks carry none."""
    contexts = contexts_of(family)
    return 0 if contexts is None else contexts.space.size


def plain_family(family: TaskFamily) -> TaskFamily:
    """The family without contexts."""
    return family.plain if isinstance(family, ContextualFamily) else family


def with_any_context(family: TaskFamily) -> TaskFamily:
    """The family with some context, for code that needs the shapes only; a hidden one need not be known for that."""
    if not isinstance(family, ContextualFamily):
        return family
    return family.with_context(np.zeros(family.contexts.space.size))
