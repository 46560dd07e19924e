"""simple_average: the plain average of all training tasks' policies, each solved from scratch (docs/symbols.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from meta.learning.distillation import Reservoir, offer
from meta.learning.neural import NeuralContribution, next_policy, task_targets
from meta.learning.settings import NeuralInitializationSettings
from meta.methods.workbench import Learned, Method, Workbench
from meta.training.evaluation_settings import GridPoint
from policies.common.policy import table_of
from policies.neural.policy_state import PolicyState


def learn_table(bench: Workbench, point: GridPoint) -> Learned:
    """The mean of the tables."""
    results = bench.solve(bench.tasks, bench.start(bench.drawn.fresh, point))
    mean = np.mean([table_of(result.policy) for result in results], axis=0)
    return bench.learned(bench.supported(mean), point)


def learn_network(bench: Workbench, point: GridPoint) -> Learned:
    """One network that imitates all: policies are averaged by distillation, never as weights."""
    _, items = bench.estimate(bench.tasks, bench.start(bench.drawn.fresh, point))
    fresh, contributions = cast("PolicyState", bench.drawn.fresh), cast("list[NeuralContribution]", items)
    policy = average_policy(fresh, contributions, bench.experiment.meta.neural, len(bench.rounds))
    return bench.learned(policy, point)


def average_policy(
    fresh: PolicyState, items: Sequence[NeuralContribution], settings: NeuralInitializationSettings, num_rounds: int
) -> PolicyState:
    """One network that imitates the policies of all tasks, every row alike; statistics of all, the mean critic.

    As many Adam steps from ``fresh`` as the meta-learner takes in ``num_rounds`` rounds, on as many rows at most as it
    would remember.
    """
    ordered = sorted(items, key=lambda item: item.task_index)
    reservoir: Reservoir | None = None
    for item in ordered:
        reservoir = offer(reservoir, task_targets(item), settings.reservoir, item.task_index)
    changes = {"method": "ftl", "steps": settings.steps * num_rounds, "schedule": "dynamic", "critic_share": 1.0}
    return next_policy(fresh, ordered, settings.model_copy(update=changes), 0, reservoir)


METHOD = Method(
    name="simple_average",
    label="average of all tasks' policies",
    place=2,
    colour="#ee8800",
    marker="triangle-up",
    forms={"tabular": learn_table, "neural": learn_network},
    in_training=True,
)
