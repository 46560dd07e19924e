"""The address of the MLflow tracking server."""

from __future__ import annotations

import os
import re
from pathlib import Path


def tracking_uri(uri: str | None) -> str:
    """``uri`` if given, else MLFLOW_TRACKING_URI, else an SQLite file in the working directory."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def hide_password(uri: str) -> str:
    """``uri`` with its password replaced by ``***``."""
    return re.sub(r"(://[^:/@]*):[^@/]+@", r"\1:***@", uri)
