"""Exact solutions of small constrained MDPs: values, occupancies and the occupancy linear programme.

Everything here is an oracle that estimators are tested against; notation as in ``docs/symbols.md``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import scipy  # scipy.optimize loads where it is first used
from jaxtyping import Float
from scipy import sparse
from scipy.sparse.linalg import splu

from tasks.contract.tabular_model import FloatArray, TabularModel

Method = Literal["highs", "highs-ipm"]
DENSE_STATES = 256
"""Up to this many states a dense solve beats SuperLU (``make bench``, exact evaluation)."""
ATTEMPTS: tuple[tuple[Method, float], ...] = (
    ("highs", 1e-10),
    ("highs", 1e-9),
    ("highs", 1e-8),
    ("highs", 1e-7),
    ("highs-ipm", 1e-7),
)
"""Methods and tolerances of HiGHS, in turn. Its own, 1e-7, is 1e-7 / (1 - gamma) in values and more: 1e-5 on a lake."""
_OPTIMAL, _INFEASIBLE = 0, 2
"""Statuses of ``linprog``."""


class InfeasibleError(ValueError):
    """No policy keeps every cost under its limit."""


class SolverError(RuntimeError):
    """The linear programme was neither solved nor found infeasible."""


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
    def dense_transitions(self) -> FloatArray:
        """P, [A, S, S], for few states."""
        states, actions = self.shape
        return np.ascontiguousarray(self.transitions.toarray().reshape(states, actions, states).swapaxes(0, 1))

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
    """Solution of the occupancy linear programme: ``policy`` [S, A], ``occupancy`` [S] (nu*), ``values`` [1+p].

    ``accuracy``: the tolerance at which HiGHS solved it, in units of occupancy.
    """

    policy: Float[FloatArray, "S A"]
    occupancy: Float[FloatArray, " S"]
    values: Float[FloatArray, " objectives"]
    accuracy: float = ATTEMPTS[0][1]


def policy_transitions(model: ExactModel, policy: FloatArray) -> Any:
    """P^pi(s'|s) = sum_a pi(a|s) P(s'|s,a), CSR [S, S]."""
    states, actions = model.shape
    rows = np.repeat(np.arange(states), actions)
    mixing = sparse.csr_matrix((policy.ravel(), (rows, np.arange(states * actions))), shape=(states, states * actions))
    return mixing @ model.transitions


def _solve(matrix: Any, right: FloatArray, *, transpose: bool = False) -> FloatArray:
    """Solve (matrix or its transpose) x = right for a dense or a sparse matrix; ``right`` is [S] or [S, K]."""
    matrix = matrix.T if transpose else matrix
    if isinstance(matrix, np.ndarray):
        return np.asarray(np.linalg.solve(matrix, right))
    return np.asarray(splu(matrix.tocsc()).solve(right))


def bellman_matrix(model: ExactModel, policy: FloatArray) -> Any:
    """I - gamma P^pi, dense for few states: sparse products of tiny matrices take most of their time to be set up.

    Both forms add the actions' shares in the same order, so that they are equal to the last bit.
    """
    states, actions = model.shape
    if states > DENSE_STATES:
        return sparse.identity(states, format="csr") - model.tabular.discount * policy_transitions(model, policy)
    mixed = np.zeros((states, states))
    for action in range(actions):
        mixed += policy[:, action, None] * model.dense_transitions[action]
    return np.identity(states) - model.tabular.discount * mixed


def evaluate(model: ExactModel, policy: Float[FloatArray, "S A"]) -> Evaluation:
    """Exact J_i, V_i and Q_i of every objective: V = (I - gamma P^pi)^{-1} c^pi, Q = c + gamma P V."""
    states, actions = model.shape
    expected = np.einsum("sa,isa->si", policy, model.objectives)
    state_values = _solve(bellman_matrix(model, policy), expected).T
    successor = np.asarray(model.transitions @ state_values.T).T.reshape(-1, states, actions)
    action_values = model.objectives + model.tabular.discount * successor
    return Evaluation(state_values @ model.tabular.initial, state_values, action_values)


def occupancy(model: ExactModel, policy: Float[FloatArray, "S A"]) -> Float[FloatArray, " S"]:
    """Discounted state distribution nu = (1 - gamma) (I - gamma P^pi)^{-T} rho, shape [S]."""
    start = (1.0 - model.tabular.discount) * model.tabular.initial
    return _solve(bellman_matrix(model, policy), start, transpose=True)


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
    right = (1.0 - discount) * np.array(bounds)
    result, accuracy = _programme_result(
        sign * model.objectives[objective].ravel(),
        (flow, (1.0 - discount) * model.tabular.initial),
        (np.array(rows), right) if rows else (None, None),
    )
    found = _from_occupancy(model, np.maximum(np.asarray(result), 0.0).reshape(states, actions))
    return dataclasses.replace(found, accuracy=accuracy)


def _programme_result(
    objective: FloatArray, equalities: tuple[Any, FloatArray], inequalities: tuple[Any, Any]
) -> tuple[FloatArray, float]:
    """The optimum [S A] of a linear programme, and the tolerance at which HiGHS found it.

    HiGHS gives up on some programmes at a tight tolerance, or calls them infeasible; its simplex does not recognise
    some infeasible ones at all. "Infeasible" is believed of the last attempt, or of the least excess over the bounds.
    Its tolerances are absolute, so the objective and every inequality are first put in units near their largest entry:
    the solution does not depend on the units of rewards and costs.

    Raises:
        InfeasibleError: no point satisfies the constraints.
        SolverError: HiGHS found neither an optimum nor infeasibility.
    """
    objective = objective / unit_of(objective)
    if inequalities[0] is not None:
        units = np.array([unit_of(row) for row in inequalities[0]])
        inequalities = inequalities[0] / units[:, None], inequalities[1] / units
    for method, accuracy in ATTEMPTS:
        result = _highs(objective, equalities, inequalities, method, accuracy)
        if result.status == _OPTIMAL:
            return np.asarray(result.x), accuracy
    if result.status == _INFEASIBLE or _least_excess(equalities, inequalities) > ATTEMPTS[-1][1]:
        raise InfeasibleError("no policy keeps every cost under its limit")
    raise SolverError(f"the occupancy linear programme failed at every tolerance: {result.message}")


def unit_of(values: FloatArray) -> float:
    """The power of 1024 nearest to the largest entry: numbers are divided by it without rounding; 1 for zeros."""
    largest = float(np.abs(values).max(initial=0.0))
    return float(np.exp2(10.0 * np.round(np.log2(largest) / 10.0))) if largest > 0.0 else 1.0


def _least_excess(equalities: tuple[Any, FloatArray], inequalities: tuple[Any, Any]) -> float:
    """The least t >= 0 by which all inequalities must be relaxed; NaN where HiGHS does not find it."""
    (flow, start), (rows, bounds) = equalities, inequalities
    if rows is None:
        return float("nan")
    count = flow.shape[1]
    wider = sparse.hstack([flow, sparse.csr_matrix((flow.shape[0], 1))], format="csr")
    relaxed = np.column_stack([rows, -np.ones(len(rows))])
    least = _highs(np.append(np.zeros(count), 1.0), (wider, start), (relaxed, bounds), *ATTEMPTS[-1])
    return float(least.fun) if least.status == _OPTIMAL else float("nan")


def _highs(
    objective: FloatArray,
    equalities: tuple[Any, FloatArray],
    inequalities: tuple[Any, Any],
    method: Any,
    accuracy: float,
) -> Any:
    (flow, start), (rows, bounds) = equalities, inequalities
    options: Any = {"primal_feasibility_tolerance": accuracy, "dual_feasibility_tolerance": accuracy}
    return scipy.optimize.linprog(
        objective, A_eq=flow, b_eq=start, A_ub=rows, b_ub=bounds, method=method, options=options
    )


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
    slack = 1e-7 * max(unit_of(model.tabular.reward), abs(best))
    costs = range(1, 1 + model.tabular.num_costs)
    return CostRange(
        least=np.array([optimal_policy(model, objective=i).values[i] for i in costs]),
        unconstrained=np.array(
            [optimal_policy(model, objective=i, least_reward=best - slack).values[i] for i in costs]
        ),
    )
