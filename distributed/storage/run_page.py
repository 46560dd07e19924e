"""Write the HTML page of a run directory."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

from distributed.settings.errors import ConfigurationError
from distributed.settings.provenance import environment_tags
from distributed.settings.run_config import RunConfig
from distributed.storage.checkpoints import write_atomically
from distributed.storage.csv_tables import read_rows
from distributed.storage.run_directory import HELD_OUT
from meta.reporting.html_page import Page, page_html
from meta.reporting.summary import RunSummary
from meta.training.records import Row
from tasks.contract.family_registry import BUILT_IN

PAGE = "report.html"
PLOTS_SHARE = 0.7
"""Of drawing the plots and the page, about the share of time that goes into the plots."""


@contextlib.contextmanager
def of_one_run(path: Path) -> Iterator[None]:
    """Report a summary and tables in the run directory ``path`` that do not fit together, or lack what a page shows.

    Raises:
        ConfigurationError: They do not; the message names the files.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"{path}: summary.json, tasks.csv and {HELD_OUT} are damaged or do not belong to one run ({error!r}); put "
            "copies of them back, or finish the run again with --resume"
        ) from error


def require_rows(summary: RunSummary, rows: Sequence[Row]) -> None:
    """Check that ``rows`` of ``tasks.csv`` are all of a finished run's.

    Raises:
        ValueError: Some are missing, or belong to another run.
    """
    found = [row["task_index"] for row in rows]
    if found != list(range(summary.num_tasks)):
        raise ValueError(f"tasks.csv has {len(found)} rows, the summary is of {summary.num_tasks} tasks in their order")


def next_steps(path: Path, family: str) -> str:
    """What to do with the finished run at ``path`` on ``family``: its page, and commands to copy."""
    return "\n".join([f"page: {path / PAGE}", "next:", *(f"  {command}" for command in _commands(path, family))])


def _commands(path: Path, family: str) -> list[str]:
    named = "" if family in BUILT_IN else f" --family {family}"
    found = {
        f"metasrl adapt {path}{named}": "solve an unseen task from the learned start",
        f"metasrl watch {path}{named}": "film it",
        f"metasrl report {path}": "print the tables and draw the page again",
        f"metasrl register {path} NAME{named}": "a version of the model NAME in MLflow",
    }
    longest = max(map(len, found))
    return [f"{command:<{longest}}  # {meaning}" for command, meaning in found.items()]


def write_run_page(path: Path, config: RunConfig, summary: RunSummary, rows: Sequence[Row]) -> int:
    """Write ``report.html`` with the videos of ``adapt/`` and ``held_out.csv``; return its size in bytes.

    Args:
        path: The run directory.
        config: Settings of the run.
        summary: Its summary.
        rows: Rows of ``tasks.csv``.
    """
    environment = {"python": platform.python_version(), "machine": platform.machine(), **environment_tags()}
    commit = environment["git_commit"].removesuffix("-dirty")
    commands = [
        *([] if commit == "unknown" else [f"git checkout {commit}"]),
        "make setup",
        f"metasrl train {path / 'config.yaml'}",
    ]
    following = _commands(path, config.family.name)
    films = sorted((path / "adapt").glob("*.mp4"))
    videos = [film for film in films if film.is_file() and not film.is_symlink()]  # a link may show another file
    held_out = read_rows(path / HELD_OUT)
    page = Page(summary, rows, config.to_yaml(), environment, commands, videos, held_out, following)
    content = page_html(page).encode()
    write_atomically(path / PAGE, content)
    return len(content)
