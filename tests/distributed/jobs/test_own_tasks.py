"""Tasks by their parameters on the command line and in run files, and the table of the held-out tasks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributed.jobs.cells import Cell
from distributed.settings.run_config import RunConfig
from distributed.storage.csv_tables import read_rows
from meta.training.evaluation_settings import GridPoint
from meta.training.records import Row
from tests.distributed.helpers import (
    POINTS,
    Raw,
    changed,
    exit_code,
    finished,
    parsed,
    run_file,
    summary_of,
    tiny,
    tiny_neural,
)

CURVES = ("reward", "cost_1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on small lakes."""
    return finished(tmp_path_factory.mktemp("trained"), tiny())


def held_out(run: Path) -> list[Row]:
    return read_rows(run / "held_out.csv")


def parameters_of(run: Path, index: int) -> str:
    return str(next(row["parameters"] for row in held_out(run) if row["task_index"] == index))


def mean_curves(rows: list[Row], method: str) -> Any:
    """Means over tasks [M+1, 2] of reward and cost."""
    chosen = [row for row in rows if row["method"] == method]
    last = max(int(row["iteration"]) for row in chosen)
    return [
        [np.mean([float(row[name]) for row in chosen if row["iteration"] == m]) for name in CURVES]
        for m in range(last + 1)
    ]


def table_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("|", "-"))]


@pytest.mark.parametrize("raw", [tiny(), tiny_neural()], ids=["lakes", "networks"])
def test_means_over_the_tables_tasks_are_the_summarys_curves(raw: Raw, tmp_path: Path) -> None:
    run = finished(tmp_path, raw)
    rows = held_out(run)
    for method, entry in summary_of(run)["test"].items():
        expected = np.column_stack([entry["reward_curve"], np.array(entry["cost_curve"])[:, 0]])
        np.testing.assert_allclose(mean_curves(rows, method), expected, rtol=1e-12)
        ends = [float(row["reward"]) for row in rows if row["method"] == method and row["output"]]
        assert np.mean(ends) == pytest.approx(entry["reward"]["mean"], rel=1e-12)
        spent = [row["env_steps"] for row in rows if row["method"] == method and row["iteration"] == 0]
        assert np.mean(np.array(spent)) == entry["env_steps"]
    assert ("episodic_reward" in rows[0]) == ("algorithm" in raw["within_task"])
    assert all(list(json.loads(str(row["parameters"]))) for row in read_rows(run / "tasks.csv"))


def test_the_page_shows_the_tasks_of_the_table(trained: Path) -> None:
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert "The 2 new tasks from the learned start" in page
    assert "held_out.csv" in page


def test_adapt_by_the_parameters_of_a_held_out_task_gives_its_numbers(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for choice in (["--task-index", "1"], ["--parameters", parameters_of(trained, 1)]):
        assert exit_code("adapt", trained, *choice) == 0
        told.append(capsys.readouterr().out)
    assert table_of(told[0]) == table_of(told[1])
    assert len(table_of(told[0])) == 2 + 3 + 2
    assert "Task frozen_lake own {desc: [" in told[1]
    (plot,) = (trained / "adapt").glob("own-*.png")
    assert re.fullmatch(r"own-[0-9a-f]{6}", plot.stem)


@pytest.mark.parametrize("text", ["0.05", "[0.05]", " [ 0.05 ] "])
def test_limits_are_numbers_with_or_without_brackets(
    text: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("adapt", trained, "--parameters", parameters_of(trained, 0), "--limits", text) == 0
    assert "Limits [0.05]" in capsys.readouterr().out


def test_watch_films_an_own_task(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--parameters", parameters_of(trained, 0), "--limits", "0.25"]
    assert exit_code("watch", trained, *given) == 0
    assert "holes_entered (limit on the mean over episodes: 0.25)" in capsys.readouterr().out
    assert list((trained / "adapt").glob("own-*.mp4"))


HOLES_AROUND = '{"desc": ["SHFF", "HFFF", "FFFF", "FFFG"]}'
MAP = '{"desc": ["SFFF", "FHFH", "FFFH", "FFFG"]}'


@pytest.mark.parametrize("command", ["adapt", "watch"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parameters", "{"], "--parameters: '{' is not JSON"),
        (["--parameters", "[1]"], "--parameters: must be a JSON object with the task's parameters, got [1]"),
        (["--parameters", '{"size": 3}'], "--parameters: tasks of frozen_lake have no parameter size, only desc"),
        (["--parameters", "{}"], "--parameters: desc missing"),
        (["--parameters", '{"desc": "SFFG"}'], "--parameters: desc must be a list"),
        (["--parameters", MAP.replace("SFFF", "SFF")], "--parameters: desc[0] must have 4 tiles"),
        (["--parameters", MAP, "--limits", "low"], "--limits: must be one number for each cost"),
        (["--parameters", MAP, "--limits", ""], "--limits: must be one number for each cost"),
        (["--parameters", MAP, "--limits", "1,2"], "--limits: 2 given for 1 costs (holes_entered)"),
        (["--parameters", MAP, "--limits", "0"], "--limits: the limit of holes_entered must be finite and above 0"),
        (["--parameters", MAP, "--limits", "nan"], "--limits: the limit of holes_entered must be finite"),
        (["--parameters", HOLES_AROUND, "--limits", "0.001"], "--limits: frozen_lake own "),
        (["--parameters", HOLES_AROUND, "--limits", "0.001"], "holes_entered: limit 0.001, least reachable cost "),
        (["--limits", "1"], "--limits: need --parameters"),
        (["--parameters", MAP, "--task-index", "1"], "give --task-index or --parameters, not both"),
    ],
)
def test_what_makes_no_task_is_told_before_any_work(
    command: str,
    arguments: list[str],
    message: str,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("meta.training.pool.solve_task", lambda *_, **__: pytest.fail("work was done"))
    assert exit_code(command, trained, *arguments) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "error: --" in told or "error: give" in told
    assert message in told
    assert "Traceback" not in told


def given(run: Path, **more: Any) -> Raw:
    """The ``evaluation`` section with the held-out tasks of ``run`` by their parameters."""
    tasks = [{"parameters": json.loads(parameters_of(run, index))} for index in (0, 1)]
    return {**tiny()["evaluation"], "tasks": tasks, **more}


def test_the_drawn_tasks_in_the_run_file_give_the_same_held_out_table(trained: Path, tmp_path: Path) -> None:
    run = finished(tmp_path, tiny(evaluation=given(trained)))
    rows, drawn = ([{k: v for k, v in row.items() if k != "label"} for row in held_out(one)] for one in (run, trained))
    assert rows == drawn
    mine, theirs = summary_of(run), summary_of(trained)
    assert (mine["test"], mine["meta_state_sha256"]) == (theirs["test"], theirs["meta_state_sha256"])


def test_adapt_takes_the_tasks_of_the_run_file_by_index(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = given(trained)
    evaluation["tasks"][1]["limits"] = [0.0625]
    run = finished(tmp_path, tiny(evaluation=evaluation))
    assert {row["limit_1"] for row in held_out(run) if row["task_index"] == 1} == {0.0625}
    for source in (run, run / "meta_policy"):
        capsys.readouterr()
        assert exit_code("adapt", source, "--task-index", "1") == 0
        assert "Limits [0.0625]" in capsys.readouterr().out
        assert exit_code("adapt", source, "--task-index", "2") == 2
        assert "evaluation.tasks of this run holds 2 tasks, 0 to 1; got 2" in " ".join(capsys.readouterr().err.split())
    chosen = ["--family", "frozen_lake", "--family-parameters", '{"map_size": 4, "horizon": 30}']
    assert exit_code("adapt", run, *chosen, "--task-index", "1") == 0
    assert "Task frozen_lake/test/1" in capsys.readouterr().out, "the tasks of a run file are those of its own family"


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_wrong_task_in_the_run_file_is_told_before_any_work(
    command: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tiny()
    del raw["evaluation"]["num_test_tasks"]
    raw["evaluation"] |= {"tasks": [{"desc": ["SFFF"] * 4}], "seeds": [3]}
    file = run_file(workplace, raw)
    assert exit_code(command, file) == 2
    assert "evaluation.tasks.0.parameters: desc must have one S and a G" in " ".join(capsys.readouterr().err.split())
    assert not list(workplace.glob("runs/*/*"))


def test_networks_have_their_own_settings_on_held_out_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = {
        "tasks": [{"parameters": {"push": 0.25, "task": "mine"}, "limits": [0.75]}, {"push": 0.2, "task": "mine"}],
        "num_test_tasks": 2,
        "num_iterations": 3,
        "steps_per_iteration": 160,
        "trust_region": {"delta_max": 1e-5},
    }
    run = finished(tmp_path, changed(tiny_neural(), {"evaluation": evaluation}))
    rows = held_out(run)
    assert {row["env_steps"] for row in rows} == {(3 + 1) * 160}
    assert {row["env_steps"] for row in read_rows(run / "tasks.csv")} == {(2 + 1) * 80}
    table = [row for row in rows if row["method"] == "meta_srl" and row["task_index"] == 0]
    capsys.readouterr()
    given = ["--family", POINTS, "--parameters", '{"push": 0.25, "task": "mine"}', "--limits", "0.75"]
    assert exit_code("adapt", run, *given) == 0
    cells = [line.split("|") for line in table_of(capsys.readouterr().out) if re.match(r"\| \d", line)]
    assert [cell[5].strip() for cell in cells] == [f"{row['reward']:.4f}" for row in table], "the same random numbers"
    assert list((run / "adapt").glob("own-push-0_25-task-mine-*-policy.safetensors"))


COMPARED: Raw = {"seeds": [3, 4], "compared": ["random", "meta_srl"], "tuning_tasks": 2}


@pytest.mark.slow
def test_compare_writes_the_table_of_all_seeds_and_goes_on_with_earlier_cells(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(workplace, tiny(evaluation=COMPARED))
    assert exit_code("compare", file) == 0
    (run,) = (workplace / "runs" / "tiny-compare").iterdir()
    rows = held_out(run)
    assert {row["seed"] for row in rows} == {3, 4}
    summary = summary_of(run)
    for method, entry in summary["test"].items():
        expected = np.column_stack([entry["reward_curve"], np.array(entry["cost_curve"])[:, 0]])
        np.testing.assert_allclose(mean_curves(rows, method), expected, rtol=1e-12)
    (cell,) = (workplace / "runs" / "cells" / "tiny").glob("tiny-judge-random-4-*.json")
    content = json.loads(cell.read_text())
    del content["result"]["tasks"]
    cell.write_text(json.dumps(content))
    capsys.readouterr()
    assert exit_code("compare", file) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "0 to compute" in told
    assert "held_out.csv: without seed 4 of random" in told
    (again,) = set((workplace / "runs" / "tiny-compare").iterdir()) - {run}
    kept = [row for row in rows if (row["seed"], row["method"]) != (4, "random")]
    assert held_out(again) == kept
    assert summary_of(again) == summary


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("judge", "2b9de3c110da0bef"),
        ("tune", "803e5ec91c47786b"),
        ("describe", "89a2405d122d8b89"),
    ],
)
def test_without_new_settings_cells_keep_the_digests_of_earlier_versions(
    kind: str, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison that an earlier version began can be finished."""
    monkeypatch.setattr(RunConfig, "digest", lambda self: "run")
    method = None if kind == "describe" else "random"
    cell = Cell(kind, parsed(tiny()), method, GridPoint(rate=1.0) if kind == "judge" else None)
    assert cell.digest[:16] == digest


@pytest.mark.parametrize(
    ("kind", "evaluation", "same"),
    [
        ("judge", {"tasks": [{"push": 0.2, "task": "a"}, {"push": 0.3, "task": "a"}]}, False),
        ("describe", {"tasks": [{"push": 0.2, "task": "a"}, {"push": 0.3, "task": "a"}]}, False),
        ("tune", {"tasks": [{"push": 0.2, "task": "a"}, {"push": 0.3, "task": "a"}]}, True),
        ("judge", {"steps_per_iteration": 160}, False),
        ("tune", {"steps_per_iteration": 160}, False),
        ("tune", {"trust_region": {"delta_max": 0.5}}, False),
    ],
)
def test_a_cells_digest_covers_what_is_given(kind: str, evaluation: Raw, same: bool) -> None:
    base, other = (
        Cell(kind, parsed(changed(tiny_neural(), {"evaluation": more})), "random") for more in ({}, evaluation)
    )
    assert (base.digest == other.digest) == same
