"""Action values from data: the certainty-equivalence estimator (the empirical model, solved exactly).

For a table it is the fixed point of batch temporal-difference learning (LSTD-Q with one-hot features) and uses every
transition that the task has seen, whichever policy made it; see docs/decisions/0004.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from policies.exact import Evaluation, ExactModel, evaluate
from policies.rollouts import Transitions
from tasks.model import FloatArray, TabularModel


@dataclasses.dataclass(frozen=True, slots=True)
class EmpiricalModel:
    """The maximum-likelihood model of a dataset over S states plus one absorbing state (number S).

    ``counts`` [S, A] are visits of each pair. A pair without data leads to the absorbing state; callers must not let a
    policy choose it (:func:`evaluate_empirical` does not).
    """

    model: ExactModel
    counts: NDArray[np.int64]


def empirical_model(data: Transitions, num_states: int, num_actions: int, discount: float) -> EmpiricalModel:
    """Count transitions: P_hat = n(s,a,s') / n(s,a), mean rewards and costs, rho_hat from the episode starts."""
    states, pairs_total = num_states + 1, num_states * num_actions
    pair = data.states.astype(np.int64) * num_actions + data.actions
    target = np.where(data.terminated, num_states, data.next_states).astype(np.int64)
    keys, visits = np.unique(pair * states + target, return_counts=True)
    counts = np.bincount(pair, minlength=pairs_total)
    total = np.maximum(counts, 1)
    missing = np.flatnonzero(np.concatenate([counts, np.zeros(num_actions, dtype=counts.dtype)]) == 0)
    rows, columns = np.divmod(keys, states)

    def mean(values: FloatArray) -> FloatArray:
        sums = np.bincount(pair, weights=values, minlength=pairs_total) / total
        return np.concatenate([sums.reshape(num_states, num_actions), np.zeros((1, num_actions))])

    starts = np.bincount(data.states[data.episode_starts], minlength=states).astype(np.float64)
    absorbing = np.zeros(states, dtype=np.bool_)
    absorbing[num_states] = True
    tabular = TabularModel(
        pairs=np.concatenate([rows, missing]),
        next_states=np.concatenate([columns, np.full(missing.size, num_states)]),
        probabilities=np.concatenate([visits / total[rows], np.ones(missing.size)]),
        reward=mean(data.reward),
        costs=np.stack([mean(data.costs[:, i]) for i in range(data.costs.shape[1])]),
        initial=starts / starts.sum(),
        absorbing=absorbing,
        discount=discount,
    )
    return EmpiricalModel(ExactModel(tabular), counts.reshape(num_states, num_actions))


def evaluate_empirical(empirical: EmpiricalModel, policy: FloatArray) -> Evaluation:
    """J_i, V_i, Q_i of ``policy`` [S, A] in the empirical model.

    The policy is conditioned on actions with data; an action without data gets Q = V (advantage 0: the step neither
    prefers nor avoids what nobody has tried), a state without data gets values 0.
    """
    seen = empirical.counts > 0
    allowed = policy * seen
    mass = allowed.sum(axis=1, keepdims=True)
    uniform = 1.0 / policy.shape[1]
    conditioned = np.where(mass > 0.0, allowed / np.where(mass > 0.0, mass, 1.0), uniform)
    conditioned = np.concatenate([conditioned, np.full((1, policy.shape[1]), uniform)])
    result = evaluate(empirical.model, conditioned)
    state_values = result.state_values[:, :-1]
    action_values = np.where(seen, result.action_values[:, :-1], state_values[..., None])
    return Evaluation(result.values, state_values, action_values)
