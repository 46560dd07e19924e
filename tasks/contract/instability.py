"""MuJoCo's warnings: heard in this process instead of a file, and put into words."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import mujoco
except Exception as error:
    raise ImportError(
        f"MuJoCo does not import with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r} ({error}); unset MUJOCO_GL, or set "
        "it to egl (Debian's package libegl1) or osmesa (libosmesa6) and install that"
    ) from error

_log = logging.getLogger(__name__)
_OLD_ATTRIBUTE = "settotalmass"
"""What MuJoCo says of Gymnasium's HalfCheetah model each time it compiles it."""


def _hear(message: str) -> None:
    level = logging.DEBUG if _OLD_ATTRIBUTE in message else logging.WARNING
    _log.log(level, "MuJoCo: %s", message)


def listen() -> None:
    """Send MuJoCo's warnings to this process's log; otherwise it writes MUJOCO_LOG.TXT in the working directory."""
    mujoco.set_mju_user_warning(_hear)


def warning_texts(counts: NDArray[Any]) -> str:
    """MuJoCo's warning counts [kinds] in words; empty where there are none."""
    return " ".join(mujoco.mju_warningText(int(kind), 0) for kind in np.flatnonzero(counts))
