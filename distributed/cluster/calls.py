"""The one path of calls to actors and Ray tasks: every wait has a deadline, and a lost call is made again."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from distributed.cluster.health import asking, require_cluster
from meta.training.pool import ProcessLostError

Reference = ray.ObjectRef[Any]
LOST = (RayActorError, OutOfMemoryError, WorkerCrashedError, NodeDiedError)
"""Errors for a dead process; one killed by Ray's memory monitor raises no RayActorError."""
_WATCH_SECONDS, _LOOK_SECONDS = 0.1, 0.5
_FIRST_WORD = 300.0
"""A call of a kind that was never timed is reported after so many seconds."""


def put(value: Any) -> Reference:
    """``ray.put``, which waits for the object store of this node."""
    with asking():
        reference: Reference = ray.put(value)
    return reference


class WorkerLostError(ProcessLostError):
    """The processes of a call kept dying or did not answer, or workers did not start."""


class NoAnswerError(RuntimeError):
    """A call was given up: its process may be stopped, or hang."""


@dataclass(slots=True)
class Patience:
    """How long a call is waited for: ``factor`` times what its work would have taken at the slowest rate so far.

    It is at least ``least`` seconds, and ``first`` seconds for a kind of call that was never timed.
    """

    factor: float = 10.0
    least: float = 120.0
    first: float = 21600.0
    slowest: dict[str, float] = field(default_factory=dict)

    def limit(self, kind: str, work: float) -> float:
        """Seconds until a call is given up."""
        known = self.slowest.get(kind)
        return self.first if known is None else max(self.least, self.factor * known * work)

    def took(self, kind: str, work: float, seconds: float) -> None:
        """Note a call that was answered."""
        self.slowest[kind] = max(self.slowest.get(kind, 0.0), seconds / work)


@dataclass(frozen=True)
class Rules:
    """How calls are waited for and made again: at most ``retries`` times after their process was lost."""

    retries: int
    patience: Patience = field(default_factory=Patience)
    say: Callable[[str], None] = lambda message: None

    def given_up(self, name: str, process: str, times: int, error: Exception, then: str) -> WorkerLostError | None:
        """The error of a call that lost its ``process`` for the time number ``times``, once too often; None otherwise.

        Then a message says that it is gone, and what happens ``then``.
        """
        if times > self.retries:
            return WorkerLostError(f"{name}: its {process} {gone(error)} {times} times; giving up")
        self.say(f"the {process} of {name} {gone(error)}; {then}")
        return None


class Job(Protocol):
    """A call that may be made several times, in one of several slots."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    @property
    def kind(self) -> str:
        """Calls of a kind take similar times for the same ``work``."""

    @property
    def work(self) -> float:
        """How much there is to do, in units of the kind."""

    def send(self, slot: int) -> Reference:
        """Make the call."""

    def lost(self, slot: int, reference: Reference, times: int, error: Exception) -> bool:
        """Its process was lost for the time number ``times``: end what is left of it; whether to make it again.

        Raises:
            WorkerLostError: It was lost too often.
        """

    def failed(self, error: Exception, times: int) -> bool:
        """It raised ``error``, for the time number ``times``: whether to make it again.

        Raises:
            Exception: ``error``.
        """


@dataclass(slots=True)
class _Sent:
    slot: int
    position: int
    limit: float
    since: float = field(default_factory=time.monotonic)
    reported: bool = False


def wait_for(references: list[Reference], count: int, seconds: float) -> tuple[list[Reference], list[Reference]]:
    """``ray.wait`` in short turns, between which the cluster is looked at.

    Raises:
        ClusterLostError: The cluster is gone.
    """
    until = time.monotonic() + seconds
    while True:
        left = max(0.0, until - time.monotonic())
        ready, waiting = _wait(references, count, min(left, _LOOK_SECONDS))
        if len(ready) >= count or left <= _LOOK_SECONDS:
            return ready, waiting
        require_cluster()


def _wait(references: list[Reference], count: int, seconds: float) -> tuple[list[Reference], list[Reference]]:
    """``ray.wait`` that re-raises the exception of a signal handler, which Ray may wrap in a SystemError."""
    try:
        with asking(seconds):
            return ray.wait(references, num_returns=count, timeout=seconds)
    except SystemError as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None


def value_of(reference: Reference) -> Any:
    """The value behind a reference that is ready, or what the code of its call raised."""
    try:
        with asking():
            return ray.get(reference)
    except RayTaskError as error:
        raise _cause(error) from error


class Calls:
    """Makes jobs until each has a value or is given up, one at a time in each of ``slots``."""

    def __init__(self, jobs: Sequence[Job], slots: int, rules: Rules) -> None:
        self._jobs, self._rules = jobs, rules
        self._waiting, self._idle = deque(range(len(jobs))), deque(range(slots))
        self._running: dict[Reference, _Sent] = {}
        self._lost, self._failed = [0] * len(jobs), [0] * len(jobs)

    def results(self, watch: Callable[[], bool] | None = None) -> Iterator[tuple[int, Any] | None]:
        """Positions and values as they come; None whenever ``watch``, polled while waiting, returns True."""
        while self._waiting or self._running:
            require_cluster()
            self._send()
            finished, _ = wait_for(list(self._running), 1, _LOOK_SECONDS if watch is None else _WATCH_SECONDS)
            if finished:
                yield from self._finished(finished[0])
                continue
            self._look()
            if watch is not None and watch():
                yield None

    def _send(self) -> None:
        while self._waiting and self._idle:
            self._make(self._idle.popleft(), self._waiting.popleft())

    def _make(self, slot: int, position: int) -> None:
        job = self._jobs[position]
        # a new process has to start first, perhaps on a machine that is busy: each further try has twice the time
        limit = self._rules.patience.limit(job.kind, job.work) * 2.0 ** self._lost[position]
        with asking():
            self._running[job.send(slot)] = _Sent(slot, position, limit)

    def _finished(self, reference: Reference) -> Iterator[tuple[int, Any]]:
        sent = self._running.pop(reference)
        job = self._jobs[sent.position]
        try:
            with asking():
                value = ray.get(reference)
        except RayTaskError as error:
            self._failed[sent.position] += 1
            self._again(sent, job.failed(_cause(error), self._failed[sent.position]))
        except LOST as error:
            self._lose(reference, sent, error)
        else:
            self._rules.patience.took(job.kind, job.work, time.monotonic() - sent.since)
            self._idle.append(sent.slot)
            yield sent.position, value

    def _look(self) -> None:
        """Give up calls that are overdue, and tell of those that are late."""
        for reference, sent in list(self._running.items()):
            job, seconds = self._jobs[sent.position], time.monotonic() - sent.since
            if seconds > sent.limit:
                del self._running[reference]
                self._lose(reference, sent, NoAnswerError(f"{job.name}: no answer in {seconds:.0f} s"))
            elif not sent.reported and math.isfinite(sent.limit) and seconds > min(_FIRST_WORD, 0.5 * sent.limit):
                sent.reported = True
                self._rules.say(
                    f"{job.name}: no answer for {seconds:.0f} s; given up and made again at {sent.limit:.0f} s"
                )

    def _lose(self, reference: Reference, sent: _Sent, error: Exception) -> None:
        require_cluster()
        self._lost[sent.position] += 1
        again = self._jobs[sent.position].lost(sent.slot, reference, self._lost[sent.position], error)
        self._again(sent, again)

    def _again(self, sent: _Sent, again: bool) -> None:
        self._idle.append(sent.slot)
        if again:
            self._waiting.appendleft(sent.position)


def _cause(error: RayTaskError) -> Exception:
    """What the code of a call raised, with the traceback of its process as its cause."""
    cause = error.cause
    if not isinstance(cause, Exception):
        return error
    cause.__cause__ = error
    return cause


@dataclass(frozen=True)
class Lone:
    """A job alone: ``call`` makes it, ``replace`` ends what is left of its process and makes another."""

    name: str
    call: Callable[[], Reference]
    replace: Callable[[Reference], None]
    rules: Rules
    work: float = 1.0

    @property
    def kind(self) -> str:
        """The first word of the name."""
        return self.name.partition(" ")[0]

    def send(self, slot: int) -> Reference:
        """Make the call."""
        del slot
        return self.call()

    def lost(self, slot: int, reference: Reference, times: int, error: Exception) -> bool:
        """Make the call again on another process."""
        del slot
        self.replace(reference)
        lost = self.rules.given_up(self.name, "process", times, error, "a new one takes the call")
        if lost is not None:
            raise lost from error
        return True

    def failed(self, error: Exception, times: int) -> bool:
        """An error of the call's own code."""
        del times
        raise error

    def value(self) -> Any:
        """Make the call, and wait for its value."""
        ((_, value),) = (found for found in Calls([self], 1, self.rules).results() if found is not None)
        return value


def gone(error: Exception) -> str:
    """What became of a process, for messages."""
    return "did not answer" if isinstance(error, NoAnswerError) else "died"


def end_actor(actor: Any) -> None:
    """Kill an actor, whatever state it is in."""
    with asking(), contextlib.suppress(Exception):
        ray.kill(actor)
