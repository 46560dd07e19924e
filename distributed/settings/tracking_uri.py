"""The address of the MLflow tracking server."""

from __future__ import annotations

import os
import re
from pathlib import Path

_SQLITE, _FILE = "sqlite:///", "file:"


def tracking_uri(uri: str | None) -> str:
    """``uri`` if given, else MLFLOW_TRACKING_URI, else an SQLite file in the working directory.

    Paths are absolute in it, since an environment may change the working directory while a run is tracked.
    """
    given = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    if given.startswith(_SQLITE):
        path, mark, options = given.removeprefix(_SQLITE).partition("?")
        return given if path in ("", ":memory:") else f"{_SQLITE}{Path(path).absolute()}{mark}{options}"
    if given.startswith(_FILE) and not given.startswith(f"{_FILE}/"):
        return Path(given.removeprefix(_FILE)).absolute().as_uri()
    return str(Path(given).absolute()) if _is_path(given) else given


def _is_path(uri: str) -> bool:
    """Whether ``uri`` is a folder, as MLflow reads it."""
    return ":" not in uri and uri not in ("databricks", "databricks-uc", "uc")


def hide_password(uri: str) -> str:
    """``uri`` with its password replaced by ``***``."""
    return re.sub(r"(://[^:/@]*):[^@/]+@", r"\1:***@", uri)
