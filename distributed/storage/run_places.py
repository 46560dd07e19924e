"""Where run directories are: below a local folder, or at a URL with a local copy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import yaml

from distributed.settings.bounded_reading import parse_yaml
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import read_yaml, validated
from distributed.storage.checkpoints import DamagedFileError
from distributed.storage.object_store import is_url, read_file, read_manifest, restore, runs_at

_MOST_LISTED = 8
"""Runs in a message."""


def local_parent(config: RunConfig) -> Path:
    """The local parent of the run directories of this name."""
    place = config.output.local_dir if is_url(config.output.run_dir) else config.output.run_dir
    return Path(place) / config.name


def url_of(config: RunConfig, path: Path) -> str | None:
    """The URL that a run directory is copied to; None without one."""
    place = config.output.run_dir
    return f"{place.rstrip('/')}/{config.name}/{path.name}" if is_url(place) else None


def fetch(place: str, local_dir: str) -> Path:
    """A local run directory: the one that ``place`` names here, or a copy of the directory at that URL.

    Raises:
        ConfigurationError: No run is called so.
        DamagedFileError: The copy in the store is incomplete or altered.
    """
    if not is_url(place):
        return found_run(place, Path(local_dir))
    name, stamp = place.rstrip("/").split("/")[-2:]
    return restore(place.rstrip("/"), Path(local_dir) / name / stamp)


def found_run(place: str, parent: Path) -> Path:
    """The run directory that ``place`` names: a directory; of several runs the newest.

    Args:
        place: A run directory, a folder with runs, ``latest``, the name of runs, or the family that they are on.
        parent: The folder in which runs are looked for by name: ``parent``/NAME/TIMESTAMP.

    Raises:
        ConfigurationError: There is no such run; the message lists those that there are.
    """
    path = Path(place)
    if (path / "config.yaml").is_file():
        return path
    below, runs = _newest_first(path.glob("*/config.yaml")), _newest_first(parent.glob("*/*/config.yaml"))
    named = below or [run for run in runs if place in ("latest", run.parent.name)]
    named = named or [run for run in runs if _family(run) == place]
    if named:
        return named[0]
    if path.exists():  # a checkpoint, or a folder of which its reader says what it lacks
        return path
    listed = ", ".join(map(str, runs[:_MOST_LISTED])) + (", ..." if len(runs) > _MOST_LISTED else "")
    here = f"runs here, newest first: {listed}" if runs else f"no run is below {parent}/; metasrl train makes one"
    raise ConfigurationError(f"{place}: is not a run directory (it has no config.yaml); {here}")


def _newest_first(files: Iterable[Path]) -> list[Path]:
    """The run directories that hold ``files``."""
    return sorted((file.parent for file in files), key=lambda run: age_of(run.name), reverse=True)


def _family(run: Path) -> str | None:
    """The name of the run's family; None where its settings cannot be read."""
    with contextlib.suppress(ConfigurationError):
        family = read_yaml(run / "config.yaml").get("family")
        return str(family.get("name")) if isinstance(family, dict) else None
    return None


def latest_in_store(config: RunConfig) -> Path | None:
    """As :meth:`RunDirectory.latest`, for run directories at a URL."""
    found = runs_at(f"{config.output.run_dir.rstrip('/')}/{config.name}")
    for url in sorted(found, key=lambda url: age_of(url.rpartition("/")[2]), reverse=True):
        with contextlib.suppress(ConfigurationError, DamagedFileError, UnicodeDecodeError, yaml.YAMLError):
            raw = parse_yaml(read_file(url, read_manifest(url), "config.yaml").decode("utf-8"))
            if validated(raw, f"{url}/config.yaml").digest() == config.digest():
                return fetch(url, config.output.local_dir)
    return None


def age_of(name: str) -> tuple[str, int]:
    """Sort key for names of run directories, <timestamp> or <timestamp>-<number>, oldest first."""
    stamp, _, number = name.partition("-")
    return stamp, int(number) if number.isdigit() else 1
