"""MLflow's stores for real: PostgreSQL, and SQLite while others read it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distributed.models.model_registry import connect
from distributed.settings.errors import ConfigurationError
from tests.distributed.helpers import command, parsed, run_file, sha_of, summary_of, tiny
from tests.support.servers import POSTGRES_PASSWORD as PASSWORD
from tests.support.servers import NotInstalledError, postgres

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
TRACKED = tiny(
    tracking={"enabled": True, "flush_timeout_seconds": 120.0}, meta={"learning_rates": {"units": "absolute"}}
)


def rows(uri: str, query: str) -> list[tuple[Any, ...]]:
    """The answer of a PostgreSQL server."""
    import psycopg

    with psycopg.connect(uri) as connection:
        return list(connection.execute(query).fetchall())


@contextmanager
def database() -> Iterator[str]:
    """The URI of an empty PostgreSQL database; where there is none, the test says so and is skipped."""
    pytest.importorskip("psycopg", reason="pip install 'metasrl[postgres]'")
    try:
        with postgres() as uri:
            yield uri
    except NotInstalledError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_a_run_is_complete_in_postgresql_and_the_password_is_nowhere(tmp_path: Path) -> None:
    with database() as uri:
        file = run_file(tmp_path, TRACKED)
        done = command(["train", file, "--register", "lakes"], tmp_path, MLFLOW_TRACKING_URI=uri)
        assert done.returncode == 0, done.stderr
        assert "were not sent" not in done.stderr
        assert "champion is now version 1" in " ".join(done.stderr.split())
        assert rows(uri, "SELECT status, count(*) FROM runs GROUP BY status") == [("FINISHED", 9)]
        assert rows(uri, "SELECT count(*) FROM metrics WHERE key = 'J_0'") == [(8 * 3,)]
        assert rows(uri, "SELECT alias, version FROM registered_model_aliases") == [("champion", 1)]
        reported = rows(uri, "SELECT value FROM params UNION SELECT value FROM tags")
        assert not any(PASSWORD in str(value) for (value,) in reported)
        adapted = command(["adapt", "models:/lakes@champion", "--task-seed", "1"], tmp_path, MLFLOW_TRACKING_URI=uri)
        assert adapted.returncode == 0, adapted.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 20
    assert [path for path in written if PASSWORD.encode() in path.read_bytes()] == []
    assert PASSWORD not in done.stdout + done.stderr + adapted.stdout + adapted.stderr
    (run,) = tmp_path.glob("runs/tiny/*")
    assert summary_of(run)["meta_state_sha256"] == sha_of(parsed(TRACKED))

    gone = command(["adapt", "models:/lakes@champion"], tmp_path, MLFLOW_TRACKING_URI=uri)
    assert gone.returncode == 2
    assert "no MLflow server answers at postgresql://mlflow:***@127.0.0.1" in " ".join(gone.stderr.split())
    assert PASSWORD not in gone.stderr


def test_a_password_in_a_run_file_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError, match=r"tracking.uri: must hold no password") as caught:
        parsed(tiny(tracking={"enabled": True, "uri": "postgresql://ml:hunter2@db/mlflow"}))
    assert "hunter2" not in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)
    assert parsed(tiny(tracking={"uri": "postgresql://ml@db/mlflow"})).tracking.uri == "postgresql://ml@db/mlflow"


@pytest.mark.slow
def test_a_run_is_complete_in_sqlite_while_others_read_it(tmp_path: Path) -> None:
    """Four readers that ask fifty times a second each, which is more than browsers do."""
    stop, faults, counts = threading.Event(), list[str](), list[int]()

    def read() -> None:
        while not stop.is_set():
            if not (tmp_path / "mlflow.db").exists():
                stop.wait(0.05)
                continue
            try:
                connection = sqlite3.connect(tmp_path / "mlflow.db", timeout=30.0)
                try:
                    connection.execute("BEGIN")
                    counts.append(connection.execute("SELECT count(*) FROM runs").fetchone()[0])
                    connection.execute("SELECT count(*) FROM metrics").fetchone()
                finally:
                    connection.close()
                    stop.wait(0.02)
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    faults.append(str(error))

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        done = command(["train", run_file(tmp_path, TRACKED)], tmp_path)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert done.returncode == 0, done.stderr
    assert "were not sent" not in done.stderr
    assert faults == []
    assert len(counts) > 100
    assert max(counts) > 1
    client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("metasrl").experiment_id], max_results=100)
    assert sorted(run.info.status for run in runs) == ["FINISHED"] * 9
