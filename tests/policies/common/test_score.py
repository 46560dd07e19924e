from __future__ import annotations

import pytest

from policies.common.score import relative_loss


@pytest.mark.parametrize(
    ("reward", "reference", "loss"),
    [
        (0.5, 1.0, 0.5),
        (-3.0, -2.0, 0.5),
        (4e-9, 5e-9, 0.2),  # small units are units
        (-1e-6, 0.0, 1e-6),  # an optimum of 0 has no unit: the loss is in those of the environment
        (-1e-6, 1e-13, 1e-6),
    ],
)
def test_the_loss_is_relative_where_the_optimum_is_not_0(reward: float, reference: float, loss: float) -> None:
    assert relative_loss(reward, reference) == pytest.approx(loss, rel=1e-6)
