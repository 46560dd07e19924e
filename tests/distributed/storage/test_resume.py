"""A run that is interrupted anywhere and resumed ends with the state of one that never was."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distributed.storage import checkpoints, run_directory, run_places
from distributed.storage.checkpoints import DamagedFileError
from distributed.storage.csv_tables import read_rows
from distributed.storage.run_directory import RunDirectory
from meta.training.loop import Finished
from meta.training.records import Row, task_row
from policies.common.results import TaskResult
from tests.distributed.families import counts, notes
from tests.distributed.helpers import (
    exit_code,
    learn,
    local,
    noted,
    only_run,
    parsed,
    run_file,
    summary_of,
    tiny,
    undisturbed_sha,
)
from tests.distributed.storage.test_checkpoints import flip, truncate
from tests.support.few_variants import few


class Crash(BaseException):
    """The process is gone."""


class CrashAfter:
    """A tracker that crashes when some tasks are finished."""

    def __init__(self, count: int) -> None:
        self._left = count

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        del finished, result
        self._left -= 1
        if self._left == 0:
            raise Crash

    def warmed_up(self, state: Any, steps: Any) -> None:
        raise AssertionError("no direct steps were asked for")

    def round_finished(self, state: Any, rows: Any) -> None:
        del state, rows


@pytest.fixture(autouse=True)
def _in_an_empty_folder(workplace: Path, no_plots: None) -> None:
    pass


@pytest.mark.parametrize("count", [1, 3, 4, 6, 8])
def test_finished_tasks_are_not_run_again(tmp_path: Path, count: int) -> None:
    config = parsed(noted(tmp_path / "notes"))
    directory = RunDirectory.create(config)
    with pytest.raises(Crash):
        learn(config, *local(config), directory, CrashAfter(count))
    again = RunDirectory.open(directory.path, config)
    state, _ = learn(config, *local(config), again)
    assert state.sha256() == undisturbed_sha()
    assert counts(notes(tmp_path / "notes", "runs")) == {f"train/{i}": 1 for i in range(8)}
    assert [row["task_index"] for row in read_rows(directory.path / "tasks.csv")] == list(range(8))


def test_a_table_of_an_older_version_without_a_column_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parsed(tiny())
    directory = RunDirectory.create(config)
    with monkeypatch.context() as older_version:
        older_version.setattr(run_directory, "table_digest", lambda rows: None)
        with pytest.raises(Crash):
            learn(config, *local(config), directory, CrashAfter(5))
    table = directory.path / "tasks.csv"
    older = [{name: value for name, value in row.items() if name != "parameters"} for row in read_rows(table)]
    table.write_text(run_directory.csv_text(older), encoding="utf-8")
    again = RunDirectory.open(directory.path, config)
    state, _ = learn(config, *local(config), again)
    assert state.sha256() == undisturbed_sha()
    rows = read_rows(table)
    assert [row["parameters"] for row in rows[:4]] == [""] * 4
    assert all('"desc"' in str(row["parameters"]) for row in rows[4:])
    assert [row["reward"] for row in rows[:4]] == [row["reward"] for row in older]


def _writes_of_a_run(monkeypatch: pytest.MonkeyPatch) -> int:
    config, written = parsed(tiny()), list[Path]()
    with monkeypatch.context() as patch:
        patch_writes(patch, lambda path: written.append(path), lambda path: None)
        learn(config, *local(config))
    return len(written)


def patch_writes(patch: pytest.MonkeyPatch, before: Callable[[Path], object], after: Callable[[Path], object]) -> None:
    """Call something around every atomic write."""
    write = checkpoints.write_atomically

    def wrapped(path: Path, content: bytes) -> None:
        before(path)
        write(path, content)
        after(path)

    for module in (checkpoints, run_directory):
        patch.setattr(module, "write_atomically", wrapped)


@pytest.mark.slow
def test_a_crash_at_any_write_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Crash after each of the run's writes in turn, then resume."""
    config, pool_and_learner = parsed(tiny()), local(parsed(tiny()))
    number = _writes_of_a_run(monkeypatch)
    assert number >= 2 + 2 * 8 + 2 * 2
    for last in range(3, number + 1):
        shutil.rmtree(tmp_path / "runs")
        left = [last]

        def or_crash(path: Path, left: list[int] = left) -> None:
            del path
            left[0] -= 1
            if left[0] == 0:
                raise Crash

        with monkeypatch.context() as patch:
            patch_writes(patch, lambda path: None, or_crash)
            with pytest.raises(Crash):
                learn(config, *pool_and_learner)
        run = only_run(tmp_path)
        state, directory = learn(config, *pool_and_learner, RunDirectory.open(run, config))
        assert state.sha256() == undisturbed_sha(), f"crash after write {last}"
        assert [row["task_index"] for row in directory.rows] == list(range(8))
        assert repr(read_rows(run / "tasks.csv")) == repr(directory.rows)


@pytest.mark.parametrize("cut", few([1, 2, 12, 200], 0, 2))
def test_a_row_that_was_cut_short_is_not_taken_for_another(tmp_path: Path, cut: int) -> None:
    """Rows are appended before the checkpoint that makes them count, so a crash may leave a part of one."""
    config = parsed(tiny(family={"num_tasks": 24}, cluster={"tasks_per_round": 12}))
    state, directory = learn(config, *local(config))
    table = directory.path / "tasks.csv"
    whole = table.read_bytes()
    lines = whole.splitlines(keepends=True)
    for suffix in (".json", ".safetensors"):
        (directory.path / "checkpoints" / f"round-000002{suffix}").unlink()
    table.write_bytes(b"".join(lines[:13]) + lines[13][:cut])
    again, resumed = learn(config, *local(config), RunDirectory.open(directory.path, config))
    assert again.sha256() == state.sha256()
    assert [row["task_index"] for row in resumed.rows] == list(range(24))
    assert without_seconds(table) == without_seconds(whole)


def test_a_table_with_a_changed_number_is_refused(workplace: Path) -> None:
    config = parsed(tiny())
    directory = RunDirectory.create(config)
    learn(config, *local(config), directory)
    table = directory.path / "tasks.csv"
    kept = table.read_text()
    seed = read_rows(table)[3]["seconds"]
    table.write_text(kept.replace(str(seed), "9.25"))
    with pytest.raises(
        DamagedFileError, match=r"tasks\.csv: holds other rows than the run wrote; put a copy of it back"
    ):
        learn(config, *local(config), RunDirectory.open(directory.path, config))
    table.write_text(kept)
    learn(config, *local(config), RunDirectory.open(directory.path, config))


def test_a_run_that_an_older_version_began_has_cpu_times_of_the_tasks_since(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parsed(tiny())

    def older(*given: Any) -> Row:
        return {name: value for name, value in task_row(*given).items() if name != "cpu_seconds"}

    directory = RunDirectory.create(config)
    with monkeypatch.context() as patch:
        patch.setattr("meta.training.loop.task_row", older)
        with pytest.raises(Crash):
            learn(config, *local(config), directory, CrashAfter(5))
    for _ in range(2):
        state, directory = learn(config, *local(config), RunDirectory.open(directory.path, config))
        assert state.sha256() == undisturbed_sha()
        kept = read_rows(directory.path / "tasks.csv")
        assert ["cpu_seconds" in row for row in kept] == 5 * [False] + 3 * [True], "four in the table, one beside it"


def test_lost_rows_are_reported_or_computed_again(tmp_path: Path) -> None:
    """After a power cut the table may be older than the checkpoint: the summary must not be made from half of it."""
    config = parsed(tiny())
    _, directory = learn(config, *local(config))
    table = directory.path / "tasks.csv"
    table.write_bytes(b"".join(table.read_bytes().splitlines(keepends=True)[:6]))
    file = run_file(tmp_path, tiny())
    if exit_code("train", file, "--resume", directory.path) == 0:
        assert summary_of(directory.path)["num_tasks"] == 8
        assert len(read_rows(table)) == 8


def without_seconds(table: Path | bytes) -> list[dict[str, str]]:
    """A ``tasks.csv`` without the time of each task."""
    text = (table if isinstance(table, bytes) else table.read_bytes()).decode()
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in csv.DictReader(text.splitlines())]


def harm_json(path: Path) -> None:
    """Change a digit of the number of policies."""
    text = path.read_text()
    assert '"policy_count": ' in text
    path.write_text(text.replace('"policy_count": ', '"policy_count": 1'))


@pytest.mark.parametrize(
    ("suffix", "harm"),
    few([(".safetensors", truncate), (".safetensors", flip), (".json", truncate), (".json", harm_json)], 1, 2),
    ids=["arrays cut", "arrays flipped", "facts cut", "a digit changed"],
)
def test_a_damaged_newest_checkpoint_is_reported_and_harmless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, harm: Callable[[Path], None]
) -> None:
    raw = noted(tmp_path / "notes", family={"num_tasks": 8})
    file = run_file(tmp_path, raw)
    assert exit_code("train", file) == 0
    run = only_run(tmp_path)
    first = summary_of(run)
    harm(run / "checkpoints" / f"round-000002{suffix}")
    capsys.readouterr()
    assert exit_code("train", file, "--resume", run) == 0
    assert "skipping a damaged checkpoint" in capsys.readouterr().err
    assert summary_of(run)["meta_state_sha256"] == first["meta_state_sha256"] == undisturbed_sha()
    assert summary_of(run)["taog"] == first["taog"]
    assert counts(notes(tmp_path / "notes", "runs")) == {f"train/{i}": 1 + (i >= 4) for i in range(8)}


def test_without_an_intact_checkpoint_the_run_begins_again_or_the_error_is_clear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(tmp_path, tiny())
    assert exit_code("train", file) == 0
    run = only_run(tmp_path)

    def damage() -> None:
        for path in (run / "checkpoints").glob("round-*.safetensors"):
            truncate(path)
        capsys.readouterr()

    damage()
    assert exit_code("adapt", run) != 0
    assert "all 2 checkpoints are damaged" in capsys.readouterr().err
    assert exit_code("train", file, "--resume", run) == 0
    assert "the run begins again with its first round" in " ".join(capsys.readouterr().err.split())
    assert summary_of(run)["meta_state_sha256"] == undisturbed_sha()
    damage()
    for path in (run / "checkpoints").glob("round-000001.*"):  # as in a run that has deleted it
        path.unlink()
    assert exit_code("train", file, "--resume", run) == 1
    reported = capsys.readouterr().err
    assert "all 1 checkpoints are damaged; start a new run" in reported
    assert "Traceback" not in reported


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 4}, "seed"),
        ({"family": {"num_tasks": 12}}, "family.num_tasks"),
        ({"family": {"map_size": 5}}, "family.map_size"),
        ({"within_task": {"num_iterations": 3}}, "within_task.num_iterations"),
        ({"dice": {"failed_weight": 0.5}}, "dice.failed_weight"),
        ({"meta": {"initialization": {"method": "fal"}}}, "meta.initialization.method"),
        ({"cluster": {"tasks_per_round": 2}}, "cluster.tasks_per_round"),
    ],
)
def test_a_run_is_not_resumed_under_another_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], key: str
) -> None:
    run = RunDirectory.create(parsed(tiny())).path
    before = sorted(run.rglob("*"))
    assert exit_code("train", run_file(tmp_path, tiny(**changes)), "--resume", run) == 2
    reported = capsys.readouterr().err
    assert reported.rstrip().endswith(f"differing keys: {key}")
    assert str(run) in reported
    assert sorted(run.rglob("*")) == before


def test_a_resume_that_cannot_start_leaves_the_run_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even one whose table is gone: its checkpoints are worth more."""
    config = parsed(tiny())
    directory = RunDirectory.create(config)
    with pytest.raises(Crash):
        learn(config, *local(config), directory, CrashAfter(5))
    (directory.path / "tasks.csv").unlink()
    before = sorted(directory.path.rglob("*"))
    file = run_file(tmp_path, tiny(cluster={"pool": "ray", "address": "nonsense"}))
    assert exit_code("train", file, "--resume", directory.path) == 2
    assert "cluster.address" in capsys.readouterr().err
    assert sorted(directory.path.rglob("*")) == before


def test_where_and_how_it_runs_may_change_on_resume(tmp_path: Path) -> None:
    config = parsed(tiny())
    directory = RunDirectory.create(config)
    with pytest.raises(Crash):
        learn(config, *local(config), directory, CrashAfter(5))
    other = tiny(
        cluster={"num_workers": 5, "task_retries": 0},
        tracking={"experiment": "another"},
        evaluation={"num_test_tasks": 3},
        output={"keep_checkpoints": 2},
    )
    assert exit_code("train", run_file(tmp_path, other), "--resume", directory.path) == 0
    summary = summary_of(directory.path)
    assert summary["meta_state_sha256"] == undisturbed_sha()
    assert summary["num_tasks"] == 8


def test_a_finished_run_can_be_resumed_and_keeps_its_results(tmp_path: Path) -> None:
    file = run_file(tmp_path, noted(tmp_path / "notes"))
    assert exit_code("train", file) == 0
    run = only_run(tmp_path)
    first, table = summary_of(run), (run / "tasks.csv").read_bytes()
    assert exit_code("train", file, "--resume", run) == 0
    assert (run / "tasks.csv").read_bytes() == table
    second = summary_of(run)
    assert second.pop("wall_seconds") >= first.pop("wall_seconds") > 0.0
    assert second == first
    assert len(notes(tmp_path / "notes", "runs")) == 8


def test_rows_come_back_bit_for_bit(tmp_path: Path) -> None:
    config = parsed(tiny())
    _, directory = learn(config, *local(config))
    rows = read_rows(directory.path / "tasks.csv")
    assert [list(row) for row in rows] == [list(row) for row in directory.rows]
    for read, kept in zip(rows, directory.rows, strict=True):
        assert {name: (type(value), repr(value)) for name, value in read.items()} == {
            name: (type(value), repr(value)) for name, value in kept.items()
        }


def test_latest_is_the_newest_run_of_the_same_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a cluster does that starts a job again: the same command, with nothing but the storage."""
    config = parsed(tiny())
    assert RunDirectory.latest(config) is None
    other = RunDirectory.create(parsed(tiny(within_task={"num_iterations": 3})))
    first, second = RunDirectory.create(config), RunDirectory.create(config)
    (first.path.parent / "no-run").mkdir()
    (first.path.parent / "torn").mkdir()
    (first.path.parent / "torn" / "config.yaml").write_text("name: [")
    assert RunDirectory.latest(config) == second.path
    with pytest.raises(Crash):
        learn(config, *local(config), second, CrashAfter(5))
    assert exit_code("train", run_file(tmp_path, tiny()), "--resume", "latest") == 0
    assert f"continuing {second.path}" in capsys.readouterr().err
    assert summary_of(second.path)["meta_state_sha256"] == undisturbed_sha()
    assert not (other.path / "summary.json").exists()


def test_latest_begins_a_run_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("train", run_file(tmp_path, tiny()), "--resume", "latest") == 0
    assert "no earlier run with these settings: starting a new one" in capsys.readouterr().err
    assert summary_of(only_run(tmp_path))["num_tasks"] == 8


def test_names_of_runs_are_in_the_order_they_were_made_in() -> None:
    names = ["20260102T030405", "20260102T030405-2", "20260102T030405-10", "20260102T030406"]
    shuffled = [names[2], names[0], names[3], names[1]]
    assert sorted(shuffled, key=run_places.age_of) == names
