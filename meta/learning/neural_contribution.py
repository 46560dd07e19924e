"""What a task solved with a neural policy brings to the meta-update: corrections, f_hat and b (THEORY section 4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meta.estimators.estimation import Estimate, estimate_corrections
from meta.estimators.trusted_estimate import Trusted, trusted
from meta.learning.bounds import shared_curvature
from meta.learning.neural import NeuralContribution, policy_divergence
from meta.learning.tabular import MetaSettings
from meta.learning.updates import LearningRateSettings
from meta.offline.diagnostics import EstimateError
from meta.offline.dice_settings import DICESettings
from meta.offline.target_policy import NeuralTarget
from policies.neural.policy_state import PolicyState
from policies.neural.solving import NeuralDataset
from tasks.contract.tabular_model import FloatArray


def neural_contribution(dataset: NeuralDataset, dice: DICESettings, settings: MetaSettings) -> NeuralContribution:
    """f_hat_t on the task's samples, weighted by their corrections, and b_t from the steps that CRPO asked for.

    f_hat = sum_n mass_n * sum_n p_n KL(pi_hat || phi)(s_n) with p_n = max(mass_n, 0), normalised; without corrections
    the mean over the observations kept.
    """
    start = dataset.start.initialization
    assert isinstance(start, PolicyState)
    found = _estimated(dataset, dice.resolved(neural=True))
    observations = dataset.observations
    if found.estimate is None:
        loss = float(policy_divergence(dataset.policy, start, observations).mean())
    else:
        assert dataset.sample is not None
        mass = found.estimate.mass
        shares = np.maximum(mass, 0.0) / np.maximum(mass, 0.0).sum()
        divergence = policy_divergence(dataset.policy, start, dataset.sample.observations)
        loss = float(mass.sum() * (shares @ divergence))
        observations = dataset.sample.observations[systematic_draw(shares, len(observations))]
    return NeuralContribution(
        task_index=dataset.task_index,
        observations=observations,
        statistics=dataset.statistics,
        policy=dataset.policy,
        loss=loss,
        curvature=_curvature(dataset, settings.learning_rates),
        weight=found.weight,
        diagnostics=found.diagnostics,
        failures=found.failures,
        problem=found.problem,
    )


def _estimated(dataset: NeuralDataset, dice: DICESettings) -> Trusted:
    if dice.estimator == "none":
        return Trusted(None, None, 1.0)

    def make() -> Estimate:
        if dataset.sample is None:
            raise EstimateError("no transitions were kept; within_task.dataset_transitions must be above 0")
        target = NeuralTarget(dataset.policy)
        estimate = estimate_corrections(
            dataset.sample, target, dataset.discount, dataset.horizon, dice, dataset.task_index
        )
        if not np.maximum(estimate.mass, 0.0).sum() > 0.0:
            raise EstimateError(f"{dice.estimator}: no transition has a positive correction")
        return estimate

    return trusted(make, dice)


def systematic_draw(shares: FloatArray, count: int) -> NDArray[np.int64]:
    """``count`` row numbers, each row about count * share times (within one), in order; no randomness is used."""
    positions = (np.arange(count) + 0.5) / count
    return np.minimum(np.searchsorted(np.cumsum(shares), positions), len(shares) - 1)


def _curvature(dataset: NeuralDataset, settings: LearningRateSettings) -> FloatArray:
    """b_i: the mean over N_i of KL(pi_m || pi_{m+1}) / alpha_i^2 of the steps asked for, NaN where N_i is empty."""
    rates = dataset.start.learning_rates
    relative = dataset.divergences / rates[dataset.branches] ** 2
    own = [relative[dataset.branches == objective] for objective in range(rates.size)]
    curvature = np.array([part.mean() if part.size else np.nan for part in own])
    return shared_curvature(curvature, dataset.branches) if settings.curvature == "measured_shared" else curvature
