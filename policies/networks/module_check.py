"""Checks of a fresh module, before any work is done with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from policies.networks.mlp import Array
from policies.networks.module_network import ModuleNetwork

_ROWS = 3
_TOLERANCE, _TOLERANCE_OF_PRODUCTS = 1e-4, 1e-2


def checked(network: ModuleNetwork, vector: Array) -> None:
    """Check the outputs of a fresh network: shape, finite numbers, rows that do not depend on each other, its ``head``.

    Raises:
        ModuleError: something is wrong with them.
    """
    rows = np.random.default_rng(0).standard_normal((_ROWS, network.num_inputs)).astype(vector.dtype)
    together = network.apply(vector, rows)
    alone = np.concatenate([network.apply(vector, rows[row : row + 1]) for row in range(_ROWS)])
    if not np.allclose(together, alone, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise network.spec.fault("the outputs of one observation depend on the others of its batch, or on chance")
    head = network.last_layer(vector)
    if head is not None:
        found = network.features(vector, rows) @ head[0] + head[1]
        if not np.allclose(together, found, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise network.spec.fault("has a linear layer called head that is not its last step; rename it")
    if not any(found.any() for found in _derivatives(network, vector, rows)):
        raise network.spec.fault("the outputs do not depend on the parameters")


def _derivatives(network: ModuleNetwork, vector: Array, rows: Array) -> Iterator[Array]:
    """J' u for the unit vectors u, after a check that J v and J' u belong together: u' J v = (J' u)' v."""
    linear, rng = network.linearize(vector, rows), np.random.default_rng(1)
    own = sum(math.prod(shape) for _, shape in network.shapes)
    direction = np.zeros_like(vector)
    direction[:own] = rng.standard_normal(own) / math.sqrt(own)
    moved = linear.tangent(direction)
    for column in range(network.num_outputs):
        covectors: Any = np.zeros_like(linear.outputs)
        covectors[:, column] = 1.0
        pulled = linear.pullback(covectors)
        size = np.abs(pulled).max() + np.abs(moved).max()
        if not abs(float((covectors * moved).sum() - pulled @ direction)) <= _TOLERANCE_OF_PRODUCTS * max(1.0, size):
            raise network.spec.fault("its forward and reverse derivatives differ")
        yield pulled
