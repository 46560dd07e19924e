"""The results of a run as text: Markdown tables, warnings, a short closing report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from meta.reporting.summary import IntervalSummary, RunSummary
from meta.reporting.verdict import verdict
from meta.training.records import Row
from policies.common.digits import digits, interval_text, rounded, scale_of

_POOR_SHARE = 0.1
"""Share of the tasks that may have poor estimates before a warning."""
_LONG = 100.0
"""CPU seconds from which they are told in minutes."""
_MOST_TOLD = 5
"""Tasks that are set aside and told one by one."""


class HeldOutResult(Protocol):
    """The measures of a method that tables and bar charts show."""

    @property
    def gap(self) -> IntervalSummary:
        """Optimality gap of the output."""

    @property
    def reward(self) -> IntervalSummary:
        """J_0 of the output."""

    @property
    def violation(self) -> IntervalSummary:
        """Violation of the output."""

    @property
    def violation_during_adaptation(self) -> IntervalSummary:
        """Violation over all iterates."""


def has_gap(test: Mapping[str, HeldOutResult]) -> bool:
    """Whether results are compared by optimality gap; otherwise by reward, for want of an exact model."""
    return not test or any(entry.gap.mean is not None for entry in test.values())


def held_out_columns(test: Mapping[str, HeldOutResult]) -> dict[str, dict[str, IntervalSummary]]:
    """Column title -> method -> interval, for the table of held-out results."""
    exact = has_gap(test)
    return {
        "gap" if exact else "reward": {name: entry.gap if exact else entry.reward for name, entry in test.items()},
        "violation during adaptation": {name: entry.violation_during_adaptation for name, entry in test.items()},
        "violation of the output": {name: entry.violation for name, entry in test.items()},
    }


def markdown_table(test: Mapping[str, HeldOutResult], order: Sequence[str] | None = None) -> str:
    """The held-out results as a Markdown table, one row a method."""
    columns = held_out_columns(test)
    scales = {
        title: scale_of([entry.mean for entry in column.values() if entry.mean is not None])
        for title, column in columns.items()
    }
    lines = [f"| method | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    lines += [
        f"| `{name}` | {' | '.join(format_interval(part[name], scales[title]) for title, part in columns.items())} |"
        for name in order or test
    ]
    return "\n".join(lines)


def format_interval(entry: IntervalSummary, scale: float | None = None) -> str:
    """``mean [low, high]``; a dash for an unknown mean. ``scale``: of the numbers in the same column."""
    if entry.mean is None:
        return "–"
    return interval_text(entry.mean, *entry.ci95, scale)


def report_lines(summary: RunSummary) -> str:
    """The closing report of a run in a few lines of Markdown, the verdict first."""
    told = verdict(summary)
    reward = "–" if summary.mean_reward is None else digits(summary.mean_reward)
    learned = f"Mean reward {reward}" if summary.taog is None else f"TAOG {digits(summary.taog)}"
    return (
        (f"{told}\n\n" if told else "")
        + f"{learned}, TACV {rounded(summary.tacv)} over {summary.num_tasks} training tasks; "
        f"learned rates {rounded(summary.learning_rates, 3)}{_inferred(summary)}"
        f"\n\n{markdown_table(summary.test)}"
    )


def spent_line(summary: RunSummary, rows: Sequence[Row]) -> str:
    """What a run's training has cost: steps, the workers' time and CPU time, and steps per second of each.

    The times of solving are the columns ``seconds`` and ``cpu_seconds`` of tasks.csv, without direct updates, estimates
    and held-out tasks. Tasks of a run that an older version began have no CPU time.
    """
    busy, steps = sum(float(row["seconds"]) for row in rows), sum(int(row["env_steps"]) for row in rows)
    spent = f"{busy:,.0f} s of solving on {_workers(summary)}, {summary.wall_seconds:,.0f} s in all with evaluation"
    rate = "exact values, no environment steps"
    if steps:
        direct = f" (and {summary.warm_up_steps:,} of direct updates)" if summary.warm_up_steps else ""
        spent = f"{steps:,} environment steps{direct}, {spent}"
        rate = f"{steps / busy:,.0f} steps/s a worker" if busy > 0.0 else "too short to time"
    parts = (f"spent on {len(rows)} training tasks: {spent}", rate, _cpu_part(summary, rows))
    return "; ".join(part for part in parts if part)


def _cpu_part(summary: RunSummary, rows: Sequence[Row]) -> str:
    """CPU time of the workers, and steps per CPU second; empty where no task has it."""
    known = [row for row in rows if "cpu_seconds" in row]
    if not known:
        return ""
    spent, steps = (sum(float(row[name]) for row in known) for name in ("cpu_seconds", "env_steps"))
    of = "" if len(known) == len(rows) else f" of {len(known)} tasks"
    time = f"{spent / 60.0:,.1f} min" if spent >= _LONG else f"{spent:,.1f} s"
    told = f"CPU {time}{of} over {_workers(summary)}"
    return f"{told}, {steps / spent:,.0f} steps per CPU second" if steps and spent > 0.0 else told


def _workers(summary: RunSummary) -> str:
    return f"{summary.num_workers} worker{'' if summary.num_workers == 1 else 's'}"


def _inferred(summary: RunSummary) -> str:
    """How well contexts are inferred, where they are."""
    if summary.context_errors is None:
        return ""
    errors = ", ".join(f"{name} {error:.2f}" for name, error in summary.context_errors.items())
    return f"; error of inferred contexts on tasks left out (0 exact, 1 as poor as the mean): {errors}"


def set_aside_line(summary: RunSummary, *, held_out: bool) -> str:
    """What a run says of its training or held-out tasks that are set aside; empty without any."""
    found = [entry for entry in summary.set_aside if entry.held_out == held_out]
    if not found:
        return ""
    kind = "held-out" if held_out else "training"
    told = "; ".join(f"{entry.task} ({entry.error})" for entry in found[:_MOST_TOLD])
    more = f"; and {len(found) - _MOST_TOLD} more" if len(found) > _MOST_TOLD else ""
    return (
        f"{len(found)} {kind} task{'s are' if len(found) > 1 else ' is'} set aside, and all means leave "
        f"{'them' if len(found) > 1 else 'it'} out: {told}{more} (files in quarantine/)"
    )


def warnings_of(summary: RunSummary) -> list[str]:
    """Warnings for the end of a run: no improvement, a rising trend, poor estimates."""
    signature = summary.failure_signature
    warnings = [set_aside_line(summary, held_out=held_out) for held_out in (False, True)]
    warnings = [line for line in warnings if line]
    for name, trend in (
        ("gap", signature.gap),
        ("violation_during_adaptation", signature.violation_during_adaptation),
    ):
        if trend is not None and not trend.improved:
            warnings.append(f"the mean {name} of the last half of the tasks is not below that of the first round")
        if trend is not None and trend.rising:
            warnings.append(f"the {name} is rising over the last half of the tasks")
    estimates = summary.estimates
    if estimates.left_out + estimates.down_weighted > _POOR_SHARE * summary.num_tasks:
        reasons = ", ".join(f"{name} {count}" for name, count in estimates.reasons.items())
        warnings.append(
            f"the meta-learner took smaller steps because of poor estimates: of {summary.num_tasks} tasks "
            f"{estimates.left_out} were left out and {estimates.down_weighted} down-weighted"
            + (f"; beyond a threshold: {reasons}" if reasons else "")
            + " (columns weight, failed_diagnostics and estimate_problem of tasks.csv)"
        )
    if summary.rates_at_bounds:
        bounds = ", ".join(f"{name} {digits(rate)}" for name, rate in summary.rates_at_bounds.items())
        warnings.append(
            f"learned rates lie on a bound: {bounds}; rates have the inverse unit of their reward or cost: "
            "set meta.learning_rates.units to observed, or where it is, set minimum and maximum farther apart"
        )
    return [*warnings, *(f"no estimate for a task: {problem}" for problem in estimates.problems)]
