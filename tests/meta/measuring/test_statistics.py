"""Statistics of comparisons, held to rliable's numbers (tests/data/statistics), closed forms and coverage."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meta.measuring.statistics import (
    bootstrap_interval,
    improvement_interval,
    interquartile_mean,
    interquartile_means,
    linear_trend,
    means,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    profile_with_band,
)
from tasks.contract.tabular_model import FloatArray


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    path = Path(__file__).parent.parent.parent / "data" / "statistics" / "rliable.json"
    return {key: np.array(value) for key, value in json.loads(path.read_text()).items()}


def columns(scores: FloatArray) -> list[FloatArray]:
    """rliable's matrix, runs by tasks, as strata."""
    return list(scores.T)


def test_point_estimates_are_rliables(reference: dict[str, Any]) -> None:
    x, y = columns(reference["x"]), columns(reference["y"])
    assert interquartile_mean(x) == pytest.approx(float(reference["iqm"]), abs=1e-12)
    assert probability_of_improvement(x, y) == pytest.approx(float(reference["improvement"]), abs=1e-12)
    found = performance_profile(x, reference["thresholds"])
    np.testing.assert_allclose(found, reference["profile"].ravel(), atol=1e-12)


def test_intervals_are_rliables_up_to_the_noise_of_resampling(reference: dict[str, Any]) -> None:
    x, y = columns(reference["x"]), columns(reference["y"])
    found = bootstrap_interval(x, interquartile_means)
    np.testing.assert_allclose([found.low, found.high], reference["iqm_bounds"], atol=0.006)
    better = improvement_interval(x, y)
    np.testing.assert_allclose([better.low, better.high], reference["improvement_bounds"], atol=0.008)
    band = profile_with_band(x, reference["thresholds"], resamples=5000)
    np.testing.assert_allclose(np.stack([band.low, band.high]), reference["profile_bounds"], atol=0.026)


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end() -> None:
    assert interquartile_mean([np.array([-100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 900.0])]) == 3.5


def test_probability_of_improvement_counts_pairs_and_half_of_the_ties() -> None:
    x, y = np.array([1.0, 2.0, 5.0]), np.array([2.0, 0.0])
    assert probability_of_improvement([x], [y]) == pytest.approx((4 + 0.5) / 6)
    assert probability_of_improvement([x, x], [y, x]) == pytest.approx(0.5 * (4.5 / 6 + 0.5))
    assert probability_of_improvement([y], [x]) == pytest.approx(1.0 - 4.5 / 6)


def test_strata_may_differ_in_size_and_rows_stay_together() -> None:
    """Held-out tasks of one seed move together: two rows leave four equally likely means, however many columns."""
    rows = [np.array([[0.0] * 50, [1.0] * 50]), np.full(3, 4.0)]
    draws = bootstrap_interval([rows[0]], means)
    assert (draws.low, draws.high) == (0.0, 1.0)
    assert bootstrap_interval(rows, means).mean == pytest.approx((50.0 + 12.0) / 103.0)


@pytest.mark.parametrize("statistic", [means, interquartile_means])
def test_the_bootstrap_interval_has_about_its_nominal_coverage(statistic: Any) -> None:
    """20 seeds from a normal: 95 % less what the percentile method loses on small samples."""
    rng = np.random.default_rng(3)
    found = [bootstrap_interval([rng.normal(2.0, 1.0, 20)], statistic, seed=k) for k in range(300)]
    covered = np.mean([item.low <= 2.0 <= item.high for item in found])
    assert 0.88 <= covered <= 0.98


def test_paired_differences_take_out_what_seeds_share() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(0.0, 10.0, size=10)
    found = paired_difference(shared + 1.0 + 0.01 * rng.normal(size=10), shared)
    assert found.low < 1.0 < found.high
    assert found.high - found.low < 0.03


def test_a_trend_is_the_least_squares_line() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0])
    exact = linear_trend(x, 2.0 - 0.5 * x)
    assert exact.slope.mean == pytest.approx(-0.5)
    assert exact.intercept == pytest.approx(2.0)
    assert exact.rank_correlation == pytest.approx(-1.0)
    rng = np.random.default_rng(1)
    noisy_x = rng.uniform(size=40)
    y = 3.0 * noisy_x + 0.3 * rng.normal(size=40)
    fitted = linear_trend(noisy_x, y)
    assert fitted.slope.mean == pytest.approx(np.polyfit(noisy_x, y, 1)[0])
    assert fitted.slope.low < 3.0 < fitted.slope.high
    with pytest.raises(ValueError, match="at least 3 pairs of different x"):
        linear_trend(np.ones(5), np.arange(5.0))


def test_one_seed_has_no_interval() -> None:
    found = bootstrap_interval([np.array([3.0])], means)
    assert found.mean == 3.0
    assert math.isnan(found.low)
