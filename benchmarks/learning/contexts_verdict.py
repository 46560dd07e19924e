"""Rows of docs/results/contexts.md against each other: paired differences, and a verdict in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.learning.meta_page import formatted
from meta.judging.claims import AGAINST
from meta.measuring.intervals import BETTER, UNKNOWN, WORSE, Interval, interval, verdict_of
from meta.reporting.verdict import listed

Measured = Mapping[str, Mapping[str, Mapping[int, float]]]
"""By row, measure and seed. A measure ends with `more` or `less`, which of it is better."""
Side = Literal["below", "above"]
"""Where an interval lies from 0."""
ONE_SEED = "one seed"


@dataclass(frozen=True)
class Compared:
    """What row ``ours`` has more (or less) of than row ``other``, by measure; above 0 ours is better."""

    ours: str
    other: str
    parts: Mapping[str, Interval]

    @property
    def text(self) -> str:
        """A line with every difference, its interval and its verdict."""
        parts = (
            f"{label} by {shown(found, digits_of(label))} ({verdict(found)})" for label, found in self.parts.items()
        )
        return f"- `{self.ours}` against `{self.other}`: {'; '.join(parts)}."


def compared(rows: Measured, pairs: Iterable[tuple[str, str]]) -> list[Compared]:
    """The paired differences of each (ours, other) of which both are rows, over the seeds that both have."""
    found = []
    for ours, other in pairs:
        if ours != other and ours in rows and other in rows:
            parts = {}
            for label, own in rows[ours].items():
                both = [(own[seed], value) for seed, value in rows[other][label].items() if seed in own]
                parts[label] = interval([a - b if label.endswith("more") else b - a for a, b in both])
            found.append(Compared(ours, other, parts))
    return found


def told(found: Sequence[Compared], lines: Sequence[str]) -> list[str]:
    """A table with the verdict on the first row before it and the differences after it."""
    if not found:
        return list(lines)
    own = [one for one in found if one.ours == found[0].ours]
    return [*summary(own), *lines, *(one.text for one in found)]


def digits_of(label: str) -> int:
    """Rewards have one decimal, gaps, violations and scores four."""
    return 1 if label.endswith("more") else 4


def shown(found: Interval, digits: int = 1) -> str:
    """A mean with its interval; the value alone for a single seed."""
    return formatted(found, digits) if found.n > 1 else f"{found.mean:.{digits}f}"


def verdict(found: Interval) -> str:
    """Whether a difference, of which more is better, is shown; one seed shows nothing."""
    return ONE_SEED if found.n < 2 else verdict_of(found)


def sided(differences: Mapping[str, Interval], words: Mapping[Side, str]) -> str:
    """In words, which differences have an interval below 0, above 0, or on both sides; in the order of ``words``."""
    found: dict[str, list[str]] = {**{what: [] for what in words.values()}, UNKNOWN: []}
    for name, one in differences.items():
        found[words["below"] if one.high < 0.0 else words["above"] if one.low > 0.0 else UNKNOWN].append(name)
    parts = [f"**{what}**: {_listed(names, len(differences))}" for what, names in found.items() if names]
    return f"{'; '.join(parts)}."


def summary(found: Sequence[Compared]) -> list[str]:
    """What the differences of one row to all others say, in words: a line for every measure."""
    lines = [f"**`{found[0].ours}` against the other rows**, by intervals:", ""]
    for label in found[0].parts:
        by_verdict: dict[str, list[str]] = {BETTER: [], WORSE: [], UNKNOWN: [], ONE_SEED: []}
        for one in found:
            by_verdict[verdict(one.parts[label])].append(f"`{one.other}`")
        words = {**AGAINST, ONE_SEED: "not judged (one seed) against"}
        measure = label.removesuffix(" more").removesuffix(" less")
        told = [f"{words[key]} {_listed(names, len(found))}" for key, names in by_verdict.items() if names]
        lines.append(f"- {measure}: {'; '.join(told)}.")
    return [*lines, ""]


def _listed(names: Sequence[str], count: int) -> str:
    if len(names) == count > 1:
        return "both" if count == 2 else f"all {count}"
    return listed(names)
