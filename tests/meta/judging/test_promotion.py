"""A start is called better only where its paired interval says so, and is worse in nothing."""

from __future__ import annotations

import numpy as np
import pytest

from meta.judging.promotion import Verdict, judge
from meta.measuring.intervals import Interval
from meta.training.pool import LocalPool
from policies.common.results import Start
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.family_registry import FamilySpec

SPEC = FamilySpec("frozen_lake", 3, 8, {"map_size": 4, "horizon": 30})
WITHIN = WithinTaskSettings(num_iterations=3)


def part(low: float, high: float) -> Interval:
    return Interval(0.5 * (low + high), low, high, 10)


@pytest.mark.parametrize(
    ("value", "violation", "better"),
    [
        ((-0.2, -0.1), (-0.1, 0.1), True),
        ((-0.1, 0.1), (-0.2, -0.1), True),
        ((-0.2, -0.1), (-0.2, -0.1), True),
        ((-0.1, 0.1), (-0.1, 0.1), False),
        ((-0.2, -0.1), (0.1, 0.2), False),
        ((0.1, 0.2), (-0.2, -0.1), False),
        ((0.0, 0.0), (0.0, 0.0), False),
        ((float("nan"), float("nan")), (-0.2, -0.1), True),
    ],
)
def test_the_rule(value: tuple[float, float], violation: tuple[float, float], better: bool) -> None:
    assert Verdict("gap", part(*value), part(*violation)).better is better


def test_the_optimum_beats_the_uniform_start_and_nothing_beats_itself() -> None:
    pool = LocalPool(SPEC)
    tasks = pool.draw("test", range(6))
    uniform = Start(np.full((16, 4), 0.25), np.array([0.01, 0.01]))
    references = [reference for reference in pool.references(tasks) if reference is not None]
    optimum = np.mean([reference.policy for reference in references], axis=0)
    good = Start(0.97 * optimum + 0.03 * 0.25, np.array([0.01, 0.01]))
    found = judge(pool, tasks, good, uniform, WITHIN)
    assert found.measured_by == "gap"
    assert found.value.n == 6
    assert found.value.high < 0.0
    assert not judge(pool, tasks, uniform, good, WITHIN).better
    same = judge(pool, tasks, good, good, WITHIN)
    assert (same.value.mean, same.violation.mean, same.better) == (0.0, 0.0, False)
    assert "over 6 new tasks" in str(found)
