"""Anytime-safe steps: how far a policy may move while every deployed policy keeps the limits (docs/algorithms.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator

from policies.common.branches import REWARD_BRANCH
from policies.common.confidence import Estimate, fewest_tasks, longest_passing, next_margins
from policies.common.digits import digits
from policies.common.score import limit_scale
from tasks.contract.tabular_model import FloatArray

SHARES = tuple(float(2.0 ** (-step / 2.0)) for step in range(12, -1, -1))
"""Shares of a step in the order in which they are tested: from 1/64 to the entire step, each sqrt(2) longer."""
LONGER = tuple(float(2.0 ** (step / 2.0)) for step in range(1, 13))
"""Multiples of a step down a cost, tested after :data:`SHARES` while the policy is surely over that cost's limit."""
LEAST_EPISODES = 8
"""Fewer episodes give no bound: an interval needs an estimate of the spread."""


class SafetySettings(BaseModel):
    """Adaptation in which every deployed policy keeps the limits: the ``evaluation.safety`` section."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    confidence: float = Field(gt=0.0, lt=1.0)
    """Of every bound that allows a step, and of the start's safety on a new task."""
    tasks: int | None = Field(default=None, gt=0)
    """New tasks of the training split that show the start's costs; empty: 40, or so many that one may be over."""
    descent_tasks: int = Field(default=32, gt=0)
    """Last training tasks of the start, from which safer policies are made."""
    descent_iterations: int = Field(default=40, gt=0)
    """Updates of each of the four safer policies, on the tasks together."""
    test_episodes: int | None = Field(default=None, ge=LEAST_EPISODES)
    """Further episodes of a deployed policy that test its next step; empty: 100 (tables), num_copies (networks)."""
    margin_tasks: int = Field(default=8, ge=0)
    """Of these tasks, the first ones teach the margins before held-out tasks do; exact evaluation needs none."""
    margin_rate: float = Field(default=0.05, ge=0.0)
    """eta of the margins, which are shares of the limits; 0 leaves them at 0."""
    least_effective: float = Field(default=0.3, gt=0.0, le=1.0)
    """Tables: a step whose importance weights leave a smaller effective share of the test episodes is not tested."""

    @model_validator(mode="after")
    def _enough_tasks(self) -> SafetySettings:
        least = fewest_tasks(self.confidence)
        if self.tasks is not None and self.tasks < least:
            raise ValueError(
                f"tasks: a confidence of {self.confidence:g} needs at least {least} tasks, got {self.tasks}"
            )
        return self

    @property
    def num_tasks(self) -> int:
        """Tasks that show the start's costs."""
        return self.tasks or max(40, 2 * fewest_tasks(self.confidence) + 1)


@dataclass(frozen=True, slots=True)
class Safety:
    """What a start brings for safe steps: the ``settings`` and the learned ``margins`` [p], shares of the limits.

    ``note`` says how the start was made safe.
    """

    settings: SafetySettings
    margins: FloatArray
    note: str = ""


@dataclass(frozen=True, slots=True)
class SafetyReport:
    """What the bounds did on one task.

    ``shares`` [M] of every step that were taken, ``reasons`` [M] why not all of it (empty where all), ``overshoots``
    [K, p] of the tested steps in order, in shares of the limits, and the ``margins`` [p] after the task.
    ``test_steps`` are the environment steps of all test episodes; ``note`` is the start's.
    """

    shares: FloatArray
    reasons: tuple[str, ...]
    overshoots: FloatArray
    margins: FloatArray
    test_steps: int = 0
    note: str = ""


@dataclass
class Guard:
    """Decides how much of each step of a task is taken, and learns the margins from what follows.

    ``limits`` [p] are the task's own, without a safety margin. ``longer`` are multiples of a step, beyond
    :data:`SHARES`, that may be taken down a cost that is surely over its limit.
    """

    safety: Safety
    limits: Float[FloatArray, " p"]
    longer: tuple[float, ...] = ()
    margins: Float[FloatArray, " p"] = field(init=False)
    test_steps: int = 0
    _expected: Estimate | None = None
    _shares: list[float] = field(default_factory=list)
    _reasons: list[str] = field(default_factory=list)
    _overshoots: list[FloatArray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.margins = self.safety.margins

    def share(self, branch: int, values: FloatArray, estimate: Callable[[float], Estimate | None]) -> float:
        """The share of a step that the bounds allow, one of :data:`SHARES`, of ``longer``, or 0.

        A policy that is surely over the limit of the cost that it steps down has nothing to lose there: its step need
        only lower the mean of that cost, and is lengthened until the policy after it keeps the limit.

        Args:
            branch: the cost that the step descends on, or 0.
            values: the estimates [1+p] of the iterate that the rule saw; they decide which test a cost must pass.
            estimate: costs of the policy after a share of the step, from test episodes of the one before it; None
                where the episodes cannot say.
        """
        now = estimate(0.0)
        assert now is not None
        self._learn(now)
        recovers = branch != REWARD_BRANCH and self._surely_over(now, branch - 1)
        found: dict[float, Estimate] = {0.0: now}
        failed: list[str] = []

        def passes(share: float) -> bool:
            last = found[max(found)]
            if share > 1.0 and self._bounds(last)[branch - 1] <= self.limits[branch - 1]:
                return False
            after = estimate(share)
            if after is None:
                failed.append("the test episodes say too little about it")
                return False
            falls = recovers and after.mean[branch - 1] < last.mean[branch - 1]
            reason = self._fault(after, branch, values, falls)
            if reason:
                failed.append(reason)
                return False
            found[share] = after
            return True

        taken = longest_passing((*SHARES, *(self.longer if recovers else ())), passes)
        self._expected = found[taken] if taken else None
        self._shares.append(taken)
        self._reasons.append(failed[0] if failed and taken < 1.0 else "")
        return taken

    def report(self) -> SafetyReport:
        """What was done so far."""
        overshoots = np.array(self._overshoots).reshape(-1, self.limits.size)
        shares, reasons = np.array(self._shares), tuple(self._reasons)
        return SafetyReport(shares, reasons, overshoots, self.margins, self.test_steps, self.safety.note)

    def _bounds(self, of: Estimate) -> FloatArray:
        return np.asarray(of.bound + self.margins * limit_scale(self.limits))

    def _surely_over(self, now: Estimate, cost: int) -> bool:
        """Whether a cost is over its limit with confidence; the interval below the mean is no wider than that above."""
        return bool(now.mean[cost] - now.half[cost] > self.limits[cost])

    def _fault(self, after: Estimate, branch: int, values: FloatArray, falls: bool) -> str:
        """Why a policy may not be deployed; empty where it may.

        Every cost must keep its limit with confidence. Of a step down cost i, that cost must fall with confidence
        instead, unless it ``falls`` from where it is surely over, and costs that are over their limits too wait for
        their turn.
        """
        bounds = self._bounds(after)
        kept = bounds <= self.limits
        if branch != REWARD_BRANCH:
            kept |= values[1:] > self.limits
            kept[branch - 1] = falls or after.rise[branch - 1] <= 0.0
        if kept.all():
            return ""
        cost = int(np.argmin(kept))
        if cost == branch - 1:
            return f"cost {cost + 1} is not sure to fall"
        return f"cost {cost + 1} may be {digits(bounds[cost])}, over its limit {digits(self.limits[cost])}"

    def _learn(self, now: Estimate) -> None:
        """Compare the costs of a policy with what its step's test expected, and move the margins."""
        if self._expected is None:
            return
        overshoot = overshoots(self._expected, now) / limit_scale(self.limits)
        settings = self.safety.settings
        self.margins = next_margins(self.margins, overshoot, settings.margin_rate, settings.confidence)
        self._overshoots.append(overshoot)


def overshoots(expected: Estimate, found: Estimate) -> FloatArray:
    """How far costs [p] are above what was expected, beyond the noise of both estimates.

    found - expected - k sqrt(error_found^2 + error_expected^2), k the bounds' own multiple of the standard error. Where
    the estimates are right it is above 0 with probability 1 - confidence: its quantile is what the bound left out.
    """
    both = np.sqrt(expected.error**2 + found.error**2)
    multiples = [
        np.where(one.error > 0.0, one.half / np.where(one.error > 0.0, one.error, 1.0), 0.0)
        for one in (expected, found)
    ]
    return np.asarray(found.mean - expected.mean - np.maximum(*multiples) * both)
