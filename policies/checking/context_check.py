"""Check what a family says of its tasks' contexts, which a start may depend on (``meta.context``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from policies.checking.family_form import Check, ok, warning
from policies.tabular.log_linear_table import all_effects
from policies.tabular.rollouts import discrete_shape
from tasks.contract.context import ContextError, Distance, context_distance, numbers_in, raw_contexts
from tasks.contract.task import Task, TaskFamily

_SHOWN = 4
"""So many entries of a context are named."""


def check_context(family: TaskFamily, tasks: tuple[Task, ...]) -> Check:
    """A family's own ``context``, ``context_distance`` and ``context_effects`` fit its tasks and each other.

    A fault is a warning: only a run whose ``meta.context`` asks for contexts is refused for it.
    """
    name = "context"
    if not any(hasattr(family, part) for part in ("context", "context_effects")):
        return ok(name, _of_parameters(tasks))
    try:
        return ok(name, _own(family, tasks))
    except ContextError as error:
        fault = str(error)
    except Exception as error:
        fault = f"the family raised {type(error).__name__}: {error}"
    return warning(name, f"{fault}; a run whose meta.context asks for contexts is refused")


def _own(family: TaskFamily, tasks: tuple[Task, ...]) -> str:
    """The family's own contexts, and effects of them, in words.

    Raises:
        ContextError: they do not fit.
    """
    entries = tuple(raw_contexts(family, tasks, limits=False)[0])
    if (distance := context_distance(family)) not in get_args(Distance):
        raise ContextError(f"context_distance must be one of {', '.join(get_args(Distance))}, got {distance!r}")
    effects = getattr(family, "context_effects", None)
    if effects is None:
        return _listed(entries)
    states, actions = discrete_shape(family, tasks[0])
    rows = effects()
    all_effects(states, actions, len(entries), rows)
    return f"{_listed(entries)}; {len(rows)} effects with {len(set(rows[:, 3]))} weights"


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
