"""What differs between within-task algorithms: the rule that decides how much of each objective a step takes.

Near an iterate, a step of coefficients c [1+p] moves the policy along sum_i c_i D_i, with D_i = F^{-1} grad J_i the
natural gradient of objective i and F the Fisher matrix. For a softmax table that is z += sum_i c_i A_i / (1 - gamma)
exactly. Everything that a rule needs of the policy is then in the matrix K_ij = D_i' F D_j: the step's divergence is
about c' K c / 2 and it changes J_i by about (K c)_i. So one rule serves tables and networks, with p >= 1 costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from policies.common.branches import REWARD_BRANCH, choose_branch
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import TaskError

Units = Literal["absolute", "relative"]
"""absolute: of the returns; relative: violations as shares of their limits, advantages in units of their spread."""


@dataclass(frozen=True, slots=True)
class View:
    """What a rule sees of an iterate.

    ``values`` [1+p] are J_i, ``limits`` [p] d_i with the safety margin taken off, ``tolerance`` [p] eta_i and ``rates``
    [1+p] alpha_i. ``products()`` gives K [1+p, 1+p] and ``spreads()`` [1+p] the root mean squares of the advantages;
    both are computed when asked for. ``slope`` is the change of J_i by a step c in units of (K c)_i, 1 for discounted
    returns. ``radius`` is the largest divergence of a step, infinite in a table. ``constraint_choice`` and ``rng``
    choose among several violated costs.
    """

    values: FloatArray
    limits: FloatArray
    tolerance: FloatArray
    rates: FloatArray
    products: Callable[[], FloatArray]
    spreads: Callable[[], FloatArray]
    slope: float = 1.0
    radius: float = np.inf
    constraint_choice: str = "largest"
    rng: np.random.Generator | None = None

    @property
    def excess(self) -> FloatArray:
        """J_i - d_i - eta_i of every cost, [p]."""
        return np.asarray(self.values[1:] - self.limits - self.tolerance)

    def branch(self, share: float | FloatArray = 1.0) -> int:
        """0 where every J_i <= share_i d_i + eta_i, else the violated cost that ``constraint_choice`` takes."""
        rng = self.rng or np.random.default_rng(0)
        return choose_branch(self.values, share * self.limits, self.tolerance, self.constraint_choice, rng)

    def violations(self, units: Units) -> FloatArray:
        """J_i - d_i - eta_i [p], or as shares of the limits (of 1 where a limit is 0)."""
        return self.excess if units == "absolute" else self.excess / np.where(self.limits > 0.0, self.limits, 1.0)

    def priced(self, prices: FloatArray, units: Units) -> FloatArray:
        """Coefficients [1+p] of the direction D_0 - sum_i lambda_i D_i for ``prices`` lambda [p].

        relative: lambda_i is in units of the spread of the reward's advantages over that of cost i's; a cost without
        any spread has no gradient, and gets 0.
        """
        if units == "relative":
            spreads = self.spreads()
            known = spreads[1:] > 0.0
            prices = np.where(known, prices * spreads[0] / np.where(known, spreads[1:], 1.0), 0.0)
        return np.concatenate([[1.0], -prices])


@dataclass(frozen=True, slots=True)
class Barrier:
    """The divergence that C-TRPO adds to KL: ``weight`` times the Bregman divergence of ``form`` for each slack [p]."""

    weight: float
    form: Literal["entropy", "logarithm"]
    slack: FloatArray


class ClippedSettings(BaseModel):
    """Epochs on a clipped surrogate (PPO, Schulman et al. 2017, section 3): what a first-order rule does to a network.

    They end early once the mean KL(old || new) passes ``within_task.trust_region.delta_max``; see ``shorten``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    clip: float = Field(default=0.2, gt=0.0, lt=1.0)
    """epsilon: beyond 1 +- epsilon a ratio of probabilities earns nothing more."""
    epochs: int = Field(default=10, gt=0)
    """Passes over the samples, at most."""
    minibatch: int = Field(default=256, gt=0)
    """Samples of one Adam step."""
    learning_rate: float = Field(default=3e-4, gt=0.0)
    """Adam's step."""
    shorten: bool = True
    """Shorten the way of all epochs until the mean KL is at most delta_max; false keeps the epoch that passes it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How the next step is taken.

    ``coefficients`` c [1+p] of the step, positive for the reward and negative for costs. ``branch`` is what the step
    counts as: the cost that it only descends on, else 0. ``memory`` is what the rule keeps for the next iteration.

    For networks: ``kept`` are the costs whose surrogate the line search holds within their limits (those over it may
    not rise); ``barrier`` bounds the step's divergence beside KL; with ``clipped`` the step is epochs on the clipped
    surrogate of the combined advantage sum_i c_i A_i instead of a natural-gradient step, or, with ``hinges`` kappa [p],
    on that of the reward less kappa_i max(0, that of cost i, plus how far it is over its limit).
    """

    coefficients: FloatArray
    branch: int
    memory: Any
    kept: tuple[int, ...] = ()
    barrier: Barrier | None = None
    clipped: ClippedSettings | None = None
    hinges: FloatArray | None = None


class Rule(Protocol):
    """A within-task algorithm: a class whose constructor takes its settings by keyword."""

    def first(self, num_costs: int) -> Any:
        """What the rule knows before the first step of a task; anything but None, as is every later memory."""

    def decide(self, view: View, memory: Any) -> Decision:
        """The step from the iterate in ``view``, after ``memory``. Pure: a task solved again is solved alike."""


class RuleSettings(BaseModel):
    """The base of built-in rules: their settings are their fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def single(view: View, branch: int, memory: Any) -> Decision:
    """CRPO's step: +alpha_0 on the reward, or -alpha_i on cost i."""
    coefficients = np.zeros(view.values.size)
    coefficients[branch] = view.rates[branch] * (1.0 if branch == REWARD_BRANCH else -1.0)
    return Decision(coefficients, branch, memory)


def decided(rule: Rule, view: View, memory: Any) -> Decision:
    """The decision of ``rule``, which may be the user's.

    Raises:
        TaskError: the rule raises, its coefficients are not 1 + p finite numbers, or its branch is no objective.
    """
    name, count = type(rule).__name__, view.values.size
    try:
        decision = rule.decide(view, memory)
        coefficients = np.asarray(decision.coefficients, dtype=np.float64)
    except Exception as error:
        raise TaskError(f"within_task.method: {name}.decide: {type(error).__name__}: {error}") from error
    if coefficients.shape != (count,) or not np.isfinite(coefficients).all():
        raise TaskError(f"within_task.method: {name}: a decision needs {count} finite coefficients, got {coefficients}")
    if decision.branch not in range(count):
        raise TaskError(f"within_task.method: {name}: the branch must be 0 to {count - 1}, got {decision.branch}")
    return decision
