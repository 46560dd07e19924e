"""What docs/results/within_task.md says in words before its tables: robots beside published results, learned starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.learning.contexts_verdict import sided
from benchmarks.learning.curve_tasks import Published
from meta.measuring.intervals import Interval


@dataclass(frozen=True)
class PublishedCurve(Published):
    """A published result with its mean excess over 25 of all iterations."""

    excess: float

    def __str__(self) -> str:
        return f"{self.algorithm} {self.reward:g} / {self.cost:g} / {self.excess:.2f}"


PUBLISHED = {
    "half_cheetah": (
        PublishedCurve("P3O", 3009, 26.6, 0.46),
        PublishedCurve("C-TRPO", 2822, 19.4, 0.21),
        PublishedCurve("CPO", 2808, 24, 2.77),
    ),
    "hopper": (
        PublishedCurve("P3O", 1604, 14.5, 0.10),
        PublishedCurve("C-TRPO", 1429, 19.3, 2.22),
        PublishedCurve("CPO", 1701, 27, 7.84),
    ),
    "ant": (
        PublishedCurve("P3O", 3089, 20.5, 0.02),
        PublishedCurve("C-TRPO", 3092, 15.9, 0.51),
        PublishedCurve("CPO", 3064, 20, 2.71),
    ),
    "humanoid": (
        PublishedCurve("P3O", 5505, 4.5, 0.00),
        PublishedCurve("C-TRPO", 5380, 14.7, 0.35),
        PublishedCurve("CPO", 5504, 15, 0.33),
    ),
}
"""Five seeds each, by C-TRPO's authors."""
SHARE, STRICTEST = 0.95, "P3O"
"""A single robot is solved with this share of the best published reward, and no more excess than this algorithm's."""


@dataclass(frozen=True)
class Achieved:
    """One of our algorithms on a robot: reward of the output and mean excess, over seeds."""

    reward: Interval
    excess: Interval


def robot_verdict(robot: str, achieved: Mapping[str, Achieved]) -> str:
    """Which algorithms reach ``SHARE`` of the best published reward within the excess of ``STRICTEST``, by means."""
    best = max(PUBLISHED[robot], key=lambda one: one.reward)
    (strict,) = (one for one in PUBLISHED[robot] if one.algorithm == STRICTEST)
    shares = {name: one.reward.mean / best.reward for name, one in achieved.items()}
    kept = {name for name, one in achieved.items() if round(one.excess.mean, 2) <= strict.excess}  # as published
    enough = {name for name in kept if shares[name] >= SHARE}
    nearest = max(enough or shares, key=lambda name: shares[name])
    one = achieved[nearest]
    found = f"`{nearest}` {shares[nearest]:.2f}, mean excess {one.excess.mean:.2f}, {_seeds(one.reward.n)}"
    asked = (
        f"{SHARE:g} of the best published reward ({best.reward:g}, {best.algorithm}) with a mean excess no larger than "
        f"{STRICTEST}'s ({strict.excess:.2f})"
    )
    if not enough:
        return f"**Not reached**: {asked}. The highest reward is that of {found}."
    return f"**Reached by {', '.join(f'`{name}`' for name in shares if name in enough)}**: {asked}. Best: {found}."


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def starts_verdict(differences: Mapping[str, Mapping[str, Interval]]) -> list[str]:
    """For each measure, with which algorithms the learned start is better than the random one (above 0: better)."""
    lines = [
        f"- {measure}: {sided(by_algorithm, {'above': 'better', 'below': 'worse'})}"
        for measure, by_algorithm in differences.items()
        if by_algorithm
    ]
    return ["The learned start against the random one, by intervals of paired differences:", "", *lines, ""]
