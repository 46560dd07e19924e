"""The tables of a run directory, ``tasks.csv`` and ``held_out.csv``: rows as CSV and back, bit for bit."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from meta.training.records import Row, Value

_TEXT_COLUMNS = ("failed_diagnostics", "estimate_problem", "parameters", "method", "label", "branch")


def read_rows(path: Path) -> list[Row]:
    """Rows of a ``tasks.csv``, with numbers bit for bit as written; an empty list without the file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    return [{name: _value(name, text) for name, text in row.items()} for row in rows]


def _value(name: str, text: str) -> Value:
    if name in _TEXT_COLUMNS:
        return text
    if text in ("True", "False"):
        return text == "True"
    try:
        return int(text)
    except ValueError:
        return float(text)


def csv_text(rows: list[Row]) -> str:
    """Rows as CSV (RFC 4180, lines end in LF); a column that a row lacks (one of an older version) stays empty."""
    if not rows:
        return ""
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
