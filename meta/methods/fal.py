"""fal: follow the average leader, the plain average of the policies so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

import numpy as np

from meta.learning.kinds import Item
from meta.learning.neural import NeuralContribution, NeuralMetaState, initial_neural_state, neural_update
from meta.learning.settings import LearningRateSettings, MetaSettings
from meta.methods.workbench import Learned, Method, Workbench
from meta.training.evaluation_settings import GridPoint
from policies.common.policy import Policy, table_of
from policies.common.results import TaskResult
from policies.neural.policy_state import PolicyState
from tasks.contract.tabular_model import FloatArray


def learn_table(bench: Workbench, point: GridPoint) -> Learned:
    """The mean of the tables so far, after every round."""
    results: list[TaskResult] = []
    policy: Policy = bench.drawn.fresh
    total = np.zeros_like(table_of(policy))
    for tasks in bench.rounds:
        solved = bench.solve(tasks, bench.start(policy, point))
        results += solved
        total = total + np.sum([table_of(result.policy) for result in solved], axis=0)
        policy = bench.supported(total / len(results))
    return bench.learned(policy, point, results=results)


def learn_network(bench: Workbench, point: GridPoint) -> Learned:
    """The meta-learner's own update with every task alike and one fixed rate."""
    assert point.rate is not None
    meta, results = bench.experiment.meta, list[TaskResult]()
    state = first_leader(cast("PolicyState", bench.drawn.fresh), meta, bench.rates(point.rate))
    for tasks in bench.rounds:
        solved, items = bench.estimate(tasks, state.start)
        results += solved
        state = follow_leader(state, items, meta, bench.experiment.within.num_iterations)
    return bench.learned(state.initialization, point, results=results)


def average_leader(meta: MetaSettings) -> MetaSettings:
    """The settings under which the meta-learner follows the average leader: every task alike, fixed rates."""
    schedule = "dynamic" if meta.neural.schedule == "mixture" else meta.neural.schedule
    neural = meta.neural.model_copy(update={"method": "ftl", "forgetting": 1.0, "schedule": schedule})
    return MetaSettings(neural=neural, learning_rates=LearningRateSettings(method="fixed"))


def first_leader(fresh: PolicyState, meta: MetaSettings, rates: FloatArray) -> NeuralMetaState:
    """Where following the average leader begins, with ``rates`` [1+p]."""
    return dataclasses.replace(initial_neural_state(average_leader(meta), fresh), learning_rates=rates)


def follow_leader(
    state: NeuralMetaState, items: Sequence[Item], meta: MetaSettings, num_iterations: int
) -> NeuralMetaState:
    """One round further."""
    return neural_update(state, cast("list[NeuralContribution]", items), average_leader(meta), num_iterations)


METHOD = Method(
    name="fal",
    label="follow the average leader",
    place=3,
    colour="#7788ff",
    marker="triangle-down",
    forms={"tabular": learn_table, "neural": learn_network},
    in_training=True,
    default_for=frozenset({"tabular"}),
    own_rate=True,
)
