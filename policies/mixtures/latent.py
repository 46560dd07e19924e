"""Latent contexts: vectors z_t [k] of the training tasks that are learned with the network that reads them.

Where a family tells nothing of its tasks, each training task has a z_t. It takes steps like the network's own, on the
same samples: alpha F_t^{-1} g_t with g_t the policy gradient of task t in its input z_t, of the branch that the task
has chosen, and F_t the Fisher matrix in z_t. The scale of z is free, so the z_t are normalised over all tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.networks.distributions import distribution_of, extra_of
from policies.networks.mlp import Array
from policies.neural.policy_state import Parameters
from policies.steps.natural_gradient import Samples
from tasks.contract.context import ContextSpace
from tasks.contract.tabular_model import FloatArray

_STREAM = 64
_RANGE = 3.0
"""Normalised latent contexts of training tasks rarely lie farther from 0."""
_DAMPING = 1e-3
"""Added to the diagonal of F_t, in units of its mean."""
_LONGEST = 0.5
"""Largest change of an entry in one step, in units of the spread over tasks."""


@dataclass(frozen=True, slots=True, eq=False)
class Latents:
    """Latent ``contexts`` [G, k] of a team's tasks, and their step: ``rate`` alpha, ``delta_max`` its largest KL."""

    contexts: FloatArray
    rate: float
    delta_max: float


def latent_space(size: int) -> ContextSpace:
    """The space of latent contexts of ``size`` entries, which are normalised already."""
    names = tuple(f"latent {number}" for number in range(1, size + 1))
    zeros, ones = np.zeros(size), np.ones(size)
    return ContextSpace(names, zeros, ones, -_RANGE * ones, _RANGE * ones, limits=False)


def first_latents(num_tasks: int, size: int, seed: int) -> FloatArray:
    """Random contexts [T, k], normalised; the first steps of the network break the symmetry between them."""
    return normalized(np.random.default_rng([seed, _STREAM]).standard_normal((num_tasks, size)))


def normalized(latents: FloatArray) -> FloatArray:
    """``latents`` [T, k] with mean 0 and standard deviation 1 over tasks, entry by entry."""
    spread = latents.std(axis=0)
    return np.asarray((latents - latents.mean(axis=0)) / np.where(spread > 0.0, spread, 1.0))


def moved(latents: FloatArray, moves: Sequence[tuple[Sequence[int], FloatArray]]) -> FloatArray:
    """``latents`` [T, k] after the steps of teams, normalised: for each team the tasks' positions and steps [G, k]."""
    result = latents.copy()
    for places, steps in moves:
        np.add.at(result, np.array(places), steps)
    return normalized(result)


def latent_steps(actor: Parameters, samples: Samples, ascents: Array, latents: Latents) -> FloatArray:
    """The steps [G, k] of the team's latent contexts.

    Args:
        actor: phi, whose last k inputs are the context.
        samples: of all copies, step by step.
        ascents: what each sample ascends on, [T, n]; copies of a task are next to each other.
        latents: the contexts and the size of the step.
    """
    gradient, fisher = gradient_and_fisher(actor, samples, ascents, latents.contexts.shape)
    size = gradient.shape[1]
    damping = _DAMPING * np.trace(fisher, axis1=1, axis2=2) / size + np.finfo(np.float64).tiny
    direction = np.linalg.solve(fisher + damping[:, None, None] * np.eye(size), gradient[..., None])[..., 0]
    steps = latents.rate * direction
    divergence = 0.5 * np.einsum("gi,gij,gj->g", steps, fisher, steps)
    shrink = np.sqrt(latents.delta_max / np.maximum(divergence, latents.delta_max))
    return np.asarray(np.clip(steps * shrink[:, None], -_LONGEST, _LONGEST))


def gradient_and_fisher(
    actor: Parameters, samples: Samples, ascents: Array, shape: tuple[int, ...]
) -> tuple[FloatArray, FloatArray]:
    """g [G, k] and F [G, k, k]: means over the samples of each task.

    The derivative in an input is the derivative in the first layer's bias along that input's weights.
    """
    network, vector = actor.network, actor.vector
    tasks, size = shape
    linear, extra = network.linearize(vector, samples.inputs), extra_of(network, vector)
    distribution, ones = distribution_of(network), np.ones(len(samples.inputs), vector.dtype)
    score, _ = distribution.score(linear.outputs, extra, samples.actions, ones)
    tangents = []
    for weights in network.part(vector, "weights_0")[-size:]:
        direction = np.zeros_like(vector)
        network.part(direction, "bias_0")[:] = weights
        tangents.append(linear.tangent(direction))
    scores = np.stack([(score * tangent).sum(axis=1) for tangent in tangents], axis=1).astype(np.float64)
    still = np.zeros_like(extra)
    products = [distribution.fisher(linear.outputs, extra, tangent, still, ones)[0] for tangent in tangents]
    fisher = np.array([[(one * other).sum(axis=1) for other in products] for one in tangents], np.float64)
    steps = ascents.shape[0]
    gradient = (ascents.reshape(steps, tasks, -1, 1) * scores.reshape(steps, tasks, -1, size)).mean(axis=(0, 2))
    return np.asarray(gradient), fisher.reshape(size, size, steps, tasks, -1).mean(axis=(2, 4)).transpose(2, 0, 1)
