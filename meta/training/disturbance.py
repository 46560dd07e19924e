"""Controlled errors on DualDICE's corrections: how much they cost is measured, not guessed (docs/decisions/0034)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from meta.learning.bounds import chosen_curvature, initialization_loss, measured_curvature
from meta.learning.kinds import Item
from meta.learning.online import State
from meta.learning.settings import MetaSettings
from meta.learning.tabular import Contribution
from meta.training.pool import Done, Learner, Pending
from policies.common.policy import table_of
from policies.mixtures.team import TeamStep
from policies.tabular.solving import TaskDataset
from tasks.contract.tabular_model import FloatArray

_NOISE_STREAM, _BIAS_STREAM = 51, 52


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Relative errors of the corrections: w'(s) = max(0, w(s) (1 + noise xi_t(s) + bias u(s))).

    ``noise``: standard deviation of xi_t(s), drawn anew for every task and state. ``bias``: u(s) uniform in [-1, 1],
    drawn once for all tasks of a ``seed``, so that no number of tasks averages it out. 1 is 100 %.
    """

    noise: float = 0.0
    bias: float = 0.0
    seed: int = 0

    def factor(self, num_states: int, task_index: int) -> FloatArray:
        """What the corrections of task ``task_index`` are multiplied by, [S]."""
        xi = np.random.default_rng([self.seed, _NOISE_STREAM, task_index]).standard_normal(num_states)
        shift = np.random.default_rng([self.seed, _BIAS_STREAM]).uniform(-1.0, 1.0, num_states)
        return np.maximum(0.0, 1.0 + self.noise * xi + self.bias * shift)


def disturbed(
    item: Contribution, dataset: TaskDataset, disturbance: Disturbance, settings: MetaSettings
) -> Contribution:
    """``item`` as it would be with wrong corrections: nu_hat, and with it f_hat and b, which it weighs.

    nu_hat keeps its sum, since DICE's own diagnostics would detect a wrong mean correction.
    """
    factor = disturbance.factor(item.occupancy.size, item.task_index)
    wrong = np.maximum(item.occupancy, 0.0) * factor
    occupancy = wrong * (item.occupancy.sum() / wrong.sum()) if wrong.sum() > 0.0 else wrong
    rates, solution = dataset.start.learning_rates, dataset.solution
    curvature = chosen_curvature(
        settings.learning_rates.curvature,
        measured_curvature(solution.log_normalizers, solution.branches, rates, occupancy),
        solution.branches,
        lambda: float(item.curvature[0]),
    )
    loss = initialization_loss(occupancy, item.policy, table_of(dataset.start.initialization))
    return dataclasses.replace(item, occupancy=occupancy, loss=loss, curvature=curvature)


class DisturbedLearner:
    """A :class:`meta.training.pool.Learner` whose estimates are wrong by a known amount."""

    def __init__(self, learner: Learner, disturbance: Disturbance, settings: MetaSettings) -> None:
        self._learner, self._disturbance, self._settings = learner, disturbance, settings

    def restore(self, state: State) -> None:
        """Continue from ``state``."""
        self._learner.restore(state)

    def estimate(self, dataset: Any, label: str) -> Pending:
        """The learner's estimate, disturbed."""
        item = self._learner.estimate(dataset, label).result()
        if item.KIND != Contribution.KIND:
            raise TypeError("corrections are disturbed for tabular tasks only")
        return Done(disturbed(cast("Contribution", item), dataset, self._disturbance, self._settings))

    def update(self, contributions: Sequence[Item]) -> State:
        """One online step."""
        return self._learner.update(contributions)

    def warm_up(self, steps: Sequence[TeamStep]) -> State:
        """One round of direct steps, which use no corrections."""
        return self._learner.warm_up(steps)
