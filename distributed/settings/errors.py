"""The error for input that the user must correct."""

from __future__ import annotations

SET_ASIDE_EXIT_CODE = 3
"""Exit code of a run that is complete but for tasks in quarantine."""
CLUSTER_LOST_EXIT_CODE = 4
"""Exit code of a run whose Ray cluster is gone; ``--resume`` continues it."""


class ConfigurationError(ValueError):
    """A run file, option or directory is unusable; the message names the key and the allowed values."""


def first_line(error: BaseException) -> str:
    """Type and first line of an error's message, for one-line logs."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
