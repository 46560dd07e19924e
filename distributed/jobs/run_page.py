"""The HTML page of a run directory: what it is made of besides the results."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distributed.settings.run_config import RunConfig
from distributed.settings.provenance import environment_tags
from meta.reporting.page import Page, write_page
from meta.training.records import Row

PAGE = "report.html"


def write_run_page(path: Path, config: RunConfig, summary: dict[str, Any], rows: Sequence[Row]) -> int:
    """Write ``report.html`` into the run directory, with the videos under ``adapt/``; returns its size in bytes."""
    environment = {"python": platform.python_version(), "machine": platform.machine(), **environment_tags()}
    commit = environment["git_commit"].removesuffix("-dirty")
    commands = [
        *([] if commit == "unknown" else [f"git checkout {commit}"]),
        "make setup",
        f"metasrl train {path / 'config.yaml'}",
        f"metasrl adapt {path}                  # an unseen task from the learned start",
    ]
    videos = sorted((path / "adapt").glob("*.mp4"))
    return write_page(path / PAGE, Page(summary, rows, config.to_yaml(), environment, commands, videos))
