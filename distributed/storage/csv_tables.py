"""The tables of a run directory, ``tasks.csv`` and ``held_out.csv``: rows as CSV and back, bit for bit."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

from distributed.settings.bounded_reading import MOST_TABLE_BYTES, read_text, shortened
from distributed.settings.errors import ConfigurationError
from distributed.storage.checkpoints import DamagedFileError
from meta.training.records import Row, Value

_TEXT_COLUMNS = ("failed_diagnostics", "estimate_problem", "parameters", "method", "label", "branch")
_LATER = frozenset({"cpu_seconds"})
"""Columns that the rows of an older version lack, in the table of a run that such a version began."""


def read_rows(path: Path) -> list[Row]:
    """Rows of a ``tasks.csv``, with numbers bit for bit as written; an empty list without the file.

    Raises:
        ConfigurationError: It is not such a table.
    """
    if not path.exists():
        return []
    try:
        text = io.StringIO(read_text(path, MOST_TABLE_BYTES), newline="")
        rows = [row for row in csv.DictReader(text) if None not in row.values()]
        return [{name: _value(name, text) for name, text in row.items() if text or name not in _LATER} for row in rows]
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise ConfigurationError(f"{path}: is not a table of a run: {shortened(str(error))}") from error


def learned_rows(path: Path, learned: Sequence[int], digest: object) -> list[Row]:
    """The rows of the tasks ``learned`` in the ``tasks.csv`` at ``path``; later ones are left out.

    ``digest``: that of these rows in the checkpoint; None where it has none.

    Raises:
        DamagedFileError: The table lacks rows, or they are not those that the run wrote.
    """
    again = "put a copy of it back, or start a new run: no checkpoint has its rows"
    wanted = set(learned)
    try:
        rows = [row for row in read_rows(path) if int(row["task_index"]) in wanted]
    except (ConfigurationError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedFileError(f"{path}: is damaged ({error}); {again}") from error
    if [row["task_index"] for row in rows] != list(learned):
        raise DamagedFileError(f"{path}: does not hold the rows of the first {len(learned)} tasks; {again}")
    if digest is not None and digest != table_digest(csv_text(rows)):
        raise DamagedFileError(f"{path}: holds other rows than the run wrote; {again}")
    return rows


def table_digest(text: str) -> str:
    """SHA-256 of a table."""
    return hashlib.sha256(text.encode()).hexdigest()


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
