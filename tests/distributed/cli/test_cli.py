"""The command line from end to end, on small local runs."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from distributed.settings.console import Console
from distributed.storage.run_directory import load_run_config
from meta.methods.registry import METHODS
from tasks.contract import rendering
from tasks.lakes.frozen_lake import FrozenLake
from tests.distributed.helpers import (
    COURIER,
    ROOT,
    Raw,
    courier,
    environment,
    exit_code,
    only_run,
    parsed,
    run_file,
    summary_of,
    tiny,
    undisturbed_sha,
)
from tests.support.drawings import real_pictures

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of one finished run, made in this process."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, real_pictures():
        patch.chdir(folder)
        assert exit_code("train", run_file(folder, tiny()), "--output.keep_checkpoints", "2") == 0
    return only_run(folder)


def rows_of(run: Path) -> list[dict[str, str]]:
    """``tasks.csv`` as text."""
    with (run / "tasks.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def require_pictures(paths: list[Path], names: set[str]) -> None:
    """Pictures of these names, with content."""
    assert {path.stem for path in paths} == names
    for path in paths:
        assert path.read_bytes().startswith(PNG)
        assert path.stat().st_size > 3000


@pytest.mark.parametrize("command", ["train", "compare", "adapt", "report", "families", "check-family", "watch"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(command, "--help") == 0
    reported = capsys.readouterr().out
    assert f"Usage: metasrl {command}" in reported
    if command in {"train", "compare"}:
        flat = re.sub(r"\s+", "", reported)
        for key in ("within_task.num_iterations", "meta.learning_rates.initial", "output.keep_checkpoints"):
            assert key in flat


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    reported = capsys.readouterr().out
    for command in ("train", "compare", "adapt", "report", "families", "check-family", "watch"):
        assert re.search(rf"^\s+{command}\s+\w", reported, re.MULTILINE)


def test_families_lists_every_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("families") == 0
    reported = capsys.readouterr().out
    assert "## frozen_lake" in reported
    for name, field in FrozenLake.model_fields.items():
        assert re.search(rf"^\| `{name}` \| .+ \| .+ \|$", reported, re.MULTILINE)
        assert field.description in reported
    assert "package.module:ClassName" in reported


def test_the_summary_holds_settings_and_results(trained: Path) -> None:
    summary = summary_of(trained)
    assert summary["schema_version"] == 1
    expected = {
        "family": "frozen_lake",
        "seed": 3,
        "num_tasks": 8,
        "num_iterations": 2,
        "pool": "local",
        "num_workers": 1,
        "meta_state_sha256": undisturbed_sha(),
    }
    assert {key: summary[key] for key in expected} == expected
    assert 0.0 < summary["wall_seconds"] < 60.0
    assert len(summary["learning_rates"]) == 2
    assert set(summary["test"]) == {"random", "meta_srl"}
    for entry in summary["test"].values():
        for key in ("gap", "violation", "violation_during_adaptation"):
            low, high = entry[key]["ci95"]
            assert low <= entry[key]["mean"] <= high
        assert len(entry["reward_curve"]) == len(entry["cost_curve"]) == 3
        assert [len(costs) for costs in entry["cost_curve"]] == [1, 1, 1]


def test_the_summary_agrees_with_the_table(trained: Path) -> None:
    summary, rows = summary_of(trained), rows_of(trained)
    assert [row["task_index"] for row in rows] == [str(index) for index in range(8)]
    gaps, violations = (np.array([float(row[name]) for row in rows]) for name in ("gap", "violation_1"))
    assert summary["taog"] == pytest.approx(gaps.mean(), rel=1e-12)
    assert summary["taog_last_half"] == pytest.approx(gaps[4:].mean(), rel=1e-12)
    assert summary["tacv"] == pytest.approx([violations.mean()], rel=1e-12)
    assert summary["tacv_last_half"] == pytest.approx([violations[4:].mean()], rel=1e-12)
    assert summary["env_steps"] == sum(int(row["env_steps"]) for row in rows)
    assert [row["round"] for row in rows] == ["0"] * 4 + ["1"] * 4


def test_a_run_directory_holds_what_the_documentation_lists(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} >= {
        "config.yaml",
        "summary.json",
        "tasks.csv",
        "plots",
        "checkpoints",
    }
    require_pictures(
        list((trained / "plots").iterdir()), {"training", "learning_rates", "estimation", "adaptation", "held_out"}
    )
    assert not list((trained / "checkpoints" / "finished").iterdir())
    assert not [path for path in trained.rglob("*") if path.name.endswith(".tmp")]


def test_the_resolved_run_file_has_file_and_overrides(trained: Path) -> None:
    config = load_run_config(trained)
    assert config == parsed(tiny(output={"keep_checkpoints": 2}))
    assert yaml.safe_load((trained / "config.yaml").read_text())["output"]["run_dir"] == "runs"


def test_the_same_run_twice_gives_the_same_table(trained: Path, workplace: Path) -> None:
    assert exit_code("train", run_file(workplace, tiny())) == 0
    again = only_run(workplace)
    for first, second in zip(rows_of(trained), rows_of(again), strict=True):
        for row in (first, second):
            del row["seconds"], row["cpu_seconds"]
        assert first == second
    ours, theirs = summary_of(again), summary_of(trained)
    del ours["wall_seconds"], theirs["wall_seconds"]
    assert ours == theirs


@pytest.mark.slow
def test_the_module_is_the_same_as_the_command(trained: Path, workplace: Path) -> None:
    file = run_file(workplace, tiny())
    words = [sys.executable, "-m", "distributed.train", str(file), "--output.run_dir", "elsewhere"]
    done = subprocess.run(
        words, cwd=workplace, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    (run,) = (workplace / "elsewhere").glob("tiny/*")
    ours, theirs = summary_of(run), summary_of(trained)
    del ours["wall_seconds"], theirs["wall_seconds"]
    assert ours == theirs
    assert "| `meta_srl` |" in done.stdout
    assert "8/8 tasks, round 2" in done.stderr


def test_results_go_to_standard_output_and_messages_to_standard_error(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("train", run_file(workplace, tiny())) == 0
    reported = capsys.readouterr()
    summary = summary_of(only_run(workplace))
    assert reported.out.startswith("A new task of frozen_lake is solved to ")
    assert f"\nTAOG {summary['taog']:.4f}" in reported.out
    assert "run directory" not in reported.out
    assert f"run directory: {only_run(workplace).relative_to(workplace)}" in reported.err


def test_words_in_brackets_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """A command line in a result holds lists; the console must not read them as markup."""
    Console().result("`--evaluation.compared [random, meta_srl] --seeds [5,6]`")
    assert capsys.readouterr().out.strip() == "`--evaluation.compared [random, meta_srl] --seeds [5,6]`"


def test_report_prints_and_draws_again(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = list((trained / "plots").iterdir())
    for path in pictures:
        path.unlink()
    with real_pictures():
        assert exit_code("report", trained) == 0
    reported = capsys.readouterr()
    summary = summary_of(trained)
    assert f"TAOG {summary['taog']:.4f}" in reported.out
    for name, entry in summary["test"].items():
        assert f"| `{name}` | {entry['gap']['mean']:.4f} " in reported.out
    require_pictures(list((trained / "plots").iterdir()), {path.stem for path in pictures})


def read_curve(printed: str) -> list[list[str]]:
    """The cells of the table that adapt prints, without its head."""
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_adapt_writes_curve_and_policy_of_a_held_out_task(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with real_pictures():
        assert exit_code("adapt", trained, "--task-index", "1") == 0
    printed = capsys.readouterr().out
    assert "Task frozen_lake/test/1 (desc " in printed
    rows = read_curve(printed)
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert [len(row) for row in rows] == [7, 7, 7]
    require_pictures(list((trained / "adapt").glob("*-1.png")), {"test-1"})
    policy = np.loadtxt(trained / "adapt" / "test-1-policy.csv", delimiter=",")
    assert policy.shape == (16, 4)
    np.testing.assert_allclose(policy.sum(axis=1), 1.0, atol=1e-12)


def test_adapt_shows_what_the_run_measured(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The mean over the held-out tasks of the adapted rewards is the curve of the summary."""
    curves = list[list[float]]()
    for index in (0, 1):
        assert exit_code("adapt", trained, "--task-index", str(index)) == 0
        rows = read_curve(capsys.readouterr().out)
        curves.append([float(row[4]) for row in rows])
    np.testing.assert_allclose(
        np.mean(curves, axis=0), summary_of(trained)["test"]["meta_srl"]["reward_curve"], atol=1e-4
    )


def test_adapt_to_a_new_task_of_a_seed(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = list[str]()
    for seed in ("0", "7", "7"):
        assert exit_code("adapt", trained, "--task-seed", seed) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] != printed[1] == printed[2]
    assert exit_code("adapt", trained) == 0
    assert "Task frozen_lake/test/0" in capsys.readouterr().out


def test_adapt_shows_the_learned_start_alone_where_no_random_one_was_compared(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("train", run_file(workplace, tiny(evaluation={"methods": ["meta_srl"]}))) == 0
    capsys.readouterr()
    assert exit_code("adapt", only_run(workplace)) == 0
    assert "| updates | meta_srl: reward | cost | step |" in capsys.readouterr().out


def test_a_run_is_named_by_latest_its_name_its_family_or_its_folder(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained.parent.parent.parent)
    for name in ("latest", "tiny", "frozen_lake", "runs/tiny"):
        assert exit_code("report", name) == 0
        assert f"run: {trained.relative_to(Path.cwd())}" in capsys.readouterr().err
    assert exit_code("report", "nobody") == 2
    assert "nobody: is not a run directory (it has no config.yaml); runs here, newest first: runs/tiny/" in " ".join(
        capsys.readouterr().err.split()
    )


def watched(printed: str) -> list[list[str]]:
    """The rows of the table of filmed episodes."""
    lines = printed[printed.index("One episode of task") :].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]


def test_watch_films_the_start_and_the_adapted_policy(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("watch", trained, "--task-index", "1") == 0
    reported = capsys.readouterr()
    assert "One episode of task frozen_lake/test/1 each" in reported.out
    rows = watched(reported.out)
    assert [row[0].split(" (")[0] for row in rows] == ["learned start", "after 2 updates"]
    assert all(1 <= int(row[1]) <= 30 for row in rows)
    video = trained / "adapt" / "test-1.mp4"
    assert video.read_bytes()[4:8] == b"ftyp"
    assert video.with_name("test-1-frames.png").read_bytes().startswith(PNG)
    for path in (video, video.with_name("test-1-frames.png")):
        assert str(path) in reported.err


def test_watch_writes_to_the_given_path(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("watch", trained, "--output", tmp_path / "film.gif") == 0
    assert (tmp_path / "film.gif").read_bytes().startswith(b"GIF89a")
    assert {path.name for path in tmp_path.iterdir()} >= {"film.gif", "film-frames.png"}
    capsys.readouterr()
    assert exit_code("watch", trained, "--output", "film.avi") == 2
    assert "--output: film.avi must end in .mp4 or .gif" in capsys.readouterr().err
    assert exit_code("watch", tmp_path) == 2
    assert "is not a run directory" in capsys.readouterr().err


def test_adapt_films_what_it_adapted(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("watch", trained, "--task-index", "0") == 0
    alone = watched(capsys.readouterr().out)
    (trained / "adapt" / "test-0.mp4").unlink()
    assert exit_code("adapt", trained, "--video") == 0
    reported = capsys.readouterr().out
    assert "| updates | random: reward" in reported
    assert [row[1:] for row in watched(reported)] == [row[1:] for row in alone]
    assert (trained / "adapt" / "test-0.mp4").is_file()


NEURAL: Raw = {
    "name": "swim",
    "family": {"name": "swimmer", "num_tasks": 2, "horizon": 6},
    "within_task": {
        "algorithm": "neural_crpo",
        "num_iterations": 1,
        "steps_per_iteration": 60,
        "num_copies": 5,
        "hidden": [8],
        "critic_hidden": [8],
    },
    "cluster": {"pool": "local", "tasks_per_round": 2},
    "tracking": {"enabled": False},
    "evaluation": {"methods": ["random", "meta_srl"], "num_test_tasks": 1, "rate_grid": [0.1], "grid_tasks": 1},
}


@pytest.mark.slow
def test_watch_films_a_neural_policy_of_a_robot(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "")
    assert exit_code("train", run_file(workplace, NEURAL)) == 0
    run = only_run(workplace)
    with monkeypatch.context() as patch:
        patch.setattr(rendering, "graphics_work", lambda name: False)
        capsys.readouterr()
        for arguments in (["watch", run], ["adapt", run, "--video"]):
            assert exit_code(*arguments) == 2
            reported = capsys.readouterr().err
            assert "MuJoCo cannot draw pictures on this machine" in reported
            assert "libosmesa6" in reported
            assert "Traceback" not in reported
    assert not (run / "adapt").exists(), "it is reported before any work"
    if not any(rendering.graphics_work(name) for name in rendering.LIBRARIES):
        pytest.skip("no graphics library works here; Debian: libegl1 or libosmesa6")
    assert exit_code("watch", run) == 0
    rows = watched(capsys.readouterr().out)
    assert [row[1] for row in rows] == ["6", "6"]
    assert all(0.0 < float(row[3]) < 1.2 for row in rows)
    assert (run / "adapt" / "test-0.mp4").read_bytes()[4:8] == b"ftyp"


def test_only_commands_with_settings_take_them(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("adapt", "report", "watch"):
        assert exit_code(command, trained, "--family.similarity", "low") == 2
        assert "No such option: --family.similarity" in capsys.readouterr().err


def test_compare_runs_all_methods_for_every_seed(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run_file(workplace, tiny(evaluation={"seeds": [3, 4]}))
    with real_pictures():
        assert exit_code("compare", file, "--results", "docs/page.md") == 0
    (run,) = (workplace / "runs" / "tiny-compare").iterdir()
    summary = summary_of(run)
    assert summary["schema_version"] == 1
    assert summary["seeds"] == [3, 4]
    assert set(summary["test"]) == set(METHODS)
    cells = [json.loads((run / "seeds" / f"{seed}.json").read_text())["methods"] for seed in (3, 4)]
    assert cells[0]["meta_srl"]["meta_state_sha256"] == undisturbed_sha()
    assert cells[1]["meta_srl"]["meta_state_sha256"] == undisturbed_sha(seed=4)
    for name, entry in summary["test"].items():
        gaps = [np.mean(cell[name]["test"]["gap"]) for cell in cells]
        assert entry["gap"]["mean"]["mean"] == pytest.approx(np.mean(gaps), rel=1e-12)
        assert entry["gap"]["mean"]["n"] == 2
    page = (workplace / "docs" / "page.md").read_text()
    assert capsys.readouterr().out.strip() in page
    require_pictures(list((workplace / "docs" / "page").iterdir()), {"held_out", "adaptation"})
    require_pictures(list((run / "plots").iterdir()), {"held_out", "adaptation"})
    for picture in re.findall(r"!\[\w+\]\((.+?)\)", page):
        assert (workplace / "docs" / picture).is_file()


def without_model(**changes: Any) -> Raw:
    """Couriers of which nobody knows an exact model."""
    raw = courier(with_model=False, limit=[3.0, 1.0], horizon=30, num_tasks=8)
    raw["within_task"] |= {"evaluation": "sampled"}
    return {**raw, **changes}


def test_a_family_without_a_model_is_trained_reported_and_adapted(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("train", run_file(workplace, without_model())) == 0
    run = only_run(workplace)
    summary = summary_of(run)
    assert summary["taog"] is None
    assert len(summary["tacv"]) == 2
    assert summary["test"]["meta_srl"]["gap"]["mean"] is None
    assert summary["test"]["meta_srl"]["violation_during_adaptation"]["mean"] >= 0.0
    assert {row["gap"] for row in rows_of(run)} == {"nan"}
    assert exit_code("report", run) == 0
    assert exit_code("adapt", run, "--family", COURIER) == 0
    assert "Mean reward" in capsys.readouterr().out


def test_a_family_without_a_model_is_compared(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = without_model()
    raw["evaluation"] |= {"seeds": [1, 2, 3]}
    assert exit_code("compare", run_file(workplace, raw)) == 0
    printed = capsys.readouterr().out
    assert "| method | reward |" in printed
    assert "| `fal` | " in printed
    assert "| `oracle` |" not in printed


def test_a_family_of_the_user_is_found_in_the_working_directory(workplace: Path) -> None:
    """Two costs, from a file beside the run file; the installed command finds it."""
    source = (ROOT / "tests" / "support" / "user_families.py").read_text(encoding="utf-8")
    (workplace / "mine.py").write_text(source, encoding="utf-8")
    raw = courier(limit=0.5)
    raw["family"]["name"] = "mine:CourierFamily"
    file = run_file(workplace, raw)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("metasrl")), "train", str(file)],
        cwd=workplace,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = summary_of(only_run(workplace))
    assert len(summary["tacv"]) == 2
    assert len(summary["learning_rates"]) == 3
    assert {f"violation_{i}" for i in (1, 2)} <= set(rows_of(only_run(workplace))[0])


def test_check_family_prints_a_table_and_its_exit_code_shows_whether_the_family_satisfies_the_contract(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (ROOT / "tests" / "support" / "user_families.py").read_text(encoding="utf-8")
    (workplace / "mine.py").write_text(source, encoding="utf-8")
    quick = ["--seconds", "2"]
    assert exit_code("check-family", "mine.py:CourierFamily", *quick) == 0
    reported = capsys.readouterr().out
    assert "| costs | ok | in every step: fuel 0 to 1, damage 0 to 1 |" in reported
    assert "The family satisfies the contract." in reported
    faulty = '{"fault": "three_costs", "with_model": false, "limit": [1.0, 1.0]}'
    assert exit_code("check-family", "mine.py:CourierFamily", "--parameters", faulty, *quick) == 2
    reported = capsys.readouterr().out
    assert '| costs | wrong | mine.py:CourierFamily/train/0, step 3: info["cost"] must hold 2 number(s)' in reported
    assert "1 wrong." in reported
    for wrong in ("{", "[1]"):
        assert exit_code("check-family", "mine.py:CourierFamily", "--parameters", wrong) == 2
        assert "--parameters: " in capsys.readouterr().err


def test_a_comparison_cannot_be_reported_as_a_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("compare", run_file(workplace, tiny(evaluation={"seeds": [3]}))) == 0
    (run,) = (workplace / "runs" / "tiny-compare").iterdir()
    capsys.readouterr()
    for command in ("report", "adapt"):
        assert exit_code(command, run) == 2
        reported = capsys.readouterr().err
        assert str(run) in reported
        assert "Traceback" not in reported


def test_a_damaged_summary_is_reported(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_bytes((trained / "config.yaml").read_bytes())
    (tmp_path / "tasks.csv").write_bytes((trained / "tasks.csv").read_bytes())
    (tmp_path / "summary.json").write_text('{"schema_version": 1, "tao')
    assert exit_code("report", tmp_path) == 2
    assert str(tmp_path / "summary.json") in capsys.readouterr().err


def test_two_runs_in_one_second_get_directories_of_their_own(workplace: Path) -> None:
    from distributed.storage.run_directory import RunDirectory

    paths = {RunDirectory.create(parsed(tiny())).path for _ in range(4)}
    assert len(paths) == 4
    assert all((path / "config.yaml").is_file() for path in paths)


def test_export_takes_a_run_by_what_it_is_called(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    monkeypatch.chdir(trained.parents[2])
    for name in ("latest", trained.parent.name, trained):
        Path("x.onnx").unlink(missing_ok=True)
        assert exit_code("export", name, "x.onnx") == 0
        assert Path("x.onnx").is_file()
    Path("x.onnx").unlink()
