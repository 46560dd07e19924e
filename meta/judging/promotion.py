"""Whether one learned start is better than another: both on the same new tasks, paired, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meta.judging.held_out import hold_out
from meta.measuring.intervals import Interval
from meta.measuring.statistics import paired_difference
from meta.training.pool import Pool
from policies.common.digits import interval_text
from policies.common.results import Starts
from policies.solving.algorithms import WithinTask
from tasks.contract.task import Task


@dataclass(frozen=True, slots=True)
class Verdict:
    """Paired differences over tasks, the first start's minus the second's, with 95 % t-intervals; less is better.

    ``value`` is of the gap, or of minus the reward where there is no exact model (``measured_by``); ``violation``
    of the mean violation during adaptation.
    """

    measured_by: str
    value: Interval
    violation: Interval

    @property
    def better(self) -> bool:
        """Better in one of the two with an interval that excludes 0, and worse in neither."""
        parts = (self.value, self.violation)
        return any(part.high < 0.0 for part in parts) and not any(part.low > 0.0 for part in parts)

    def __str__(self) -> str:
        def text(part: Interval) -> str:
            return interval_text(part.mean, part.low, part.high, sign="+")

        return (
            f"{self.measured_by} {text(self.value)}, violation during adaptation {text(self.violation)}, over "
            f"{self.value.n} new tasks (less is better)"
        )


def judge(
    pool: Pool, tasks: Sequence[Task], first: Starts, second: Starts, within: WithinTask, other: Pool | None = None
) -> Verdict:
    """Solve ``tasks`` from both starts under the same settings.

    Args:
        pool: of the first start.
        tasks: what both are judged by.
        first: the start in question.
        second: its rival.
        within: how the tasks are solved.
        other: the pool of the rival, where its tasks carry other contexts.
    """
    ours, theirs = (hold_out(where, tasks, start, within) for where, start in ((pool, first), (other or pool, second)))
    exact = not (np.isnan(ours.gaps).any() or np.isnan(theirs.gaps).any())
    return Verdict(
        "gap" if exact else "minus the reward",
        paired_difference(ours.gaps, theirs.gaps) if exact else paired_difference(-ours.rewards, -theirs.rewards),
        paired_difference(ours.violations_during, theirs.violations_during),
    )
