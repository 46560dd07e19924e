"""Whose sweep a directory is: Ray Tune's state in it is pickled, so continuing somebody else's would run its code."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from distributed.settings.bounded_reading import read_bytes
from distributed.settings.errors import ConfigurationError
from distributed.storage.exclusive import write_private_once

_KEY_BYTES = 32


def mark_of(folder: Path) -> str | None:
    """The mark of a sweep that this user has in ``folder``; None if no key can be kept in the home directory."""
    try:
        key = _key()
    except (OSError, RuntimeError, ValueError):
        return None
    return hmac.new(key, os.fsencode(folder.resolve()), hashlib.sha256).hexdigest()


def require_own(folder: Path, mark: object, *, trusted: bool) -> None:
    """Check that this user began the sweep in ``folder``, whose ``sweep.json`` holds ``mark``, or trusts it.

    Raises:
        ConfigurationError: Neither is so.
    """
    expected = mark_of(folder)
    if trusted or (expected is not None and isinstance(mark, str) and _equal(mark, expected)):
        return
    raise ConfigurationError(
        f"--resume {folder}: was not begun here by you, and Ray Tune's state in it is pickled, which can run any code: "
        "begin a new sweep, or give --trust if it is yours (moved, or of another machine or an earlier version)"
    )


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _key() -> bytes:
    """The secret of this user, made on first use."""
    home = os.environ.get("XDG_CONFIG_HOME")
    path = (Path(home) if home else Path.home() / ".config") / "metasrl" / "sweeps.key"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private_once(path, secrets.token_bytes(_KEY_BYTES))
    return _whole(path)


def _whole(path: Path) -> bytes:
    key = read_bytes(path, _KEY_BYTES)
    if len(key) != _KEY_BYTES:
        raise ValueError(f"{path}: must hold {_KEY_BYTES} bytes")
    return key
