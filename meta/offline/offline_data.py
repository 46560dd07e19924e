"""One task's transitions as an estimator takes them: a weighted sample of d^D, divided into episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meta.offline.diagnostics import EstimateError
from meta.offline.dice_settings import DICESettings
from meta.offline.target_policy import TargetPolicy
from policies.common.transition_sample import TransitionSample
from tasks.contract.tabular_model import FloatArray
from tasks.stepping.batch import BoolArray, Float32Array

FOLDS = 5
"""Parts that the episodes are dealt into, in turn; the last part is held out for the Bellman-flow residual."""


@dataclass(frozen=True)
class OfflineData:
    """Transitions of one task and the policy whose distribution is wanted.

    ``sample`` has N rows; ``weights`` [N] > 0, the share of each row in d^D over the live rows, sum 1;
    ``initial_observations`` [E, d] are samples of rho. Where an episode terminates, nu is 0 from there on: the
    absorbing state has its own mass, gamma / (1 - gamma) times the flow into it.
    """

    sample: TransitionSample
    weights: FloatArray
    initial_observations: Float32Array
    target: TargetPolicy
    discount: float
    horizon: int

    def __len__(self) -> int:
        return len(self.sample)

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """[N], the part that each row's episode is in."""
        return np.unique(self.sample.episodes, return_inverse=True)[1] % FOLDS

    @property
    def held_out(self) -> BoolArray:
        """[N], the rows of every fifth episode."""
        return np.asarray(self.folds == FOLDS - 1)

    @property
    def is_tabular(self) -> bool:
        """Whether observations hold the number of a state."""
        return self.target.state_table is not None

    def inputs(self, observations: Float32Array, actions: NDArray[Any]) -> FloatArray:
        """(s, a) as one vector, [K, d + A]: the unchanged observation, discrete actions as indicators."""
        count = self.target.num_actions
        encoded = actions.reshape(len(actions), -1) if count is None else np.eye(count)[actions]
        return np.concatenate([observations, encoded], axis=1, dtype=np.float64)

    @property
    def has_held_out(self) -> bool:
        """Whether there are enough episodes to hold some out."""
        return bool(self.held_out.any() and not self.held_out.all())

    def part(self, keep: NDArray[np.bool_]) -> OfflineData:
        """The rows of a mask [N] of complete episodes, with their own starts; weights sum to 1 again."""
        sample = self.sample.rows(keep)
        weights = self.weights[keep]
        return OfflineData(
            sample, weights / weights.sum(), sample.initial_observations, self.target, self.discount, self.horizon
        )

    def expectation(self, values: FloatArray) -> FloatArray:
        """E_D of ``values`` [N, ...] over the live rows."""
        return np.asarray(np.tensordot(self.weights, values, axes=(0, 0)))

    def absorbed_mass(self, mass: FloatArray) -> float:
        """Mass of the absorbing state, gamma / (1 - gamma) times the flow into it, for ``mass`` [N] of the rows."""
        return float(self.discount / (1.0 - self.discount) * mass[self.sample.terminated].sum())

    @cached_property
    def absorbed_share(self) -> float:
        """Steps that ended episodes spend in the absorbing state until the horizon, relative to the live rows' 1."""
        ended = self.sample.terminated
        return float(self.weights[ended] @ (self.horizon - 1.0 - self.sample.ages[ended]))


@dataclass(frozen=True, slots=True)
class Fitted:
    """What an estimator returns for data of N rows, H of them held out.

    ``ratio`` [N] is d^pi / d^D with the d^D of the live rows, ``held_out_ratio`` [H] the same on the held-out rows by a
    fit that did not see them (None where there are none). ``regularized``: see
    :class:`meta.offline.diagnostics.Diagnostics`.
    """

    ratio: FloatArray
    held_out_ratio: FloatArray | None
    regularized: bool = False


Fit = Callable[[OfflineData, DICESettings, int], Fitted]
"""An estimator: data, settings and a seed in, the ratio out."""


def prepare(
    sample: TransitionSample, target: TargetPolicy, discount: float, horizon: int, settings: DICESettings
) -> tuple[OfflineData, NDArray[np.bool_]]:
    """Check the sample, drop and weigh CRPO's iterations; also the mask [N] of the rows kept.

    Raises:
        EstimateError: nothing is left, something is not finite, or an episode does not begin at its start.
    """
    _require_sound(sample, horizon)
    keep = np.asarray(sample.iterations >= settings.drop_iterations)
    if not keep.any():
        last = int(sample.iterations.max())
        raise EstimateError(
            f"dice.drop_iterations: {settings.drop_iterations} leaves no data, the last iteration is {last}"
        )
    kept = sample.rows(keep)
    age = float(kept.iterations.max()) - kept.iterations
    weights = settings.iteration_weight**age
    data = OfflineData(kept, weights / weights.sum(), kept.initial_observations, target, discount, horizon)
    return data, keep


def _require_sound(sample: TransitionSample, horizon: int) -> None:
    if len(sample) == 0:
        raise EstimateError("the dataset is empty")
    for name in ("observations", "actions", "next_observations", "log_probabilities"):
        finite = np.isfinite(getattr(sample, name)).reshape(len(sample), -1).all(axis=1)
        if not finite.all():
            raise EstimateError(f"{name} of transition {int(np.argmin(finite))} is not finite")
    starts = np.ones(len(sample), dtype=np.bool_)
    starts[1:] = np.diff(sample.episodes) != 0
    expected = np.arange(len(sample)) - np.maximum.accumulate(np.where(starts, np.arange(len(sample)), 0))
    wrong = np.flatnonzero(sample.ages != expected)
    if wrong.size:
        row = int(wrong[0])
        raise EstimateError(
            f"episode {int(sample.episodes[row])} is incomplete: transition {row} has age {int(sample.ages[row])}, "
            f"expected {int(expected[row])}"
        )
    if int(sample.ages.max()) >= horizon:
        raise EstimateError(f"an episode is longer ({int(sample.ages.max()) + 1} steps) than the horizon {horizon}")
