"""The Python interface: train, load, adapt and act, as a notebook does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metasrl
from distributed.settings.run_file import run_file_named
from metasrl.errors import ConfigurationError
from tests.distributed.helpers import ROOT, environment, tiny, tiny_neural

SMALL = {"tracking.enabled": False, "cluster": {"pool": "local"}}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def run(workplace: Path) -> metasrl.Run:
    """A finished run of small lakes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        return metasrl.train(tiny(), SMALL)


@pytest.fixture(scope="module")
def line(workplace: Path) -> metasrl.Run:
    """A finished run of networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        return metasrl.train(tiny_neural(), {**SMALL, "family.num_tasks": 4})


@pytest.fixture(autouse=True)
def _here(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


def test_a_run_shows_its_verdict_tables_and_plots(run: metasrl.Run) -> None:
    assert run.verdict.startswith("A new task of frozen_lake is solved to ")
    assert run.verdict in repr(run)
    assert run._repr_markdown_().startswith(run.verdict)
    assert len(run.tasks) == run.summary.num_tasks == run.config.family.num_tasks
    assert run.tasks["gap"].mean() == pytest.approx(run.summary.taog)
    assert set(run.held_out["method"]) == set(run.summary.test)
    assert run.page.is_file()
    drawn = run.plot("training")
    assert drawn.get_suptitle() == next(figure.title for figure in run._figures if figure.name == "training")
    with pytest.raises(ValueError, match="name: must be one of adaptation, held_out"):
        run.plot("nothing")


@pytest.mark.slow
def test_the_same_settings_give_the_same_bits_as_the_command_line(run: metasrl.Run, tmp_path: Path) -> None:
    (tmp_path / "run.json.yaml").write_text(json.dumps(tiny()))
    words = ["train", "run.json.yaml", "--tracking.enabled", "false", "--cluster.pool", "local"]
    command = [sys.executable, "-m", "distributed.cli", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("runs/*/*/summary.json")
    assert json.loads(path.read_text())["meta_state_sha256"] == run.summary.meta_state_sha256
    assert f"metasrl adapt {path.parent.relative_to(tmp_path)} " in done.stderr
    assert f"page: {path.parent.relative_to(tmp_path)}/report.html" in done.stderr


def test_a_policy_is_adapted_and_acts(run: metasrl.Run) -> None:
    policy = metasrl.adapt(run, task_seed=7)
    assert policy.rewards.shape == (1 + run.summary.num_iterations,)
    assert policy.costs.shape == (len(policy.rewards), len(policy.limits))
    assert policy.table["reward"].tolist() == policy.rewards.tolist()
    env = policy.make()
    observation, _ = env.reset(seed=0)
    assert policy.act(observation) in range(env.action_space.n)  # type: ignore[attr-defined]
    states = np.arange(policy.spaces.observation)
    table = np.asarray(policy.policy)
    assert policy.act(states, deterministic=True).tolist() == table.argmax(axis=1).tolist()
    drawn = np.array([policy.act(0) for _ in range(4000)])
    shares = np.bincount(drawn, minlength=table.shape[1]) / len(drawn)
    np.testing.assert_allclose(shares, table[0], atol=4.0 * 0.5 / np.sqrt(len(drawn)))
    again = metasrl.adapt(run.path, task_seed=7)
    np.testing.assert_array_equal(again.rewards, policy.rewards)


def test_adapting_to_parameters_and_limits_of_ones_own(run: metasrl.Run) -> None:
    own = metasrl.adapt(run, task_index=0)
    free = metasrl.adapt(run, own.parameters, limits=1e6)
    assert free.limits == (1e6,)
    assert free.rewards[-1] > own.rewards[-1]
    with pytest.raises(ConfigurationError, match="limits: need parameters"):
        metasrl.adapt(run, limits=0.5)
    with pytest.raises(ConfigurationError, match="give parameters or task_seed, not both"):
        metasrl.adapt(run, own.parameters, task_seed=1)


def test_a_network_acts_within_the_bounds_of_its_actions(line: metasrl.Run) -> None:
    policy = metasrl.adapt(line, task_index=1)
    observation, low, high = (
        np.zeros(policy.spaces.observation),
        *map(np.array, (policy.spaces.low, policy.spaces.high)),
    )
    actions = np.stack([policy.act(observation) for _ in range(200)])
    assert actions.shape == (200, len(low))
    assert ((actions >= low) & (actions <= high)).all()
    assert len(np.unique(actions)) > 10
    many = policy.act(np.stack([observation] * 50), deterministic=True)
    one = policy.act(observation, deterministic=True)
    assert policy.act(observation[None], deterministic=True).shape == (1, *one.shape), "a batch of one stays a batch"
    np.testing.assert_allclose(many, np.repeat(one[None], 50, axis=0), rtol=1e-5)  # sums of another order
    with pytest.raises(ValueError, match=r"observation: must have the shape \[\d+\]"):
        policy.act(np.zeros(policy.spaces.observation + 3))
    with pytest.raises(ValueError, match="not finite"):
        policy.act(np.full(policy.spaces.observation, np.nan))


def test_runs_and_starts_are_loaded_by_name(run: metasrl.Run) -> None:
    for name in ("latest", "tiny", run.path):
        assert isinstance(metasrl.load(name), metasrl.Run)
    assert metasrl.load("tiny").path == run.path  # type: ignore[union-attr]
    start = metasrl.load(run.path / "meta_policy")
    assert isinstance(start, metasrl.LearnedStart)
    assert start.act(0, deterministic=True) in range(start.spaces.actions)
    np.testing.assert_array_equal(metasrl.adapt(start, task_seed=3).rewards, metasrl.adapt(run, task_seed=3).rewards)
    with pytest.raises(ConfigurationError, match=r"nobody: is not a run directory.*runs here, newest first"):
        metasrl.load("nobody")


@pytest.mark.parametrize("observation", [-1, 10**6, 0.5, [[0]]])
def test_a_state_that_is_none_is_refused(run: metasrl.Run, observation: Any) -> None:
    with pytest.raises(ValueError, match="observation: "):
        metasrl.adapt(run, task_index=0).act(observation)


def test_wrong_settings_are_refused_before_any_work() -> None:
    with pytest.raises(ConfigurationError, match="no_such_run: is neither a file here nor a shipped run file; shipped"):
        metasrl.train("no_such_run")
    with pytest.raises(ConfigurationError, match=r"run_file: family.num_tasks: Input should be greater than 0"):
        metasrl.train(tiny(), {"family": {"num_tasks": 0}})
    with pytest.raises(ConfigurationError, match=r"family.seed_of_all: must be a number, a text, a list or a mapping"):
        metasrl.train(tiny(), {"family.seed_of_all": np.random.default_rng(0)})


def test_shipped_run_files_are_those_of_the_checkout() -> None:
    assert run_file_named("frozen_lake").resolve() == ROOT / "deploy" / "runs" / "frozen_lake.yaml"
    assert run_file_named("some.yaml") == Path("some.yaml")


@pytest.mark.slow
def test_the_ten_lines_of_the_documentation_run(tmp_path: Path) -> None:
    lines = [line[4:] for line in str(metasrl.__doc__).splitlines() if line.startswith("    ")]
    assert len(lines) <= 10
    code = "\n".join([*lines, "assert action in range(env.action_space.n)", "import ray; ray.shutdown()"])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "A new task of frozen_lake is solved to " in done.stdout


def test_a_policy_is_adapted_with_a_confidence(run: metasrl.Run) -> None:
    plain = metasrl.adapt(run, task_seed=7)
    assert plain.safety == ""
    safe = metasrl.adapt(run, task_seed=7, confidence=0.2, compare=True)
    assert "deployed policies over a limit: random " in safe.safety
    assert "start " in safe.safety
    over = (safe.costs > np.array(safe.limits)).any(axis=1)
    assert over[0] or not over.any(), "exact values: nothing safe is followed by something that is not"
    for confidence in (0.0, 1.0, -2.0, 7.0):
        with pytest.raises(ConfigurationError, match=r"confidence: .* got"):
            metasrl.adapt(run, confidence=confidence)
