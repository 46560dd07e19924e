"""Time limits for code that may hang."""

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
"""Restarts the clock."""
STEP_SECONDS = 60.0
"""Default time limit of a reset or a step."""
_REPEAT = 0.251
"""Seconds between repeated alarms, since one that another thread receives does not end the main thread's sleep.

The interval also distinguishes our timer from that of other code.
"""
_ROUNDING = 1e-3


def step_seconds(family: object) -> float:
    """The time limit of the family's environments: its attribute ``step_seconds``, or the default."""
    return float(getattr(family, "step_seconds", STEP_SECONDS))


class _TimeUp(BaseException):
    """Not a subclass of Exception, so an environment that catches exceptions does not swallow it."""


@contextmanager
def time_limit(seconds: float, where: Callable[[], str]) -> Iterator[Again]:
    """Raise TaskError, starting with ``where()``, if the body takes longer than ``seconds`` of wall-clock time.

    Yields a function that restarts the clock, for a body of many steps. In the main thread the limit is an alarm
    signal, which also interrupts a sleep. In other threads, a watching thread raises the error as soon as the body
    runs Python code again. Neither interrupts a library call that never returns to Python.
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
    rung = False

    def ring(signum: int, frame: FrameType | None) -> None:
        nonlocal rung
        if not rung:  # a repeated alarm must not reach the code after the body
            rung = True
            raise _TimeUp

    def again() -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds, _REPEAT)

    before = signal.signal(signal.SIGALRM, ring)
    try:
        again()
        yield again
    finally:
        left, interval = signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        if left and abs(interval - _REPEAT) > _ROUNDING:
            signal.setitimer(signal.ITIMER_REAL, left, interval)  # set by code that wants this process to end


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
            _raise_in(watched, None)  # a late error must not reach the code after the body


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Make ``thread`` raise ``kind`` when it next runs Python code; None withdraws a pending error."""
    raised = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
