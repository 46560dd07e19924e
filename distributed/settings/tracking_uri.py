"""The address of the MLflow tracking server."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

_SQLITE, _FILE, _COPY = "sqlite:///", "file:", "_alembic_tmp_"
_BEING_MADE_SECONDS = 20.0
_ROWS = {"experiments": "SELECT 1 FROM experiments LIMIT 1", "runs": "SELECT 1 FROM runs LIMIT 1"}


def tracking_uri(uri: str | None) -> str:
    """``uri`` if given, else MLFLOW_TRACKING_URI, else an SQLite file in the working directory.

    Paths are absolute in it, since an environment may change the working directory while a run is tracked.
    """
    given = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    if given.startswith(_SQLITE):
        path, mark, options = given.removeprefix(_SQLITE).partition("?")
        return given if store_file(given) is None else f"{_SQLITE}{Path(path).absolute()}{mark}{options}"
    if given.startswith(_FILE) and not given.startswith(f"{_FILE}/"):
        return Path(given.removeprefix(_FILE)).absolute().as_uri()
    return str(Path(given).absolute()) if _is_path(given) else given


def store_file(uri: str) -> Path | None:
    """The file of an SQLite store; None for a server, another database or one in memory."""
    path = uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(path) if uri.startswith(_SQLITE) and path not in ("", ":memory:") else None


def _is_path(uri: str) -> bool:
    """Whether ``uri`` is a folder, as MLflow reads it."""
    return ":" not in uri and uri not in ("databricks", "databricks-uc", "uc")


class _Connected:
    """Which file an SQLite store's address leads to in this process.

    MLflow keeps one connection for each address for as long as its process lives, also to a file that was deleted. So a
    file that is another one, or could not be opened, gets another spelling of its address: more steps that stay where
    they are.
    """

    def __init__(self) -> None:
        self.alone = threading.Lock()
        self._spellings = dict[Path, int]()
        self._files = dict[Path, tuple[int, int]]()

    def address(self, uri: str, path: Path) -> str:
        """The address to connect to now."""
        if path in self._files and self._files[path] != identity(path):
            self.failed(path)
        return uri.replace(f"{_SQLITE}/", f"{_SQLITE}/{'./' * self._spellings.get(path, 0)}", 1)

    def failed(self, path: Path) -> None:
        """Use another spelling from now on: MLflow may be connected to a file that is gone."""
        self._spellings[path] = self._spellings.get(path, 0) + 1
        self._files.pop(path, None)

    def made(self, path: Path) -> None:
        """Remember the file that MLflow is connected to, if it is there still."""
        found = identity(path)
        if found is None:
            self.failed(path)
        else:
            self._files[path] = found


_CONNECTED = _Connected()


def identity(path: Path | None) -> tuple[int, int] | None:
    """What tells a file from another one under its name; None where there is no file."""
    try:
        status = None if path is None else path.stat()
    except OSError:
        return None
    return None if status is None else (status.st_dev, status.st_ino)


@contextmanager
def made_by_one(uri: str) -> Iterator[str]:
    """Hold the lock under which one process at a time connects to an SQLite store first, and creates its tables.

    The value is the address to connect to. MLflow itself does not lock them: processes that create them together leave
    a store that no process can open. What such a race (or a process killed in it) left is put right, or made anew where
    it holds nothing.
    """
    path = store_file(uri)
    if path is None:
        yield uri
        return
    _leave_errors_to_us()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _CONNECTED.alone, path.with_name(f".{path.name}.lock").open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        try:
            _put_right(path)
            yield _CONNECTED.address(uri, path)
            _CONNECTED.made(path)
        except BaseException:
            _CONNECTED.failed(path)
            raise
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN)


def _told_by_us(record: logging.LogRecord) -> bool:
    return record.exc_info is None and not (record.levelno >= logging.ERROR and record.name.startswith("mlflow.store"))


def _leave_errors_to_us() -> None:
    """Keep MLflow from writing errors of the store with their tracebacks: it raises them too, and we say them once."""
    for handler in logging.getLogger("mlflow").handlers:
        handler.addFilter(_told_by_us)


def _put_right(path: Path) -> None:
    """Mend what an interrupted process of MLflow's left in a store, or delete the store where it holds nothing."""
    if not path.is_file() or not path.stat().st_size:
        return
    quiet = time.time() - path.stat().st_mtime >= _BEING_MADE_SECONDS
    with closing(sqlite3.connect(path, timeout=60.0)) as connection:
        tables = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        unfinished = quiet and _is_unfinished(connection, tables)
        if not unfinished:
            _finish_migration(connection, tables)
    if unfinished:
        for ending in ("", "-journal", "-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)


def _is_unfinished(connection: sqlite3.Connection, tables: set[str]) -> bool:
    """Whether the creation of the store was interrupted: MLflow would begin again, and fail at what is there already.

    A store that is complete has an experiment, the default one, which MLflow adds last. One that was written a moment
    ago does not count, since somebody else may be creating it just now.
    """
    contents = [connection.execute(query).fetchone() for table, query in _ROWS.items() if table in tables]
    return bool(contents) and not any(contents)


def _finish_migration(connection: sqlite3.Connection, tables: set[str]) -> None:
    """Undo the half of a table's migration that was interrupted: Alembic copies a table, drops it, renames the copy."""
    for copy in (name for name in tables if name.startswith(_COPY)):
        original = copy.removeprefix(_COPY)
        if original in tables:
            connection.execute(f'DROP TABLE "{copy}"')
        else:
            connection.execute(f'ALTER TABLE "{copy}" RENAME TO "{original}"')
    connection.commit()


def hide_password(uri: str) -> str:
    """``uri`` with its password replaced by ``***``."""
    return re.sub(r"(://[^:/@]*):[^@/]+@", r"\1:***@", uri)
