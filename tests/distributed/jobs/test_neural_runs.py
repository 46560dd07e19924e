"""Runs with neural policies: the same bits from every pool and after every interruption, and every command on them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from distributed.cluster.calls import Rules
from distributed.cluster.meta_learner import RayLearner
from distributed.cluster.ray_pool import RayPool
from distributed.storage.csv_tables import read_rows
from distributed.storage.run_directory import RunDirectory, load_final_state, load_run_config
from meta.learning.neural import NeuralMetaState
from meta.methods.registry import METHODS
from meta.training.records import column
from policies.neural.policy_state import policy_from_arrays
from tests.distributed.families import counts, notes
from tests.distributed.helpers import (
    POINTS,
    Raw,
    exit_code,
    learn,
    local,
    only_run,
    parsed,
    run_file,
    summary_of,
    tiny_neural,
    undisturbed_neural_sha,
)
from tests.distributed.storage.test_checkpoints import flip, truncate
from tests.distributed.storage.test_resume import Crash, CrashAfter
from tests.support.drawings import real_pictures
from tests.support.few_variants import few

TIMES = ("seconds", "cpu_seconds", "rollout_seconds", "update_seconds", "critic_seconds")


def noted(folder: Path, **changes: Any) -> Raw:
    """The tiny tasks, noted in ``folder`` when they are run."""
    folder.mkdir(parents=True, exist_ok=True)
    return tiny_neural(family={"folder": str(folder), **changes.pop("family", {})}, **changes)


def table(folder: Path) -> list[dict[str, str]]:
    """``tasks.csv`` as text, without times."""
    with (folder / "tasks.csv").open(encoding="utf-8", newline="") as file:
        return [{name: text for name, text in row.items() if name not in TIMES} for row in csv.DictReader(file)]


# Pools


@pytest.fixture(scope="module")
def learner(ray_cluster: str) -> RayLearner:
    """A meta-learner that the tests share; each run restores its own state."""
    experiment = parsed(tiny_neural()).experiment
    return RayLearner(experiment.meta, experiment.dice, experiment.within.num_iterations, Rules(3))


def test_local_pool_and_ray_pools_give_the_same_bits(ray_cluster: str, learner: RayLearner, workplace: Path) -> None:
    config = parsed(tiny_neural())
    results = [learn(config, *local(config))]
    for workers in (1, 2):
        results.append(learn(config, RayPool(config.experiment.family, workers, Rules(3), 120.0), learner))
    assert {state.sha256() for state, _ in results} == {undisturbed_neural_sha()}
    tables = [table(directory.path) for _, directory in results]
    assert len(tables[0]) == 8
    assert tables[0] == tables[1] == tables[2]


def test_a_task_whose_worker_is_killed_is_run_again(ray_cluster: str, learner: RayLearner, workplace: Path) -> None:
    said = list[str]()
    config = parsed(noted(workplace / "notes", family={"kill": 5}))
    state, _ = learn(config, RayPool(config.experiment.family, 2, Rules(3, say=said.append), 120.0), learner)
    assert said == [f"the worker of task {config.family.name}/train/5 died; a new one reruns it"]
    assert counts(notes(workplace / "notes", "runs")) == {f"train/{i}": 2 if i == 5 else 1 for i in range(8)}
    assert state.sha256() == undisturbed_neural_sha()


def test_another_seed_gives_another_state() -> None:
    assert undisturbed_neural_sha() != undisturbed_neural_sha(seed=4)


def test_discrete_actions_and_two_costs_are_learned_on_too(workplace: Path) -> None:
    config = parsed(tiny_neural(family={"discrete": True, "effort_limit": 5.0}))
    state, directory = learn(config, *local(config))
    assert isinstance(state, NeuralMetaState)
    assert "log_std" not in state.initialization.actor.arrays()
    assert state.learning_rates.shape == (3,)
    assert {"violation_2", "curvature_2", "learning_rate_2"} <= set(directory.rows[0])


# Interruptions


@pytest.mark.parametrize("count", few([1, 3, 4, 6, 8], 1, 4))
def test_finished_tasks_are_not_run_again(workplace: Path, count: int) -> None:
    config = parsed(noted(workplace / "notes"))
    directory = RunDirectory.create(config)
    with pytest.raises(Crash):
        learn(config, *local(config), directory, CrashAfter(count))
    state, resumed = learn(config, *local(config), RunDirectory.open(directory.path, config))
    assert state.sha256() == undisturbed_neural_sha()
    assert counts(notes(workplace / "notes", "runs")) == {f"train/{i}": 1 for i in range(8)}
    assert [row["task_index"] for row in read_rows(directory.path / "tasks.csv")] == list(range(8))
    undisturbed = RunDirectory.create(config)
    learn(config, *local(config), undisturbed)
    assert table(resumed.path) == table(undisturbed.path)


@pytest.mark.parametrize(
    ("suffix", "harm"), [(".safetensors", flip), (".json", truncate)], ids=["arrays flipped", "facts cut"]
)
def test_a_damaged_newest_checkpoint_is_reported_and_harmless(
    workplace: Path, no_plots: None, capsys: pytest.CaptureFixture[str], suffix: str, harm: Callable[[Path], None]
) -> None:
    file = run_file(workplace, noted(workplace / "notes"))
    assert exit_code("train", file) == 0
    run = only_run(workplace)
    first = summary_of(run)
    harm(run / "checkpoints" / f"round-000002{suffix}")
    capsys.readouterr()
    assert exit_code("train", file, "--resume", run) == 0
    assert "skipping a damaged checkpoint" in capsys.readouterr().err
    assert summary_of(run)["meta_state_sha256"] == first["meta_state_sha256"] == undisturbed_neural_sha()
    assert summary_of(run)["test"] == first["test"]
    training = counts([line for line in notes(workplace / "notes", "runs") if line.startswith("train/")])
    assert training == {f"train/{i}": 1 + (i >= 4) for i in range(8)}


def test_a_damaged_finished_task_is_run_again(workplace: Path) -> None:
    config = parsed(noted(workplace / "notes"))
    directory = RunDirectory.create(config)
    with pytest.raises(Crash):
        learn(config, *local(config), directory, CrashAfter(6))
    flip(directory.path / "checkpoints" / "finished" / "task-000004.safetensors")
    state, _ = learn(config, *local(config), RunDirectory.open(directory.path, config))
    assert state.sha256() == undisturbed_neural_sha()
    assert counts(notes(workplace / "notes", "runs")) == {f"train/{i}": 1 + (i == 4) for i in range(8)}


def test_a_run_is_not_resumed_under_another_network(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDirectory.create(parsed(tiny_neural())).path
    file = run_file(workplace, tiny_neural(within_task={"hidden": [7]}, meta={"neural": {"steps": 6}}))
    assert exit_code("train", file, "--resume", run) == 2
    assert "differing keys: meta.neural.steps, within_task.hidden" in capsys.readouterr().err


# Commands


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of one finished run, made in this process."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, real_pictures():
        patch.chdir(folder)
        assert exit_code("train", run_file(folder, tiny_neural())) == 0
    return only_run(folder)


def pictures(folder: Path) -> set[str]:
    """Names of the pictures with content."""
    return {path.stem for path in folder.glob("*.png") if path.stat().st_size > 3000}


def test_the_summary_agrees_with_the_table(trained: Path) -> None:
    summary, rows = summary_of(trained), read_rows(trained / "tasks.csv")
    assert summary["meta_state_sha256"] == undisturbed_neural_sha()
    assert (summary["algorithm"], summary["evaluation"], summary["taog"]) == ("neural_crpo", "sampled", None)
    assert summary["mean_reward"] == pytest.approx(column(rows, "reward").mean(), rel=1e-12)
    assert summary["env_steps"] == sum(int(row["env_steps"]) for row in rows) == 8 * 3 * 80
    failed = [row["failed_diagnostics"].split() for row in rows]
    assert summary["estimates"]["failed"] == sum(bool(names) for names in failed)
    assert sum(summary["estimates"]["reasons"].values()) == sum(map(len, failed))
    assert (summary["estimates"]["left_out"], summary["estimates"]["down_weighted"]) == (0, 0)
    assert summary["similarity"] is None
    assert pictures(trained / "plots") == {*("training", "estimation", "learning_rates", "adaptation", "held_out")}
    for entry in summary["test"].values():
        low, high = entry["reward"]["ci95"]
        assert low <= entry["reward"]["mean"] <= high
        assert entry["gap"]["mean"] is None
        assert len(entry["reward_curve"]) == len(entry["cost_curve"]) == len(entry["episodic_curve"]) == 3


def test_rows_describe_a_neural_solution(trained: Path) -> None:
    rows = read_rows(trained / "tasks.csv")
    for row in rows:
        assert np.isnan(row["gap"])
        assert 0 <= row["refused_steps"] <= row["capped_steps"] <= 2
        assert 0.0 <= row["mean_kl"] <= 0.01
        assert row["rollout_seconds"] + row["update_seconds"] + row["critic_seconds"] < row["seconds"]
        assert row["f_hat"] > -1e-6, "not negative up to rounding"
        assert row["weight"] == 1.0
        assert row["dice_mean_correction"] == pytest.approx(1.0, abs=0.1)
        assert row["estimate_problem"] == ""
        assert not [name for name in row if name.startswith("inexactness_")]
    assert rows[0]["learning_rate_0"] == 0.3
    assert len({row["learning_rate_0"] for row in rows}) == 2
    starts = column(rows, "episodic_reward_start")
    assert np.isfinite(starts).all()
    assert (np.abs(starts) > np.abs(column(rows, "reward_start"))).mean() > 0.5, "not discounted"


def test_the_resolved_run_file_comes_back(trained: Path) -> None:
    assert load_run_config(trained, POINTS) == parsed(tiny_neural())


def test_held_out_tasks_may_have_more_updates(workplace: Path, no_plots: None) -> None:
    file = run_file(workplace, tiny_neural(evaluation={"num_iterations": 4}))
    assert exit_code("train", file) == 0
    summary = summary_of(only_run(workplace))
    assert summary["meta_state_sha256"] == undisturbed_neural_sha()
    assert summary["num_iterations"] == 2
    assert len(summary["test"]["meta_srl"]["reward_curve"]) == 5


@pytest.mark.slow
def test_without_a_batch_for_the_last_iterate_everything_has_a_row_less(workplace: Path) -> None:
    file = run_file(workplace, tiny_neural(within_task={"evaluate_last": False}))
    assert exit_code("train", file) == 0
    run = only_run(workplace)
    assert summary_of(run)["env_steps"] == 8 * 2 * 80
    assert len(summary_of(run)["test"]["meta_srl"]["reward_curve"]) == 2
    assert exit_code("report", run) == 0
    assert exit_code("adapt", run, "--family", POINTS) == 0


def test_report_prints_rewards_and_draws_again(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = pictures(trained / "plots")
    for path in (trained / "plots").iterdir():
        path.unlink()
    with real_pictures():
        assert exit_code("report", trained) == 0
    printed, summary = capsys.readouterr().out, summary_of(trained)
    assert printed.startswith(f"A new task of {POINTS} earns a discounted reward of ")
    assert f"\nMean reward {summary['mean_reward']:.4f}, TACV [" in printed
    assert "| method | reward | violation during adaptation | violation of the output |" in printed
    for name, entry in summary["test"].items():
        assert f"| `{name}` | {entry['reward']['mean']:.4f} [" in printed
    assert "nan" not in printed
    assert pictures(trained / "plots") == before


def test_adapt_writes_curve_and_policy(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curves = []
    for index in ("0", "1"):
        with real_pictures():
            assert exit_code("adapt", trained, "--family", POINTS, "--task-index", index) == 0
        printed = capsys.readouterr().out
        rows = [line.strip("|").split("|") for line in printed.splitlines() if re.match(r"\| \d", line)]
        assert [row[0].strip() for row in rows] == ["0", "1", "2"]
        curves.append([float(row[4]) for row in rows])
        assert "nan" not in printed
        assert re.search(r"meta_srl \(output: iterate \d\): reward -?\d", printed)
    expected = summary_of(trained)["test"]["meta_srl"]["reward_curve"]
    np.testing.assert_allclose(np.mean(curves, axis=0), expected, atol=1e-4)
    assert {"test-0", "test-1"} <= pictures(trained / "adapt")
    policy = policy_from_arrays(load_file(trained / "adapt" / "test-1-policy.safetensors"))
    state = load_final_state(trained, load_run_config(trained, POINTS), print)
    assert isinstance(state, NeuralMetaState)
    assert policy.actor.network == state.initialization.actor.network
    assert policy.statistics.count >= state.initialization.statistics.count > 0.0
    outputs, log_std = policy.act(np.zeros((1, 2), np.float32))
    assert np.isfinite(outputs).all()
    assert np.isfinite(log_std).all()


def test_adapt_to_a_new_task_of_a_seed(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = list[str]()
    for seed in ("0", "7", "7"):
        assert exit_code("adapt", trained, "--family", POINTS, "--task-seed", seed) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] != printed[1] == printed[2]


@pytest.mark.slow
def test_compare_runs_the_methods_that_neural_policies_have(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(workplace, tiny_neural(evaluation={"seeds": [3, 4, 5], "num_iterations": 3}))
    with real_pictures():
        assert exit_code("compare", file, "--results", "docs/page.md") == 0
    (run,) = (workplace / "runs" / "tiny_neural-compare").iterdir()
    summary = summary_of(run)
    assert set(summary["test"]) == set(METHODS) - {"oracle"}
    cells = [json.loads((run / "seeds" / f"{seed}.json").read_text())["methods"] for seed in (3, 4, 5)]
    assert cells[0]["meta_srl"]["meta_state_sha256"] == undisturbed_neural_sha()
    assert cells[1]["meta_srl"]["meta_state_sha256"] == undisturbed_neural_sha(seed=4)
    rewards = {
        name: np.array([np.mean(cell[name]["test"]["reward"]) for cell in cells]) for name in ("random", "meta_srl")
    }
    entry = summary["test"]["meta_srl"]
    assert entry["reward"]["mean"]["mean"] == pytest.approx(rewards["meta_srl"].mean(), rel=1e-12)
    difference = (rewards["meta_srl"] - rewards["random"]).mean()
    assert summary["test"]["random"]["reward"]["difference"]["mean"] == pytest.approx(difference, rel=1e-9)
    page = (workplace / "docs" / "page.md").read_text()
    assert capsys.readouterr().out.strip() in page
    assert "| method | reward | violation during adaptation |" in page
    assert "| method | reward: difference | violation during adaptation: difference | " in page
    assert f"| {difference:.4f} [" in page
    assert "nan" not in page
    assert " 2 policy updates (3 on held-out tasks), sampled evaluation; hyper-parameters" in page
    assert "D*^2" not in page, "not known without a model"
    assert pictures(workplace / "docs" / "page") == {"held_out", "adaptation"}
