"""The context of a new task: what is shown of it, and when it is a guess."""

from __future__ import annotations

from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from policies.common.policy import Policy
from policies.common.results import TaskResult
from policies.tabular.log_linear_table import LogLinearTable
from tasks.contract.context import ContextError
from tasks.contract.contextual_family import ContextualFamily, contexts_of
from tasks.contract.task import Task, TaskFamily

_MOST_ENTRIES = 12
"""Contexts with more entries are not printed."""


def context_line(result: TaskResult, family: TaskFamily) -> list[str]:
    """The context that the task was solved with, unless it has very many entries."""
    contexts = contexts_of(family)
    if contexts is None or result.context is None or contexts.space.size > _MOST_ENTRIES:
        return []
    entries = ", ".join(f"{name} {value:.4g}" for name, value in contexts.space.entries(result.context).items())
    found = f", found by a first batch of {result.probe_steps} steps" if result.probe_steps else ""
    return [f"- context: {entries}{found}"]


def warn_outside(family: TaskFamily, task: Task, start: Policy, console: Console) -> None:
    """Warn of a context outside the range of the training tasks; there ``start`` is a guess.

    Raises:
        ConfigurationError: The task has no such context as the training tasks.
    """
    if not isinstance(family, ContextualFamily) or family.must_find(task):
        return
    try:
        effects = start.effects if isinstance(start, LogLinearTable) else None
        outside = family.contexts.space.outside(family.context_of(task), effects)
    except ContextError as error:
        raise ConfigurationError(str(error)) from error
    if outside:
        console.warn(f"{task.label}: its context lies outside the training tasks' range: {', '.join(outside)}")


def settled_family(family: TaskFamily, result: TaskResult) -> TaskFamily:
    """The family with the context that a task was solved with."""
    if result.context is None or not isinstance(family, ContextualFamily):
        return family
    return family.with_context(result.context)
