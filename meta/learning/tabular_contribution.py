"""Contribution of a task solved with a table to the meta-update: nu_hat, f_hat, b; and the meta-learner of tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from meta.estimators.closed_form import estimate
from meta.estimators.estimation import Estimate, estimate_corrections
from meta.estimators.trusted_estimate import NO_ESTIMATE, Trusted, trusted
from meta.learning.bounds import chosen_curvature, initialization_loss, measured_curvature, worst_case_curvature
from meta.learning.settings import MetaSettings
from meta.learning.tabular import Contribution, MetaState, initial_state, loss_of, no_memory, update
from meta.offline.diagnostics import EstimateError
from meta.offline.dice_settings import DICESettings
from meta.offline.target_policy import TableTarget
from policies.common.policy import Policy, table_of
from policies.common.transition_sample import TransitionSample
from policies.tabular.crpo import WithinTaskSettings
from policies.tabular.kernel_table import shrink
from policies.tabular.solving import TaskDataset
from policies.tabular.transitions import tabular_sample
from tasks.contract.contextual_family import Contexts
from tasks.contract.tabular_model import FloatArray


def contribution(dataset: TaskDataset, dice: DICESettings, settings: MetaSettings) -> Contribution:
    """Estimate nu_hat with the estimator of ``dice`` and from it f_hat_t and b_t."""
    states, actions = dataset.policy.shape
    dice = dice.resolved(neural=False)
    if dice.estimator == "dualdice_tabular":
        found, occupancy = _closed_form(dataset, dice)
    else:
        sample = _sample_of(dataset)
        found = trusted(lambda: _estimated(dataset, sample, dice), dice)
        mass = np.full(len(sample), 1.0 / max(1, len(sample))) if found.estimate is None else found.estimate.mass
        occupancy = np.bincount(dataset.transitions.states, mass, states).astype(np.float64)
    rates = dataset.start.learning_rates
    curvature = chosen_curvature(
        settings.learning_rates.curvature,
        measured_curvature(dataset.solution.log_normalizers, dataset.solution.branches, rates, occupancy),
        dataset.solution.branches,
        lambda: worst_case_curvature(1.0, states, actions, dataset.discount),
    )
    return Contribution(
        task_index=dataset.task_index,
        occupancy=occupancy,
        policy=dataset.policy,
        loss=initialization_loss(occupancy, dataset.policy, table_of(dataset.start.initialization)),
        curvature=curvature,
        weight=found.weight,
        diagnostics=found.diagnostics,
        failures=found.failures,
        problem=found.problem,
        context=dataset.start.context,
    )


def _closed_form(dataset: TaskDataset, dice: DICESettings) -> tuple[Trusted, FloatArray]:
    """The table's closed form on aggregated transitions, and nu_hat; much cheaper than the way through a sample."""
    try:
        found = estimate(dataset.transitions, dataset.policy, dataset.discount, dataset.horizon, dice)
    except EstimateError as error:
        seen = np.bincount(dataset.transitions.states, minlength=len(dataset.policy)) / max(1, len(dataset.transitions))
        return Trusted(None, None, dice.failed_weight, (NO_ESTIMATE,), str(error)), seen
    diagnostics = found.diagnostics
    trusted = Trusted(None, diagnostics, diagnostics.trust(dice), diagnostics.failures(dice))
    return trusted, found.occupancy


def _sample_of(dataset: TaskDataset) -> TransitionSample:
    data = dataset.transitions
    return tabular_sample(data, dataset.solution.iterates[data.iterations, data.states, data.actions])


def _estimated(dataset: TaskDataset, sample: TransitionSample, dice: DICESettings) -> Estimate:
    target = TableTarget(dataset.policy)
    return estimate_corrections(sample, target, dataset.discount, dataset.horizon, dice, dataset.task_index)


class TabularLearning:
    """See :class:`meta.learning.kinds.LearningKind`: the meta-learner of tables."""

    name = MetaState.KIND
    section = "initialization"
    state: type[MetaState] = MetaState
    item: type[Contribution] = Contribution

    def require_settings(self, within: WithinTaskSettings, dice: DICESettings, meta: MetaSettings) -> None:
        """Raise ValueError where a setting of another section needs a network."""
        del within
        if meta.warm_up.rounds:
            raise ValueError("meta.warm_up.rounds: direct steps need within_task.algorithm neural_crpo")
        if meta.context not in ("none", "given"):
            raise ValueError(f"meta.context: {meta.context} needs within_task.algorithm neural_crpo; tables take given")
        if meta.context != "none" and meta.initialization.method != "ftl":
            raise ValueError("meta.initialization.method: must be ftl where meta.context is given")
        if dice.linear.features == "last_layer":
            raise ValueError("dice.linear.features: last_layer needs within_task.algorithm neural_crpo")

    def training_settings(self, within: WithinTaskSettings, dice: DICESettings) -> WithinTaskSettings:
        """How a training task is solved: as any other."""
        del dice
        return within

    def averaging_dice(self, dice: DICESettings) -> DICESettings:
        """The estimator that plain averages are made with: they read none of its corrections."""
        return dice

    def first_state(
        self, settings: MetaSettings, fresh: FloatArray, num_costs: int, contexts: Contexts | None = None
    ) -> MetaState:
        """The uniform policy and the initial rates; with contexts an empty memory of them."""
        state = initial_state(settings, fresh.shape[0], fresh.shape[1], num_costs)
        if contexts is None:
            return state
        states, actions = fresh.shape
        return dataclasses.replace(state, memory=no_memory(settings, (states, actions), contexts))

    def contribute(self, dataset: TaskDataset, dice: DICESettings, settings: MetaSettings) -> Contribution:
        """See :func:`contribution`."""
        return contribution(dataset, dice, settings)

    def step(
        self, state: MetaState, items: Sequence[Contribution], settings: MetaSettings, num_iterations: int
    ) -> MetaState:
        """See :func:`update`."""
        return update(state, items, settings, num_iterations)

    def loss(self, item: Contribution, policy: Policy) -> float:
        """See :func:`loss_of`."""
        return loss_of(item, table_of(policy))

    def with_support(self, policy: FloatArray, settings: MetaSettings) -> FloatArray:
        """The table with the least probability of every action that the settings ask for."""
        return shrink(policy, settings.initialization.shrinkage)

    def without_memory(self, state: MetaState) -> MetaState:
        """phi, rates and their sums stay; what phi is averaged from is empty."""
        return dataclasses.replace(state, num_tasks=0, policy_sum=np.zeros_like(state.policy_sum), policy_count=0.0)


TABULAR_LEARNING = TabularLearning()
