"""The process that a directory belongs to while it writes there: a second one is refused, a dead one is followed.

The lock is a file, so it also holds on a shared disk (NFS) where no lock of the operating system reaches: it names the
host, the process and its start. Whether a process of this machine lives, the machine knows; one of another machine
shows it by touching the file. (Whose directory it is, in the sense of whom its content may be trusted from, is another
question: :mod:`distributed.tuning.ownership`.)
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from distributed.settings.bounded_reading import read_json
from distributed.settings.errors import ConfigurationError
from distributed.storage.checkpoints import StorageError, storing
from distributed.storage.exclusive import link_once

LOCK = ".owner.json"
_BEAT_SECONDS = 5.0
_SILENCE_SECONDS = 60.0
"""An owner on another machine is dead when its file has not changed for so long; longer than NFS keeps old answers."""
_SETTLE_SECONDS = 0.5
Facts = dict[str, Any]


class Owner:
    """This process as the owner of ``folder`` (:func:`own`), until :meth:`release`."""

    def __init__(self, folder: Path, facts: Facts) -> None:
        self._file, self._facts = folder / LOCK, facts
        self._over = threading.Event()
        threading.Thread(target=self._beat, name="owner-beat", daemon=True).start()

    def require(self) -> None:
        """Check that no other process has taken the directory, for instance while this one was stopped.

        Raises:
            StorageError: One has.
        """
        found = _read(self._file)
        if found is not None and found != self._facts:
            raise StorageError(
                errno.EBUSY, f"{_told(found)} has taken this directory over; this one ends", str(self._file)
            )

    def release(self) -> None:
        """Leave the directory to others."""
        self._over.set()
        if _read(self._file) == self._facts:
            with contextlib.suppress(OSError):
                self._file.unlink()

    def _beat(self) -> None:
        while not self._over.wait(_BEAT_SECONDS):
            with contextlib.suppress(OSError):
                if _read(self._file) == self._facts:
                    os.utime(self._file)


def own(folder: Path, say: Callable[[str], None]) -> Owner:
    """Become the owner of ``folder``.

    Raises:
        ConfigurationError: Another process that is alive owns it.
        StorageError: The directory cannot be written to.
    """
    facts, file = {**_place(), **_process(os.getpid()), "token": secrets.token_hex(8)}, folder / LOCK
    own_file = folder / f"{LOCK}.{facts['token']}"
    with storing(folder):
        own_file.write_text(json.dumps(facts), encoding="utf-8")
        try:
            while not (link_once(own_file, file) or _take_over(own_file, file, facts, say)):
                pass  # the earlier owner has just left
        finally:
            own_file.unlink(missing_ok=True)
    return Owner(folder, facts)


def _take_over(own_file: Path, file: Path, facts: Facts, say: Callable[[str], None]) -> bool:
    """Replace the file of an owner that is dead; False if there is none any more.

    Of several processes that replace it, the last one is the owner.
    """
    earlier = _read(file)
    if earlier is None:
        time.sleep(_SETTLE_SECONDS)  # it may be about to be written
        earlier = _read(file)
    if earlier is not None and _lives(earlier, file, say):
        raise ConfigurationError(
            f"{file.parent}: belongs to {_told(earlier)}, which is running: wait for it, or stop it, before another "
            "driver continues there"
        )
    if not file.exists():
        return False
    if _read(file) != earlier:
        raise ConfigurationError(f"{file.parent}: another driver has just taken it over")
    say(f"{file.parent}: its owner is dead ({'unreadable' if earlier is None else _told(earlier)}); taking it over")
    own_file.replace(file)
    time.sleep(_SETTLE_SECONDS)
    if _read(file) != facts:
        raise ConfigurationError(f"{file.parent}: another driver has just taken it over")
    return True


def _lives(owner: Facts, file: Path, say: Callable[[str], None]) -> bool:
    if all(owner.get(name) == value for name, value in _place().items()):
        return _process(int(owner["pid"])) == {"pid": owner["pid"], "started": owner["started"]}
    say(f"{file.parent}: belongs to {_told(owner)}; looking for {_SILENCE_SECONDS:g} s whether it still is there")
    before, ends = _touched(file), time.monotonic() + _SILENCE_SECONDS
    while time.monotonic() < ends:
        time.sleep(min(1.0, _SILENCE_SECONDS))
        if _touched(file) != before:
            return True
    return False


def _touched(file: Path) -> int | None:
    """When ``file`` was last touched; opening it makes NFS ask the server."""
    try:
        with file.open("rb") as opened:
            return os.fstat(opened.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _read(file: Path) -> Facts | None:
    """What a lock says; None for none, or for one that says nothing."""
    try:
        found = read_json(file)
        return found if isinstance(found, dict) and isinstance(found["pid"], int) and "started" in found else None
    except (OSError, KeyError, ValueError):
        return None


def _place() -> Facts:
    """Where a process id has a meaning: the host, since its start, and the container's own numbering."""
    boot, numbering = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    started = boot.read_text().strip() if boot.is_file() else str(round(psutil.boot_time()))
    return {
        "host": socket.gethostname(),
        "boot": started,
        "numbering": os.readlink(numbering) if numbering.is_symlink() else "",
    }


def _process(pid: int) -> Facts:
    """A process and its start, which tells it from a later one of the same id; no start for one that is gone."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return {"pid": pid, "started": None}
        if not stat.is_file():
            return {"pid": pid, "started": round(process.create_time())}
        return {"pid": pid, "started": int(stat.read_text().rpartition(")")[2].split()[19])}
    except (OSError, psutil.Error):
        return {"pid": pid, "started": None}


def _told(owner: Facts) -> str:
    return f"process {owner.get('pid')} on {owner.get('host')}"
