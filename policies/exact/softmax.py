"""The tabular softmax policy pi(a|s) proportional to exp z(s,a), its divergences and its natural-gradient step."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, logsumexp, rel_entr

from tasks.contract.tabular_model import FloatArray


def log_policy(logits: Float[FloatArray, "*any A"]) -> Float[FloatArray, "*any A"]:
    """log pi(a|s) for logits [S, A] (or [..., S, A])."""
    return np.asarray(log_softmax(logits, axis=-1))


def probabilities(logits: Float[FloatArray, "*any A"]) -> Float[FloatArray, "*any A"]:
    """pi(a|s) for logits [..., S, A]; rows sum to 1."""
    return np.exp(log_policy(logits))


def logits_of(policy: Float[FloatArray, "*any A"]) -> Float[FloatArray, "*any A"]:
    """Logits of a policy with full support, [S, A].

    Raises:
        ValueError: a probability is not positive, so that no finite logits exist.
    """
    if not (policy > 0.0).all():
        raise ValueError("a softmax policy needs positive probabilities; shrink the policy towards uniform first")
    return np.log(policy)


def kl_divergence(policy: Float[FloatArray, "*any A"], other: Float[FloatArray, "*any A"]) -> Float[FloatArray, "*any"]:
    """KL(policy(.|s) || other(.|s)) for every state, [S]."""
    return np.asarray(rel_entr(policy, other).sum(axis=-1))


def log_normalizer(
    logits: Float[FloatArray, "S A"], advantage: Float[FloatArray, "S A"], rate: float, discount: float
) -> Float[FloatArray, " S"]:
    """log Z(s) = log sum_a pi(a|s) exp(rate A(s,a) / (1 - gamma)), [S]: the KL(pi || pi') of one step (THEORY 2)."""
    return np.asarray(logsumexp(log_policy(logits) + rate * advantage / (1.0 - discount), axis=-1))


def natural_gradient_step(
    logits: Float[FloatArray, "S A"], advantage: Float[FloatArray, "S A"], rate: float, discount: float
) -> Float[FloatArray, "S A"]:
    """z' = log pi + rate A / (1 - gamma), normalised; ascent for rate > 0, descent on a cost for rate < 0.

    Agarwal et al. 2021, lemma 15; with A instead of Q the policy is the same.
    """
    return log_policy(log_policy(logits) + rate * advantage / (1.0 - discount))
