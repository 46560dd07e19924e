"""Parts of the benchmark pages in ``docs/results/``: header, tables, and writing."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from distributed.settings.provenance import commit_of_results

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


def header(title: str, command: str) -> list[str]:
    """The header of a page: title, command, commit, date and machine."""
    today = datetime.now(UTC).date().isoformat()
    return [
        f"# {title}",
        "",
        f"`{command}` at commit `{commit_of_results()}` on {today}; "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}.",
        "",
    ]


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return [*lines, ""]


def write(name: str, lines: Sequence[str]) -> None:
    """Write a page to ``docs/results/`` and print it; several empty lines become one."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"
    (RESULTS / name).write_text(text, encoding="utf-8")
    print(text)
