"""reptile: Reptile on CRPO (Nichol, Achiam, Schulman 2018, arXiv 1803.02999), on logits or on parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from meta.learning.neural import NeuralContribution
from meta.methods.workbench import Learned, Method, Workbench
from meta.training.evaluation_settings import GridPoint
from policies.common.policy import Policy, table_of
from policies.common.results import TaskResult
from policies.exact.softmax import log_policy
from policies.neural.policy_state import PolicyState, merge, moved
from tasks.contract.tabular_model import FloatArray


def learn_table(bench: Workbench, point: GridPoint) -> Learned:
    """A step of the logits after every round."""
    assert point.step is not None
    policy: Policy = bench.drawn.fresh
    results: list[TaskResult] = []
    for tasks in bench.rounds:
        solved = bench.solve(tasks, bench.start(policy, point))
        logits = [one.solution.logits for one in solved if one.solution is not None]
        policy = bench.supported(np.exp(reptile_step(np.log(table_of(policy)), logits, point.step)))
        results += solved
    return bench.learned(policy, point, results=results)


def learn_network(bench: Workbench, point: GridPoint) -> Learned:
    """A step of the parameters after every round."""
    assert point.step is not None
    policy, results = cast("PolicyState", bench.drawn.fresh), list[TaskResult]()
    for tasks in bench.rounds:
        solved, items = bench.estimate(tasks, bench.start(policy, point))
        policy = reptile_policy(policy, cast("list[NeuralContribution]", items), point.step)
        results += solved
    return bench.learned(policy, point, results=results)


def reptile_step(logits: FloatArray, adapted: Sequence[FloatArray], step: float) -> FloatArray:
    """Log-probabilities of z + eps * mean_t (z_t - z): from ``logits`` towards those of the adapted policies, [S, A].

    Reptile (Nichol, Achiam, Schulman 2018, arXiv 1803.02999, algorithm 2), with CRPO's output where it has k steps of
    SGD. One task and eps = 1 give the adapted policy itself.
    """
    return log_policy(logits + step * (np.mean(adapted, axis=0) - logits))


def reptile_policy(policy: PolicyState, items: Sequence[NeuralContribution], step: float) -> PolicyState:
    """Reptile's step on actor and critic, under the statistics of all observations so far.

    One task and eps = 1 give its output's own actions and values (up to rounding).
    """
    ordered = sorted(items, key=lambda item: item.task_index)
    statistics = policy.statistics
    for item in ordered:
        statistics = merge(statistics, item.statistics)
    policy = policy.with_statistics(statistics)
    adapted = [item.policy.with_statistics(statistics) for item in ordered]
    actor = moved(policy.actor, [one.actor.vector for one in adapted], step)
    return PolicyState(actor, moved(policy.critic, [one.critic.vector for one in adapted], step), statistics)


METHOD = Method(
    name="reptile",
    label="Reptile",
    place=6,
    colour="#226655",
    marker="diamond",
    forms={"tabular": learn_table, "neural": learn_network},
    uses=("rate", "step", "margin"),
    defaults={"step": 0.5},
)
