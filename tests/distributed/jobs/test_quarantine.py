"""One bad task does not lose the run: it is tried again, set aside, reported, and remembered by a resume."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from distributed.settings.errors import SET_ASIDE_EXIT_CODE
from distributed.storage.run_directory import load_summary
from meta.reporting.tables import warnings_of
from meta.training.experiment import draw_tasks, observed
from meta.training.loop import Position, TrainingPlan, train
from meta.training.quarantine import Quarantine, SetAsideError
from tasks.contract.task import TaskError
from tests.distributed.families import counts, notes
from tests.distributed.helpers import (
    Raw,
    command,
    exit_code,
    local,
    only_run,
    parsed,
    run_file,
    summary_of,
    tiny,
    undisturbed_sha,
)
from tests.support.few_variants import few

QUITS = ("raise", "exit", "leave", "interrupt")
SOME = few(["exit", "raise", "leave", "interrupt"], 0)
"""One of them by default."""


def failing(tmp_path: Path, fails: dict[str, str], times: int = 99, **cluster: Any) -> Raw:
    """Eight small tasks, some of which fail."""
    notes_of = tmp_path / "notes"
    notes_of.mkdir(exist_ok=True)
    family = {"name": "tests.distributed.families:FailingLake", "folder": str(notes_of), "fails": fails, "times": times}
    return tiny(family=family, within_task={"evaluation": "sampled"}, cluster=cluster)


def failures(tmp_path: Path) -> dict[str, int]:
    """How often each task failed."""
    return counts(notes(tmp_path / "notes", "failures"))


def set_aside(tmp_path: Path) -> list[str]:
    """The tasks with a file in quarantine."""
    return sorted(path.stem for path in only_run(tmp_path).glob("quarantine/*.json"))


def sha_without(tmp_path: Path, *indices: int) -> str:
    """The state that training on the other tasks leads to."""
    config = parsed(failing(tmp_path, {}))
    pool, learner = local(config)
    experiment = config.experiment
    tasks = [task for task in pool.draw("train", range(8)) if task.index not in indices]
    plan = TrainingPlan(tasks, experiment.tasks_per_round, experiment.within)
    drawn = observed(pool, experiment, dataclasses.replace(draw_tasks(pool, experiment), train=tasks))
    return train(plan, pool, learner, [], Position(drawn.initial_state(experiment.meta))).sha256()


@pytest.mark.parametrize("how", SOME)
def test_a_task_that_always_fails_is_set_aside_and_the_run_goes_on(
    how: str, workplace: Path, no_plots: None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(workplace, failing(workplace, {"train/2": how}))
    assert exit_code("train", file) == SET_ASIDE_EXIT_CODE
    assert set_aside(workplace) == ["train-2"]
    kept = json.loads((only_run(workplace) / "quarantine" / "train-2.json").read_text())
    assert kept["step"] == 3
    assert kept["attempts"] == 3
    assert kept["parameters"]["name"] == "train/2"
    assert kept["seed"] > 0
    assert "in step" in kept["traceback"]
    summary = summary_of(only_run(workplace))
    assert summary["num_tasks"] == 7
    assert [entry["task"] for entry in summary["set_aside"]] == ["train-2"]
    assert summary["meta_state_sha256"] == sha_without(workplace, 2)
    assert "1 training task is set aside" in " ".join(capsys.readouterr().err.split())
    assert failures(workplace) == {"train/2": 3}

    assert exit_code("train", file, "--resume", "latest") == SET_ASIDE_EXIT_CODE
    assert failures(workplace) == {"train/2": 3}, "a resume does not try it again"
    assert summary_of(only_run(workplace))["set_aside"] == summary["set_aside"]


@pytest.mark.parametrize("how", ["leave", "interrupt"])
def test_a_task_that_fails_now_and_then_is_tried_again(how: str, workplace: Path, no_plots: None) -> None:
    fails = {"train/1": how, "train/6": how, "test/0": how}
    assert exit_code("train", run_file(workplace, failing(workplace, fails, times=2))) == 0
    assert failures(workplace) == {"test/0": 2, "train/1": 2, "train/6": 2}
    assert summary_of(only_run(workplace))["meta_state_sha256"] == undisturbed_sha("sampled")
    assert summary_of(only_run(workplace))["set_aside"] == []


def test_a_resume_in_the_round_of_a_task_that_is_set_aside_leads_to_the_same_state(
    workplace: Path, no_plots: None
) -> None:
    """Stopped by too small a share in the second round, and continued with a larger one."""
    file = run_file(workplace, failing(workplace, {"train/2": "raise", "train/5": "raise"}, set_aside_share=0.1))
    assert exit_code("train", file) == 1
    assert set_aside(workplace) == ["train-2", "train-5"]
    assert exit_code("train", file, "--resume", "latest") == 1
    more = ("--resume", "latest", "--cluster.set_aside_share", "0.5")
    assert exit_code("train", file, *more) == SET_ASIDE_EXIT_CODE
    assert failures(workplace) == {"train/2": 3, "train/5": 3}
    assert summary_of(only_run(workplace))["meta_state_sha256"] == sha_without(workplace, 2, 5)


def test_a_task_whose_file_is_deleted_in_its_round_is_tried_again(workplace: Path, no_plots: None) -> None:
    file = run_file(
        workplace, failing(workplace, {"train/5": "raise", "train/6": "raise"}, times=3, set_aside_share=0.1)
    )
    assert exit_code("train", file) == 1
    for name in ("train-5", "train-6"):
        (only_run(workplace) / "quarantine" / f"{name}.json").unlink()
    assert exit_code("train", file, "--resume", "latest") == 0
    assert summary_of(only_run(workplace))["meta_state_sha256"] == undisturbed_sha("sampled")


def test_a_checkpoint_without_a_task_needs_its_file(
    workplace: Path, no_plots: None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(workplace, failing(workplace, {"train/2": "raise"}))
    assert exit_code("train", file) == SET_ASIDE_EXIT_CODE
    (only_run(workplace) / "quarantine" / "train-2.json").unlink()
    assert exit_code("train", file, "--resume", "latest") == 1
    assert "train-2.json: is gone" in " ".join(capsys.readouterr().err.split())


def test_a_held_out_task_that_is_set_aside_is_left_out_of_every_method_and_reported(
    workplace: Path, no_plots: None, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = failing(workplace, {"test/1": "exit"})
    raw["evaluation"] = {**raw["evaluation"], "num_test_tasks": 3}
    assert exit_code("train", run_file(workplace, raw)) == SET_ASIDE_EXIT_CODE
    summary = summary_of(only_run(workplace))
    assert {entry["reward"]["n"] for entry in summary["test"].values()} == {2}
    assert [(entry["task"], entry["held_out"]) for entry in summary["set_aside"]] == [("test-1", True)]
    assert "1 held-out task is set aside" in " ".join(capsys.readouterr().err.split())
    rows = (only_run(workplace) / "held_out.csv").read_text().splitlines()[1:]
    assert {row.split(",")[1] for row in rows} == {"0", "2"}


def test_a_family_whose_tasks_all_fail_ends_the_run_with_the_reason(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = {f"train/{index}": "exit" for index in range(8)}
    assert exit_code("train", run_file(workplace, failing(workplace, fails))) == 1
    text = " ".join(capsys.readouterr().err.split())
    assert "3 training tasks are set aside, at most 2 may be" in text
    assert "FailingLake/train/2, iteration 0, episode 0, step 3: step called sys.exit()" in text
    assert "Traceback" not in text


def test_a_share_of_zero_ends_the_run_at_the_first_task(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = failing(workplace, {"train/2": "raise"}, set_aside_share=0.0, task_attempts=1)
    assert exit_code("train", run_file(workplace, raw)) == 1
    assert "ArithmeticError: the integrator failed" in " ".join(capsys.readouterr().err.split())
    assert failures(workplace) == {"train/2": 1}


@pytest.mark.slow
def test_a_real_interrupt_is_not_the_tasks_failure(workplace: Path) -> None:
    assert exit_code("train", run_file(workplace, failing(workplace, {"train/2": "signal"}))) == 130
    assert failures(workplace) == {"train/2": 1}


def test_a_damaged_file_of_the_quarantine_is_reported(
    workplace: Path, no_plots: None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(workplace, failing(workplace, {"train/2": "raise"}))
    assert exit_code("train", file) == SET_ASIDE_EXIT_CODE
    (only_run(workplace) / "quarantine" / "train-2.json").write_text('{"stem": "train-2"}')
    assert exit_code("train", file, "--resume", "latest") == 1
    assert "train-2.json: is not what a run writes" in " ".join(capsys.readouterr().err.split())


def test_four_failures_and_no_task_solved_show_that_the_family_is_at_fault() -> None:
    pool, _ = local(parsed(tiny()))
    tasks = pool.draw("train", range(5))
    quarantine = Quarantine(1, 1.0, {False: 100, True: 2})
    for task in tasks[:3]:
        quarantine.set_aside(task, TaskError("no"), 1)
    with pytest.raises(SetAsideError, match=r"4 training tasks are .* and none was solved .*; the last one: no"):
        quarantine.set_aside(tasks[3], TaskError("no"), 1)
    other = Quarantine(1, 1.0, {False: 100, True: 2})
    other.solved(tasks[4])
    for task in tasks[:4]:
        other.set_aside(task, TaskError("no"), 1)
    assert [entry.index for entry in other] == [0, 1, 2, 3]
    assert other.without(tasks) == [tasks[4]]


@pytest.mark.slow
@pytest.mark.parametrize("how", [*QUITS, "die"])
def test_on_ray_too(how: str, tmp_path: Path) -> None:
    """A worker that dies (``die``, as in a crash of a simulator) is replaced; its task is set aside in the end."""
    raw = failing(tmp_path, {"train/2": how, "test/1": how}, pool="ray", task_retries=2)
    done = command(["train", run_file(tmp_path, raw)], tmp_path)
    assert done.returncode == SET_ASIDE_EXIT_CODE, done.stderr
    assert set_aside(tmp_path) == ["test-1", "train-2"]
    assert failures(tmp_path) == {"test/1": 3, "train/2": 3}
    summary = summary_of(only_run(tmp_path))
    assert summary["meta_state_sha256"] == sha_without(tmp_path, 2)
    assert {entry["reward"]["n"] for entry in summary["test"].values()} == {1}
    assert "Traceback" not in done.stderr


def test_warnings_name_every_task_that_is_set_aside(workplace: Path, no_plots: None) -> None:
    fails = {"train/2": "raise", "test/0": "raise"}
    assert exit_code("train", run_file(workplace, failing(workplace, fails))) == SET_ASIDE_EXIT_CODE
    text = " ".join(warnings_of(load_summary(only_run(workplace))))
    assert "train-2 (TaskError: " in text
    assert "test-0 (TaskError: " in text
