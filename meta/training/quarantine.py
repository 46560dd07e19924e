"""Tasks whose environment fails: tried again, and then set aside so that one bad task does not lose the run."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from tasks.contract.task import Task, TaskError

ATTEMPTS = 3
"""How often a task is tried by default."""
_FIRST = 4
"""So many tasks set aside, and none solved, show that the family is at fault and not the tasks."""
Result = TypeVar("Result")


class SetAsideError(TaskError):
    """Too many tasks failed; the message holds the last failure."""


class MissingTasksError(TaskError):
    """Tasks were set aside while a method learned from them."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """A task that is set aside, as plain values: which, why, and how to see it again.

    ``step`` is the step of the episode that failed, None where it is not known.
    """

    stem: str
    split: str
    index: int
    label: str
    parameters: dict[str, Any]
    limits: list[float]
    seed: int
    attempts: int
    step: int | None
    error: str
    traceback: str

    @staticmethod
    def of(task: Task, error: Exception, attempts: int) -> SetAside:
        """What is kept of a task that ``error`` ended in the last of its ``attempts``."""
        return SetAside(
            stem=task.stem,
            split=task.split,
            index=task.index,
            label=task.label,
            parameters=dict(task.parameters),
            limits=list(task.limits),
            seed=task.seed,
            attempts=attempts,
            step=getattr(error, "step", None),
            error=f"{type(error).__name__}: {error}",
            traceback="".join(traceback.format_exception(error)),
        )

    @property
    def held_out(self) -> bool:
        """Whether it is no training task."""
        return self.split != "train"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


class Quarantine:
    """The tasks that are set aside. By default none may be: a task that fails every attempt raises its error.

    Args:
        attempts: How often a task is tried.
        share: Largest share of the training tasks, and of the held-out ones, that may be set aside: at least one of
            several where it is not 0, and never all.
        totals: Numbers of tasks by ``held_out``.
        earlier: Tasks that were set aside before.
        keep: Called with each task that is set aside, before the run goes on.
        say: Shows messages.
    """

    def __init__(
        self,
        attempts: int = ATTEMPTS,
        share: float = 0.0,
        totals: Mapping[bool, int] | None = None,
        earlier: Sequence[SetAside] = (),
        keep: Callable[[SetAside], None] = lambda entry: None,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.attempts, self._keep, self._say = attempts, keep, say
        self._most = {name: _most(share, total) for name, total in (totals or {}).items()}
        self._entries = {entry.stem: entry for entry in earlier}
        self._solved: set[bool] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[SetAside]:
        return iter(sorted(self._entries.values(), key=lambda entry: (entry.held_out, entry.index)))

    def without(self, tasks: Sequence[Task]) -> list[Task]:
        """``tasks`` but for those that are set aside."""
        return [task for task in tasks if task.stem not in self._entries] if self._entries else list(tasks)

    def solved(self, task: Task) -> None:
        """Note that a task of this split was solved, so that not the whole family is at fault."""
        self._solved.add(task.split != "train")

    def attempted(self, task: Task, solve: Callable[[], Result]) -> Result | None:
        """The result of the first of at most ``attempts`` calls that succeeds; None where the task is set aside.

        Raises:
            SetAsideError: See :meth:`set_aside`.
            Exception: What ``solve`` raised, where no task may be set aside.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                result = solve()
            except Exception as error:
                if not self.again(task.label, error, attempt):
                    self.set_aside(task, error, attempt)
            else:
                self.solved(task)
                return result
        return None

    def again(self, label: str, error: Exception, attempt: int) -> bool:
        """Whether there is another attempt after number ``attempt``, which ``error`` ended; says so."""
        if attempt >= self.attempts:
            return False
        self._say(f"{label}: attempt {attempt} of {self.attempts} failed, it is tried again: {error}")
        return True

    def set_aside(self, task: Task, error: Exception, attempts: int) -> None:
        """Set a task aside, whose last attempt ended in ``error``.

        Raises:
            SetAsideError: Too many tasks are set aside.
            Exception: ``error`` itself, where no task may be set aside.
        """
        entry = SetAside.of(task, error, attempts)
        most = self._most.get(entry.held_out, 0)
        if most == 0:
            raise error
        self._entries[entry.stem] = entry
        self._keep(entry)
        count = self._count(entry.held_out)
        if count > most or (count >= _FIRST and entry.held_out not in self._solved):
            kind = "held-out" if entry.held_out else "training"
            allowed = f"at most {most} may be" if count > most else "and none was solved"
            raise SetAsideError(
                f"{count} {kind} tasks are set aside, {allowed} (cluster.set_aside_share; files in quarantine/); "
                f"the last one: {error}"
            ) from error
        self._say(f"{task.label}: set aside after {attempts} attempts, the run goes on without it: {error}")

    def require_few(self) -> None:
        """Check that an earlier attempt of the run has not set too many tasks aside.

        Raises:
            SetAsideError: It has.
        """
        for held_out, most in self._most.items():
            count = self._count(held_out)
            if count > most:
                kind = "held-out" if held_out else "training"
                raise SetAsideError(
                    f"{count} {kind} tasks are set aside, at most {most} may be: raise cluster.set_aside_share, or "
                    "delete their files in quarantine/ to try them again"
                )

    def _count(self, held_out: bool) -> int:
        return sum(entry.held_out == held_out for entry in self)


def _most(share: float, total: int) -> int:
    """How many of ``total`` tasks may be set aside."""
    return min(max(1, math.floor(share * total)), total - 1) if share > 0.0 else 0


def require_all(results: Collection[Any], tasks: Collection[Task]) -> None:
    """Raise MissingTasksError if tasks have no result because they were set aside."""
    if len(results) < len(tasks):
        raise MissingTasksError(f"{len(tasks) - len(results)} of {len(tasks)} tasks are set aside")
