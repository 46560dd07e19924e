from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.dice.accuracy import ESTIMATORS, QUICK, measure_table
from benchmarks.dice.accuracy_page import main
from benchmarks.dice.dice_problems import GRIDWALK_VALUE, gridwalk, random_problem, taxi
from tests.support.linear_system import LinearSystem


def test_gridwalk_has_its_published_value() -> None:
    assert gridwalk().value == pytest.approx(GRIDWALK_VALUE, abs=1e-6)


@pytest.mark.parametrize("problem", [gridwalk(), taxi(), random_problem(3)], ids=["gridwalk", "taxi", "random"])
def test_samples_match_the_exact_shares(problem: object) -> None:
    rng = np.random.default_rng(0)
    steps = 30
    rows = problem.sample(problem.behaviour(0.0), 3000, steps, rng)  # type: ignore[attr-defined]
    share = problem.visited(0.0, steps)  # type: ignore[attr-defined]
    counted = np.zeros(share.shape)
    np.add.at(counted, (rows.observations[:, 0].astype(int), rows.actions), 1.0 / len(rows))
    by_state = np.abs(counted.sum(axis=1) - share.sum(axis=1)).sum()
    assert by_state < 0.03 * np.sqrt(len(share))
    assert (rows.terminated | rows.truncated).sum() == rows.episodes[-1] + 1


def test_occupancies_of_problems_that_do_not_end_are_distributions() -> None:
    for problem in (gridwalk(), random_problem(0)):
        assert problem.exact.sum() == pytest.approx(1.0, abs=1e-9)
    assert taxi().exact.sum() < 1.0, "the rest is absorbed"


def test_moments_of_the_linear_system_are_those_of_long_rollouts() -> None:
    system = LinearSystem.make()
    rng, gamma = np.random.default_rng(0), system.discount
    x, total, weight = rng.standard_normal((20000, 2)).astype(np.float32), np.zeros(6), 1.0 - gamma
    for _ in range(200):
        total += weight * np.concatenate([x.mean(axis=0), (x.T @ x / len(x)).ravel()])
        weight *= gamma
        a = system.target.sample(x, rng)
        x = (x @ system.drift.T + a * system.push + system.std * rng.standard_normal(x.shape)).astype(np.float32)
    np.testing.assert_allclose(total, system.discounted_moments(system.target), atol=0.02)


def test_the_closed_form_is_as_good_as_published() -> None:
    """10^-2.9 in the paper with 200 episodes of 400 steps; the noise of the starts alone gives 10^-2.93."""
    errors = measure_table([gridwalk()], ESTIMATORS["dualdice_tabular"], 0.0, (200, 400), 5)
    assert errors.rmse < 10.0**-2.5


@pytest.mark.slow
def test_the_quick_form_writes_the_page(tmp_path: Path) -> None:
    main(["--quick", "--results", str(tmp_path)])
    text = (tmp_path / "dice.md").read_text()
    for name in ESTIMATORS:
        assert text.count(f"| `{name}`") >= 7, name
    assert f"{QUICK.main[0]} x {QUICK.main[1]}" in text
    assert len(list((tmp_path / "dice").glob("*.png"))) == 3
