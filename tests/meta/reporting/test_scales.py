"""Axes follow their data, and their ticks are few and readable."""

from __future__ import annotations

import numpy as np
import pytest

from meta.reporting.scales import axis_for


@pytest.mark.parametrize(
    ("numbers", "scale"),
    [
        ([0.1, 0.2, 0.9], "linear"),
        ([0.0, 0.0], "linear"),
        ([-3.0, 4.0], "linear"),
        ([0.001, 0.01, 1.0], "log"),
        ([0.0, 0.001, 0.01, 1.0], "symlog"),
        ([-1.0, 0.001, 1.0], "symlog"),
    ],
)
def test_an_axis_is_logarithmic_where_its_data_span_decades(numbers: list[float], scale: str) -> None:
    assert axis_for(np.array(numbers), "fitting").scale == scale


def test_rounding_errors_do_not_stretch_an_axis() -> None:
    assert axis_for(np.array([1e-17, 0.0, 0.2, 0.3]), "fitting").scale == "linear"
    assert axis_for(np.array([1e-17, 0.002, 0.2, 0.3]), "fitting").linear_below == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.012, 0.4, ["0.02", "0.05", "0.1", "0.2"]),
        (0.001, 10.0, ["0.001", "0.01", "0.1", "1", "10"]),
        (2e3, 3e6, ["10,000", "100,000", "10⁶"]),
        (2e-7, 3e-4, ["10⁻⁶", "10⁻⁵", "0.0001"]),
    ],
)
def test_ticks_of_a_logarithmic_axis(low: float, high: float, texts: list[str]) -> None:
    assert axis_for(np.array([low, high]), "log").texts == texts


def test_ticks_around_zero() -> None:
    axis = axis_for(np.array([-0.2, 0.0, 0.03, 40.0]), "fitting")
    assert axis.texts == ["-0.1", "-0.01", "0", "0.01", "0.1", "1", "10"]


def test_a_number_that_is_not_positive_has_no_logarithm() -> None:
    with pytest.raises(ValueError, match="cannot show 0"):
        axis_for(np.array([0.0, 1.0]), "log")
    with pytest.raises(ValueError, match="at least one number"):
        axis_for(np.zeros(0), "linear")


def numbers_of(seed: int) -> list[float]:
    """One to twenty numbers of any signs and sizes, some of them 0."""
    rng = np.random.default_rng(seed)
    count, widest = int(rng.integers(1, 21)), float(rng.uniform(0.0, 6.0))
    signs = rng.choice([[1.0], [-1.0, 1.0], [0.0, 1.0]][int(rng.integers(3))], count)
    return list(signs * 10.0 ** rng.uniform(-widest, widest, count))


@pytest.mark.parametrize("seed", range(300))
def test_every_axis_shows_all_its_numbers_and_distances_grow(seed: int) -> None:
    numbers = np.array(numbers_of(seed))
    axis = axis_for(numbers, "fitting")
    assert axis.low < numbers.min()
    assert axis.high > numbers.max()
    assert list(axis.ticks) == sorted(set(axis.ticks))
    assert len(set(axis.texts)) == len(axis.ticks) <= 16
    if axis.scale != "linear":
        assert len(axis.ticks) >= 2
    assert (np.diff(axis.places(np.unique(numbers))) > 0.0).all()
