"""Action values from data: the certainty-equivalence estimator (the empirical model, solved exactly).

For a table it is the fixed point of batch temporal-difference learning (LSTD-Q with one-hot features) and uses every
transition that the task has seen, whichever policy made it; see docs/decisions/0004.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy import sparse

from policies.exact.solver import Evaluation, ExactModel, evaluate, occupancy
from policies.tabular.transitions import Transitions
from tasks.contract.tabular_model import FloatArray, TabularModel


class TransitionCounts:
    """Counts and sums of all transitions of a task so far; adding a batch costs its size, not that of all data."""

    def __init__(self, num_states: int, num_actions: int, num_costs: int) -> None:
        self._shape = num_states, num_actions
        pairs = num_states * num_actions
        self._to_state: Any = sparse.csr_matrix((pairs, num_states + 1), dtype=np.float64)
        self._sums = np.zeros((1 + num_costs, pairs))
        self._starts = np.zeros(num_states + 1)

    def add(self, data: Transitions) -> None:
        """Count a batch. Transitions that terminate go to the absorbing state, number S."""
        states, actions = self._shape
        pair = data.states.astype(np.int64) * actions + data.actions
        target = np.where(data.terminated, states, data.next_states)
        self._to_state = self._to_state + sparse.csr_matrix(
            (np.ones(len(data)), (pair, target)), shape=self._to_state.shape
        )
        for row, values in zip(self._sums, (data.reward, *data.costs.T), strict=True):
            row += np.bincount(pair, weights=values, minlength=row.size)
        self._starts += np.bincount(data.states[data.episode_starts], minlength=states + 1)

    def model(self, discount: float) -> EmpiricalModel:
        """The maximum-likelihood model: P_hat = n(s,a,s') / n(s,a), mean rewards and costs, rho_hat from the starts."""
        states, actions = self._shape
        counts = np.asarray(self._to_state.sum(axis=1)).ravel()
        missing = np.flatnonzero(np.concatenate([counts, np.zeros(actions)]) == 0)
        entries = self._to_state.tocoo()
        means = np.zeros((len(self._sums), states + 1, actions))
        means[:, :states] = (self._sums / np.maximum(counts, 1.0)).reshape(-1, states, actions)
        absorbing = np.zeros(states + 1, dtype=np.bool_)
        absorbing[states] = True
        tabular = TabularModel(
            pairs=np.concatenate([entries.row.astype(np.int64), missing]),
            next_states=np.concatenate([entries.col.astype(np.int64), np.full(missing.size, states)]),
            probabilities=np.concatenate([entries.data / counts[entries.row], np.ones(missing.size)]),
            reward=means[0],
            costs=means[1:],
            initial=self._starts / self._starts.sum(),
            absorbing=absorbing,
            discount=discount,
        )
        return EmpiricalModel(ExactModel(tabular), counts.reshape(states, actions))


@dataclasses.dataclass(frozen=True, slots=True)
class EmpiricalModel:
    """The maximum-likelihood model of a dataset over S states plus one absorbing state (number S).

    ``counts`` [S, A] are visits of each pair. A pair without data leads to the absorbing state; callers must not let a
    policy choose it (:func:`evaluate_empirical` does not).
    """

    model: ExactModel
    counts: FloatArray


def empirical_model(data: Transitions, num_states: int, num_actions: int, discount: float) -> EmpiricalModel:
    """The maximum-likelihood model of one dataset (see :meth:`TransitionCounts.model`)."""
    counts = TransitionCounts(num_states, num_actions, data.costs.shape[1])
    counts.add(data)
    return counts.model(discount)


def evaluate_empirical(empirical: EmpiricalModel, policy: FloatArray) -> Evaluation:
    """J_i, V_i, Q_i of ``policy`` [S, A] in the empirical model.

    The policy is conditioned on actions with data; an action without data gets Q = V (advantage 0: the step neither
    prefers nor avoids untried actions), a state without data gets values 0.
    """
    seen = empirical.counts > 0
    result = evaluate(empirical.model, _conditioned(empirical, policy))
    state_values = result.state_values[:, :-1]
    action_values = np.where(seen, result.action_values[:, :-1], state_values[..., None])
    return Evaluation(result.values, state_values, action_values)


def empirical_visits(empirical: EmpiricalModel, policy: FloatArray) -> FloatArray:
    """The discounted state distribution [S] of ``policy`` [S, A] in the empirical model; the absorbing state is out."""
    return occupancy(empirical.model, _conditioned(empirical, policy))[:-1]


def _conditioned(empirical: EmpiricalModel, policy: FloatArray) -> FloatArray:
    """``policy`` on actions with data, [S+1, A]; uniform in states without any, and in the absorbing one."""
    allowed = policy * (empirical.counts > 0)
    mass = allowed.sum(axis=1, keepdims=True)
    uniform = 1.0 / policy.shape[1]
    conditioned = np.where(mass > 0.0, allowed / np.where(mass > 0.0, mass, 1.0), uniform)
    return np.concatenate([conditioned, np.full((1, policy.shape[1]), uniform)])
