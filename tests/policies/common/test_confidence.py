"""Bounds with a stated confidence: coverage on simulated data, the quantile's identity, the count of tasks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from policies.common.confidence import (
    allowed_over,
    estimate_of,
    exact_estimate,
    fewest_tasks,
    longest_passing,
    next_margins,
    quantile_step,
    skew,
    upper_bound,
)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_bound_covers_normal_samples_as_often_as_stated(confidence: float) -> None:
    rng = np.random.default_rng(1)
    mean, _, half = upper_bound(rng.normal(2.0, 3.0, size=(20, 40_000)), confidence)
    assert (mean + half >= 2.0).mean() == pytest.approx(confidence, abs=0.012)


@pytest.mark.parametrize("count", [40, 100])
def test_the_bound_covers_skewed_costs_where_a_plain_interval_covers_too_little(count: int) -> None:
    """Counts of holes entered: Poisson of mean 0.4, discounted by when they happen."""
    rng = np.random.default_rng(2)
    samples = rng.poisson(0.4, size=(count, 20_000)) * rng.uniform(0.3, 1.0, size=(count, 20_000))
    mean, error, half = upper_bound(samples, 0.95)
    covered, plain = (mean + half >= 0.26).mean(), (mean + stats.norm.ppf(0.95) * error >= 0.26).mean()
    assert plain < 0.935
    assert covered > plain + 0.01
    assert covered >= 0.935


def test_a_bound_needs_episodes_and_knows_constant_costs() -> None:
    with pytest.raises(ValueError, match="at least 2 episodes, got 1"):
        upper_bound(np.ones((1, 2)), 0.9)
    mean, error, half = upper_bound(np.full((9, 1), 0.3), 0.9)
    np.testing.assert_allclose([mean[0], error[0], half[0]], [0.3, 0.0, 0.0], atol=1e-15)


def test_a_policy_is_compared_with_the_one_that_acted_in_the_same_episodes() -> None:
    rng = np.random.default_rng(3)
    now = rng.normal(size=(50, 1))
    found = estimate_of(now - 0.2, now, 0.95)
    assert found.rise[0] == pytest.approx(-0.2), "what both share does not count"
    assert found.bound[0] == pytest.approx(float(found.mean[0] + found.half[0]))
    known = exact_estimate(np.array([0.4]), np.array([0.5]))
    assert (known.bound[0], known.rise[0]) == (0.4, pytest.approx(-0.1))


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_quantile_misses_as_often_as_asked_whatever_it_sees(confidence: float) -> None:
    rng = np.random.default_rng(4)
    seen = np.concatenate([rng.normal(size=300), 5.0 + np.sin(np.arange(300.0)), -rng.exponential(size=300)])
    quantile, rate, missed = np.array([0.3]), 0.1, 0
    for one in seen:
        missed += int(one > quantile[0])
        quantile = quantile_step(quantile, np.array([one]), rate, confidence)
    assert missed == pytest.approx((1.0 - confidence) * len(seen) + (quantile[0] - 0.3) / rate, abs=1e-6)


def test_margins_are_never_negative_and_miss_no_more_often() -> None:
    rng = np.random.default_rng(5)
    margins, rate, confidence, missed = np.zeros(2), 0.05, 0.9, np.zeros(2)
    for _ in range(2000):
        seen = rng.normal([0.0, -3.0], 0.1)
        missed += seen > margins
        margins = next_margins(margins, seen, rate, confidence)
        assert (margins >= 0.0).all()
    assert (missed <= 0.1 * 2000 + margins / rate + 1e-6).all()
    assert margins[0] == pytest.approx(0.1 * stats.norm.ppf(0.9), abs=0.06), "the quantile of what is seen"
    assert margins[1] == 0.0


def test_steps_are_tested_in_order_until_one_fails() -> None:
    tried: list[float] = []

    def passes(share: float) -> bool:
        tried.append(share)
        return share != 0.5

    assert longest_passing((0.25, 0.5, 1.0), passes) == 0.25
    assert tried == [0.25, 0.5], "what comes after a failure is not looked at"
    assert longest_passing((0.5, 1.0), passes) == 0.0
    assert longest_passing((0.2, 1.0), passes) == 1.0


@pytest.mark.parametrize(("confidence", "tasks"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_the_fewest_tasks_allow_none_over_a_limit(confidence: float, tasks: int) -> None:
    assert fewest_tasks(confidence) == tasks
    assert allowed_over(tasks, confidence) == 0
    assert allowed_over(tasks - 1, confidence) == -1
    assert allowed_over(2 * tasks + 1, confidence) == 1


@pytest.mark.parametrize("tasks", [19, 39, 60])
def test_a_start_chosen_on_tasks_is_over_a_limit_on_a_new_one_no_more_often_than_allowed(tasks: int) -> None:
    """Conformal risk control: a task is over its limit at shares below a threshold of its own."""
    rng, ladder = np.random.default_rng(6), np.linspace(1.0, 0.0, 33)
    over = []
    for _ in range(4000):
        thresholds = rng.beta(2.0, 5.0, size=tasks + 1)
        counts = (thresholds[:tasks, None] > ladder).sum(axis=0)
        chosen = ladder[counts <= allowed_over(tasks, 0.95)][-1]
        over.append(thresholds[-1] > chosen)
    assert np.mean(over) <= 0.05 + 0.01


def test_the_skewness_is_that_of_scipy() -> None:
    samples = np.random.default_rng(3).exponential(size=(40, 3)) * [1.0, 1e-3, 1e6]
    np.testing.assert_allclose(skew(samples), stats.skew(samples, axis=0), rtol=1e-12)
