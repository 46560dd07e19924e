"""Methods that solve whole tasks outside of this room: ``within_task.method.name`` is then prefix:class.

A room above registers where its solver is; it is imported when a task is solved or settings are checked.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from policies.common.results import Start, TaskResult
    from tasks.contract.task import Task, TaskFamily

_PLACES: dict[str, str] = {}


class Outside(Protocol):
    """A solver of whole tasks with a neural policy."""

    def num_cpus(self, method: Any) -> int:
        """CPUs of a worker and of what it starts, for the section ``within_task.method``.

        Raises:
            ValueError: the section has a wrong setting.
        """

    def require_usable(self, settings: Any, family: TaskFamily, *, learns_rates: bool) -> None:
        """Import the class and check everything that can be checked before a task is solved.

        Args:
            settings: the ``within_task`` section.
            family: of the tasks.
            learns_rates: whether alpha is learned across tasks (``meta.learning_rates.method`` is not fixed).

        Raises:
            ValueError: names the setting, and what would be right.
        """

    def solve(
        self,
        family: TaskFamily,
        task: Task,
        start: Start,
        settings: Any,
        *,
        collect: bool,
        on_iteration: Callable[[int], None],
    ) -> tuple[TaskResult, Any]:
        """See :meth:`policies.common.policy_kind.PolicyKind.solve`."""


def register(prefix: str, place: str) -> None:
    """Names that begin with ``prefix`` and a colon are solved by the object at ``place``, package.module:NAME."""
    _PLACES[prefix] = place


def class_outside(name: str) -> str | None:
    """The class in a method's ``name`` behind a registered prefix; None for a rule."""
    prefix, separator, class_name = name.partition(":")
    return class_name if separator and prefix in _PLACES else None


def solver_of(name: str) -> Outside:
    """The solver of the method ``name``, which has a registered prefix."""
    module, _, attribute = _PLACES[name.partition(":")[0]].partition(":")
    solver: Outside = getattr(importlib.import_module(module), attribute)
    return solver
