"""Tracking stores of the runs under ``make chaos``: what is in them, a server before one, and taking them away."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.servers import answers, free_port, start_mlflow_server, wait_for

STORE = "mlflow.db"
_TIME = re.compile(r"/\d{8}T\d{6}(-\d+)?$")
Tracked = list[list[str | int]]
"""Name and status of each run, and how many numbers it has."""


def tracked(store: Path) -> Tracked:
    """The runs in an SQLite ``store``, without what differs each time: the time in a name, the machine's metrics.

    Empty without a store.
    """
    if not store.is_file():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=30.0)) as connection:
        rows = connection.execute(
            "SELECT name, status, (SELECT count(*) FROM (SELECT DISTINCT key, step FROM metrics "
            "WHERE metrics.run_uuid = runs.run_uuid AND key NOT LIKE 'system/%')) FROM runs"
        )
        return sorted([_TIME.sub("", str(name)), str(status), int(numbers)] for name, status, numbers in rows)


class Server:
    """``mlflow server`` on the loopback interface over ``folder``/mlflow.db, which can be killed and started again."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._environment, self._port = folder, dict(environment), free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Start, and wait until it answers."""
        log = self._folder / "server.log"
        self._process = start_mlflow_server(self._folder, self._port, self._environment)
        wait_for(lambda: answers(f"{self.uri}/health"), 90.0, self._process, log)

    def kill(self) -> None:
        """Kill it with its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)


def locked(store: Path, seconds: float) -> None:
    """Hold the store's lock for ``seconds``: nobody else reads or writes it."""
    with contextlib.closing(sqlite3.connect(store, timeout=30.0, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")


def deleted(store: Path) -> None:
    """Delete the store, with what SQLite keeps beside it."""
    for path in store.parent.glob(f"{store.name}*"):
        path.unlink()
