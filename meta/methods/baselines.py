"""The baselines and meta_srl as starts for a new task, compared on held-out tasks (THEORY section 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from meta.learning.kinds import Item
from meta.learning.settings import MetaSettings
from meta.learning.updates import shrink
from meta.measuring.measures import Interval, interval, measure
from meta.methods.neural_baselines import average_policy, first_leader, follow_leader
from meta.training.evaluation_settings import EvaluationSettings, Method
from meta.training.pool import Learner, Pool, solve_and_estimate
from policies.common.policy import Policy, table_of
from policies.common.results import Start, Starts, TaskResult
from policies.neural.policy_state import PolicyState
from policies.neural.update import NeuralSettings
from policies.solving.kinds import WithinTask
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task


@dataclass(frozen=True)
class Bench:
    """What baselines are made from: a pool, a learner that estimates, the training tasks and the shared settings."""

    pool: Pool
    learner: Learner
    tasks: Sequence[Task]
    within: WithinTask
    evaluation: EvaluationSettings
    meta: MetaSettings
    fresh: Policy
    num_costs: int

    @cached_property
    def random(self) -> Start:
        """The policy that has learned nothing (uniform, or a fresh network) with the grid's best rate."""
        return self.best_rate(self.fresh)

    @property
    def grid_tasks(self) -> Sequence[Task]:
        """The training tasks on which rates are chosen."""
        return self.tasks[: self.evaluation.grid_tasks]

    def shrunk(self, policy: FloatArray) -> FloatArray:
        """A table [S, A] in which every action keeps the least probability of the settings."""
        return shrink(policy, self.meta.initialization.shrinkage)

    def fixed(self, initialization: Policy, rate: float) -> Start:
        """A start with one rate for every objective."""
        return Start(initialization, np.full(1 + self.num_costs, rate))

    def solve(self, tasks: Sequence[Task], start: Start, within: WithinTask | None = None) -> list[TaskResult]:
        """Solve tasks without collecting datasets; results in task order."""
        solved = self.pool.solve(tasks, start, within or self.within, collect=False)
        return sorted((item.result for item in solved), key=lambda result: result.task.index)

    def estimate(self, tasks: Sequence[Task], start: Start) -> tuple[list[TaskResult], list[Item]]:
        """Solve tasks and estimate each; results and contributions in task order."""
        found = solve_and_estimate(self.pool, self.learner, tasks, start, self.within)
        pairs = sorted(found, key=lambda pair: pair[0].task.index)
        return [result for result, _ in pairs], [item for _, item in pairs]

    def best_rate(self, initialization: Policy) -> Start:
        """The start with the grid's rate of least mean score on the grid tasks (ties go to the smaller rate)."""
        scores = [
            mean_score(self.solve(self.grid_tasks, self.fixed(initialization, rate)))
            for rate in self.evaluation.rate_grid
        ]
        return self.fixed(initialization, self.evaluation.rate_grid[int(np.argmin(scores))])


def mean_score(results: Sequence[TaskResult]) -> float:
    """Mean score of solved tasks: the one number by which rates are chosen, see :class:`Measures`.

    Raises:
        ValueError: there are none to judge by.
    """
    if not results:
        raise ValueError("evaluation.grid_tasks: no task is left to judge a rate by; set it to at least 1 (fal: 1 too)")
    return float(np.mean([measure(result).score for result in results]))


def pretrained_start(bench: Bench) -> Start:
    """CRPO's policy of the first training task after many iterations, at the random start's rate; then its own rate."""
    return bench.best_rate(pretrained_policy(bench, bench.tasks, bench.random))


def pretrained_policy(bench: Bench, tasks: Sequence[Task], start: Start) -> Policy:
    """CRPO's policy of the first of ``tasks`` after many iterations."""
    iterations = bench.evaluation.pretrain_iterations or steps_in_iterations(bench.within, len(tasks))
    longer = bench.within.model_copy(update={"num_iterations": iterations})
    (result,) = bench.solve(tasks[:1], start, longer)
    policy = result.policy
    return policy if isinstance(policy, PolicyState) else bench.shrunk(policy)


def steps_in_iterations(within: WithinTask, num_tasks: int) -> int:
    """CRPO iterations on one task that take as many environment steps as M on each of ``num_tasks``."""
    last = int(within.evaluate_last) if isinstance(within, NeuralSettings) else 0
    return max(1, num_tasks * (within.num_iterations + last) - last)


def simple_average_start(bench: Bench, tasks_per_round: int) -> Start:
    """Plain average of the policies of all training tasks, each solved from the random start."""
    return bench.best_rate(simple_average_policy(bench, bench.tasks, bench.random, tasks_per_round))


def simple_average_policy(bench: Bench, tasks: Sequence[Task], start: Start, tasks_per_round: int) -> Policy:
    """Plain average of the policies of ``tasks``, each solved from ``start``; networks are distilled."""
    if isinstance(bench.fresh, PolicyState):
        _, items = bench.estimate(tasks, start)
        rounds = -(-len(tasks) // tasks_per_round)
        return average_policy(bench.fresh, items, bench.meta.neural, rounds)
    policies = [table_of(result.policy) for result in bench.solve(tasks, start)]
    return bench.shrunk(np.mean(policies, axis=0))


def fal_start(bench: Bench, tasks_per_round: int) -> Start:
    """Follow the average leader with the grid's rate of least mean score in the later half of the grid tasks."""
    grid, half = bench.evaluation.rate_grid, len(bench.grid_tasks) // 2
    scores = [
        mean_score(follow_average_leader(bench, bench.grid_tasks, rate, tasks_per_round)[1][half:]) for rate in grid
    ]
    return follow_average_leader(bench, bench.tasks, grid[int(np.argmin(scores))], tasks_per_round)[0]


def follow_average_leader(
    bench: Bench, tasks: Sequence[Task], rate: float, tasks_per_round: int
) -> tuple[Start, list[TaskResult]]:
    """The start after the last of ``tasks``, and what became of each on the way."""
    follow = _follow_networks if isinstance(bench.fresh, PolicyState) else _follow_tables
    return follow(bench, tasks, rate, tasks_per_round)


def _follow_tables(
    bench: Bench, tasks: Sequence[Task], rate: float, tasks_per_round: int
) -> tuple[Start, list[TaskResult]]:
    results: list[TaskResult] = []
    start, total = bench.fixed(bench.fresh, rate), np.zeros_like(table_of(bench.fresh))
    for begin in range(0, len(tasks), tasks_per_round):
        solved = bench.solve(tasks[begin : begin + tasks_per_round], start)
        results += solved
        total = total + np.sum([table_of(result.policy) for result in solved], axis=0)
        start = bench.fixed(bench.shrunk(total / len(results)), rate)
    return start, results


def _follow_networks(
    bench: Bench, tasks: Sequence[Task], rate: float, tasks_per_round: int
) -> tuple[Start, list[TaskResult]]:
    assert isinstance(bench.fresh, PolicyState)
    results: list[TaskResult] = []
    state = first_leader(bench.fresh, bench.meta, rate)
    for begin in range(0, len(tasks), tasks_per_round):
        solved, items = bench.estimate(tasks[begin : begin + tasks_per_round], state.start)
        results += solved
        state = follow_leader(state, items, bench.meta, bench.within.num_iterations)
    return state.start, results


def oracle_start(bench: Bench, comparator: FloatArray) -> Start:
    """The minimiser of D*^2 over the true optimal policies of the training tasks, [S, A]; best rate of the grid."""
    return bench.best_rate(bench.shrunk(comparator))


def make_starts(
    methods: Sequence[Method],
    bench: Bench,
    tasks_per_round: int,
    comparator: FloatArray | None,
    meta_srl: Callable[[], Starts],
) -> dict[str, Starts]:
    """The start of every method; ``oracle`` is left out where there is no exact model (``comparator`` None)."""
    makers: dict[str, Callable[[], Starts]] = {
        "random": lambda: bench.random,
        "pretrained": lambda: pretrained_start(bench),
        "simple_average": lambda: simple_average_start(bench, tasks_per_round),
        "fal": lambda: fal_start(bench, tasks_per_round),
        "meta_srl": meta_srl,
    }
    if comparator is not None:
        makers["oracle"] = lambda: oracle_start(bench, comparator)
    return {method: makers[method]() for method in methods if method in makers}


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A start on held-out tasks. Intervals are over tasks; curves [M+1] and [M+1, p] are means over tasks.

    ``gap``, ``violation`` (of the output, mean over costs) and ``violation_during``: see :class:`Measures`. ``reward``
    is the output's J_0. ``episodic_curve`` [M+1, 1+p] are undiscounted sums, where they are measured.
    ``learning_rates`` are those of every start that tasks could choose from, ``starts_used`` how many tasks chose each,
    and ``env_steps`` the mean of a task, choosing included.
    """

    gap: Interval
    reward: Interval
    violation: Interval
    violation_during: Interval
    learning_rates: tuple[tuple[float, ...], ...]
    reward_curve: FloatArray
    cost_curve: FloatArray
    episodic_curve: FloatArray | None
    score: float
    env_steps: float
    starts_used: tuple[int, ...]


def hold_out(pool: Pool, tasks: Sequence[Task], start: Starts, within: WithinTask) -> HeldOut:
    """Solve held-out ``tasks`` from ``start`` and summarise."""
    candidates = start.starts
    results = sorted(
        (item.result for item in pool.solve(tasks, start, within, collect=False)), key=lambda item: item.task.index
    )
    measures = [measure(result) for result in results]
    values = np.mean([result.values for result in results], axis=0)
    episodic = [result.episodic for result in results]
    return HeldOut(
        gap=interval([item.gap for item in measures]),
        reward=interval([float(result.values[result.output, 0]) for result in results]),
        violation=interval([float(item.violation.mean()) for item in measures]),
        violation_during=interval([float(item.violation_during.mean()) for item in measures]),
        learning_rates=tuple(tuple(map(float, one.learning_rates)) for one in candidates),
        reward_curve=values[:, 0],
        cost_curve=values[:, 1:],
        episodic_curve=None if any(curve is None for curve in episodic) else np.mean(np.array(episodic), axis=0),
        score=float(np.mean([item.score for item in measures])),
        env_steps=float(np.mean([result.env_steps for result in results])),
        starts_used=tuple(np.bincount([result.start_index for result in results], minlength=len(candidates)).tolist()),
    )
