"""Memory that is not needed: handed back to the system once it was let go of, or not taken at all."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import types
from collections.abc import Iterator
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


class _CompilerAskedError(Exception):
    """A model was about to be compiled."""


@contextlib.contextmanager
def no_model_compiled(module: Any) -> Iterator[None]:
    """What runs in here ends, without an error, where ``module`` would compile a MuJoCo model from XML."""

    def stop(text: str) -> None:
        raise _CompilerAskedError

    whole, module.mujoco = module.mujoco, types.SimpleNamespace(MjModel=types.SimpleNamespace(from_xml_string=stop))
    try:
        with contextlib.suppress(_CompilerAskedError):
            yield
    finally:
        module.mujoco = whole
