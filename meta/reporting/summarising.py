"""Build the parts of a run's summary from rows, states and held-out results."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from meta.judging.held_out import HeldOut
from meta.learning.online import State
from meta.measuring.intervals import FailureSignature, Interval, failure_signature
from meta.measuring.similarity import Similarity
from meta.measuring.statistics import paired_difference
from meta.methods.registry import OURS
from meta.reporting.summary import (
    DifferencesSummary,
    EstimatesSummary,
    FailureSummary,
    GroupsSummary,
    IntervalSummary,
    MethodSummary,
    RunFacts,
    RunSummary,
    SetAsideSummary,
    SimilaritySummary,
    TrendSummary,
)
from meta.training.quarantine import SetAside
from meta.training.records import Row, column, cost_columns
from tasks.contract.tabular_model import FloatArray

Rates = tuple[float, ...] | tuple[tuple[float, ...], ...]
_MOST_PROBLEMS = 10


def run_summary(
    facts: RunFacts,
    rows: list[Row],
    state: State,
    similar: Similarity | None,
    limits: FloatArray,
    held_out: dict[str, HeldOut],
    wall_seconds: float,
) -> RunSummary:
    """Assemble the summary of a run.

    Args:
        facts: Settings repeated in the summary.
        rows: Rows of ``tasks.csv`` in task order.
        state: The learned state after the last round.
        similar: Similarity of the training tasks; None without an exact model.
        limits: Limits of the held-out tasks, [N, p].
        held_out: Held-out results by method.
        wall_seconds: Wall-clock time of the run.
    """
    gaps, violations, half = column(rows, "gap"), cost_columns(rows, "violation"), len(rows) // 2
    return RunSummary(
        **facts.model_dump(),
        num_tasks=len(rows),
        mean_reward=_known(column(rows, "reward").mean()),
        taog=_known(gaps.mean()),
        tacv=tuple(violations.mean(axis=0).tolist()),
        taog_last_half=_known(gaps[half:].mean()),
        tacv_last_half=tuple(violations[half:].mean(axis=0).tolist()),
        learning_rates=_rates([start.learning_rates.tolist() for start in state.starts]),
        meta_state_sha256=state.sha256(),
        groups=groups_summary(rows, state),
        env_steps=facts.warm_up_steps + int(column(rows, "env_steps").sum()),
        estimates=estimates_summary(rows),
        failure_signature=_failure(rows, facts.tasks_per_round),
        similarity=_similarity(similar),
        limits_mean=tuple(limits.mean(axis=0).tolist()),
        wall_seconds=wall_seconds,
        test={name: method_summary(entry, held_out.get(OURS)) for name, entry in held_out.items()},
    )


def _failure(rows: list[Row], first_round: int) -> FailureSummary:
    during = cost_columns(rows, "violation_during").mean(axis=1)
    return FailureSummary(
        gap=_trend(failure_signature(column(rows, "gap"), first_round)),
        violation_during_adaptation=_trend(failure_signature(during, first_round)),
    )


def method_summary(held_out: HeldOut, ours: HeldOut | None = None) -> MethodSummary:
    """A method's entry under ``test``, beside the results of meta_srl where there are any."""
    episodic = held_out.episodic_curve
    return MethodSummary(
        gap=interval_summary(held_out.gap),
        reward=interval_summary(held_out.reward),
        violation=interval_summary(held_out.violation),
        violation_during_adaptation=interval_summary(held_out.violation_during),
        score=held_out.score,
        env_steps=held_out.env_steps,
        starts_used=held_out.starts_used,
        learning_rates=_rates(held_out.learning_rates),
        reward_curve=tuple(held_out.reward_curve.tolist()),
        cost_curve=tuple(map(tuple, held_out.cost_curve.tolist())),
        episodic_curve=None if episodic is None else tuple(map(tuple, episodic.tolist())),
        minus_meta_srl=None if ours is None or ours is held_out else differences(held_out, ours),
    )


def differences(held_out: HeldOut, ours: HeldOut) -> DifferencesSummary:
    """The results of a method minus those of meta_srl, paired by task."""
    return DifferencesSummary(
        gap=interval_summary(paired_difference(held_out.gaps, ours.gaps)),
        reward=interval_summary(paired_difference(held_out.rewards, ours.rewards)),
        violation_during_adaptation=interval_summary(
            paired_difference(held_out.violations_during, ours.violations_during)
        ),
    )


def interval_summary(interval: Interval) -> IntervalSummary:
    """An interval with null for unknown values."""
    return IntervalSummary(mean=_known(interval.mean), ci95=(_known(interval.low), _known(interval.high)), n=interval.n)


def estimates_summary(rows: list[Row]) -> EstimatesSummary:
    """Count the tasks that were left out or down-weighted, by failed diagnostic."""
    weights = column(rows, "weight")
    reasons = Counter(name for row in rows for name in str(row["failed_diagnostics"]).split())
    problems = sorted({str(row["estimate_problem"]) for row in rows if row["estimate_problem"]})
    return EstimatesSummary(
        left_out=int((weights == 0.0).sum()),
        down_weighted=int(((weights > 0.0) & (weights < 1.0)).sum()),
        mean_weight=float(weights.mean()),
        failed=sum(bool(row["failed_diagnostics"]) for row in rows),
        reasons=dict(sorted(reasons.items())),
        problems=tuple(problems[:_MOST_PROBLEMS]),
    )


def groups_summary(rows: list[Row], state: State) -> GroupsSummary | None:
    """How tasks were divided among the initialisations; None for a single one."""
    if state.assigned is None:
        return None
    starts = np.bincount(column(rows, "start").astype(np.int64), minlength=len(state.groups))
    return GroupsSummary(
        num_initializations=len(state.groups),
        tasks=tuple(group.num_tasks for group in state.groups),
        starts_used=tuple(starts.tolist()),
        probe_steps=int(column(rows, "probe_steps").sum()),
    )


def set_aside_summary(entry: SetAside) -> SetAsideSummary:
    """A task that is set aside, without its traceback."""
    return SetAsideSummary(
        task=entry.stem,
        label=entry.label,
        held_out=entry.held_out,
        attempts=entry.attempts,
        step=entry.step,
        error=entry.error,
    )


def _similarity(similar: Similarity | None) -> SimilaritySummary | None:
    if similar is None:
        return None
    return SimilaritySummary(
        task_similarity=similar.task_similarity,
        task_relatedness=similar.task_relatedness,
        path_length=similar.path_length,
        conditional_similarity=similar.conditional_similarity,
    )


def _trend(found: FailureSignature | None) -> TrendSummary | None:
    return None if found is None else TrendSummary(**dataclasses.asdict(found))


def _rates(rates: Sequence[Sequence[float]]) -> Rates:
    return tuple(rates[0]) if len(rates) == 1 else tuple(tuple(one) for one in rates)


def _known(value: float) -> float | None:
    """``value`` as a float, or None for NaN, which JSON lacks."""
    return None if math.isnan(float(value)) else float(value)
