"""A robot's training goes on where it was stopped, to the same bits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.learning import single_robots
from benchmarks.learning.learning_curves import chosen
from benchmarks.learning.single_robots import ROBOTS, robot_cell
from policies.rules.rule_registry import MethodSettings
from tests.support.few_variants import few


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One episode of each iteration, kept after every one; the output is known by a few of its numbers."""
    small = ROBOTS["half_cheetah"].with_settings(num_copies=1, steps_per_iteration=1000)
    monkeypatch.setitem(single_robots.ROBOTS, "half_cheetah", small)
    monkeypatch.setattr(single_robots, "_KEEP_EVERY", 1)
    monkeypatch.setattr(single_robots, "commit_of_results", lambda: "this one")
    monkeypatch.setattr(single_robots, "evaluate", lambda task, policy, seed: policy.actor.vector[None, ::300])


class StoppedError(Exception):
    pass


def cell(name: str, state: Path, stop: int | None = None) -> dict[str, Any]:
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) == stop:
            raise StoppedError

    found = robot_cell("half_cheetah", MethodSettings.model_validate({"name": name}), 3, 4000, state, say)
    assert all("updates, reward" in line for line in lines)
    return {key: value for key, value in found.items() if not key.endswith("seconds")}


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", few(["c_trpo", "ppo_lagrangian", "npg_primal_dual", "p3o", "crpo"], 0, 1))
def test_a_stopped_training_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = cell(name, tmp_path / "undisturbed.safetensors")
    with pytest.raises(StoppedError):
        cell(name, tmp_path / "state.safetensors", stop=2)
    assert cell(name, tmp_path / "state.safetensors") == whole
    assert len(whole["values"]) == 4


@pytest.mark.usefixtures("short")
def test_a_training_that_another_commit_began_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state.safetensors"
    with pytest.raises(StoppedError):
        cell("crpo", state, stop=1)
    monkeypatch.setattr(single_robots, "commit_of_results", lambda: "a later one")
    with pytest.raises(ValueError, match=r"commit this one began this training; check it out to go on, or remove"):
        cell("crpo", state)


def test_the_output_is_the_newest_iterate_that_keeps_the_solvers_limits() -> None:
    """As the learning curves choose it, where ``output`` is last."""
    problem = ROBOTS["half_cheetah"].problem(ROBOTS["half_cheetah"].settings_for(5000), 1000)
    assert problem.limits.tolist() == [20.0]
    for costs, expected in (([30.0, 25.0], 1), ([30.0, 19.0, 25.0], 1), ([10.0, 20.0, 20.1, 3.0], 3)):
        training, output = single_robots.Training(policy=None, output=None), None  # type: ignore[arg-type]
        for index, cost in enumerate(costs):
            training.take(iteration_of(index, cost), problem)
            output = chosen(output, iteration_of(index, cost), "last")
        assert training.output == output.policy == expected, costs


def iteration_of(index: int, cost: float) -> Any:
    """An iteration of which only the estimates matter; its policy is its number."""
    update = SimpleNamespace(branch=int(cost > 20.0), memory=(), update_seconds=0.0)
    return SimpleNamespace(
        policy=index, improved=None, values=np.array([1.0, cost]), update=update, rollout_seconds=0.0
    )
