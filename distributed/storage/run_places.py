"""Where run directories are: below a local folder, or at a URL with a local copy."""

from __future__ import annotations

import contextlib
from pathlib import Path

import yaml

from distributed.settings.bounded_reading import parse_yaml
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import validated
from distributed.storage.checkpoints import DamagedFileError
from distributed.storage.object_store import is_url, read_file, read_manifest, restore, runs_at


def local_parent(config: RunConfig) -> Path:
    """The local parent of the run directories of this name."""
    place = config.output.local_dir if is_url(config.output.run_dir) else config.output.run_dir
    return Path(place) / config.name


def url_of(config: RunConfig, path: Path) -> str | None:
    """The URL that a run directory is copied to; None without one."""
    place = config.output.run_dir
    return f"{place.rstrip('/')}/{config.name}/{path.name}" if is_url(place) else None


def fetch(place: str, local_dir: str) -> Path:
    """A local run directory: ``place`` itself, or a copy of the directory at that URL.

    Raises:
        DamagedFileError: The copy in the store is incomplete or altered.
    """
    if not is_url(place):
        return Path(place)
    name, stamp = place.rstrip("/").split("/")[-2:]
    return restore(place.rstrip("/"), Path(local_dir) / name / stamp)


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
