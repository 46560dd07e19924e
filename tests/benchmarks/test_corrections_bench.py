from __future__ import annotations

import numpy as np
import pytest

from benchmarks.dice.correction_errors import lake_errors
from benchmarks.dice.corrections import effect_rows, error_rows, error_verdict
from benchmarks.learning.contexts_verdict import sided
from meta.measuring.intervals import interval


@pytest.mark.slow
def test_corrections_bring_f_hat_nearer_to_the_exact_one() -> None:
    closed, plain = np.abs(lake_errors(("dualdice_tabular", "none"), 40, 3)).mean(axis=1)
    assert closed < 0.2
    assert plain > 2.0 * closed


def test_rows_are_paired_by_task_and_by_seed() -> None:
    rows = error_rows(["a", "none"], np.array([[0.1, -0.3, 0.2], [0.2, 0.4, -0.3]]))
    assert rows[0][1].startswith("0.2000 [")
    assert rows[0][3].startswith("-0.1000 [-0.1000")
    assert rows[1][3] == "–"
    shown = effect_rows({"gap": np.array([1.0, 2.0])}, {"gap": np.array([1.5, 2.5])})
    assert shown == [["gap", "1.5000", "2.0000", "-0.5000 [-0.5000, -0.5000]"]]


def test_verdicts_follow_the_intervals() -> None:
    errors = np.array([[0.1, -0.2, 0.11], [0.5, 0.9, 0.4], [0.2, 0.6, 0.0], [0.2, 0.3, 0.2]])
    assert error_verdict(["a", "b", "c", "none"], errors) == (
        "**nearer to the reference than `none`**: `a`; **no difference shown**: `b` and `c`."
    )
    found = {"gap": interval([-1.0, -1.1]), "TACV": interval([1.0, 1.1]), "reward": interval([1.0])}
    assert (
        sided(found, {"above": "higher", "below": "lower"})
        == "**higher**: TACV; **lower**: gap; **no difference shown**: reward."
    )
