"""A time limit on code that may hang."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tasks.base import TaskError


@contextmanager
def time_limit(seconds: float, where: Callable[[], str]) -> Iterator[None]:
    """Raise TaskError, starting with ``where()``, when the body takes longer than ``seconds`` (of wall-clock time).

    Works by SIGALRM, so in the main thread only (elsewhere the body runs without a limit), and not inside a library
    call that never returns to Python.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(signum: int, frame: FrameType | None) -> None:
        raise TaskError(f"{where()}: no answer within {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
