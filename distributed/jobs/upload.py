"""The working directory that is uploaded with a submitted job: exactly what Ray packs, and nothing with a secret."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import CODE_KINDS
from tasks.contract.family_registry import BUILT_IN

SECRET = (
    *(
        "*.pem",
        "*.key",
        "*.p12",
        "*.pfx",
        "*.jks",
        "*.keystore",
        "*.kdbx",
        "id_rsa*",
        "id_dsa*",
        "id_ecdsa*",
        "id_ed25519*",
    ),
    *(
        "credentials*",
        "service-account*.json",
        "service_account*.json",
        "kubeconfig",
        "auth_token",
        "secrets",
        "*.secret",
    ),
    *(".env", ".env.*", ".netrc", "_netrc", ".pgpass", ".my.cnf", ".pypirc", ".npmrc", ".git-credentials", ".htpasswd"),
    *(".ssh", ".aws", ".azure", ".gcloud", ".kube", ".docker", ".gnupg"),
)
"""Patterns of files and folders that hold secrets by custom; they are not uploaded, in whatever folder they are."""
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
    *SECRET,
)
"""Patterns of files that are not uploaded, as in a .gitignore: a leading slash restricts a pattern to the root."""
MOST_MEGABYTES = 100.0
"""Largest working directory that is uploaded; Ray itself rejects 500 MB, but only after packing it."""


def uploaded_files(root: Path) -> Iterator[tuple[Path, int]]:
    """Files under ``root`` that Ray would upload, with their sizes in bytes.

    The rules are Ray's own, with .gitignore and .rayignore files in every folder.

    Raises:
        ConfigurationError: A file or folder cannot be read.
    """
    yield from ((path, path.stat().st_size) for path in _packed(root, EXCLUDES))


def withheld_files(root: Path) -> list[Path]:
    """Files under ``root`` that Ray would upload, if :data:`SECRET` did not keep them back."""
    others = [pattern for pattern in EXCLUDES if pattern not in SECRET]
    return sorted(set(_packed(root, others)) - set(_packed(root, EXCLUDES)))


def _packed(root: Path, excludes: tuple[str, ...] | list[str]) -> list[Path]:
    from ray._private import ray_constants
    from ray._private.runtime_env import packaging

    logging.getLogger("ray").setLevel(logging.ERROR)  # it logs a line for every .gitignore
    root, found = root.absolute(), list[Path]()
    ignore = os.environ.get(ray_constants.RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    rules: list[Callable[..., Any]] = [packaging._get_excludes(root, list(excludes))]

    def see(path: Path) -> None:
        if path.is_file():
            found.append(path)

    try:
        packaging._dir_travel(root, rules, see, include_gitignore=ignore)
    except (OSError, RecursionError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"working directory {root}: cannot be uploaded: {error}") from error
    return sorted(found)


def require_small(root: Path, most_megabytes: float = MOST_MEGABYTES) -> None:
    """Check the size of the upload.

    Raises:
        ConfigurationError: It is too large; the message names the largest files.
    """
    files = sorted(uploaded_files(root), key=lambda entry: entry[1], reverse=True)
    megabytes = sum(size for _, size in files) / 1e6
    if megabytes > most_megabytes:
        largest = ", ".join(f"{path.relative_to(root.absolute())} ({size / 1e6:.1f} MB)" for path, size in files[:5])
        raise ConfigurationError(
            f"working directory {root}: {megabytes:.0f} MB would be uploaded, the maximum is {most_megabytes:g} MB; "
            f"the largest files: {largest}. Move them out, name them in .rayignore, or put them on storage that the "
            "cluster can access"
        )


def require_shipped(root: Path, run_file: Path, code: Mapping[str, str]) -> None:
    """Check that the run file and the files of the user's ``code`` (by setting) are among the uploaded files.

    Raises:
        ConfigurationError: One of them is not; the message says why.
    """
    shipped = {path.resolve() for path, _ in uploaded_files(root)}
    _require(run_file, shipped, "the run file")
    for key, name in code.items():
        if name not in BUILT_IN:
            _require_code(root, name, shipped, key)


def _require_code(root: Path, name: str, shipped: set[Path], key: str) -> None:
    whose = f"the {CODE_KINDS[key]}'s"
    module = name.rpartition(":")[0]
    if not module:
        return
    if module.endswith(".py"):
        if Path(module).is_absolute() or module.startswith("~"):
            raise ConfigurationError(f"{key}: {module}: the cluster has no such path; give it relative to {root}")
        _require(root / module, shipped, f"{whose} file")
        return
    for candidate in (root / (module.replace(".", "/") + ".py"), root / module.replace(".", "/") / "__init__.py"):
        if candidate.is_file():
            _require(candidate, shipped, f"{whose} module")


def _require(file: Path, shipped: set[Path], what: str) -> None:
    if file.resolve() not in shipped:
        raise ConfigurationError(
            f"{file}: {what} would not be uploaded: it is outside of the working directory, a .gitignore or .rayignore "
            f"names it, or its name is one of those that are kept back ({', '.join(EXCLUDES)}); move or rename it"
        )
