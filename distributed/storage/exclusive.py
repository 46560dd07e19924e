"""Files that one process makes and all others find whole: locks, and secrets of a user."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path


def link_once(source: Path, target: Path) -> bool:
    """Make ``target`` of ``source`` if there is none; whether this call made it.

    A link is made by one process only, on NFS too, and nobody sees a part of it. A file system without links gets a
    file with the same rights.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError:
        try:
            rights = stat.S_IMODE(source.stat().st_mode)
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, rights), "wb") as file:
                file.write(source.read_bytes())
        except FileExistsError:
            return False
    return True


def write_private_once(path: Path, content: bytes) -> None:
    """Make ``path``, readable for this user alone, unless there is one."""
    if path.exists():
        return
    source = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(source, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    try:
        link_once(source, path)
    finally:
        source.unlink()
