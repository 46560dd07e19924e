"""Runs whose tasks are solved by an algorithm of RLlib: trained on Ray, judged, and adapted."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from distributed.models.meta_policy import STEM, load_meta_policy
from policies.neural.policy_state import PolicyState
from tests.distributed.helpers import POINTS, command, only_run, run_file
from tests.distributed.solvers.test_rllib_method import raw
from tests.distributed.solvers.test_rllib_solver import CRPO, PPO


@pytest.mark.slow
def test_a_run_learns_across_tasks_that_rllib_solves(tmp_path: Path) -> None:
    content = raw(
        CRPO, meta={"learning_rates": {"method": "ftl", "initial": 0.3, "units": "absolute"}}, family={"num_tasks": 4}
    )
    done = command(["train", run_file(tmp_path, content)], tmp_path)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    rows = list(csv.DictReader((run / "tasks.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 4
    assert all(int(row["env_steps"]) == 240 for row in rows)
    meta = load_meta_policy(run / STEM)
    start = meta.starts.starts[0]
    assert isinstance(start.initialization, PolicyState)
    assert start.initialization.statistics.count == 4 * 240
    assert not np.array_equal(start.learning_rates, np.full(2, 0.3)), "b was measured, so the rates were learned"
    adapted = command(["adapt", run, "--family", POINTS, "--task-index", "0"], tmp_path)
    assert adapted.returncode == 0, adapted.stderr


@pytest.mark.slow
def test_a_run_with_ppo_needs_the_users_word_to_be_adapted(tmp_path: Path) -> None:
    ppo = {**PPO, "training": {"minibatch_size": 40, "num_epochs": 2}}
    done = command(["train", run_file(tmp_path, raw(ppo, family={"num_tasks": 4}))], tmp_path)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    meta = load_meta_policy(run / STEM)
    np.testing.assert_array_equal(meta.starts.starts[0].learning_rates, [0.3, 0.3])
    refused = command(["adapt", run, "--family", POINTS, "--task-index", "0"], tmp_path)
    assert refused.returncode == 2
    assert f"which is code: --method {PPO['name']} runs it" in refused.stderr + refused.stdout


@pytest.mark.slow
def test_the_trials_of_a_sweep_have_room_for_their_runners(tmp_path: Path) -> None:
    content = raw({**CRPO, "num_env_runners": 1}, family={"num_tasks": 2}, evaluation={"num_test_tasks": 1})
    vary = ("--vary", "meta.learning_rates.initial=loguniform(0.1, 0.5)", "--trials", "2", "--search", "random")
    done = command(["sweep", run_file(tmp_path, content), *vary], tmp_path)
    assert done.returncode == 0, done.stderr
    (table,) = tmp_path.rglob("trials.csv")
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [row["state"] for row in rows] == ["complete", "complete"]
