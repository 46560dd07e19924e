"""The score by which starts, rates and settings are compared: relative loss of reward plus relative violation.

The entire library uses these functions for comparisons. Smaller scores are better.
"""

from __future__ import annotations

import numpy as np

from tasks.contract.tabular_model import FloatArray

_ZERO = 1e-9


def relative_loss(reward: FloatArray | float, reference: float) -> FloatArray | float:
    """(J_ref - J_0) / |J_ref|: the share of the reference's reward that is missing; negative where it is exceeded.

    ``reference`` is the optimum where it is known, else a policy's reward that the caller compares with. Where it is 0
    (at most 1e-9) the loss is in the environment's units, as a violation is where the limit is 0.
    """
    return (reference - reward) / (abs(reference) if abs(reference) > _ZERO else 1.0)


def limit_scale(limits: FloatArray) -> FloatArray:
    """d_i [p], the unit of cost i; 1 where the limit is 0."""
    return np.where(limits > 0.0, limits, 1.0)


def relative_excess(excess: FloatArray, limits: FloatArray) -> FloatArray:
    """Mean over the costs of ``excess`` [..., p] in units of ``limits`` [p]."""
    return np.asarray((excess / limit_scale(limits)).mean(axis=-1))


def score(loss: float, violation: float) -> float:
    """max(loss, 0) + violation, both relative: a reward above the reference does not pay for a violation."""
    return max(loss, 0.0) + violation
