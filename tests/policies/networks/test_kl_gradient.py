"""The gradient that the meta-learner follows, against finite differences of the divergence itself in float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from policies.networks.distributions import Categorical, DiagonalGaussian, Distribution
from policies.networks.mlp import Array

ROWS, SIZE, WIDTH = 7, 3, 1e-6
Case = tuple[Distribution, Array, Array, Array, Array, Array]


def case(distribution: Distribution) -> Case:
    """The distribution, old outputs and extras of every row, new outputs and extras, weights of either sign."""
    rng = np.random.default_rng(3)
    size = SIZE if isinstance(distribution, DiagonalGaussian) else 0
    outputs, new_outputs = rng.normal(size=(2, ROWS, SIZE))
    extras, new_extra = 0.3 * rng.normal(size=(ROWS, size)), 0.3 * rng.normal(size=size)
    return distribution, outputs, extras, new_outputs, new_extra, rng.normal(size=ROWS)


def summed(given: Case) -> float:
    """sum_n w_n KL(old || new)_n, a row at a time with the row's own extras."""
    distribution, outputs, extras, new_outputs, new_extra, weights = given
    rows = (
        float(distribution.kl(outputs[n : n + 1], extras[n], new_outputs[n : n + 1], new_extra)[0]) for n in range(ROWS)
    )
    return sum(weight * row for weight, row in zip(weights.tolist(), rows, strict=True))


def slopes(given: Case, position: int) -> NDArray[np.float64]:
    """Central differences of :func:`summed` in the array at ``position``."""
    result = np.zeros_like(given[position])
    for index in np.ndindex(result.shape):
        values = []
        for sign in (1.0, -1.0):
            parts = list(given)
            parts[position] = given[position].copy()
            parts[position][index] += sign * WIDTH
            values.append(summed((given[0], *parts[1:])))  # type: ignore[arg-type]
        result[index] = (values[0] - values[1]) / (2.0 * WIDTH)
    return result


@pytest.mark.parametrize("distribution", [Categorical(), DiagonalGaussian()], ids=["categorical", "gaussian"])
def test_it_is_the_slope_with_extras_of_each_row(distribution: Distribution) -> None:
    given = case(distribution)
    outputs, extra = distribution.kl_gradient(*given[1:])
    np.testing.assert_allclose(outputs, slopes(given, 3), rtol=0.0, atol=1e-8)
    np.testing.assert_allclose(extra, slopes(given, 4), rtol=0.0, atol=1e-8)
    assert np.abs(outputs).max() > 0.1


@pytest.mark.parametrize("distribution", [Categorical(), DiagonalGaussian()], ids=["categorical", "gaussian"])
def test_extras_that_the_rows_share_may_be_given_once(distribution: Distribution) -> None:
    _, outputs, extras, new_outputs, new_extra, weights = case(distribution)
    once = distribution.kl_gradient(outputs, extras[0], new_outputs, new_extra, weights)
    each = distribution.kl_gradient(outputs, np.tile(extras[0], (ROWS, 1)), new_outputs, new_extra, weights)
    for ours, theirs in zip(once, each, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)


@pytest.mark.parametrize("distribution", [Categorical(), DiagonalGaussian()], ids=["categorical", "gaussian"])
def test_it_is_zero_where_both_are_the_same(distribution: Distribution) -> None:
    _, outputs, _, _, extra, weights = case(distribution)
    for part in distribution.kl_gradient(outputs, extra, outputs, extra, weights):
        np.testing.assert_allclose(part, 0.0, atol=1e-14)
