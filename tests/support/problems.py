"""Small constrained MDPs with known answers, and generators of random ones: one table for every solver's tests."""

from __future__ import annotations

import dataclasses

import numpy as np

from policies.exact.solver import ExactModel, evaluate, optimal_policy
from tasks.contract.tabular_model import FloatArray, TabularModel


@dataclasses.dataclass(frozen=True)
class Problem:
    """A constrained MDP whose optimum has a closed form.

    ``policy`` [S, A] is the one constrained optimum, ``values`` [1+p] its J_i,
    ``least`` [p] the least reachable cost of each constraint and ``unconstrained`` [1+p] the J_i without limits.
    """

    name: str
    model: TabularModel
    limits: FloatArray
    policy: FloatArray
    values: FloatArray
    least: FloatArray
    unconstrained: FloatArray

    def __str__(self) -> str:
        return self.name


def tabular(
    transitions: FloatArray, reward: FloatArray, costs: FloatArray, initial: FloatArray, discount: float
) -> TabularModel:
    """A model from a dense kernel [S, A, S]; zero probabilities are left out; no state is absorbing."""
    num_states = transitions.shape[0]
    pairs, next_states = np.nonzero(transitions.reshape(-1, num_states))
    return TabularModel(
        pairs=pairs.astype(np.int64),
        next_states=next_states.astype(np.int64),
        probabilities=transitions.reshape(-1, num_states)[pairs, next_states],
        reward=np.asarray(reward, dtype=np.float64),
        costs=np.asarray(costs, dtype=np.float64),
        initial=np.asarray(initial, dtype=np.float64),
        absorbing=np.zeros(num_states, dtype=np.bool_),
        discount=discount,
    )


def dense_transitions(model: TabularModel) -> FloatArray:
    """The kernel P(s'|s,a) as a dense array [S, A, S], summed triple by triple."""
    kernel = np.zeros((model.num_states * model.num_actions, model.num_states))
    for pair, next_state, probability in zip(model.pairs, model.next_states, model.probabilities, strict=True):
        kernel[pair, next_state] += probability
    return kernel.reshape(model.num_states, model.num_actions, model.num_states)


def random_cmdp(seed: int, num_states: int, num_actions: int, num_costs: int, discount: float) -> TabularModel:
    """Dense random kernel and rho, reward and costs uniform on [0, 1]."""
    rng = np.random.default_rng([seed, num_states, num_actions, num_costs])
    return tabular(
        transitions=rng.dirichlet(np.ones(num_states), size=(num_states, num_actions)),
        reward=rng.random((num_states, num_actions)),
        costs=rng.random((num_costs, num_states, num_actions)),
        initial=rng.dirichlet(np.ones(num_states)),
        discount=discount,
    )


def random_policy(seed: int, num_states: int, num_actions: int) -> FloatArray:
    """A policy [S, A] of full support."""
    return np.random.default_rng([seed, 99]).dirichlet(np.full(num_actions, 2.0), size=num_states)


def uniform_policy(model: TabularModel) -> FloatArray:
    """1 / A everywhere, [S, A]."""
    return np.full((model.num_states, model.num_actions), 1.0 / model.num_actions)


def interior_limits(model: TabularModel, fraction: float) -> FloatArray:
    """Limits [p] between the costs of the safest policy (0, least sum of costs) and of the unconstrained optimum (1).

    Occupancies are convex, so these limits can be kept jointly for every fraction in [0, 1].
    """
    summed = dataclasses.replace(model, costs=model.costs.sum(axis=0, keepdims=True))
    safest = optimal_policy(ExactModel(summed), objective=1).policy
    safe = evaluate(ExactModel(model), safest).values[1:]
    greedy = optimal_policy(ExactModel(model)).values[1:]
    return np.asarray((1.0 - fraction) * safe + fraction * greedy)


def one_state(discount: float = 0.9) -> Problem:
    """Work (reward 2, cost 1) or rest (nothing), for ever: J_1 = p / (1 - gamma) <= d, so p = (1 - gamma) d."""
    limit = 0.3 / (1.0 - discount)
    model = tabular(
        transitions=np.ones((1, 2, 1)),
        reward=np.array([[2.0, 0.0]]),
        costs=np.array([[[1.0, 0.0]]]),
        initial=np.ones(1),
        discount=discount,
    )
    return Problem(
        name="one_state",
        model=model,
        limits=np.array([limit]),
        policy=np.array([[0.3, 0.7]]),
        values=np.array([2.0 * limit, limit]),
        least=np.zeros(1),
        unconstrained=np.array([2.0, 1.0]) / (1.0 - discount),
    )


def two_states(discount: float = 0.8) -> Problem:
    """Stay (reward 1/2) or go once (cost 2) to a state that is never left, of cost 1 and reward 1 (working) or 0.

    With q the probability of going and G = q / (1 - gamma + gamma q) its discounted number:
    J_0 = 1/2 G / q + gamma G / (1 - gamma) and J_1 = 2 G + gamma G / (1 - gamma), both increasing in q.
    """
    transitions = np.zeros((2, 2, 2))
    transitions[0, 0, 0] = transitions[0, 1, 1] = 1.0
    transitions[1, :, 1] = 1.0
    model = tabular(
        transitions=transitions,
        reward=np.array([[0.5, 0.5], [1.0, 0.0]]),
        costs=np.array([[[0.0, 2.0], [1.0, 1.0]]]),
        initial=np.array([1.0, 0.0]),
        discount=discount,
    )
    limit = 3.0
    going = limit / (2.0 + discount / (1.0 - discount))
    chance = going * (1.0 - discount) / (1.0 - discount * going)
    return Problem(
        name="two_states",
        model=model,
        limits=np.array([limit]),
        policy=np.array([[1.0 - chance, chance], [1.0, 0.0]]),
        values=two_states_values(chance, discount),
        least=np.zeros(1),
        unconstrained=two_states_values(1.0, discount),
    )


def two_states_values(chance: float, discount: float) -> FloatArray:
    """(J_0, J_1) of :func:`two_states` when it goes with probability ``chance`` and then works."""
    waiting = 1.0 / (1.0 - discount + discount * chance)
    afterwards = discount * chance * waiting / (1.0 - discount)
    return np.array([0.5 * waiting + afterwards, 2.0 * chance * waiting + afterwards])


def two_costs(discount: float = 0.9) -> Problem:
    """One state, three actions: reward 3 at cost (1, 0), reward 2 at cost (0, 1), or nothing: J_0 = 3 d_1 + 2 d_2."""
    scale = 1.0 - discount
    limits = np.array([0.2, 0.5]) / scale
    model = tabular(
        transitions=np.ones((1, 3, 1)),
        reward=np.array([[3.0, 2.0, 0.0]]),
        costs=np.array([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]]),
        initial=np.ones(1),
        discount=discount,
    )
    return Problem(
        name="two_costs",
        model=model,
        limits=limits,
        policy=np.array([[0.2, 0.5, 0.3]]),
        values=np.array([1.6 / scale, *limits]),
        least=np.zeros(2),
        unconstrained=np.array([3.0, 1.0, 0.0]) / scale,
    )


PROBLEMS = (one_state(), one_state(0.5), two_states(), two_states(0.95), two_costs())
