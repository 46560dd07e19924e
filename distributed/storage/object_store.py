"""Run directories in an object store: a local one that is copied to a URL as it grows, and read back from there.

Under ``<output.run_dir>/<name>/<timestamp>/`` in the store lie ``files/`` and ``manifest.json``. A file's name there
has its digest in it and is never written again; the manifest, written last, says which of them make the run directory.
So a reader finds one moment of the run, whole, whenever the writer died.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from distributed.settings.errors import ConfigurationError
from distributed.storage.checkpoints import DamagedFileError, write_atomically
from meta.learning.kinds import State
from meta.training.loop import Finished
from meta.training.records import Row
from policies.common.results import TaskResult

MANIFEST = "manifest.json"
_SCHEMA_VERSION = 1
_SNAPSHOTS = 20
_RETRY_SECONDS = 2.0


def is_url(place: str | Path) -> bool:
    """Whether ``place`` is a URL (s3://..., gs://..., file://...) and no path of this machine."""
    return "://" in str(place)


@dataclass(frozen=True)
class Entry:
    """A file of a run directory: its digest and size in bytes."""

    sha256: str
    size: int


Manifest = dict[str, Entry]
"""By path relative to the run directory."""


def _store(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it.

    Raises:
        ConfigurationError: nothing is installed for such URLs.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        scheme = url.partition("://")[0]
        raise ConfigurationError(
            f"output.run_dir: {url}: no file system for {scheme}:// is installed ({error}); s3:// needs "
            "pip install 'metasrl[s3]', others their fsspec package"
        ) from error
    return system, str(path).rstrip("/")


def _object_name(name: str, entry: Entry) -> str:
    path = PurePosixPath(name)
    return f"files/{path.with_name(f'{path.stem}.{entry.sha256[:16]}{path.suffix}')}"


class Mirror:
    """Copies ``local`` to ``url`` from a thread of its own; a :class:`meta.training.loop.Tracker`.

    While the store is away the run goes on; ``say`` is told once, and again when it answers.
    """

    def __init__(self, local: Path, url: str, say: Callable[[str], None]) -> None:
        self._local, self._url, self._say = local, url, say
        self._system, self._root = _store(url)
        self._uploaded: Manifest = {}
        self._seen: dict[str, tuple[tuple[int, int], Entry]] = {}
        self._wake, self._stopped = threading.Condition(), False
        self._asked = self._done = 0
        try:
            self._uploaded = read_manifest(url) if self._system.exists(f"{self._root}/{MANIFEST}") else {}
            self._copy()
        except Exception as error:  # whatever the store's library raises
            raise ConfigurationError(f"output.run_dir: {url} cannot be written: {_first_line(error)}") from error
        self._thread = threading.Thread(target=self._run, name="storage-mirror", daemon=True)
        self._thread.start()

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """Copy what changed."""
        del finished, result
        self.poke()

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """Copy what changed."""
        del state, rows
        self.poke()

    def poke(self) -> None:
        """Ask for a copy of what changed since the last one; returns at once."""
        with self._wake:
            self._asked += 1
            self._wake.notify_all()

    def close(self, timeout_seconds: float) -> bool:
        """Copy what is left; whether all of it is in the store."""
        self.poke()
        deadline = time.monotonic() + timeout_seconds
        with self._wake:
            while self._done < self._asked and time.monotonic() < deadline:
                self._wake.wait(timeout=0.1)
            self._stopped = True
            self._wake.notify_all()
        return self._done >= self._asked

    def _run(self) -> None:
        failing = False
        while True:
            with self._wake:
                while self._done >= self._asked and not self._stopped:
                    self._wake.wait()
                if self._stopped:
                    return
                asked = self._asked
            try:
                self._copy()
            except Exception as error:
                if not failing:
                    self._say(
                        f"storage: {self._url}: {_first_line(error)}; the run goes on, it is whole in {self._local}"
                    )
                failing = True
                with self._wake:
                    self._wake.wait(timeout=_RETRY_SECONDS)
                continue
            if failing:
                self._say("storage: the store answers again")
            failing = False
            with self._wake:
                self._done = asked
                self._wake.notify_all()

    def _copy(self) -> None:
        contents, manifest = self._snapshot()
        for name, content in contents.items():
            self._system.pipe_file(f"{self._root}/{_object_name(name, manifest[name])}", content)
        if manifest == self._uploaded:
            return
        told = {
            "schema_version": _SCHEMA_VERSION,
            "files": {name: {"sha256": entry.sha256, "size": entry.size} for name, entry in sorted(manifest.items())},
        }
        self._system.pipe_file(f"{self._root}/{MANIFEST}", json.dumps(told, indent=1).encode())
        kept = {_object_name(name, entry) for name, entry in manifest.items()}
        for name, entry in self._uploaded.items():
            if _object_name(name, entry) not in kept:
                self._system.rm_file(f"{self._root}/{_object_name(name, entry)}")
        self._uploaded = manifest

    def _snapshot(self) -> tuple[dict[str, bytes], Manifest]:
        """Contents that the store lacks, and the manifest of one moment. Checkpoints are read before the table that is
        written before them, and all over again where a file went away meanwhile.
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


def files_of(folder: Path) -> Iterator[Path]:
    """The files of a run directory that are kept, in order of their names; none that is being written."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(".tmp"):
            yield path


def read_manifest(url: str) -> Manifest:
    """Which files a run directory in a store has.

    Raises:
        DamagedFileError: there is no manifest, or it is not one.
    """
    system, root = _store(url)
    try:
        told = json.loads(system.cat_file(f"{root}/{MANIFEST}"))
        if told["schema_version"] != _SCHEMA_VERSION:
            raise ValueError(f"schema version {told['schema_version']}, not {_SCHEMA_VERSION}")
        found = {str(name): Entry(str(e["sha256"]), int(e["size"])) for name, e in told["files"].items()}
    except FileNotFoundError as error:
        raise DamagedFileError(f"{url}: holds no run ({MANIFEST} is missing)") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{url}/{MANIFEST}: does not describe a run ({error!r})") from error
    for name in found:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
            raise DamagedFileError(f"{url}/{MANIFEST}: {name!r} does not stay in the run directory")
    return found


def read_file(url: str, manifest: Manifest, name: str) -> bytes:
    """One file of a run directory in a store.

    Raises:
        DamagedFileError: it is missing or not the one that the manifest names.
    """
    system, root = _store(url)
    entry = manifest.get(name)
    if entry is None:
        raise DamagedFileError(f"{url}: has no {name}")
    try:
        content = bytes(system.cat_file(f"{root}/{_object_name(name, entry)}", end=entry.size + 1))
    except FileNotFoundError as error:
        raise DamagedFileError(f"{url}: {name} is missing from the store") from error
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise DamagedFileError(f"{url}: {name}: its checksum is not the manifest's (cut short or changed)")
    return content


def runs_at(url: str) -> list[str]:
    """URLs of the run directories under ``url``, in any order."""
    system, root = _store(url)
    try:
        found = system.glob(f"{root}/*/{MANIFEST}")
    except FileNotFoundError:
        return []
    except Exception as error:
        raise ConfigurationError(f"output.run_dir: {url} cannot be read: {_first_line(error)}") from error
    return [f"{url}/{PurePosixPath(path).parent.name}" for path in found]


def progress_of(names: Sequence[str]) -> tuple[int, int]:
    """How far a run directory with these files is: newest round, finished tasks of the round under way."""
    stems = [PurePosixPath(name).stem for name in names if name.endswith(".json") and "checkpoints" in name]
    rounds = [int(stem.split("-")[1]) for stem in stems if stem.startswith("round-")]
    return max(rounds, default=0), sum(stem.startswith("task-") for stem in stems)


def restore(url: str, local: Path) -> Path:
    """Make ``local`` the run directory at ``url``; where there is one that is as far or farther, it is left as it is.

    Raises:
        DamagedFileError: the copy in the store is not whole.
    """
    manifest = read_manifest(url)
    here = [path.relative_to(local).as_posix() for path in files_of(local)] if local.is_dir() else []
    if "config.yaml" in here and progress_of(here) >= progress_of(list(manifest)):
        return local
    temporary = local.with_name(f".{local.name}.restored")
    shutil.rmtree(temporary, ignore_errors=True)
    for name in manifest:
        path = temporary / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, read_file(url, manifest, name))
    if local.exists():
        shutil.rmtree(local)
    temporary.replace(local)
    return local


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
