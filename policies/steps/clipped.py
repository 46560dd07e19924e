"""Epochs of Adam on clipped surrogates: the first-order step of a network (Schulman et al. 2017; arXiv 2205.11814)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from policies.networks.adam import Adam
from policies.networks.distributions import LOG_STD, distribution_of, extra_of
from policies.networks.mlp import Array
from policies.networks.network import AnyNetwork
from policies.rules.rule import ClippedSettings, Decision
from policies.steps.combined import NaturalGradients, Room
from policies.steps.natural_gradient import Cap, Samples, StepReport, compared, just_under
from tasks.contract.tabular_model import FloatArray

_BACK = 0.1
"""The factor on a way whose KL is not finite."""


@dataclass(frozen=True, slots=True)
class Surrogate:
    """What is ascended on: E[min(r A, clip(r) A)] - sum_i kappa_i max(0, E[max(r A_i, clip(r) A_i)] + excess_i).

    r = pi'(a|s) / pi(a|s). ``gain`` [N] is A, ``costs`` [N, p] are the A_i, with ``hinges`` kappa [p] and ``excess``
    [p]; all are in units of one spread. p = 0 leaves PPO's surrogate.
    """

    gain: Array
    costs: Array
    hinges: FloatArray
    excess: FloatArray
    clip: float


def surrogate_of(samples: Samples, decision: Decision, room: Room, clip: float) -> Surrogate:
    """The surrogate of a decision, in units of the spread of what the reward's part ascends on.

    Without hinges A = sum_i c_i A_i. With them A = A_0, and excess_i = (J_i - d_i - eta_i) / factor puts a violation in
    units of the surrogate (P3O's loss, where the factor is 1 / (1 - gamma)).
    """
    advantages, kind = samples.advantages, samples.advantages.dtype
    if decision.hinges is None:
        gain = advantages @ decision.coefficients.astype(kind)
        costs, hinges, excess = advantages[:, :0], np.zeros(0), np.zeros(0)
    else:
        gain, costs = advantages[:, 0], advantages[:, 1:]
        hinges, excess = decision.hinges, -room.left / room.factor
    spread = float(np.sqrt(samples.weights.astype(np.float64) @ gain.astype(np.float64) ** 2))
    unit = spread if spread > 0.0 else 1.0
    return Surrogate((gain / unit).astype(kind), (costs / unit).astype(kind), hinges, excess / unit, clip)


def value_and_gradient(
    network: AnyNetwork,
    vector: Float[Array, " parameters"],
    inputs: Float[Array, "N d"],
    actions: NDArray[Any],
    before: Float[Array, " N"],
    surrogate: Surrogate,
) -> tuple[float, Float[Array, " parameters"]]:
    """The surrogate of ``vector`` on N samples, and its gradient; ``before`` [N] are log pi(a|s) of the batch's policy.

    d r / d log pi' = r, and a clipped sample has no gradient. At a corner of max(0, x) the gradient is that of 0.
    """
    linear, distribution = network.linearize(vector, inputs), distribution_of(network)
    extra = extra_of(network, vector)
    ratio = np.exp(distribution.log_probability(linear.outputs, extra, actions) - before)
    value, weights = _clipped(ratio, surrogate.gain, surrogate.clip)
    for index, hinge in enumerate(surrogate.hinges):
        harm, slopes = _clipped(ratio, -surrogate.costs[:, index], surrogate.clip)
        over = float(surrogate.excess[index]) - harm
        if over > 0.0:
            value -= float(hinge) * over
            weights = weights + np.asarray(hinge, dtype=weights.dtype) * slopes
    outputs, extras = distribution.score(linear.outputs, extra, actions, weights / len(ratio))
    gradient = linear.pullback(outputs)
    if LOG_STD in network.places:
        gradient[network.places[LOG_STD]] = extras
    return value, gradient


def _clipped(ratio: Array, advantages: Array, clip: float) -> tuple[float, Array]:
    """E[min(r A, clip(r) A)], and N times its derivatives in log pi' [N]."""
    plain, held = ratio * advantages, np.clip(ratio, 1.0 - clip, 1.0 + clip) * advantages
    return float(np.minimum(plain, held).mean(dtype=np.float64)), np.where(plain <= held, plain, 0.0).astype(
        plain.dtype
    )


def clipped_step(
    natural: NaturalGradients, decision: Decision, room: Room, settings: ClippedSettings, rng: np.random.Generator
) -> tuple[Float[Array, " parameters"], StepReport]:
    """Epochs of Adam on minibatches of the decision's surrogate, until the mean KL passes ``delta_max``.

    Then the way from the batch's policy is shortened until its KL is at most ``delta_max``, or, as PPO does, kept
    (``settings.shorten``). Where a policy has little noise, one epoch goes far past ``delta_max``.
    Samples must have equal weights.
    """
    network, vector, samples, linear = natural.network, natural.vector, natural.samples, natural.linear
    surrogate = surrogate_of(samples, decision, room, settings.clip)
    before = distribution_of(network).log_probability(linear.outputs, extra_of(network, vector), samples.actions)
    adam, moved = Adam(vector, settings.learning_rate), vector
    cap: Cap = "none"
    passes = 0
    while passes < settings.epochs and cap == "none":
        passes += 1
        order = rng.permutation(len(before))
        for begin in range(0, len(before), settings.minibatch):
            rows = order[begin : begin + settings.minibatch]
            part = Surrogate(
                surrogate.gain[rows], surrogate.costs[rows], surrogate.hinges, surrogate.excess, surrogate.clip
            )
            given = (samples.inputs[rows], samples.actions[rows], before[rows], part)
            moved = adam.step(moved, -value_and_gradient(network, moved, *given)[1]).astype(vector.dtype)
        kl, rises = compared(network, linear, moved, samples)
        if not kl <= natural.settings.delta_max:
            cap = "trust_region"
    rate, way = float(decision.coefficients[decision.branch]), moved - vector
    scale, asked, branch = 1.0, kl, decision.branch
    for _ in range(natural.settings.max_backtracks if settings.shorten else 0):
        if kl <= natural.settings.delta_max:
            break
        scale *= just_under(kl, natural.settings) if np.isfinite(kl) else _BACK
        moved = (vector + scale * way).astype(vector.dtype)
        kl, rises = compared(network, linear, moved, samples)
    if settings.shorten and not kl <= natural.settings.delta_max:
        nothing = np.zeros_like(rises)
        return vector, StepReport(branch, rate, 0.0, "refused", 0, 0.0, passes, asked, 0.0, nothing)
    return moved, StepReport(branch, rate, scale, cap, 0, 0.0, passes, asked, kl, rises)
