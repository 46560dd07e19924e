"""Return freed memory to the operating system."""

from __future__ import annotations

import ctypes
import functools
from typing import Any


@functools.cache
def _trim() -> Any | None:
    """The C library's ``malloc_trim``, or None (only glibc has it)."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def return_freed_memory() -> None:
    """Return freed memory to the operating system; does nothing without glibc.

    glibc keeps freed large blocks that lie between small ones. Without this call, a process that creates and drops
    MuJoCo's data for task after task grows to several times the memory it uses.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
