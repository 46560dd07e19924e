"""Orderly shutdown: SIGTERM becomes an exception, with a deadline after which the process exits regardless."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

INTERRUPTED_EXIT_CODE = 130
"""Exit code after Ctrl-C: 128 + SIGINT, the shell convention."""
STOPPED_EXIT_CODE = 143
"""Exit code after SIGTERM: 128 + SIGTERM, the shell convention."""
_SECONDS_TO_EXIT = 2.0


class Stopped(BaseException):
    """SIGTERM arrived. Finished work is already on disk, so the process only has to exit quickly."""


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Raise :class:`Stopped` on SIGTERM, and exit the process if cleanup exceeds the time that a Ray job is given.

    A separate thread, woken by the signal's wakeup descriptor, starts the deadline: the main thread may be inside a
    long call, and Ray installs its own signal handler during start-up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopped = threading.Event()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    threading.Thread(target=_enforce_deadline, args=(ours, stopped), name="stop-watch", daemon=True).start()
    earlier = signal.signal(signal.SIGTERM, _raise), signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield
    except SystemExit as error:
        if error.code in (1, signal.SIGTERM) and stopped.wait(0.5):
            raise Stopped(signal.SIGTERM) from error
        raise
    finally:
        signal.set_wakeup_fd(earlier[1])
        signal.signal(signal.SIGTERM, earlier[0])
        theirs.close()


def _raise(number: int, frame: FrameType | None) -> None:
    del frame
    raise Stopped(number)


def _enforce_deadline(wakeups: socket.socket, stopped: threading.Event) -> None:
    """Read signal numbers until the other end closes; after SIGTERM, exit once the deadline has passed."""
    with wakeups:
        while received := wakeups.recv(64):
            if signal.SIGTERM in received:
                stopped.set()
                # Ray's C++ code may hold the interpreter's lock; then only the kernel's timer can end the process.
                signal.setitimer(signal.ITIMER_REAL, _SECONDS_TO_EXIT + 0.5)
                time.sleep(_SECONDS_TO_EXIT)
                leave()


def leave(code: int = STOPPED_EXIT_CODE) -> NoReturn:
    """Exit immediately, skipping interpreter shutdown: tearing down Ray and torch takes seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
