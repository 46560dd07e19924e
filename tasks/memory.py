"""Memory that was let go of, handed back to the system."""

from __future__ import annotations

import ctypes
import functools
from typing import Any


@functools.cache
def _trim() -> Any | None:
    """The C library's ``malloc_trim``; None where it has none (only glibc does)."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def return_freed_memory() -> None:
    """Hand freed memory back to the system; does nothing without glibc.

    glibc keeps what large blocks between small ones leave behind: a process that makes and drops MuJoCo's data task
    after task grows to several times what it uses.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
