"""MuJoCo's warnings: sent to this process's log instead of a file, and translated into text."""

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
"""Part of MuJoCo's warning at each compilation of Gymnasium's HalfCheetah model."""


def log_warning(message: str) -> None:
    """Log a warning of MuJoCo's."""
    level = logging.DEBUG if _OLD_ATTRIBUTE in message else logging.WARNING
    _log.log(level, "MuJoCo: %s", message)


def listen() -> None:
    """Send MuJoCo's warnings to this process's log instead of MUJOCO_LOG.TXT in the working directory."""
    mujoco.set_mju_user_warning(log_warning)


def warning_texts(counts: NDArray[Any]) -> str:
    """The text of MuJoCo's warning counts [kinds]; empty without warnings."""
    return " ".join(mujoco.mju_warningText(int(kind), 0) for kind in np.flatnonzero(counts))
