"""A Kronecker-factored preconditioner of the damped Fisher matrix (Martens, Grosse 2015, section 6)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from policies.networks.distributions import LOG_STD, distribution_of, extra_of
from policies.networks.mlp import Array, Linearization

_SEED = 0
"""The factors are estimated with these fixed random actions; a solution only depends on them through its residual."""
WIDEST = 2048
"""A layer of more inputs than this (images) gets no factor of its inputs: n^2 numbers, and n^3 steps to invert it."""


def kronecker_preconditioner(
    linear: Linearization, weights: Array, damping: float, damping_extras: float
) -> Callable[[Array], Array]:
    """v -> (about) (F + damping)^{-1} v, exact inverses of each layer's block under independence.

    ``damping`` is that of the layers, ``damping_extras`` that of the parameters outside them.

    Layer l's block is about A (x) G with A = E[a a'] of its inputs a (a 1 appended for the bias) and G = E[g g'] of the
    score's derivatives g at its outputs, for actions drawn from the policy. The damping is shared between both factors:
    (A + pi sqrt(damping) I)^{-1} V (G + sqrt(damping) / pi I)^{-1}, pi^2 = mean eigenvalue of A / that of G.
    A layer of more than :data:`WIDEST` inputs takes A's mean eigenvalue times I for A: conjugate gradient needs more
    products, and solves the same system.
    """
    network, vector = linear.network, linear.vector
    distribution, extra = distribution_of(network), extra_of(network, vector)
    noise = distribution.noise(np.random.default_rng(_SEED), len(weights), network.sizes[-1])
    actions = distribution.sample(linear.outputs, extra, noise)
    covectors, _ = distribution.score(linear.outputs, extra, actions, np.ones_like(weights))
    inverses: list[tuple[Array | float, Array]] = []
    layers = network.layers(vector)
    for index in range(network.num_layers - 1, -1, -1):
        inputs = np.column_stack([linear.activations[index], np.ones_like(weights)])
        second = (covectors * weights[:, None]).T @ covectors
        if inputs.shape[1] > WIDEST:
            mean = float(weights @ (inputs**2).mean(axis=1))
            inverses.append(_of_wide_layer(mean, second, damping))
        else:
            inverses.append(_damped_inverses((inputs * weights[:, None]).T @ inputs, second, damping))
        if index:
            covectors = covectors @ layers[index][0].T * linear.slopes[index - 1]
    inverses.reverse()
    scale = 1.0 / (2.0 * float(weights.sum()) + damping_extras)

    def precondition(right: Array) -> Array:
        result = np.empty_like(right)
        for (left, other), given, found in zip(inverses, network.layers(right), network.layers(result), strict=True):
            stacked = np.vstack(given)
            product = (stacked * left if isinstance(left, float) else left @ stacked) @ other
            found[0][:], found[1][:] = product[:-1], product[-1]
        if LOG_STD in network.places:
            result[network.places[LOG_STD]] = right[network.places[LOG_STD]] * scale
        return result

    return precondition


def _of_wide_layer(mean: float, second: Array, damping: float) -> tuple[float, Array]:
    """As :func:`_damped_inverses`, with ``mean`` times the identity for the factor of the inputs."""
    size = float(np.trace(second)) / len(second)
    ratio = np.sqrt(mean / size) if min(mean, size) > 0.0 else 1.0
    root = np.sqrt(damping)
    return float(1.0 / (mean + root * ratio)), _inverse(second, root / ratio)


def _damped_inverses(first: Array, second: Array, damping: float) -> tuple[Array, Array]:
    sizes = float(np.trace(first)) / len(first), float(np.trace(second)) / len(second)
    ratio = np.sqrt(sizes[0] / sizes[1]) if min(sizes) > 0.0 else 1.0
    root = np.sqrt(damping)
    return _inverse(first, root * ratio), _inverse(second, root / ratio)


def _inverse(matrix: Array, share: float) -> Array:
    """(matrix + share I)^{-1}, made symmetric."""
    inverse = np.linalg.inv(matrix.astype(np.float64) + share * np.eye(len(matrix)))
    return np.asarray((0.5 * (inverse + inverse.T)).astype(matrix.dtype))
