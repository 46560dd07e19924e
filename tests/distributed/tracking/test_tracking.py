"""What MLflow holds after a run, and that a server that is away neither stops a run nor loses anything."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from distributed.settings.keys import flatten
from distributed.settings.provenance import git_commit
from distributed.settings.stopping import Stopped
from distributed.settings.tracking_uri import hide_password
from distributed.storage.csv_tables import read_rows
from distributed.storage.run_directory import RunDirectory, load_run_config, load_summary
from distributed.tracking.events import Event
from distributed.tracking.mlflow_sender import MLflowSender
from distributed.tracking.mlflow_tracker import MLflowTracker, describe_tasks
from meta.reporting.verdict import verdict
from tasks.contract.task import Task
from tests.distributed.helpers import (
    Raw,
    command,
    courier,
    exit_code,
    free_port,
    noted,
    only_run,
    parsed,
    run_file,
    started,
    summary_of,
    tiny,
    tiny_neural,
    undisturbed_sha,
    wait_until,
)
from tests.support.few_variants import few


@dataclass(frozen=True)
class Store:
    """The runs of an SQLite store, read without MLflow."""

    path: Path

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """The answer to a query."""
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(query, arguments).fetchall()
        finally:
            connection.close()

    def runs(self) -> dict[str, Mapping[str, str]]:
        """Tags of every run, by run id."""
        ids = [str(row[0]) for row in self.rows("SELECT run_uuid FROM runs")]
        return {run: dict(self.rows("SELECT key, value FROM tags WHERE run_uuid = ?", run)) for run in ids}

    def parent(self) -> str:
        """The one run that is not nested."""
        (found,) = [run for run, tags in self.runs().items() if "mlflow.parentRunId" not in tags]
        return found

    def children(self) -> dict[str, str]:
        """Run ids of the nested runs, by name."""
        parent = self.parent()
        named = [(tags["mlflow.runName"], run) for run, tags in self.runs().items() if run != parent]
        assert len(dict(named)) == len(named)
        assert {self.runs()[run]["mlflow.parentRunId"] for _, run in named} <= {parent}
        return dict(named)

    def params(self, run: str) -> dict[str, str]:
        """Parameters of a run."""
        return dict(self.rows("SELECT key, value FROM params WHERE run_uuid = ?", run))

    def history(self, run: str) -> dict[str, list[tuple[int, float]]]:
        """(step, value) of every metric of a run, in order of steps."""
        result: dict[str, list[tuple[int, float]]] = {}
        query = "SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY key, step"
        for key, step, value in self.rows(query, run):
            result.setdefault(key, []).append((step, value))
        return result

    def status(self, run: str) -> str:
        """RUNNING, FINISHED or FAILED."""
        return str(self.rows("SELECT status FROM runs WHERE run_uuid = ?", run)[0][0])


TRACKED: Raw = tiny(tracking={"enabled": True, "flush_timeout_seconds": 120.0})


@dataclass(frozen=True)
class Tracked:
    """A finished run and its store."""

    folder: Path
    run: Path
    store: Store


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    """One run with the default store."""
    folder = tmp_path_factory.mktemp("tracked")
    done = command(["train", run_file(folder, TRACKED)], folder)
    assert done.returncode == 0, done.stderr
    return Tracked(folder, only_run(folder), Store(folder / "mlflow.db"))


def test_the_default_store_is_in_the_working_directory(tracked: Tracked) -> None:
    assert (tracked.folder / "mlflow.db").is_file()
    assert (tracked.folder / "mlruns").is_dir()
    assert tracked.store.rows("SELECT name FROM experiments WHERE name = 'metasrl'") == [("metasrl",)]


def test_the_parent_run_has_every_setting(tracked: Tracked) -> None:
    parent = tracked.store.parent()
    expected = dict(flatten(load_run_config(tracked.run).model_dump(mode="json")))
    assert tracked.store.params(parent) == expected
    assert expected["family.map_size"] == "4"
    assert tracked.store.status(parent) == "FINISHED"


def test_the_parent_run_records_what_it_was_made_with(tracked: Tracked) -> None:
    tags = tracked.store.runs()[tracked.store.parent()]
    assert tags["seed"] == "3"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", tags["git_commit"])
    assert {f"version.{name}" for name in ("metasrl", "ray", "torch", "gymnasium", "numpy", "mlflow")} <= set(tags)
    assert tags["version.ray"] == "2.60.0"
    assert tags["mlflow.runName"] == f"tiny/{tracked.run.name}"


def test_the_experiment_opens_on_its_runs_with_the_columns_of_the_verdict(tracked: Tracked) -> None:
    tags = dict(tracked.store.rows("SELECT key, value FROM experiment_tags"))
    view = json.loads(tags["mlflow.sharedViewState.metasrl"])
    assert view["searchFilter"] == "tags.`metasrl.kind` = 'train'"
    assert view["selectedColumns"][:2] == ["tags.`verdict`", "metrics.`test/meta_srl/gap`"]
    kinds = [run.get("metasrl.kind") for run in tracked.store.runs().values()]
    assert kinds.count("train") == 1, "the filter finds the run and none of its tasks"
    assert "runs?viewStateShareKey=metasrl)" in tags["mlflow.note.content"]
    parent = tracked.store.runs()[tracked.store.parent()]
    assert parent["verdict"] == verdict(load_summary(tracked.run))
    shown = {column.removeprefix("metrics.`").removesuffix("`") for column in view["selectedColumns"]}
    logged = {row[0] for row in tracked.store.rows("SELECT key FROM latest_metrics")}
    assert {name for name in shown if name.startswith("test/")} <= logged


def test_the_parent_run_has_running_measures_of_every_round(tracked: Tracked) -> None:
    history, summary = tracked.store.history(tracked.store.parent()), summary_of(tracked.run)
    rows = read_rows(tracked.run / "tasks.csv")
    per_round = ("taog", "tacv_1", "learning_rate_0", "learning_rate_1", "meta_loss", "dice_effective_sample_size")
    for name in per_round:
        assert [step for step, _ in history[name]] == [1, 2], name
    last = {name: dict(history[name])[2] for name in per_round}
    assert last["taog"] == pytest.approx(summary["taog"], rel=1e-12)
    assert last["tacv_1"] == pytest.approx(summary["tacv"][0], rel=1e-12)
    assert [last["learning_rate_0"], last["learning_rate_1"]] == pytest.approx(summary["learning_rates"], rel=1e-12)
    assert last["meta_loss"] == pytest.approx(sum(float(row["f_hat"]) for row in rows[4:]) / 4, rel=1e-12)
    assert dict(history["test/meta_srl/gap"])[0] == summary["test"]["meta_srl"]["gap"]["mean"]


def test_every_task_is_a_nested_run_with_its_iterations(tracked: Tracked) -> None:
    children, rows = tracked.store.children(), read_rows(tracked.run / "tasks.csv")
    assert set(children) == {f"task frozen_lake/train/{index}" for index in range(8)}
    for row in rows:
        run = children[f"task frozen_lake/train/{row['task_index']}"]
        history = tracked.store.history(run)
        assert [step for step, _ in history["J_0"]] == [step for step, _ in history["J_1"]] == [0, 1, 2]
        assert [step for step, _ in history["branch"]] == [0, 1]
        assert sum(value == 0.0 for _, value in history["branch"]) == row["reward_steps"]
        assert dict(history["J_0"])[0] == row["reward_start"]
        assert dict(history["J_1"])[int(row["output_iteration"])] == row["cost_1"]
        assert history["gap"] == [(row["task_index"], row["gap"])]
        params = tracked.store.params(run)
        assert params["task_seed"] == str(row["seed"])
        assert json.loads(params["limits"]) == [row["limit_1"]]
        assert len(json.loads(params["parameters.desc"])) == 4
        assert tracked.store.status(run) == "FINISHED"


def test_the_artifacts_are_those_of_the_run_directory(tracked: Tracked) -> None:
    ((uri,),) = tracked.store.rows("SELECT artifact_uri FROM runs WHERE run_uuid = ?", tracked.store.parent())
    folder = Path(uri.removeprefix("file://"))
    assert folder.is_relative_to(tracked.folder / "mlruns")
    for name in ("summary.json", "tasks.csv", "held_out.csv", "config.yaml"):
        assert (folder / name).read_bytes() == (tracked.run / name).read_bytes()
    assert {path.name for path in (folder / "plots").iterdir()} == {
        path.name for path in (tracked.run / "plots").iterdir()
    }
    assert (folder / "report.html").read_bytes() == (tracked.run / "report.html").read_bytes()
    (facts,) = (folder / "checkpoint").glob("*.json")
    assert json.loads(facts.read_text())["state_sha256"] == undisturbed_sha()
    assert facts.with_suffix(".safetensors").is_file()


def test_the_run_page_is_for_people(tracked: Tracked) -> None:
    """A description with the result table, who ran what, the tasks as datasets, how busy the machine was."""
    parent = tracked.store.parent()
    tags = tracked.store.runs()[parent]
    assert "| `meta_srl` |" in tags["mlflow.note.content"]
    assert "report.html" in tags["mlflow.note.content"]
    assert tags["mlflow.source.name"] == "distributed/train.py"
    assert tags["family"] == "frozen_lake"
    datasets = tracked.store.rows("SELECT name, digest, dataset_profile FROM datasets ORDER BY name")
    assert [name for name, _, _ in datasets] == ["frozen_lake-held-out", "frozen_lake-training"]
    assert [json.loads(profile)["num_tasks"] for _, _, profile in datasets] == [2, 8]
    assert len({digest for _, digest, _ in datasets}) == 2
    history = tracked.store.history(parent)
    assert [step for step, _ in history["system/cpu_utilization_percentage"]] == [1, 2]
    assert all(0.0 < value < 1e6 for _, value in history["system/driver_memory_megabytes"])


def test_a_run_of_many_short_tasks_can_do_without_nested_runs(workplace: Path, fake: Fake) -> None:
    raw = tiny(tracking={"enabled": True, "task_runs": False})
    assert exit_code("train", run_file(workplace, raw)) == 0
    assert [event["kind"] for event in fake.events] == ["start", "datasets", "round", "round", "end"]


def test_the_digest_of_tasks_is_of_all_that_makes_them() -> None:
    tasks = [Task("lakes", "train", index, index, {"size": 4}, (0.5,)) for index in range(3)]
    first = describe_tasks("lakes", "training", tasks, {"name": "lakes"})
    assert first == describe_tasks("lakes", "training", list(tasks), {"name": "lakes"})
    changed = [*tasks[:2], Task("lakes", "train", 2, 2, {"size": 4}, (0.25,))]
    second = describe_tasks("lakes", "training", changed, {"name": "lakes"})
    assert first["digest"] != second["digest"]
    assert json.loads(second["profile"]) == {"num_tasks": 3, "mean_limits": [pytest.approx(1.25 / 3)]}


@pytest.mark.slow
def test_a_server_that_is_away_costs_nothing_and_gets_everything_once(tracked: Tracked, tmp_path: Path) -> None:
    """The run ends well and keeps its events; resumed with a store that answers, they arrive, each once."""
    away = f"http://127.0.0.1:{free_port()}"
    file = run_file(tmp_path, tiny(tracking={"enabled": True, "flush_timeout_seconds": 1.0}))
    done = command(["train", file], tmp_path, MLFLOW_TRACKING_URI=away)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    events = [json.loads(line) for line in (run / "tracking" / "outbox.jsonl").read_text().splitlines()]
    assert [event["kind"] for event in events] == [
        *("start", "datasets", *["task"] * 4, "round", *["task"] * 4, "round", "end")
    ]
    assert f"{len(events)} tracking events were not sent; `metasrl train ... --resume {run}`" in (done.stderr)
    assert summary_of(run)["meta_state_sha256"] == undisturbed_sha()
    assert not (tmp_path / "mlflow.db").exists()

    uri = f"sqlite:///{tmp_path / 'second.db'}"
    resumed = ["train", file, "--resume", run, "--tracking.flush_timeout_seconds", "120"]
    for _ in range(2):
        done = command(resumed, tmp_path, MLFLOW_TRACKING_URI=uri)
        assert done.returncode == 0, done.stderr
        assert "were not sent" not in done.stderr
    assert not (tmp_path / "mlflow.db").exists()
    require_same_as_undisturbed(Store(tmp_path / "second.db"), tracked.store)


def require_same_as_undisturbed(store: Store, undisturbed: Store) -> None:
    """The same runs with the same metrics, none of them twice."""
    ours, theirs = store.children(), undisturbed.children()
    assert set(ours) == set(theirs)
    for name, run in ours.items():
        assert store.history(run) == undisturbed.history(theirs[name])
        assert store.params(run) == undisturbed.params(theirs[name])
    history, expected = store.history(store.parent()), undisturbed.history(undisturbed.parent())
    rounds = {
        name: points
        for name, points in expected.items()
        if [step for step, _ in points] == [1, 2] and not name.startswith("system/")
    }
    assert "taog" in rounds
    assert {name: history[name] for name in rounds} == rounds
    assert store.status(store.parent()) == "FINISHED"


@pytest.fixture
def silent() -> Iterator[int]:
    """A port on which somebody listens and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(32)
        yield listener.getsockname()[1]


@pytest.mark.slow
def test_a_server_that_hangs_delays_neither_the_run_nor_its_end(tmp_path: Path, silent: int) -> None:
    file = run_file(tmp_path, tiny(tracking={"enabled": True, "flush_timeout_seconds": 1.0}))
    done = command(["train", file], tmp_path, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{silent}")
    assert done.returncode == 0, done.stderr
    assert "tracking events were not sent" in done.stderr
    assert summary_of(only_run(tmp_path))["wall_seconds"] < 30.0


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["at once", "when MLflow is in use"])
def test_a_tracked_run_that_is_stopped_exits_in_time_and_is_sent_completely(
    tracked: Tracked, tmp_path: Path, moment: str
) -> None:
    from tests.distributed.cluster.test_survival import SECONDS_OF_A_RAY_JOB, stop

    (tmp_path / "notes").mkdir()
    raw = noted(tmp_path / "notes", family={"hold": 5}, tracking={"enabled": True, "flush_timeout_seconds": 120.0})
    file = run_file(tmp_path, raw)
    with started(["train", file], tmp_path) as process:
        wait_until(lambda: (tmp_path / "notes" / "waiting").exists())
        if moment != "at once":
            wait_until(lambda: list(tmp_path.glob("runs/*/*/tracking/sent.json")))
        seconds = stop(process)
        assert process.returncode == 143 != -signal.SIGTERM
    assert seconds < SECONDS_OF_A_RAY_JOB
    (tmp_path / "notes" / "go").touch()
    done = command(["train", file, "--resume", only_run(tmp_path)], tmp_path)
    assert done.returncode == 0, done.stderr
    store = Store(tmp_path / "mlflow.db")
    assert {name.rpartition("/")[2] for name in store.children()} == {str(index) for index in range(8)}
    ours, theirs = store.history(store.parent()), tracked.store.history(tracked.store.parent())
    assert ours["taog"][:2] == theirs["taog"][:2]
    assert store.status(store.parent()) == "FINISHED"


@pytest.mark.slow
def test_an_event_that_the_server_refuses_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """MLflow takes only some characters in names: a family's own names must not stop its tracking for ever."""
    raw = courier(name="tests.distributed.families:OddNames")
    raw["tracking"] = {"enabled": True, "flush_timeout_seconds": 60.0}
    done = command(["train", run_file(tmp_path, raw)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "were not sent" not in done.stderr
    store = Store(tmp_path / "mlflow.db")
    assert len(store.children()) == 4
    assert store.status(store.parent()) == "FINISHED"


class Fake:
    """Stands for an MLflow server in this process."""

    def __init__(self) -> None:
        self.events, self.notes = list[Event](), list[str]()

    def send(self, event: Event, memory: dict[str, Any], *, again: bool) -> None:
        """Take an event."""
        del memory, again
        self.events.append(event)

    def points(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) of a metric of the rounds, in the order they came."""
        rounds = [event["metrics"] for event in self.events if event["kind"] == "round"]
        return [(step, value) for metrics in rounds for name, value, step in metrics if name == metric]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, no_plots: None) -> Fake:
    """A server that takes everything."""
    server = Fake()
    monkeypatch.setattr(
        MLflowSender, "send", lambda self, event, memory, again: server.send(event, memory, again=again)
    )
    return server


@pytest.mark.parametrize("kind", [RunDirectory, MLflowTracker])
@pytest.mark.parametrize(
    ("method", "call"), few([("task_finished", 3), ("task_finished", 8), ("round_finished", 1)], 0)
)
def test_a_run_that_is_stopped_between_its_trackers_loses_and_doubles_no_event(
    workplace: Path, fake: Fake, kind: type[Any], method: str, call: int
) -> None:
    """Stopped just before one tracker hears of a task or a round, that others may have heard of, then resumed."""
    file = run_file(workplace, TRACKED)
    original, calls = getattr(kind, method), [0]

    def stopping(self: Any, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise Stopped
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, method, stopping)
        assert exit_code("train", file) == 143
    assert exit_code("train", file, "--resume", only_run(workplace)) == 0
    assert summary_of(only_run(workplace))["meta_state_sha256"] == undisturbed_sha()
    tasks = [event["name"] for event in fake.events if event["kind"] == "task"]
    assert sorted(tasks) == [f"task frozen_lake/train/{index}" for index in range(8)]
    assert [step for step, _ in fake.points("taog")] == [1, 2]
    assert [event["kind"] for event in fake.events if event["kind"] in {"start", "resume", "end"}] == [
        "start",
        "resume",
        "end",
    ]


def test_the_running_measures_of_a_resumed_run_go_on(workplace: Path, fake: Fake) -> None:
    """TAOG after the second round is over all tasks, those before the stop included."""
    file = run_file(workplace, TRACKED)
    original = MLflowTracker.round_finished

    def stop_after(self: MLflowTracker, *arguments: Any) -> None:
        original(self, *arguments)
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MLflowTracker, "round_finished", stop_after)
        assert exit_code("train", file) == 143
    assert exit_code("train", file, "--resume", only_run(workplace)) == 0
    assert fake.points("taog")[-1][1] == pytest.approx(summary_of(only_run(workplace))["taog"], rel=1e-12)


def test_a_run_with_neural_policies_logs_rewards_and_facts_about_its_steps(workplace: Path, fake: Fake) -> None:
    assert exit_code("train", run_file(workplace, tiny_neural(tracking={"enabled": True}))) == 0
    run = only_run(workplace)
    summary, rows = summary_of(run), read_rows(run / "tasks.csv")
    assert [step for step, _ in fake.points("mean_reward")] == [1, 2]
    assert fake.points("mean_reward")[-1][1] == pytest.approx(summary["mean_reward"], rel=1e-12)
    assert fake.points("taog") == [], "not known"
    tasks = {event["params"]["task_index"]: event for event in fake.events if event["kind"] == "task"}
    assert len(tasks) == 8
    for row in rows:
        reported = {
            name: value for name, value, step in tasks[row["task_index"]]["metrics"] if step == row["task_index"]
        }
        for name in ("reward", "reward_start", "episodic_reward", "f_hat", "capped_steps", "refused_steps", "mean_kl"):
            assert reported[name] == row[name]
    (end,) = [event for event in fake.events if event["kind"] == "end"]
    final = {name: value for name, value, _ in end["metrics"]}
    assert final["final/mean_reward"] == summary["mean_reward"]
    assert final["test/meta_srl/reward"] == summary["test"]["meta_srl"]["reward"]["mean"]
    assert not [name for name in final if name.endswith(("gap", "taog"))]
    (start,) = [event for event in fake.events if event["kind"] == "start"]
    assert start["params"]["within_task.trust_region.delta_max"] == "0.01"


def test_a_run_that_fails_is_marked_so(workplace: Path, fake: Fake) -> None:
    raw = tiny(tracking={"enabled": True})
    raw["family"] = {"name": "tests.distributed.families:FaultyAt", "num_tasks": 4, "fault": "no_cost"}
    raw["meta"] = {"learning_rates": {"initial": 1.0}}
    raw["cluster"] = {**raw["cluster"], "set_aside_share": 0.0}
    assert exit_code("train", run_file(workplace, raw)) == 1
    assert [(event["kind"], event.get("status")) for event in fake.events] == [
        ("start", None),
        ("datasets", None),
        ("task", None),
        ("task", None),
        ("end", "FAILED"),
    ]


def test_unknown_numbers_are_left_out(workplace: Path, fake: Fake) -> None:
    raw = tiny(tracking={"enabled": True}, within_task={"evaluation": "sampled"})
    raw["family"] = {
        "name": "tests.support.user_families:CourierFamily",
        "num_tasks": 4,
        "with_model": False,
        "limit": [3.0, 1.0],
    }
    raw["meta"] = {"learning_rates": {"initial": 1.0}}
    assert exit_code("train", run_file(workplace, raw)) == 0
    tasks = [event for event in fake.events if event["kind"] == "task"]
    for event in tasks:
        names = {name for name, _, _ in event["metrics"]}
        assert "gap" not in names
        assert {"J_0", "J_1", "J_2", "branch", "violation_1", "violation_2"} <= names


def test_the_commit_is_that_of_the_checkout() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", git_commit())


def test_nothing_is_tracked_when_it_is_off(workplace: Path, fake: Fake) -> None:
    assert exit_code("train", run_file(workplace, tiny())) == 0
    assert fake.events == []
    assert not (only_run(workplace) / "tracking").exists()


def test_settings_are_flattened_to_text() -> None:
    assert dict(flatten(parsed(tiny()).model_dump(mode="json")))["evaluation.methods"] == '["random", "meta_srl"]'
    assert flatten({"a": {"b": 1.5, "c": None}, "d": "x"}) == [("a.b", "1.5"), ("a.c", "null"), ("d", "x")]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://ml:hunter2@db:5432/x", "postgresql://ml:***@db:5432/x"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////tmp/a:b@c.db", "sqlite:////tmp/a:b@c.db"),
    ],
)
def test_a_password_in_a_uri_is_not_shown(uri: str, shown: str) -> None:
    assert hide_password(uri) == shown
