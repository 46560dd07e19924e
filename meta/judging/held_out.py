"""Starts on held-out tasks: solve the tasks and summarise the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from meta.judging.safe_starts import safe_starts
from meta.judging.task_records import Record, task_record
from meta.judging.tuned_starts import starts_of
from meta.judging.work_done import CountedPool, Report, WorkDone, solving_stage, stages_of
from meta.measuring.intervals import Interval, interval
from meta.measuring.measures import measure
from meta.measuring.similarity import Similarity
from meta.methods.workbench import Workbench
from meta.training.evaluation_settings import MethodName
from meta.training.experiment import Drawn, Experiment
from meta.training.pool import Learner, Pool, solve_in_order
from policies.common.results import Starts, TaskResult
from policies.solving.algorithms import WithinTask
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A start on held-out tasks. Intervals are over tasks; curves [M+1] and [M+1, p] are means over tasks.

    ``gaps``, ``violations`` (of the output, mean over costs) and ``violations_during`` [N] of every task: see
    :class:`Measures`. ``rewards`` [N] are J_0 of the outputs. ``episodic_curve`` [M+1, 1+p] are undiscounted sums,
    where they are measured.
    ``learning_rates`` are those of every start that tasks could choose from, ``starts_used`` how many tasks chose each,
    and ``env_steps`` the mean per task, including the steps spent on choosing. ``records`` are the tasks one by one.
    """

    gaps: FloatArray
    rewards: FloatArray
    violations: FloatArray
    violations_during: FloatArray
    learning_rates: tuple[tuple[float, ...], ...]
    reward_curve: FloatArray
    cost_curve: FloatArray
    episodic_curve: FloatArray | None
    score: float
    env_steps: float
    starts_used: tuple[int, ...]
    records: tuple[Record, ...]

    @property
    def gap(self) -> Interval:
        """The mean of ``gaps``."""
        return interval(self.gaps)

    @property
    def reward(self) -> Interval:
        """The mean of ``rewards``."""
        return interval(self.rewards)

    @property
    def violation(self) -> Interval:
        """The mean of ``violations``."""
        return interval(self.violations)

    @property
    def violation_during(self) -> Interval:
        """The mean of ``violations_during``."""
        return interval(self.violations_during)


def hold_out(pool: Pool, tasks: Sequence[Task], start: Starts, within: WithinTask) -> HeldOut:
    """Solve held-out ``tasks`` from ``start`` and summarise."""
    return summarised(solve_in_order(pool, tasks, start, within), start)


def summarised(results: Sequence[TaskResult], start: Starts) -> HeldOut:
    """Summarise the results of held-out tasks that were solved from ``start``."""
    measures = [measure(result) for result in results]
    values = np.mean([result.values for result in results], axis=0)
    episodic = [result.episodic for result in results]
    return HeldOut(
        gaps=np.array([item.gap for item in measures]),
        rewards=np.array([result.values[result.output, 0] for result in results]),
        violations=np.array([item.violation.mean() for item in measures]),
        violations_during=np.array([item.violation_during.mean() for item in measures]),
        learning_rates=tuple(tuple(map(float, one.learning_rates)) for one in start.starts),
        reward_curve=values[:, 0],
        cost_curve=values[:, 1:],
        episodic_curve=None if any(curve is None for curve in episodic) else np.mean(np.array(episodic), axis=0),
        score=float(np.mean([item.score for item in measures])),
        env_steps=float(np.mean([result.env_steps for result in results])),
        starts_used=tuple(
            np.bincount([result.start_index for result in results], minlength=len(start.starts)).tolist()
        ),
        records=tuple(task_record(result) for result in results),
    )


def compare_starts(
    pool: Pool,
    learner: Learner,
    experiment: Experiment,
    drawn: Drawn,
    methods: Sequence[MethodName],
    meta_srl: Starts,
    similar: Similarity | None,
    report: Report = lambda what, share: None,
) -> dict[MethodName, HeldOut]:
    """Make the start of each method and try it on the held-out tasks.

    A task that is set aside under one method is left out of all, so that every mean is over the same tasks.

    Args:
        pool: solves tasks.
        learner: estimates, for the methods that average policies.
        experiment: the settings.
        drawn: training and held-out tasks.
        methods: names in the registry; one that needs an exact model is left out if there is none.
        meta_srl: the start that this run has learned.
        similar: D*^2 and its comparator; None without an exact model.
        report: told what is done, and how much of the work.
    """
    bench = Workbench(pool, learner, experiment.dice, experiment, drawn, drawn.for_baselines, similar=similar)
    work = WorkDone(report, stages_of(methods, bench))
    counted = CountedPool(pool, work)
    starts = starts_of(methods, replace(bench, pool=counted), meta_srl, work.begin)
    starts = {name: safe_starts(pool, experiment, start, drawn.family) for name, start in starts.items()}
    results = {}
    for name, start in starts.items():
        work.begin(solving_stage(name))
        results[name] = solve_in_order(counted, drawn.test, start, experiment.held_out_within)
    kept = {task.index for task in pool.quarantine.without(drawn.test)}
    return {
        name: summarised([result for result in results[name] if result.task.index in kept], start)
        for name, start in starts.items()
    }
