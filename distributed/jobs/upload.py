"""The working directory that is uploaded with a submitted job: which files, and how large."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path

from distributed.settings.errors import ConfigurationError

EXCLUDES = (
    *("/runs", "/mlruns", "/mlflow.db", "/build", "/dist", "/docs", "/tests", "/benchmarks"),
    *(
        ".git",
        ".venv",
        "venv",
        "__pycache__",
        "*.egg-info",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
    ),
    *("secrets", ".env"),
)
"""Patterns of files that are not uploaded; a leading slash restricts a pattern to the root, as in a .gitignore."""
MOST_MEGABYTES = 100.0
"""Largest working directory that is uploaded; Ray itself rejects 500 MB, but only after packing it."""


def uploaded_files(root: Path) -> Iterator[tuple[Path, int]]:
    """Files under ``root`` that would be uploaded, with their sizes in bytes."""
    for folder, names, files in os.walk(root):
        at_root = Path(folder) == root
        names[:] = [name for name in sorted(names) if not excluded(name, at_root=at_root)]
        for name in sorted(files):
            path = Path(folder) / name
            if not excluded(name, at_root=at_root) and path.is_file():
                yield path, path.stat().st_size


def excluded(name: str, *, at_root: bool) -> bool:
    """Whether a file or folder of that name is not uploaded."""
    return any(
        fnmatch.fnmatch(name, pattern.removeprefix("/"))
        for pattern in EXCLUDES
        if at_root or not pattern.startswith("/")
    )


def require_small(root: Path, most_megabytes: float = MOST_MEGABYTES) -> None:
    """Check the size of the upload.

    Raises:
        ConfigurationError: It is too large; the message names the largest files.
    """
    files = sorted(uploaded_files(root), key=lambda entry: entry[1], reverse=True)
    megabytes = sum(size for _, size in files) / 1e6
    if megabytes > most_megabytes:
        largest = ", ".join(f"{path.relative_to(root)} ({size / 1e6:.1f} MB)" for path, size in files[:5])
        raise ConfigurationError(
            f"working directory {root}: {megabytes:.0f} MB would be uploaded, the maximum is {most_megabytes:g} MB; "
            f"the largest files: {largest}. Move them out, or put them on storage that the cluster can access"
        )
