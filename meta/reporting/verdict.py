"""What a run has shown, in words: how well a new task is solved, and which other methods are not shown to be worse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from meta.methods.registry import OURS
from meta.reporting.summary import DifferencesSummary, IntervalSummary, MethodSummary, RunSummary

FRESH = "random"
_NOT_COMPARED = (OURS, FRESH, "oracle")
"""Ours, the fresh start that is told apart, and the method that is given every task's optimum."""
_Standing = Literal["better", "not shown", "worse", "unknown"]
"""Of a method against meta_srl: its difference has an interval on one side of 0, or on both, or there is none."""


@dataclass(frozen=True)
class _Measure:
    """What methods are compared by; ``sign`` is -1 where more is better."""

    name: str
    of: Callable[[MethodSummary | DifferencesSummary], IntervalSummary]
    sign: float = 1.0

    def standing(self, theirs: MethodSummary, ours: MethodSummary) -> _Standing:
        """How a method stands against ours: by differences paired by task, or by two intervals in older runs."""
        one, other = self.of(theirs), self.of(ours)
        if one.mean is None or other.mean is None:
            return "unknown"
        paired = theirs.minus_meta_srl
        if paired is None:
            shown = _excludes(one, other.mean) and _excludes(other, one.mean)
        else:
            shown = _excludes(self.of(paired), 0.0)
        if not shown:
            return "not shown"
        return "better" if self.sign * one.mean < self.sign * other.mean else "worse"


_GAP = _Measure("gap", lambda entry: entry.gap)
_REWARD = _Measure("reward", lambda entry: entry.reward, -1.0)
_VIOLATION = _Measure("violation on the way", lambda entry: entry.violation_during_adaptation)


def verdict(summary: RunSummary) -> str:
    """A few sentences on the held-out tasks; empty where the learned start was not judged."""
    ours = summary.test.get(OURS)
    if ours is None:
        return ""
    updates = len(ours.reward_curve) - 1
    exact = ours.gap.mean is not None
    others = _against_fresh(summary.test, exact=exact) + _others(summary.test, exact=exact)
    return (
        f"A new task of {summary.family} {_solved(ours, summary.test.get(FRESH))} after {updates} policy update"
        f"{'' if updates == 1 else 's'}, {_violation(ours, summary.test.get(FRESH))}.{others}"
    )


def _solved(ours: MethodSummary, fresh: MethodSummary | None) -> str:
    reward, gap = ours.reward.mean, ours.gap.mean
    if reward is not None and gap is not None:
        optimum = reward + gap
        if optimum > 0.0:
            return f"is solved to {max(0.0, reward / optimum):.0%} of its optimum"
        return f"is solved to {gap:.3g} of its optimum {optimum:.3g}"
    if reward is None:
        return "is solved"
    against = "" if fresh is None or fresh.reward.mean is None else f" (a fresh start: {fresh.reward.mean:.3g})"
    return f"earns a discounted reward of {reward:.3g}{against}"


def _violation(ours: MethodSummary, fresh: MethodSummary | None) -> str:
    """Violation on the way to it, beside that of a fresh start."""
    found = ours.violation_during_adaptation.mean
    if not found:
        return "without a violation on the way"
    against = None if fresh is None else fresh.violation_during_adaptation.mean
    if not against:
        return f"with a violation of {found:.3g} on the way"
    if found >= against:
        return "with no less violation on the way than from a fresh start"
    return f"with {1.0 - found / against:.0%} less violation on the way than from a fresh start"


def _against_fresh(test: Mapping[str, MethodSummary], *, exact: bool) -> str:
    """A sentence where a fresh start is not shown to be worse than the learned one."""
    fresh, measure = test.get(FRESH), _result(exact=exact)
    if fresh is None:
        return ""
    standing = measure.standing(fresh, test[OURS])
    safer = _VIOLATION.standing(fresh, test[OURS]) == "worse"
    if standing == "better":
        return f" {'But' if safer else 'Meta-learning hurts here:'} a fresh start is better on the {measure.name}."
    if standing == "not shown":
        unshown = "But" if safer else "Meta-learning is not shown to help here:"
        return f" {unshown} a fresh start is not shown to be worse on the {measure.name}."
    return ""


def _result(*, exact: bool) -> _Measure:
    """What methods are compared by beside the violation: the reward, or its gap where optima are known."""
    return _GAP if exact else _REWARD


def _others(test: Mapping[str, MethodSummary], *, exact: bool) -> str:
    """The methods that are better or not shown to be worse; measures that name the same ones share their words."""
    told: dict[str, list[str]] = {}
    for measure in (_result(exact=exact), _VIOLATION):
        standings = {
            name: measure.standing(entry, test[OURS]) for name, entry in test.items() if name not in _NOT_COMPARED
        }
        for standing, words in (("better", "better"), ("not shown", "not shown to be worse")):
            names = [f"`{name}`" for name, found in standings.items() if found == standing]
            if names:
                what = f"{listed(names)} {'is' if len(names) == 1 else 'are'} {words}"
                told.setdefault(what, []).append(f"on the {measure.name}")
    parts = [f"{what} {' and '.join(measures)}" for what, measures in told.items()]
    return f" But {'; '.join(parts)}." if parts else ""


def _excludes(entry: IntervalSummary, value: float) -> bool:
    """Whether the interval is known and does not hold the value."""
    low, high = entry.ci95
    return low is not None and high is not None and not low <= value <= high


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
