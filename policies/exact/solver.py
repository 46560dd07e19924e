"""Exact solutions of small constrained MDPs: values, occupancies and the occupancy linear programme.

Everything here is an oracle that estimators are tested against; notation as in ``docs/symbols.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse
from scipy.optimize import linprog
from scipy.sparse.linalg import splu

from tasks.contract.tabular_model import FloatArray, TabularModel

DENSE_STATES = 256
"""Up to this many states a dense solve beats SuperLU (``make bench``, exact evaluation)."""
_ACCURACY = 1e-10
"""HiGHS' own tolerance of 1e-7 is 1e-7 / (1 - gamma) in values and more: 1e-5 on a lake."""


class InfeasibleError(ValueError):
    """No policy keeps every cost under its limit."""


@dataclass(frozen=True)
class ExactModel:
    """A :class:`TabularModel` with its transition matrix in compressed sparse rows."""

    tabular: TabularModel

    @cached_property
    def transitions(self) -> Any:
        """P, CSR of shape [S * A, S]; row ``state * A + action``."""
        model = self.tabular
        shape = (model.num_states * model.num_actions, model.num_states)
        return sparse.csr_matrix((model.probabilities, (model.pairs, model.next_states)), shape=shape)

    @cached_property
    def objectives(self) -> FloatArray:
        """[1 + p, S, A]: reward, then costs."""
        return self.tabular.objectives

    @property
    def shape(self) -> tuple[int, int]:
        """(S, A)."""
        return self.tabular.num_states, self.tabular.num_actions


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Exact evaluation of one policy. ``values`` [1+p]; ``state_values`` [1+p, S]; ``action_values`` [1+p, S, A]."""

    values: Float[FloatArray, " objectives"]
    state_values: Float[FloatArray, "objectives S"]
    action_values: Float[FloatArray, "objectives S A"]

    def advantages(self) -> Float[FloatArray, "objectives S A"]:
        """A_i(s,a) = Q_i(s,a) - V_i(s), shape [1+p, S, A]."""
        return self.action_values - self.state_values[..., None]


@dataclass(frozen=True, slots=True)
class OptimalPolicy:
    """Solution of the occupancy linear programme: ``policy`` [S, A], ``occupancy`` [S] (nu*), ``values`` [1+p]."""

    policy: Float[FloatArray, "S A"]
    occupancy: Float[FloatArray, " S"]
    values: Float[FloatArray, " objectives"]


def policy_transitions(model: ExactModel, policy: FloatArray) -> Any:
    """P^pi(s'|s) = sum_a pi(a|s) P(s'|s,a), CSR [S, S]."""
    states, actions = model.shape
    rows = np.repeat(np.arange(states), actions)
    mixing = sparse.csr_matrix((policy.ravel(), (rows, np.arange(states * actions))), shape=(states, states * actions))
    return mixing @ model.transitions


def _solve(matrix: Any, right: FloatArray, *, transpose: bool = False) -> FloatArray:
    """Solve (matrix or its transpose) x = right for a sparse matrix; ``right`` is [S] or [S, K]."""
    if matrix.shape[0] <= DENSE_STATES:
        dense = matrix.toarray()
        return np.asarray(np.linalg.solve(dense.T if transpose else dense, right))
    return np.asarray(splu((matrix.T if transpose else matrix).tocsc()).solve(right))


def _bellman_matrix(model: ExactModel, policy: FloatArray) -> Any:
    states, _ = model.shape
    return sparse.identity(states, format="csr") - model.tabular.discount * policy_transitions(model, policy)


def evaluate(model: ExactModel, policy: Float[FloatArray, "S A"]) -> Evaluation:
    """Exact J_i, V_i and Q_i of every objective: V = (I - gamma P^pi)^{-1} c^pi, Q = c + gamma P V."""
    states, actions = model.shape
    expected = np.einsum("sa,isa->si", policy, model.objectives)
    state_values = _solve(_bellman_matrix(model, policy), expected).T
    successor = np.asarray(model.transitions @ state_values.T).T.reshape(-1, states, actions)
    action_values = model.objectives + model.tabular.discount * successor
    return Evaluation(state_values @ model.tabular.initial, state_values, action_values)


def occupancy(model: ExactModel, policy: Float[FloatArray, "S A"]) -> Float[FloatArray, " S"]:
    """Discounted state distribution nu = (1 - gamma) (I - gamma P^pi)^{-T} rho, shape [S]."""
    start = (1.0 - model.tabular.discount) * model.tabular.initial
    return _solve(_bellman_matrix(model, policy), start, transpose=True)


def optimal_policy(
    model: ExactModel,
    limits: Float[FloatArray, " p"] | None = None,
    objective: int = 0,
    least_reward: float | None = None,
) -> OptimalPolicy:
    """Solve the occupancy linear programme with HiGHS (Altman 1999, ch. 3).

    max sum x(s,a) c(s,a) over x >= 0 with sum_a x(s',a) - gamma sum x(s,a) P(s'|s,a) = (1 - gamma) rho(s') and
    sum x(s,a) c_i(s,a) <= (1 - gamma) d_i. ``objective`` 0 maximises the reward; i >= 1 minimises cost i. ``limits``
    [p] is left out for the unconstrained problem; ``least_reward`` adds J_0 >= least_reward. Absorbing and unreached
    states get the uniform policy, whose choice changes no value.

    Raises:
        InfeasibleError: no policy satisfies the limits.
    """
    states, actions = model.shape
    discount = model.tabular.discount
    outflow = sparse.kron(sparse.identity(states), np.ones((1, actions)), format="csr")
    flow = outflow - discount * model.transitions.T
    sign = -1.0 if objective == 0 else 1.0
    rows, bounds = _inequalities(model, limits, least_reward)
    result = linprog(
        sign * model.objectives[objective].ravel(),
        A_eq=flow,
        b_eq=(1.0 - discount) * model.tabular.initial,
        A_ub=np.array(rows) if rows else None,
        b_ub=(1.0 - discount) * np.array(bounds) if rows else None,
        method="highs",
        options={"primal_feasibility_tolerance": _ACCURACY, "dual_feasibility_tolerance": _ACCURACY},
    )
    if result.status == 2:
        raise InfeasibleError("no policy keeps every cost under its limit")
    if result.status != 0:
        raise RuntimeError(f"the occupancy linear programme failed: {result.message}")
    return _from_occupancy(model, np.maximum(np.asarray(result.x), 0.0).reshape(states, actions))


def _inequalities(
    model: ExactModel, limits: FloatArray | None, least_reward: float | None
) -> tuple[list[FloatArray], list[float]]:
    """Rows and bounds of the programme's inequalities, the bounds in units of J."""
    rows: list[FloatArray] = []
    bounds: list[float] = []
    if limits is not None:
        rows += [cost.ravel() for cost in model.tabular.costs]
        bounds += [float(limit) for limit in limits]
    if least_reward is not None:
        rows.append(-model.tabular.reward.ravel())
        bounds.append(-least_reward)
    return rows, bounds


def _from_occupancy(model: ExactModel, pair_occupancy: FloatArray) -> OptimalPolicy:
    mass = pair_occupancy.sum(axis=1)
    reached = (mass > 1e-12) & ~model.tabular.absorbing
    uniform = np.full_like(pair_occupancy, 1.0 / pair_occupancy.shape[1])
    policy = np.where(reached[:, None], pair_occupancy / np.where(reached, mass, 1.0)[:, None], uniform)
    return OptimalPolicy(policy, occupancy(model, policy), evaluate(model, policy).values)


@dataclass(frozen=True, slots=True)
class CostRange:
    """The range where each limit can bind: ``least`` [p] reachable costs; ``unconstrained`` [p] costs of the cheapest
    reward-optimal policy (ties between reward-optimal policies are broken for each cost)."""

    least: Float[FloatArray, " p"]
    unconstrained: Float[FloatArray, " p"]


def cost_range(model: ExactModel) -> CostRange:
    """Solve for the interval in which a limit on each cost alone is feasible and binds."""
    best = optimal_policy(model).values[0]
    slack = 1e-7 * max(1.0, abs(best))
    costs = range(1, 1 + model.tabular.num_costs)
    return CostRange(
        least=np.array([optimal_policy(model, objective=i).values[i] for i in costs]),
        unconstrained=np.array(
            [optimal_policy(model, objective=i, least_reward=best - slack).values[i] for i in costs]
        ),
    )
