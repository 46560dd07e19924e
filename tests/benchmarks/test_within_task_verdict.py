"""Verdicts of the page of within-task algorithms say what the numbers say."""

from __future__ import annotations

import pytest

from benchmarks.learning.within_task_verdict import Achieved, robot_verdict, starts_verdict
from meta.measuring.intervals import interval


def achieved(reward: float, excess: float, seeds: int = 2) -> Achieved:
    return Achieved(interval([reward] * seeds), interval([excess] * seeds))


@pytest.mark.parametrize(
    ("found", "begins", "ends"),
    [
        ({"crpo": achieved(2900.0, 1.0), "c_trpo": achieved(3000.0, 0.4)}, "**Reached by `c_trpo`**", "2 seeds."),
        ({"p3o": achieved(2870.0, 0.0), "c_trpo": achieved(3000.0, 0.4)}, "**Reached by `p3o`, `c_trpo`**", "2 seeds."),
        ({"c_trpo": achieved(3000.0, 0.5, 1)}, "**Not reached**", "`c_trpo` 1.00, mean excess 0.50, 1 seed."),
        ({"crpo": achieved(2500.0, 0.1)}, "**Not reached**", "`crpo` 0.83, mean excess 0.10, 2 seeds."),
    ],
)
def test_a_robot_is_solved_by_reward_and_excess_together(found: dict[str, Achieved], begins: str, ends: str) -> None:
    text = robot_verdict("half_cheetah", found)
    assert text.startswith(begins)
    assert text.endswith(ends)
    assert "0.95 of the best published reward (3009, P3O) with a mean excess no larger than P3O's (0.46)" in text


def test_learned_starts_are_told_apart_by_measure() -> None:
    better, unclear = interval([1.0, 1.1]), interval([-1.0, 1.0])
    found = {"gap": {"`cpo`": better, "`p3o`": unclear}, "score": {"`cpo`": better, "`p3o`": better}, "violation": {}}
    lines = starts_verdict(found)
    assert lines[2:] == ["- gap: **better**: `cpo`; **no difference shown**: `p3o`.", "- score: **better**: both.", ""]
