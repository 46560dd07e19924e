"""Contribution of a task solved with a neural policy to the meta-update: corrections, f_hat, b (THEORY section 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from meta.estimators.estimation import Estimate, estimate_corrections
from meta.estimators.trusted_estimate import Trusted, trusted
from meta.learning.bounds import chosen_curvature
from meta.learning.neural import (
    NeuralContribution,
    NeuralMetaState,
    initial_neural_state,
    loss_for,
    neural_update,
    policy_divergence,
)
from meta.learning.settings import LearningRateSettings, MetaSettings
from meta.offline.diagnostics import EstimateError
from meta.offline.dice_settings import ESTIMATORS, DICESettings
from meta.offline.target_policy import NeuralTarget
from policies.common.policy import Policy
from policies.networks.module_network import MLP
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState
from policies.neural.solving import NeuralDataset
from tasks.contract.contextual_family import Contexts
from tasks.contract.tabular_model import FloatArray


def neural_contribution(dataset: NeuralDataset, dice: DICESettings, settings: MetaSettings) -> NeuralContribution:
    """f_hat_t on the task's samples, weighted by their corrections, and b_t from the steps that CRPO asked for.

    f_hat = sum_n mass_n * sum_n p_n KL(pi_hat || phi)(s_n) with p_n = max(mass_n, 0), normalised; without corrections
    the mean over the observations kept.
    """
    start = cast("PolicyState", dataset.start.initialization)
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
    """b_i: the mean over N_i of KL(pi_m || pi_{m+1}) / alpha_i^2 of the steps asked for, NaN where N_i is empty.

    Raises:
        ValueError: the worst case is asked for, which counts states and actions.
    """
    rates = dataset.start.learning_rates
    relative = dataset.divergences / rates[dataset.branches] ** 2
    own = [relative[dataset.branches == objective] for objective in range(rates.size)]
    measured = np.array([part.mean() if part.size else np.nan for part in own])
    return chosen_curvature(settings.curvature, measured, dataset.branches, _no_worst_case)


def _no_worst_case() -> float:
    raise ValueError("meta.learning_rates.curvature: a network has no worst case")


def require_usable_module(network: str, dice: DICESettings, meta: MetaSettings) -> None:
    """Raise ValueError where a setting needs the layers of an mlp, and ``network`` is a module."""
    if meta.context != "none":
        raise ValueError(f"meta.context: {meta.context} needs within_task.network mlp, got {network}; must be none")
    if dice.linear.features == "last_layer":
        raise ValueError(
            f"dice.linear.features: last_layer needs within_task.network mlp, got {network}; use random_fourier"
        )


class NeuralLearning:
    """See :class:`meta.learning.kinds.LearningKind`: the meta-learner of networks."""

    name = NeuralMetaState.KIND
    section = "neural"
    state: type[NeuralMetaState] = NeuralMetaState
    item: type[NeuralContribution] = NeuralContribution

    def require_settings(self, within: NeuralSettings, dice: DICESettings, meta: MetaSettings) -> None:
        """Raise ValueError where a setting of another section needs a table, or has no effect."""
        chosen = dice.resolved(neural=True).estimator
        if chosen == "dualdice_tabular":
            raise ValueError(
                "dice.estimator: dualdice_tabular needs a table; with within_task.algorithm neural_crpo it must be one "
                f"of {', '.join(name for name in ESTIMATORS if name != chosen)}"
            )
        if chosen != "none" and dice.linear.features == "one_hot":
            raise ValueError("dice.linear.features: one_hot needs a table; use random_fourier or last_layer")
        if chosen != "none" and not within.dataset_transitions:
            raise ValueError(f"within_task.dataset_transitions: must be above 0 where dice.estimator is {chosen}")
        for name, field in DICESettings.model_fields.items():
            unused = name == "ridge" or (chosen == "none" and name != "estimator")
            if unused and getattr(dice, name) != field.default:
                only = "applies to dualdice_tabular only"
                reason = only if name == "ridge" else "has no effect where dice.estimator is none"
                raise ValueError(f"dice.{name}: {reason}; within_task.algorithm is neural_crpo")
        if within.network != MLP:
            require_usable_module(within.network, dice, meta)
        if meta.contexts.map == "log_linear":
            raise ValueError(
                "meta.contexts.map: log_linear needs within_task.algorithm crpo; networks take contexts as inputs"
            )
        if meta.learning_rates.curvature == "worst_case":
            raise ValueError(
                "meta.learning_rates.curvature: worst_case counts states and actions, which neural_crpo does not have; "
                "must be measured or measured_shared"
            )

    def training_settings(self, within: NeuralSettings, dice: DICESettings) -> NeuralSettings:
        """How a training task is solved: without keeping transitions that no estimator reads."""
        if dice.resolved(neural=True).estimator != "none":
            return within
        return within.model_copy(update={"dataset_transitions": 0})

    def averaging_dice(self, dice: DICESettings) -> DICESettings:
        """The estimator that plain averages are made with: no corrections, every sample alike."""
        del dice
        return DICESettings(estimator="none")

    def first_state(
        self, settings: MetaSettings, fresh: PolicyState, num_costs: int, contexts: Contexts | None = None
    ) -> NeuralMetaState:
        """A fresh policy and the initial rates; contexts are inputs of the network."""
        del num_costs
        return initial_neural_state(settings, fresh, contexts)

    def contribute(self, dataset: NeuralDataset, dice: DICESettings, settings: MetaSettings) -> NeuralContribution:
        """See :func:`neural_contribution`."""
        return neural_contribution(dataset, dice, settings)

    def step(
        self, state: NeuralMetaState, items: Sequence[NeuralContribution], settings: MetaSettings, num_iterations: int
    ) -> NeuralMetaState:
        """See :func:`meta.learning.neural.neural_update`."""
        return neural_update(state, items, settings, num_iterations)

    def loss(self, item: NeuralContribution, policy: Policy) -> float:
        """See :func:`meta.learning.neural.loss_for`."""
        return loss_for(item, cast("PolicyState", policy))

    def with_support(self, policy: PolicyState, settings: MetaSettings) -> PolicyState:
        """The network unchanged: every action has a positive density."""
        del settings
        return policy

    def without_memory(self, state: NeuralMetaState) -> NeuralMetaState:
        """phi, rates and their sums stay; the reservoir is empty."""
        return dataclasses.replace(state, num_tasks=0, reservoir=None)


NEURAL_LEARNING = NeuralLearning()
