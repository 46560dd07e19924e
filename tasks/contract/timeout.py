"""A time limit on code that may hang."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from tasks.contract.task import TaskError

Again = Callable[[], None]
"""Starts the clock anew."""
STEP_SECONDS = 60.0
"""What a reset or a step may take, where a family does not say otherwise."""
_OURS = 0.05
"""A timer that ends more than this many seconds from where ours would is somebody else's."""


def step_seconds(family: object) -> float:
    """What a reset or a step of the family's environments may take: its own ``step_seconds``, where it has any."""
    return float(getattr(family, "step_seconds", STEP_SECONDS))


class _TimeUp(BaseException):
    """No Exception, so that an environment that catches those does not swallow it."""


@contextmanager
def time_limit(seconds: float, where: Callable[[], str]) -> Iterator[Again]:
    """Raise TaskError, starting with ``where()``, when the body takes longer than ``seconds`` (of wall-clock time).

    Yields a function that starts the clock anew, for a body of many steps. In the main thread the limit is an alarm
    signal, which ends a sleep too; elsewhere a watching thread raises the error as soon as the body runs Python code
    again. Neither interrupts a library call that never returns to Python.
    """
    main = threading.current_thread() is threading.main_thread()
    guard: Callable[[float], AbstractContextManager[Again]] = _alarm if main else _watch
    try:
        with guard(seconds) as again:
            yield again
    except _TimeUp:
        raise TaskError(f"{where()}: no answer within {seconds:g} seconds") from None


@contextmanager
def _alarm(seconds: float) -> Iterator[Again]:
    ends = 0.0

    def ring(signum: int, frame: FrameType | None) -> None:
        raise _TimeUp

    def again() -> None:
        nonlocal ends
        ends = time.monotonic() + seconds
        signal.setitimer(signal.ITIMER_REAL, seconds)

    before = signal.signal(signal.SIGALRM, ring)
    try:
        again()
        yield again
    finally:
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        if left and abs(time.monotonic() + left - ends) > _OURS:
            signal.setitimer(signal.ITIMER_REAL, left)  # set meanwhile by whoever wants this process to end


@contextmanager
def _watch(seconds: float) -> Iterator[Again]:
    watched, over, lock = threading.get_ident(), threading.Event(), threading.Lock()
    ends = time.monotonic() + seconds

    def again() -> None:
        nonlocal ends
        ends = time.monotonic() + seconds

    def watch() -> None:
        while not over.wait(max(ends - time.monotonic(), 0.0)):
            with lock:
                if not over.is_set() and time.monotonic() >= ends:
                    _raise_in(watched, _TimeUp)
                    return

    watcher = threading.Thread(target=watch, name="time-limit", daemon=True)
    watcher.start()
    try:
        yield again
    finally:
        with lock:
            over.set()
            _raise_in(watched, None)  # one that rang at the very end must not go off outside


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Make ``thread`` raise ``kind`` when it next runs Python code; None takes back what has not gone off."""
    raised = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
