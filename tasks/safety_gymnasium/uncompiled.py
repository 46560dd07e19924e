"""Run the package's code up to the point where it would compile a MuJoCo model."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any


class _CompilerCalledError(Exception):
    """The code was about to compile a model."""


@contextlib.contextmanager
def no_model_compiled(module: Any) -> Iterator[None]:
    """End the body, without an error, where ``module`` would compile a MuJoCo model from XML."""

    def stop(text: str) -> None:
        raise _CompilerCalledError

    real, module.mujoco = module.mujoco, types.SimpleNamespace(MjModel=types.SimpleNamespace(from_xml_string=stop))
    try:
        with contextlib.suppress(_CompilerCalledError):
            yield
    finally:
        module.mujoco = real
