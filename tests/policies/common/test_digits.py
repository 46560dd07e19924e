from __future__ import annotations

import pytest

from policies.common.digits import digits, interval_text, parameters_text, rounded, scale_of


@pytest.mark.parametrize(
    ("value", "scale", "text"),
    [
        (0.0, None, "0.0000"),
        (1.23456, None, "1.2346"),
        (0.0012, None, "0.0012"),
        (0.000123456, None, "0.000123"),
        (-4.5678e-9, None, "-4.57e-09"),
        (2.2e-16, None, "0.0000"),  # a rounding error of 0
        (2.2e-9, 0.5, "0.0000"),  # beside larger numbers it is none
        (4e-12, 5e-9, "0"),
        (float("nan"), None, "nan"),
    ],
)
def test_small_numbers_keep_significant_digits(value: float, scale: float | None, text: str) -> None:
    assert digits(value, scale) == text


def test_intervals_and_lists() -> None:
    assert interval_text(0.5, None, None) == "0.5000"
    assert interval_text(2e-9, 1e-9, 3e-9) == "2e-09 [1e-09, 3e-09]"
    assert interval_text(-0.5, -0.75, 0.25, sign="+") == "-0.5000 [-0.7500, +0.2500]"
    assert rounded([0.5, 1e-9, 2.0]) == "[0.5, 1e-09, 2.0]"
    assert rounded([[0.25], [1.0]], 3) == "[[0.25], [1.0]]"
    assert scale_of([float("nan"), -3.0, 2.0]) == 3.0


def test_a_task_is_told_by_its_parameters() -> None:
    assert parameters_text({"target_speed": 1.6875, "legs": 4}) == "target_speed 1.69, legs 4"
    assert parameters_text({"rows": ["SF", "HG"], "weights": [0.5, 1.0]}) == "rows SF/HG, weights [0.5, 1]"
    assert parameters_text({"inner": {"mass": 2.0}}) == "inner mass 2"
    cut = parameters_text({"name": "x" * 200}, 20)
    assert len(cut) == 20
    assert cut.endswith("…")
