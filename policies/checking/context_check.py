"""Check what a family says of its tasks' contexts, which a start may depend on (``meta.context``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from policies.checking.family_form import Check, ok, wrong
from policies.tabular.log_linear_table import all_effects
from policies.tabular.rollouts import discrete_shape
from tasks.contract.context import Distance, context_distance, numbers_in, raw_context
from tasks.contract.task import Task, TaskFamily

_SHOWN = 4
"""So many entries of a context are named."""


def check_context(family: TaskFamily, tasks: tuple[Task, ...]) -> Check:
    """A family's own ``context``, ``context_distance`` and ``context_effects`` fit its tasks and each other."""
    name = "context"
    effects = getattr(family, "context_effects", None)
    if getattr(family, "context", None) is None and effects is None:
        return ok(name, _of_parameters(tasks))
    found = [tuple(raw_context(family, task, limits=False)) for task in tasks]
    for task, entries in zip(tasks, found, strict=True):
        if entries != found[0]:
            return wrong(
                name,
                f"{task.label}: its context has the entries {_listed(entries)}, {tasks[0].label} has "
                f"{_listed(found[0])}; all tasks of a family need the same",
            )
    if (distance := context_distance(family)) not in get_args(Distance):
        return wrong(name, f"context_distance must be one of {', '.join(get_args(Distance))}, got {distance!r}")
    if effects is None:
        return ok(name, _listed(found[0]))
    rows = effects()
    states, actions = discrete_shape(family, tasks[0])
    all_effects(states, actions, len(found[0]), rows)
    return ok(name, f"{_listed(found[0])}; {len(rows)} effects with {len(set(rows[:, 3]))} weights")


def _of_parameters(tasks: Sequence[Task]) -> str:
    """What the default context is, or why there is none."""
    found = [tuple(name for name, _ in numbers_in(task.parameters)) for task in tasks]
    if not found[0]:
        return "none: the parameters hold no numbers; a method context(parameters) gives one"
    if any(entries != found[0] for entries in found):
        return "none: tasks have different numbers of parameters; a method context(parameters) gives one"
    return f"the numbers among the parameters: {_listed(found[0])}"


def _listed(entries: Sequence[str]) -> str:
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return ", ".join(entries[:_SHOWN]) + more
