"""What a run has shown, in words: how well a new task is solved, and which other methods do as well or better."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from meta.methods.registry import OURS
from meta.reporting.summary import IntervalSummary, MethodSummary, RunSummary

FRESH = "random"
_NOT_COMPARED = (OURS, FRESH, "oracle")
"""Ours, the fresh start that is told apart, and the method that is given every task's optimum."""
_Measure = tuple[str, Callable[[MethodSummary], IntervalSummary], float]
"""A name, the numbers of a method, and -1 where more is better, else 1."""


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
    """A sentence where a fresh start is as good as the learned one, or better."""
    fresh = test.get(FRESH)
    if fresh is None:
        return ""
    (name, of, sign), (_, violation, _) = _measures(exact=exact)
    mine, theirs = of(test[OURS]), of(fresh)
    safer = _better(violation(test[OURS]), violation(fresh), 1.0)
    if _better(theirs, mine, sign):
        return f" {'But' if safer else 'Meta-learning hurts here:'} a fresh start is better on the {name}."
    if _alike(theirs, mine):
        unshown = "But" if safer else "Meta-learning is not shown to help here:"
        return f" {unshown} a fresh start does as well on the {name}."
    return ""


def _measures(*, exact: bool) -> tuple[_Measure, _Measure]:
    """What methods are compared by: the reward, or its gap where optima are known, and the violation."""
    gap: _Measure = ("gap", lambda entry: entry.gap, 1.0)
    reward: _Measure = ("reward", lambda entry: entry.reward, -1.0)
    return gap if exact else reward, ("violation on the way", lambda entry: entry.violation_during_adaptation, 1.0)


def _others(test: Mapping[str, MethodSummary], *, exact: bool) -> str:
    """The methods that do as well or better, measure by measure."""
    told = []
    for name, of, sign in _measures(exact=exact):
        mine = of(test[OURS])
        compared = {other: of(entry) for other, entry in test.items() if other not in _NOT_COMPARED}
        better = [other for other, theirs in compared.items() if _better(theirs, mine, sign)]
        alike = [other for other, theirs in compared.items() if other not in better and _alike(theirs, mine)]
        if better:
            told.append(f"{_listed(better)} {'is' if len(better) == 1 else 'are'} better on the {name}")
        if alike:
            told.append(f"{_listed(alike)} {'does' if len(alike) == 1 else 'do'} as well on the {name}")
    return f" But {'; '.join(told)}." if told else ""


def _better(theirs: IntervalSummary, mine: IntervalSummary, sign: float) -> bool:
    """Whether their mean is better and outside of my interval, and mine outside of theirs."""
    if theirs.mean is None or mine.mean is None or _alike(theirs, mine):
        return False
    return sign * theirs.mean < sign * mine.mean


def _alike(theirs: IntervalSummary, mine: IntervalSummary) -> bool:
    """Whether one mean lies within the other's 95 % interval, or both are equal."""
    if theirs.mean is None or mine.mean is None:
        return False
    return theirs.mean == mine.mean or _within(theirs.mean, mine) or _within(mine.mean, theirs)


def _within(value: float, entry: IntervalSummary) -> bool:
    low, high = entry.ci95
    return low is not None and high is not None and low <= value <= high


def _listed(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
