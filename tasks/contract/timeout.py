"""Guards around the code of others, which may hang, or end the process: each is the failure of its task."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import NoReturn, TypeVar

from tasks.contract.task import TaskError

Made = TypeVar("Made")
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


class _Quit(BaseException):
    """Code of others called ``os._exit``."""


class _Signals(threading.local):
    """Whether SIGINT is noted in this thread, and whether one arrived; without notes every interrupt is a signal's."""

    noted, arrived = False, False


_signals = _Signals()


@contextmanager
def code_of_others(where: Callable[[], str]) -> Iterator[None]:
    """Raise TaskError, starting with ``where()``, if the body tries to end or to interrupt this process.

    ``sys.exit``, ``os._exit`` and ``raise KeyboardInterrupt`` count; Ctrl-C and other signals pass. A process that the
    body forks may leave by ``os._exit``. Code that leaves in C, or crashes, cannot be stopped.
    """
    with _noted_interrupts(), _no_exit():
        try:
            yield
        except BaseException as error:
            if isinstance(error, Exception) or not is_of_others(error):
                raise
            raise TaskError(f"{where()}: {told(error)}") from error


def is_of_others(error: BaseException) -> bool:
    """Whether code of others raised ``error``, rather than a signal or a clock of ours (in :func:`code_of_others`)."""
    if isinstance(error, KeyboardInterrupt):
        return _signals.noted and not _signals.arrived
    if isinstance(error, SystemExit):  # Ray marks its own
        return not getattr(error, "is_ray_terminate", False)
    return isinstance(error, Exception | _Quit)


def failure(error: BaseException, where: str, what: str) -> TaskError:
    """The error of a task whose code did ``what``; raises ``error`` if it is one, or none of that code's."""
    if isinstance(error, TaskError) or not is_of_others(error):
        raise error
    return TaskError(f"{where}: {what}")


def made(make: Callable[[], Made], label: str) -> Made:
    """What ``make`` of the task ``label`` makes.

    Raises:
        TaskError: it raises.
    """
    try:
        return make()
    except BaseException as error:
        raise failure(error, label, f"make {told(error)}") from error


def told(error: BaseException) -> str:
    """What code of others did, for a message that continues ``step``, ``reset`` or a name."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({'' if error.code is None else repr(error.code)})"
    if isinstance(error, _Quit):
        return f"called os._exit({error})"
    return f"raised {type(error).__name__}: {error}"


@contextmanager
def _noted_interrupts() -> Iterator[None]:
    """Note a SIGINT before the handler that was there acts on it. Other threads than the main one get none."""
    before, main = signal.getsignal(signal.SIGINT), threading.current_thread() is threading.main_thread()

    def note(number: int, frame: FrameType | None) -> None:
        _signals.arrived = True
        if callable(before):
            before(number, frame)

    if _signals.noted or (main and before is None):  # a handler that is not Python's
        yield
        return
    ours = main and callable(before)  # where SIGINT is ignored, as in a background job, none raises an interrupt
    if ours:
        signal.signal(signal.SIGINT, note)
    _signals.noted, _signals.arrived = True, False
    try:
        yield
    finally:
        _signals.noted = False
        if ours and signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _no_exit() -> Iterator[None]:
    """Let ``os._exit`` raise an exception in this thread of this process."""
    leave, here = os._exit, (os.getpid(), threading.get_ident())

    def stay(status: int) -> NoReturn:
        if (os.getpid(), threading.get_ident()) != here:
            leave(status)
        raise _Quit(status)

    os._exit = stay
    try:
        yield
    finally:
        if os._exit is stay:
            os._exit = leave
