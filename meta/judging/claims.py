"""Statistics of a comparison's judged cells: means, interquartile means, paired differences, profiles, claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from meta.judging.task_numbers import Numbers
from meta.measuring.intervals import BETTER, UNKNOWN, WORSE, Interval, interval, verdict_of
from meta.measuring.statistics import (
    Profile,
    bootstrap_interval,
    improvement_interval,
    interquartile_means,
    paired_difference,
    profile_with_band,
)
from meta.training.evaluation_settings import MethodName
from tasks.contract.tabular_model import FloatArray

Judged = Mapping[MethodName, Sequence[Numbers]]
"""By method, the judged cells in the order of the seeds, the same seeds for every method."""
OURS: MethodName = "meta_srl"


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of ``test``: whether less of it is better, and its name in text."""

    key: str
    less_is_better: bool
    title: str


GAP = Measure("gap", True, "gap")
REWARD = Measure("reward", False, "reward")
DURING = Measure("violation_during", True, "violation during adaptation")
OUTPUT = Measure("violation", True, "violation of the output")
MEASURES = (GAP, REWARD, DURING, OUTPUT)
RELATIVE_GAP = Measure("relative_gap", True, "gap / optimum")
RELATIVE_DURING = Measure("relative_violation_during", True, "violation during adaptation / limit")


def measures_of(judged: Judged) -> tuple[Measure, ...]:
    """Gap where the optimum is known, and always reward and both violations."""
    exact = all(cell["test"]["gap"] is not None for cells in judged.values() for cell in cells)
    return ((GAP,) if exact else ()) + (REWARD, DURING, OUTPUT)


def main_measure(judged: Judged) -> Measure:
    """The main measure of a start: the gap, or the reward if the optimum is unknown."""
    return measures_of(judged)[0]


def scores(cells: Sequence[Numbers], measure: Measure) -> FloatArray:
    """[seeds, held-out tasks]."""
    return np.array([cell["test"][measure.key] for cell in cells], np.float64)


def seed_means(cells: Sequence[Numbers], measure: Measure) -> FloatArray:
    """[seeds]: means over the held-out tasks, which are independent of each other between seeds."""
    return np.asarray(scores(cells, measure).mean(axis=1))


@dataclass(frozen=True, slots=True)
class Line:
    """A method under one measure.

    ``mean`` has a t-interval over seeds, ``iqm`` a bootstrap one over seeds of all (seed, task) scores. Against
    meta_srl: ``difference`` is meta_srl's minus the method's, paired by seed, and ``improvement`` the probability that
    meta_srl's seed mean is the better one.
    """

    mean: Interval
    iqm: Interval
    difference: Interval | None
    improvement: Interval | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        parts = {"mean": self.mean, "iqm": self.iqm, "difference": self.difference, "improvement": self.improvement}
        return {name: None if part is None else part.as_json() for name, part in parts.items()}


def line(judged: Judged, method: MethodName, measure: Measure) -> Line:
    """The statistics of one method under one measure."""
    own = seed_means(judged[method], measure)
    difference = improvement = None
    if method != OURS and OURS in judged:
        ours = seed_means(judged[OURS], measure)
        difference = paired_difference(ours, own)
        sign = -1.0 if measure.less_is_better else 1.0
        improvement = improvement_interval([sign * ours], [sign * own])
    return Line(
        interval(own),
        bootstrap_interval([scores(judged[method], measure)], interquartile_means),
        difference,
        improvement,
    )


def profile(judged: Judged, method: MethodName, measure: Measure, thresholds: FloatArray) -> Profile:
    """Share of (seed, held-out task) pairs above each threshold, with a band over seeds."""
    return profile_with_band([scores(judged[method], measure)], thresholds)


AGAINST = {BETTER: "better than", WORSE: "worse than", UNKNOWN: f"{UNKNOWN} against"}
"""Verdicts before the name of a method."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Whether meta_srl is better than ``other`` under ``measure``: the interval of the difference excludes 0."""

    other: MethodName
    measure: Measure
    difference: Interval

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``no difference shown``."""
        found = self.difference
        less = self.measure.less_is_better
        return verdict_of(Interval(-found.mean, -found.high, -found.low, found.n) if less else found)


def claims(judged: Judged, others: Sequence[MethodName]) -> list[Claim]:
    """meta_srl against each of ``others`` under the main measure and the violation during adaptation."""
    found = []
    for other in others:
        if other in judged:
            for measure in (main_measure(judged), DURING):
                difference = paired_difference(seed_means(judged[OURS], measure), seed_means(judged[other], measure))
                found.append(Claim(other, measure, difference))
    return found
