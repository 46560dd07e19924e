"""Copy a run directory to an object store while it grows, in the layout of :mod:`distributed.storage.object_store`."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from distributed.settings.errors import ConfigurationError, first_line
from distributed.storage.object_store import (
    MANIFEST,
    SCHEMA_VERSION,
    Entry,
    Manifest,
    files_of,
    object_name,
    open_store,
    read_manifest,
)

_SNAPSHOTS = 20
_RETRY_SECONDS = 2.0


class Mirror:
    """Copies ``local`` to ``url`` in a background thread.

    The run continues while the store is unreachable; ``say`` reports the first failure and the recovery.

    Raises:
        ConfigurationError: The store cannot be written to.
    """

    def __init__(self, local: Path, url: str, say: Callable[[str], None]) -> None:
        self._local, self._url, self._say = local, url, say
        self._system, self._root = open_store(url)
        self._uploaded: Manifest = {}
        self._seen: dict[str, tuple[tuple[int, int], Entry]] = {}
        self._wake, self._stopped = threading.Condition(), False
        self._requested = self._done = 0
        try:
            self._uploaded = read_manifest(url) if self._system.exists(f"{self._root}/{MANIFEST}") else {}
            self._copy()
        except Exception as error:  # each store's library raises its own types
            raise ConfigurationError(f"output.run_dir: {url} cannot be written: {first_line(error)}") from error
        self._thread = threading.Thread(target=self._run, name="storage-mirror", daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Request a copy of all changes since the last one; return immediately."""
        with self._wake:
            self._requested += 1
            self._wake.notify_all()

    def close(self, timeout_seconds: float) -> bool:
        """Copy the remaining changes and stop; return whether the store is up to date."""
        self.request()
        deadline = time.monotonic() + timeout_seconds
        with self._wake:
            while self._done < self._requested and time.monotonic() < deadline:
                self._wake.wait(timeout=0.1)
            self._stopped = True
            self._wake.notify_all()
        return self._done >= self._requested

    def _run(self) -> None:
        failing = False
        while (requested := self._next_request()) is not None:
            try:
                self._copy()
            except Exception as error:
                if not failing:
                    self._say(
                        f"storage: {self._url}: {first_line(error)}; the run continues, {self._local} has everything"
                    )
                failing = True
                with self._wake:
                    self._wake.wait(timeout=_RETRY_SECONDS)
                continue
            if failing:
                self._say("storage: the store is reachable again")
            failing = False
            with self._wake:
                self._done = requested
                self._wake.notify_all()

    def _next_request(self) -> int | None:
        """Wait for a request and return its number; None once stopped."""
        with self._wake:
            while self._done >= self._requested and not self._stopped:
                self._wake.wait()
            return None if self._stopped else self._requested

    def _copy(self) -> None:
        contents, manifest = self._snapshot()
        for name, content in contents.items():
            self._system.pipe_file(f"{self._root}/{object_name(name, manifest[name])}", content)
        if manifest == self._uploaded:
            return
        files = {name: {"sha256": entry.sha256, "size": entry.size} for name, entry in sorted(manifest.items())}
        text = json.dumps({"schema_version": SCHEMA_VERSION, "files": files}, indent=1)
        self._system.pipe_file(f"{self._root}/{MANIFEST}", text.encode())
        kept = {object_name(name, entry) for name, entry in manifest.items()}
        for name, entry in self._uploaded.items():
            if object_name(name, entry) not in kept:
                self._system.rm_file(f"{self._root}/{object_name(name, entry)}")
        self._uploaded = manifest

    def _snapshot(self) -> tuple[dict[str, bytes], Manifest]:
        """Contents that the store lacks, and a consistent manifest.

        Names sort checkpoints before ``tasks.csv``, and the run writes the table before the checkpoint, so a copied
        checkpoint always has its rows. Reading starts over if a file disappears meanwhile.
        """
        for _ in range(_SNAPSHOTS):
            try:
                return self._read()
            except FileNotFoundError:
                continue
        raise OSError(f"{self._local} changes too fast to be copied")

    def _read(self) -> tuple[dict[str, bytes], Manifest]:
        contents: dict[str, bytes] = {}
        manifest: Manifest = {}
        for path in files_of(self._local):
            name, status = path.relative_to(self._local).as_posix(), path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            seen = self._seen.get(name)
            if seen is not None and seen[0] == stamp and self._uploaded.get(name) == seen[1]:
                manifest[name] = seen[1]
                continue
            content = path.read_bytes()
            entry = Entry(hashlib.sha256(content).hexdigest(), len(content))
            manifest[name], self._seen[name] = entry, (stamp, entry)
            if self._uploaded.get(name) != entry:
                contents[name] = content
        return contents, manifest
