"""Deployed policies over a limit, and what the bounds of safe steps did, as lines of a report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from policies.common.digits import rounded
from policies.common.results import TaskResult
from policies.common.safety import SafetyReport

UNBOUNDED = "meta_srl, no bounds"
"""The learned start with plain steps, beside safe ones."""


def over_a_limit(result: TaskResult) -> list[bool]:
    """Whether each deployed policy, the iterates 0..M, is over a limit of the task itself."""
    limits = np.array(result.task.limits)
    return [bool((values[1:] > limits).any()) for values in result.values]


def deployed_lines(results: Mapping[str, TaskResult]) -> list[str]:
    """Counts of deployed policies over a limit by method, and the steps that bounds shortened; none without bounds."""
    reports = {name: result.safety for name, result in results.items() if result.safety is not None}
    if not reports:
        return []
    counts = [(name, over_a_limit(result)) for name, result in results.items()]
    lines = ["", "- deployed policies over a limit: " + ", ".join(f"{n} {sum(o)} of {len(o)}" for n, o in counts)]
    for name, report in reports.items():
        lines += [f"- {name}: {report.note}; margins after the task {rounded(report.margins)} of the limits"]
        lines += _steps(report)
    return lines


def _steps(report: SafetyReport) -> list[str]:
    lines = []
    for update, (share, reason) in enumerate(zip(report.shares, report.reasons, strict=True), start=1):
        if share == 0.0:
            lines.append(f"- update {update}: no step was taken: {reason}")
        elif share < 1.0:
            lines.append(f"- update {update}: {share:.3f} of the step was taken; with more, {reason}")
    return lines
