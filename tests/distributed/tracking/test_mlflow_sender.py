"""What the sender of tracking events uploads."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.utils.validation import _validate_param_name

from distributed.settings.run_config import TrackingSettings
from distributed.settings.tracking_uri import made_by_one, store_file, tracking_uri
from distributed.tracking import mlflow_sender
from distributed.tracking.events import EndEvent, Event, Memory, RoundEvent
from distributed.tracking.outbox import LostError
from tests.distributed.helpers import environment


class Client:
    """Keeps what it is asked to upload."""

    def __init__(self) -> None:
        self.uploaded: list[str] = []
        self.ended: list[str] = []

    def log_batch(self, *arguments: Any, **keywords: Any) -> None:
        """Not of interest."""

    def log_artifact(self, run_id: str, path: str, target: str | None) -> None:
        del run_id, target
        self.uploaded.append(Path(path).name)

    def set_terminated(self, run_id: str, *, status: str, end_time: int) -> None:
        del run_id, end_time
        self.ended.append(status)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run directory with a file of its own, a link to a file outside, and a model."""
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (tmp_path / "secret").write_text("key", encoding="utf-8")
    (run / "summary.json").write_text("{}", encoding="utf-8")
    (run / "link.json").symlink_to(tmp_path / "secret")
    (run / "model" / "MLmodel").write_text("{}", encoding="utf-8")
    return run


def end(client: Client, folder: Path, paths: list[Path], model: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def log_model(client: Client, experiment: str, run: str, folder: Path, step: int) -> tuple[str, str]:
        del experiment, run, step
        client.uploaded.append(folder.name)
        return "id", "place"

    monkeypatch.setattr("distributed.models.mlflow_model.log_model", log_model)
    event: EndEvent = {
        "kind": "end",
        "status": "FINISHED",
        "time": 0,
        "artifacts": [(str(path), "") for path in paths],
        "model": None if model is None else str(model),
    }
    memory: Memory = {"run_id": "run", "experiment_id": "0"}
    mlflow_sender.Delivery(client, memory, folder, []).deliver(event, again=False)  # type: ignore[arg-type]
    assert client.ended == ["FINISHED"]


def test_only_files_of_the_run_are_uploaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    paths = [folder / "summary.json", folder / "link.json", folder.parent / "secret", folder / "gone.json"]
    end(client, folder, [*paths, folder / ".." / "secret"], folder / "model", monkeypatch)
    assert client.uploaded == ["summary.json", "model"]


def test_a_model_that_links_or_lies_outside_is_not_uploaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = folder.parent / "model"
    outside.mkdir()
    (outside / "MLmodel").write_text("{}", encoding="utf-8")
    client = Client()
    end(client, folder, [], outside, monkeypatch)
    assert client.uploaded == []
    (folder / "model" / "data").symlink_to(folder.parent / "secret")
    client = Client()
    end(client, folder, [], folder / "model", monkeypatch)
    assert client.uploaded == []


def test_names_are_valid_and_stay_distinct() -> None:
    given = [
        "mass",
        "mass@1",
        "mass#1",
        "mass%1",
        "mass_1",
        "link//1",
        "../mass",
        "/root",
        "k" * 300,
        "k" * 301,
        "ä",
        "a.b/c d",
    ]
    found = mlflow_sender.accepted_names(given)
    assert found["mass"] == "mass"
    assert found["mass_1"] == "mass_1"
    assert found["a.b/c d"] == "a.b/c d"
    assert len(set(found.values())) == len(given)
    for name in found.values():
        _validate_param_name(name)
        assert len(name) <= 250
    assert mlflow_sender.accepted_names(given[::-1])["mass_1"] == "mass_1", "what is valid keeps its name"


def test_what_the_server_rejects_costs_itself_and_not_the_event() -> None:
    class Picky(Client):
        taken: list[str] = []  # noqa: RUF012 - what it took

        def log_batch(self, run_id: str, *, metrics: Any, params: Any, tags: Any) -> None:
            del run_id
            if any("bad" in one.key for one in (*metrics, *params, *tags)):
                raise MlflowException("not this one", error_code=INVALID_PARAMETER_VALUE)
            self.taken += [one.key for one in (*metrics, *params, *tags)]

    client, notes = Picky(), list[str]()
    event: RoundEvent = {
        "kind": "round",
        "key": "r",
        "time": 0,
        "metrics": [("gap", 1.0, 0), ("bad metric", 1.0, 0)],
        "params": {"mass": 1, "bad mass": 2, "length": 3},
        "log_tags": {"note": "x"},
    }
    mlflow_sender.Delivery(client, {"run_id": "run"}, Path(), notes).deliver(event, again=False)  # type: ignore[arg-type]
    assert client.taken == ["gap", "mass", "length", "note"]
    assert [note.split(",")[0] for note in notes] == ["the server rejects bad metric", "the server rejects bad mass"]


RACE = """
import sys
from pathlib import Path
from distributed.settings.run_config import TrackingSettings
from distributed.tracking.mlflow_sender import MLflowSender
sender = MLflowSender(TrackingSettings(), Path())
memory = {}
sender.send({"kind": "start", "key": sys.argv[1], "name": sys.argv[1], "tags": {}, "time": 0}, memory, again=False)
print(memory["run_id"])
"""
LOST = """
import os
from pathlib import Path
from mlflow import MlflowClient
from distributed.settings.run_config import TrackingSettings
from distributed.tracking.mlflow_sender import MLflowSender
from distributed.tracking.outbox import LostError
start = {"kind": "start", "key": "a", "name": "a", "tags": {}, "time": 0}
memory, sender = {}, MLflowSender(TrackingSettings(), Path())
sender.send(start, memory, again=False)
client = MlflowClient("sqlite:///" + os.path.abspath("mlflow.db"))
client.delete_experiment(memory["experiment_id"])
for one in (sender, MLflowSender(TrackingSettings(), Path())):
    client.delete_experiment(memory["experiment_id"]) if not one.notes and one is not sender else None
    one.send({**start, "key": f"b{id(one)}"}, memory, again=False)
    print(one.notes)
try:
    sender.send({"kind": "resume", "time": 0}, {**memory, "run_id": "f" * 32}, again=False)
except LostError as error:
    print("lost")
"""

DELETED = """
import time
from pathlib import Path
from distributed.models.model_registry import connect
from distributed.settings.run_config import TrackingSettings
from distributed.tracking.mlflow_sender import MLflowSender
from distributed.tracking.outbox import Outbox

def sent(*events):
    for event in events:
        outbox.append(event)
    while outbox.unsent:
        time.sleep(0.05)

def numbers(step):
    return {"kind": "round", "key": f"round {step}", "time": 0, "metrics": [("gap", 0.5, step)]}

connect(None)  # as a run does that will register its start
outbox = Outbox(Path("tracking"), MLflowSender(TrackingSettings(), Path()), print, 0.2)
sent({"kind": "start", "key": "a", "name": "a", "tags": {}, "time": 0}, numbers(1))
for step in (2, 3):
    for path in Path().glob("mlflow.db*"):
        path.unlink()
    sent(numbers(step))
outbox.close(30.0)
run = connect(None).get_run(outbox.memory["run_id"])
print("found by a client of its own:", run.info.run_name)
"""


def python(code: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    return subprocess.Popen(
        words, cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.slow
def test_three_runs_at_once_make_one_store(tmp_path: Path) -> None:
    processes = [python(RACE, tmp_path, name) for name in "abc"]
    ended = [(*process.communicate(timeout=300), process.returncode) for process in processes]
    assert [code for *_, code in ended] == [0, 0, 0], ended
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    assert {row[0] for row in connection.execute("SELECT name FROM runs")} == set("abc")
    assert not list(connection.execute("SELECT name FROM sqlite_master WHERE name LIKE '_alembic_tmp_%'"))
    connection.close()


@pytest.mark.slow
def test_a_deleted_experiment_is_restored_and_an_unknown_run_is_lost(tmp_path: Path) -> None:
    out, err = python(LOST, tmp_path).communicate(timeout=300)
    lines = out.splitlines()
    assert len(lines) == 3, err
    assert all("was deleted; it is restored" in line for line in lines[:2])
    assert lines[2] == "lost"


@pytest.mark.slow
def test_a_store_that_is_deleted_under_a_run_is_rebuilt_by_the_same_process(tmp_path: Path) -> None:
    out, err = python(DELETED, tmp_path).communicate(timeout=300)
    assert out.count("the store has lost this run (its file was deleted or replaced); it is rebuilt from") == 2, err
    assert "found by a client of its own: a" in out, err
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert list(connection.execute("SELECT name FROM runs")) == [("a",)]
        assert list(connection.execute("SELECT step FROM metrics ORDER BY step")) == [(1,), (2,), (3,)]


class Connected:
    """A client of a store that is a file, which the first connection does not survive."""

    made: ClassVar[list[str]] = []

    def __init__(self, tracking_uri: str) -> None:
        self.made.append(tracking_uri)
        store_file(tracking_uri).write_text("")  # type: ignore[union-attr]

    def get_experiment_by_name(self, name: str) -> None:
        if len(self.made) == 1:
            raise OSError("attempt to write a readonly database")

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        if len(self.made) == 2:
            store_file(self.made[0]).unlink()  # type: ignore[union-attr]
        return "1"

    def log_batch(self, run_id: str, **content: Any) -> None:
        """Not of interest."""


def test_a_store_that_is_deleted_while_it_is_opened_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow.MlflowClient", Connected)
    sender = mlflow_sender.MLflowSender(TrackingSettings(uri=f"sqlite:///{tmp_path}/a.db"), tmp_path)
    event: Event = {"kind": "round", "key": "a", "time": 0, "metrics": []}
    with pytest.raises(OSError, match="readonly"):
        sender.send(event, {"run_id": "r"}, again=False)
    sender.send(event, {"run_id": "r"}, again=True)  # its store is deleted before the client is kept
    with pytest.raises(LostError, match="deleted or replaced"):
        sender.send(event, {"run_id": "r"}, again=True)
    sender.send(event, {"run_id": "r"}, again=True)
    assert len(set(Connected.made)) == len(Connected.made) == 3


def test_the_address_of_another_file_is_spelled_anew_and_names_the_same_store(tmp_path: Path) -> None:
    uri, path = tracking_uri(f"sqlite:///{tmp_path}/a.db?timeout=9"), tmp_path / "a.db"
    spellings = list[str]()

    def connect() -> None:
        with made_by_one(uri) as address:
            path.touch()
            spellings.append(address)

    connect()
    connect()
    path.rename(tmp_path / "away.db")  # so that the new file cannot have the inode of the old one
    connect()
    with pytest.raises(OSError, match="half"), made_by_one(uri):
        raise OSError("half open")
    connect()
    assert spellings[0] == spellings[1] == uri
    assert len(set(spellings)) == 3
    assert {str(store_file(one).resolve()) for one in spellings} == {str(path)}  # type: ignore[union-attr]
    assert all(one.endswith("?timeout=9") for one in spellings)
    for kept in ("http://host:5000", "sqlite:///:memory:", "postgresql://h/d"):
        with made_by_one(kept) as address:
            assert address == kept


FAILING = """
import sqlite3
from pathlib import Path
from distributed.settings.run_config import TrackingSettings
from distributed.tracking.mlflow_sender import MLflowSender

memory, sender = {}, MLflowSender(TrackingSettings(), Path())
sender.send({"kind": "start", "key": "a", "name": "a", "tags": {}, "time": 0}, memory, again=False)
with sqlite3.connect("mlflow.db") as connection:
    connection.execute("DROP TABLE metrics")
connection.close()
numbers = {"kind": "round", "key": "round 1", "time": 0, "metrics": [("gap", 0.5, 1)]}
try:
    sender.send(numbers, memory, again=False)
except Exception as error:
    print("raised", error)
"""


@pytest.mark.slow
def test_an_error_of_the_store_is_raised_and_mlflow_writes_no_traceback_beside_it(tmp_path: Path) -> None:
    out, err = python(FAILING, tmp_path).communicate(timeout=300)
    assert "raised" in out, err
    assert "no such table" in out
    assert "Traceback" not in err
    assert "ERROR" not in err


def test_what_a_race_left_in_a_store_is_put_right(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE runs (a); CREATE TABLE _alembic_tmp_runs (a); CREATE TABLE _alembic_tmp_tags (b);"
    )
    connection.close()
    with made_by_one(f"sqlite:///{path}"):
        connection = sqlite3.connect(path)
        found = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        connection.close()
    assert found == {"runs", "tags"}


def test_a_store_whose_creation_was_interrupted_is_made_anew(tmp_path: Path) -> None:
    """Cut off between two migrations, MLflow's own creation can never be repeated: what it would add is there."""
    path = tmp_path / "mlflow.db"
    uri = f"sqlite:///{path}"
    long_ago = time.time() - 3600.0
    script = "CREATE TABLE experiments (a); CREATE TABLE runs (a); CREATE INDEX index_params_run_uuid ON runs (a);"

    def left(more: str) -> None:
        path.unlink(missing_ok=True)
        connection = sqlite3.connect(path)
        connection.executescript(script + more)
        connection.close()
        os.utime(path, (long_ago, long_ago))

    left("")
    with made_by_one(uri):
        assert not path.exists()
    for kept in (
        "INSERT INTO experiments VALUES (0)",
        "INSERT INTO runs VALUES (0)",
        "DROP TABLE runs; DROP TABLE experiments",
    ):
        left(kept)
        with made_by_one(uri):
            assert path.exists(), kept
    left("")
    os.utime(path)  # somebody else may be at it
    with made_by_one(uri):
        assert path.exists()


INTERRUPTED = """
import os, sqlite3, sys
from mlflow import MlflowClient
from distributed.settings.tracking_uri import made_by_one

uri = f"sqlite:///{sys.argv[1]}"
if sys.argv[2] == "cut":
    MlflowClient(uri).search_experiments()
    connection = sqlite3.connect(sys.argv[1])
    connection.execute("DELETE FROM experiments")
    connection.execute("DROP TABLE trace_info")  # a table of a later version than this one:
    connection.execute("UPDATE alembic_version SET version_num = 'c48cb773bb87'")
    connection.commit()
    os.utime(sys.argv[1], (0, 0))
elif sys.argv[2] == "plain":
    MlflowClient(uri).search_experiments()
else:
    with made_by_one(uri):
        print(len(MlflowClient(uri).search_experiments()))
"""


@pytest.mark.slow
def test_mlflow_opens_a_store_again_whose_creation_was_interrupted(tmp_path: Path) -> None:
    def told(step: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "mlflow.db"), step]
        return subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300, check=False)

    assert told("cut").returncode == 0
    store = (tmp_path / "mlflow.db").read_bytes()
    assert told("plain").returncode != 0, "MLflow alone never opens it"
    (tmp_path / "mlflow.db").write_bytes(store)
    os.utime(tmp_path / "mlflow.db", (0, 0))
    done = told("ours")
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr


def test_paths_in_a_tracking_address_do_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri("sqlite:///sub/a.db?timeout=9") == f"sqlite:///{tmp_path}/sub/a.db?timeout=9"
    assert tracking_uri("sqlite:////abs/a.db") == "sqlite:////abs/a.db"
    assert tracking_uri("mlruns") == f"{tmp_path}/mlruns"
    assert tracking_uri("file:./mlruns") == f"file://{tmp_path}/mlruns"
    for kept in ("http://host:5000", "file:///abs", "databricks", "postgresql://h/d"):
        assert tracking_uri(kept) == kept
