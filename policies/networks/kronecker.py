"""A Kronecker-factored preconditioner of the damped Fisher matrix (Martens, Grosse 2015, section 6)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from policies.networks.distributions import LOG_STD, distribution_of, extra_of
from policies.networks.mlp import Array, Linearization

_SEED = 0
"""The factors are estimated with these fixed random actions; a solution only depends on them through its residual."""


def kronecker_preconditioner(
    linear: Linearization, weights: Array, damping: float, damping_extras: float
) -> Callable[[Array], Array]:
    """v -> (about) (F + damping)^{-1} v, exact inverses of each layer's block under independence.

    ``damping`` is that of the layers, ``damping_extras`` that of the parameters outside them.

    Layer l's block is about A (x) G with A = E[a a'] of its inputs a (a 1 appended for the bias) and G = E[g g'] of the
    score's derivatives g at its outputs, for actions drawn from the policy. The damping is shared between both factors:
    (A + pi sqrt(damping) I)^{-1} V (G + sqrt(damping) / pi I)^{-1}, pi^2 = mean eigenvalue of A / that of G.
    """
    network, vector = linear.network, linear.vector
    distribution, extra = distribution_of(network), extra_of(network, vector)
    noise = distribution.noise(np.random.default_rng(_SEED), len(weights), network.sizes[-1])
    actions = distribution.sample(linear.outputs, extra, noise)
    covectors, _ = distribution.score(linear.outputs, extra, actions, np.ones_like(weights))
    inverses: list[tuple[Array, Array]] = []
    layers = network.layers(vector)
    for index in range(network.num_layers - 1, -1, -1):
        inputs = np.column_stack([linear.activations[index], np.ones_like(weights)])
        first = (inputs * weights[:, None]).T @ inputs
        second = (covectors * weights[:, None]).T @ covectors
        inverses.append(_damped_inverses(first, second, damping))
        if index:
            covectors = covectors @ layers[index][0].T * linear.slopes[index - 1]
    inverses.reverse()
    scale = 1.0 / (2.0 * float(weights.sum()) + damping_extras)

    def precondition(right: Array) -> Array:
        result = np.empty_like(right)
        for (left, other), given, found in zip(inverses, network.layers(right), network.layers(result), strict=True):
            product = left @ np.vstack(given) @ other
            found[0][:], found[1][:] = product[:-1], product[-1]
        if LOG_STD in network.places:
            result[network.places[LOG_STD]] = right[network.places[LOG_STD]] * scale
        return result

    return precondition


def _damped_inverses(first: Array, second: Array, damping: float) -> tuple[Array, Array]:
    sizes = float(np.trace(first)) / len(first), float(np.trace(second)) / len(second)
    ratio = np.sqrt(sizes[0] / sizes[1]) if min(sizes) > 0.0 else 1.0
    root = np.sqrt(damping)
    results = []
    for matrix, share in ((first, root * ratio), (second, root / ratio)):
        inverse = np.linalg.inv(matrix.astype(np.float64) + share * np.eye(len(matrix)))
        results.append((0.5 * (inverse + inverse.T)).astype(matrix.dtype))
    return results[0], results[1]
