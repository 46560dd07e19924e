"""Run directories in an object store: reading them, and restoring them to this machine.

A run directory at a URL consists of ``files/`` and ``manifest.json``. A file's name in the store contains its digest,
so no file is ever overwritten. The manifest, written last, lists the files of the run directory. A reader therefore
gets a consistent copy, whenever the writer stopped. :mod:`distributed.storage.mirror` writes it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from distributed.settings.bounded_reading import MOST_ARRAY_BYTES, MOST_JSON_BYTES, parse_json
from distributed.settings.errors import ConfigurationError, first_line
from distributed.storage.checkpoints import DamagedFileError, write_atomically

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1


class FileSystem(Protocol):
    """The part of an fsspec file system that is used here."""

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes of a file, or a range of them."""

    def pipe_file(self, path: str, value: bytes) -> None:
        """Write a file."""

    def rm_file(self, path: str) -> None:
        """Delete a file."""

    def glob(self, path: str) -> list[str]:
        """Paths that match a pattern."""


@dataclass(frozen=True)
class Entry:
    """A file of a run directory: its SHA-256 and its size in bytes."""

    sha256: str
    size: int


Manifest = dict[str, Entry]
"""Entries by path relative to the run directory."""


def is_url(place: str | Path) -> bool:
    """Whether ``place`` is a URL (s3://..., gs://..., file://...) rather than a local path."""
    return "://" in str(place)


def open_store(url: str) -> tuple[FileSystem, str]:
    """The file system of a URL, and the path inside it.

    Raises:
        ConfigurationError: No installed package handles such URLs.
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


def object_name(name: str, entry: Entry) -> str:
    """Name in the store of a file of the run directory."""
    path = PurePosixPath(name)
    return f"files/{path.with_name(f'{path.stem}.{entry.sha256[:16]}{path.suffix}')}"


def files_of(folder: Path) -> Iterator[Path]:
    """The files of a run directory, sorted by name, without hidden ones (the lock) and without links elsewhere."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
            yield path


def read_manifest(url: str) -> Manifest:
    """The files of a run directory in a store.

    Raises:
        DamagedFileError: The manifest is missing or invalid.
    """
    system, root = open_store(url)
    try:
        text = bytes(system.cat_file(f"{root}/{MANIFEST}", end=MOST_JSON_BYTES)).decode("utf-8")
        content = parse_json(text, f"{url}/{MANIFEST}")
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {content['schema_version']}, not {SCHEMA_VERSION}")
        found = {str(name): Entry(str(e["sha256"]), int(e["size"])) for name, e in content["files"].items()}
    except FileNotFoundError as error:
        raise DamagedFileError(f"{url}: holds no run ({MANIFEST} is missing)") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{url}/{MANIFEST}: does not describe a run ({error!r})") from error
    for name in found:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
            raise DamagedFileError(f"{url}/{MANIFEST}: {name!r} points outside the run directory")
    return found


def read_file(url: str, manifest: Manifest, name: str) -> bytes:
    """The content of one file of a run directory in a store.

    Raises:
        DamagedFileError: The file is missing, or differs from the manifest.
    """
    system, root = open_store(url)
    entry = manifest.get(name)
    if entry is None:
        raise DamagedFileError(f"{url}: has no {name}")
    if not 0 <= entry.size <= MOST_ARRAY_BYTES:
        raise DamagedFileError(f"{url}: {name}: has {entry.size} bytes; at most {MOST_ARRAY_BYTES} are read of a file")
    try:
        content = bytes(system.cat_file(f"{root}/{object_name(name, entry)}", end=entry.size + 1))
    except FileNotFoundError as error:
        raise DamagedFileError(f"{url}: {name} is missing from the store") from error
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise DamagedFileError(f"{url}: {name}: its checksum differs from the manifest's (truncated or altered)")
    return content


def runs_at(url: str) -> list[str]:
    """URLs of the run directories under ``url``, in arbitrary order.

    Raises:
        ConfigurationError: The store cannot be read.
    """
    system, root = open_store(url)
    try:
        found = system.glob(f"{root}/*/{MANIFEST}")
    except FileNotFoundError:
        return []
    except Exception as error:
        raise ConfigurationError(f"output.run_dir: {url} cannot be read: {first_line(error)}") from error
    return [f"{url}/{PurePosixPath(path).parent.name}" for path in found]


def progress_of(names: Sequence[str]) -> tuple[int, int]:
    """Progress of a run directory with these files: newest round, and finished tasks of the current round."""
    stems = [PurePosixPath(name).stem for name in names if name.endswith(".json") and "checkpoints" in name]
    rounds = [int(stem.split("-")[1]) for stem in stems if stem.startswith("round-")]
    return max(rounds, default=0), sum(stem.startswith("task-") for stem in stems)


def restore(url: str, local: Path) -> Path:
    """Copy the run directory at ``url`` to ``local``, unless ``local`` is at least as far advanced.

    Raises:
        DamagedFileError: The copy in the store is incomplete or altered; ``local`` is unchanged.
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
