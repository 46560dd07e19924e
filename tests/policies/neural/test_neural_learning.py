"""Does neural CRPO learn? The tasks and settings of docs/results/learning_curves.md, with thresholds on both sides."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.learning.curve_tasks import TASKS
from benchmarks.learning.learning_curves import train

Run = tuple[dict[str, Any], list[dict[str, str]]]


def _trained(name: str, steps: int, seed: int, folder: Path) -> Run:
    """The summary of a run from a fresh policy and the lines of its curve."""
    summary = train(name, TASKS[name], steps, seed, folder)
    with (folder / f"{name}-{steps}-{seed}.csv").open(encoding="utf-8") as file:
        return summary, list(csv.DictReader(file))


def _costs(curve: list[dict[str, str]], number: int) -> list[float]:
    return [float(line[f"cost_{number}"]) for line in curve]


@pytest.mark.slow
def test_half_cheetah_learns_to_run_under_its_speed_limit(tmp_path: Path) -> None:
    """Ten seconds. Measured on four seeds, last fifth: reward 1,402 to 1,518, cost 17 to 20; at first about -140."""
    _, curve = _trained("half_cheetah", 200_000, 100, tmp_path)
    assert len(curve) == 40
    assert float(curve[0]["reward"]) < 0.0
    assert np.mean([float(line["reward"]) for line in curve[-8:]]) > 900.0
    assert np.mean(_costs(curve, 1)[-8:]) <= 25.0
    assert max(_costs(curve, 1)) > 25.0, "the limit was never felt"


@pytest.mark.slow
def test_acrobot_learns_to_swing_up_under_both_limits(tmp_path: Path) -> None:
    """Four seconds. Measured on five seeds, last fifth: reward -194 to -151, costs 7.5 to 9.2 (limits 10).

    At first about -483, 143 and 125; without limits the costs end at 35 and 27.
    """
    summary, curve = _trained("acrobot", 200_000, 100, tmp_path)
    assert float(curve[0]["reward"]) < -400.0
    assert np.mean([float(line["reward"]) for line in curve[-4:]]) > -250.0
    for number in (1, 2):
        assert _costs(curve, number)[0] > 50.0
        assert np.mean(_costs(curve, number)[-4:]) <= 10.0
    assert float(curve[summary["output_iteration"]]["branch"]) == 0, "the output kept its limits"
    assert summary["final"][0] > -250.0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("half_cheetah", 2300.0), ("hopper", 1100.0)])
def test_a_million_steps(name: str, least: float, tmp_path: Path) -> None:
    """About a minute each; the output on 100 fresh episodes."""
    summary, _ = _trained(name, 1_000_000, 101, tmp_path)
    reward, cost = summary["final"]
    assert reward > least
    assert cost <= 25.0
