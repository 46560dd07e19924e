"""Sweeps: what may be varied is checked first; trials are judged by training tasks; a killed sweep goes on."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import pickle
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from distributed.settings.errors import ConfigurationError
from distributed.settings.run_file import parse_config, read_yaml
from distributed.tuning.ownership import mark_of, require_own
from distributed.tuning.ray_tune import resources_of_trial
from distributed.tuning.search_space import parse_space, with_values
from distributed.tuning.sweep_report import plot_trials, trials_table
from distributed.tuning.trials import Trial, half_score
from tests.distributed.helpers import Raw, command, exit_code, parsed, run_file, started, tiny, wait_until
from tests.distributed.tracking.test_tracking import Store

PRIOR = "meta.initialization.prior_weight"
METHOD = "meta.initialization.method"
VARY = ("--vary", f"{PRIOR}=loguniform(1e-4, 0.1)", "--vary", f"{METHOD}=choice(ftl, ogd)")


FRAIL = """
import gymnasium
from tasks.lakes.frozen_lake import FrozenLake


class Frail(FrozenLake):
    def make(self, parameters):
        return Counting(super().make(parameters))


class Counting(gymnasium.Wrapper):
    episodes = 0

    def reset(self, **keywords):
        self.episodes += 1
        if self.episodes > 9:
            raise ArithmeticError("the simulator failed")
        return self.env.reset(**keywords)
"""
"""Tasks of 2 iterations (3 batches of 3 episodes) are solved, longer ones fail."""


def swept(**changes: object) -> Raw:
    cluster = {"pool": "ray", "num_workers": 2, "tasks_per_round": 2, "dashboard": False, "object_store_mb": 80}
    return tiny(cluster=cluster, **changes)


def test_values_come_as_they_are_written() -> None:
    config = parsed(tiny())
    space = parse_space(
        [
            f"{PRIOR}=loguniform(1e-4, 0.1)",
            f"{METHOD}=choice(ftl, ogd)",
            "within_task.num_iterations=int(1, 9)",
            "meta.learning_rates.initial=choice(1.0, [0.5, 2.0])",
        ],
        config,
    )
    assert [(item.key, item.kind, item.values) for item in space] == [
        (PRIOR, "loguniform", (1e-4, 0.1)),
        (METHOD, "choice", ("ftl", "ogd")),
        ("within_task.num_iterations", "int", (1, 9)),
        ("meta.learning_rates.initial", "choice", (1.0, [0.5, 2.0])),
    ]
    raw = config.model_dump(mode="json")
    assert with_values(raw, {PRIOR: 0.5})["meta"]["initialization"]["prior_weight"] == 0.5
    assert raw["meta"]["initialization"]["prior_weight"] != 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meta.initialization.prior_weight", "must be KEY=KIND"),
        (f"{PRIOR}=normal(0, 1)", "must be KEY=KIND"),
        (f"{PRIOR}=uniform(0.1)", "needs a lower and an upper bound"),
        (f"{PRIOR}=uniform(0.2, 0.1)", "the lower bound must be below"),
        (f"{PRIOR}=loguniform(0.0, 0.1)", "above 0 for a log"),
        (f"{PRIOR}=uniform(-1.0, 0.1)", "greater than"),
        (f"{METHOD}=choice(ftl)", "at least two choices"),
        (f"{METHOD}=choice(ftl, best)", "best"),
        ("prior_weight=uniform(0, 1)", f"did you mean {PRIOR}"),
        ("family.map_size=int(4, 8)", "is not a setting of meta, dice, within_task"),
        ("within_task.num_iterations=int(1.5, 8)", "both integers"),
        (f"{PRIOR}=uniform([, 1)", "is not a list of values"),
    ],
)
def test_a_space_that_cannot_be_searched_is_reported(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace("(", r"\(")):
        parse_space([text], parsed(tiny()))


def test_something_must_be_varied_and_nothing_twice(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run_file(workplace, swept())
    assert exit_code("sweep", file) == 2
    assert "--vary: give at least one setting" in capsys.readouterr().err
    assert exit_code("sweep", file, *VARY, *VARY) == 2
    assert "given twice" in capsys.readouterr().err
    assert exit_code("sweep", file, *VARY, "--search", "grid") == 2
    assert "--search: must be optuna or random, got 'grid'" in capsys.readouterr().err
    assert exit_code("sweep", file, *VARY, "--output.run_dir", "s3://x/y") == 2
    assert exit_code("sweep", file, *VARY, "--resume", workplace) == 2
    assert "is not a sweep" in capsys.readouterr().err
    assert not (workplace / "runs").exists()


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._file,)


def test_a_sweep_of_somebody_else_is_not_unpickled(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def restored(config: Any, space: Any, settings: Any, folder: Path, console: Any) -> list[Trial]:
        state = folder / "tune" / "tuner.pkl"
        if state.is_file():
            pickle.loads(state.read_bytes())
        return []

    monkeypatch.setattr("distributed.tuning.sweep.run_trials", restored)
    monkeypatch.setattr("distributed.tuning.sweep.cluster", lambda settings, cpus: contextlib.nullcontext("here"))
    arguments = ["sweep", run_file(workplace, swept()), *VARY]
    assert exit_code(*arguments) == 2
    assert "no trial is complete" in capsys.readouterr().err
    mine = only_sweep(workplace)
    (mine / "tune").mkdir()
    (mine / "tune" / "tuner.pkl").write_bytes(pickle.dumps(Bomb(workplace / "ran")))
    theirs = Path(shutil.copytree(mine, mine.with_name("29991231T000000")))
    unmarked = Path(shutil.copytree(mine, workplace / "unmarked"))
    known = json.loads((mine / "sweep.json").read_text())
    for mark in (None, 3, "é", "0" * 64):
        (unmarked / "sweep.json").write_text(json.dumps({**known, "mark": mark}))
        assert exit_code(*arguments, "--resume", unmarked) == 2
        assert "was not begun here by you" in " ".join(capsys.readouterr().err.split())
    for place in (theirs, "latest"):
        assert exit_code(*arguments, "--resume", place) == 2
        assert "was not begun here by you" in " ".join(capsys.readouterr().err.split())
    assert not (workplace / "ran").exists()
    for more in (["--resume", mine], ["--resume", theirs, "--trust"]):
        assert exit_code(*arguments, *more) == 2
        assert "no trial is complete" in capsys.readouterr().err
        assert (workplace / "ran").exists(), "the user's own goes on"
        (workplace / "ran").unlink()


def test_the_key_of_ones_own_sweeps_is_secret_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    mark = mark_of(tmp_path / "sweep")
    assert mark is not None
    assert mark == mark_of(tmp_path / "x" / ".." / "sweep") != mark_of(tmp_path / "other")
    file = tmp_path / "config" / "metasrl" / "sweeps.key"
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(b"short")
    assert mark_of(tmp_path / "sweep") is None
    with pytest.raises(ConfigurationError, match="or give --trust"):
        require_own(tmp_path / "sweep", mark, trusted=False)
    require_own(tmp_path / "sweep", None, trusted=True)


def test_the_score_is_of_the_last_half_of_the_tasks() -> None:
    assert half_score([{"score": float(value)} for value in (9, 9, 1, 3)]) == 2.0
    assert half_score([{"score": float(value)} for value in (9, 1, 3)]) == 2.0


def test_the_best_trial_is_first_and_one_that_was_ended_is_never_best() -> None:
    trials = [
        Trial("a", {PRIOR: 0.1}, [1.0, 0.5], True, None),
        Trial("b", {PRIOR: 0.2}, [0.1], False, None),
        Trial("c", {PRIOR: 0.3}, [], False, "ValueError: no"),
        Trial("d", {PRIOR: 0.4}, [1.0, 0.25], True, None),
    ]
    assert min(trials, key=lambda trial: trial.score).name == "d"
    lines = trials_table(trials).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:6]] == ["| d", "| a", "| b", "| c"]
    assert "ended early" in lines[4]
    assert "failed" in lines[5]
    assert math.isinf(trials[1].score)
    rounds, values = plot_trials(trials).panels
    assert [series.label for series in rounds.series] == ["complete", "ended early", "ended early", "complete"]
    np.testing.assert_allclose(values.series[0].x, [0.1, 0.4])
    assert values.x_label == PRIOR


def only_sweep(folder: Path) -> Path:
    (found,) = folder.glob("runs/tiny-sweep/*/")
    return found


@pytest.mark.slow
def test_a_sweep_finds_settings_and_tracks_its_trials(tmp_path: Path) -> None:
    file = run_file(tmp_path, swept(tracking={"enabled": True, "flush_timeout_seconds": 120.0}))
    done = command(["sweep", file, *VARY, "--trials", "3"], tmp_path)
    assert done.returncode == 0, done.stderr
    folder = only_sweep(tmp_path)
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    assert len(rows) == 3
    assert "3/3 trials: score" in done.stderr
    complete = [row for row in rows if row["complete"] == "True"]
    best = min(complete, key=lambda row: float(row["score"]))
    assert rows[0] == best
    chosen = parse_config(read_yaml(folder / "best.yaml"), "best.yaml")
    assert chosen.meta.initialization.prior_weight == pytest.approx(float(best[PRIOR]))
    assert chosen.meta.initialization.method == best[METHOD]
    assert chosen.cluster.pool == "ray"
    for row in rows:
        assert 1e-4 <= float(row[PRIOR]) <= 0.1
        (table,) = folder.glob(f"trials/{row['trial']}/tiny/*/tasks.csv")
        scores = [{"score": float(task["score"])} for task in csv.DictReader(table.read_text().splitlines())]
        if row["complete"] == "True":
            assert float(row["score"]) == half_score(scores)
    store = Store(tmp_path / "mlflow.db")
    tags = store.runs()[store.parent()]
    assert tags["metasrl.kind"] == "sweep"
    assert "| trial | score |" in tags["mlflow.note.content"]
    children = store.children()
    assert set(children) == {f"trial {row['trial']}" for row in rows}
    run = children[f"trial {best['trial']}"]
    assert store.params(run)[METHOD] == best[METHOD]
    assert store.history(run)["score"][-1] == (4, float(best["score"]))


@pytest.mark.slow
def test_a_killed_sweep_resumes(tmp_path: Path) -> None:
    file = run_file(tmp_path, swept())
    arguments = ["sweep", file, *VARY, "--trials", "4", "--search", "random", "--no-early-stopping"]
    with started(arguments, tmp_path) as process:
        wait_until(lambda: list(tmp_path.glob("runs/tiny-sweep/*/trials/*/tiny/*/summary.json")), process=process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    folder = only_sweep(tmp_path)
    before = {path.relative_to(folder).parts[1] for path in folder.glob("trials/*/tiny/*/summary.json")}
    done = command([*arguments, "--resume", "latest"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert only_sweep(tmp_path) == folder
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    assert len(rows) == 4
    assert all(row["complete"] == "True" for row in rows)
    after = {path.relative_to(folder).parts[1] for path in folder.glob("trials/*/tiny/*/summary.json")}
    assert before <= after
    assert len(after) == 4
    other = command([*arguments[:-1], "--resume", "latest"], tmp_path)
    assert other.returncode == 2
    assert "is another sweep; differing: settings" in " ".join(other.stderr.split())
    assert json.loads((folder / "sweep.json").read_text())["settings"]["num_trials"] == 4
    assert yaml.safe_load((folder / "best.yaml").read_text())["name"] == "tiny"


@pytest.mark.slow
def test_a_sweep_whose_trials_all_fail_reports_why(tmp_path: Path) -> None:
    raw = swept(family={"name": "tests.distributed.families:FaultyAt", "num_tasks": 4, "fault": "no_cost"})
    raw["family"] = {"name": "tests.distributed.families:FaultyAt", "num_tasks": 4, "fault": "no_cost"}
    raw["meta"] = {"learning_rates": {"initial": 1.0}}
    raw["cluster"] = {**raw["cluster"], "set_aside_share": 0.0}
    done = command(["sweep", run_file(tmp_path, raw), *VARY, "--trials", "2"], tmp_path)
    assert done.returncode == 2
    reported = " ".join(done.stderr.split())
    assert "no trial is complete; reasons:" in reported
    assert 'info["cost"]' in reported


@pytest.mark.slow
def test_trials_that_fail_before_their_first_round_are_rows_and_the_best_of_the_others_is_kept(tmp_path: Path) -> None:
    """The longer trials step an environment that fails in their last iteration."""
    (tmp_path / "fam.py").write_text(FRAIL)
    raw = tiny(family={"name": "fam.py:Frail", "num_tasks": 4, "map_size": 4}, within_task={"evaluation": "sampled"})
    raw["cluster"] = swept()["cluster"]
    arguments = ["sweep", run_file(tmp_path, raw), "--vary", "within_task.num_iterations=choice(2, 4)"]
    arguments += ["--trials", "4", "--search", "random"]
    done = command(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    folder = only_sweep(tmp_path)
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    assert {(row["within_task.num_iterations"], row["state"]) for row in rows} == {("2", "complete"), ("4", "failed")}
    assert all("the simulator failed" in row["error"] for row in rows if row["state"] == "failed")
    assert yaml.safe_load((folder / "best.yaml").read_text())["within_task"]["num_iterations"] == 2
    assert "trials failed" in " ".join(done.stderr.split())
    again = command([*arguments, "--resume", "latest"], tmp_path)
    assert again.returncode == 0, again.stderr


def test_a_trial_holds_what_its_worker_and_its_runners_need() -> None:
    plain = parsed(tiny())
    assert resources_of_trial(plain).bundles == [{"CPU": 1.0}]
    given = plain.cluster.model_copy(update={"worker_resources": {"GPU": 0.5, "shelf": 1.0}})
    of_nodes = plain.model_copy(update={"cluster": given})
    assert resources_of_trial(of_nodes).bundles == [{"CPU": 1.0, "GPU": 0.5, "shelf": 1.0}]
