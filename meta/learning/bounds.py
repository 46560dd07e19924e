"""Upper bounds on a task's optimality gap and violation (docs/symbols.md): what the meta-learner learns on."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from meta.learning.settings import Curvature
from policies.common.branches import REWARD_BRANCH
from policies.common.results import Solution
from policies.exact.softmax import kl_divergence
from tasks.contract.tabular_model import FloatArray


def initialization_loss(
    occupancy: Float[FloatArray, " S"], policy: Float[FloatArray, "S A"], initialization: Float[FloatArray, "S A"]
) -> float:
    """f(phi) = sum_s nu(s) KL(pi(.|s) || phi(.|s)).

    With (nu*, pi*) the exact loss f_t; with (nu_hat, pi_hat) the inexact f_hat_t. Shapes [S], [S, A], [S, A].
    """
    return float(occupancy @ kl_divergence(policy, initialization))


def measured_curvature(
    log_normalizers: Float[FloatArray, "M S"],
    branches: Int[NDArray[np.int64], " M"],
    learning_rates: Float[FloatArray, " objectives"],
    occupancy: Float[FloatArray, " S"],
) -> Float[FloatArray, " objectives"]:
    """b_i: the mean over the iterations that stepped on objective i of E_{s~nu}[log Z_m(s)] / alpha_i^2, [1+p].

    NaN for an objective that no iteration stepped on: nothing was measured.
    """
    per_iteration = log_normalizers @ occupancy
    result = np.full(learning_rates.size, np.nan)
    for objective in np.unique(branches):
        mean = per_iteration[branches == objective].mean()
        result[objective] = mean / learning_rates[objective] ** 2
    return result


def shared_curvature(
    curvature: Float[FloatArray, " objectives"], branches: Int[NDArray[np.int64], " M"]
) -> Float[FloatArray, " objectives"]:
    """b_i |N_i| / M, [1+p]: the curvature of objective i averaged over all M iterations instead of over its own.

    This is the term that the per-run inequality has: sum_m E[log Z_m] = sum_i alpha_i^2 b_i |N_i|. With a rate for each
    objective, U_i = f / (a M) + a b_i |N_i| / M is the tighter bound; an objective that few iterations step on may
    take larger steps.
    """
    return curvature * np.bincount(branches, minlength=curvature.size) / branches.size


def chosen_curvature(
    choice: Curvature, measured: FloatArray, branches: NDArray[np.int64], worst_case: Callable[[], float]
) -> FloatArray:
    """The curvature b [1+p] that ``meta.learning_rates.curvature`` asks for.

    Args:
        choice: the setting.
        measured: b_i of the iterations that stepped on objective i, [1+p].
        branches: the objective of each iteration, [M].
        worst_case: CRPO's constant for the task.
    """
    if choice == "worst_case":
        return np.full(measured.size, worst_case())
    return shared_curvature(measured, branches) if choice == "measured_shared" else measured


def worst_case_curvature(largest_cost: float, num_states: int, num_actions: int, discount: float) -> float:
    """CRPO's constant b = 2 c_max^2 |S| |A| / (1 - gamma)^3 (Xu et al. 2021, theorem 1)."""
    return 2.0 * largest_cost**2 * num_states * num_actions / (1.0 - discount) ** 3


def upper_bound(loss: float, learning_rate: float, num_iterations: int, curvature: float) -> float:
    """U(phi, a) = f(phi) / (a M) + a b."""
    return loss / (learning_rate * num_iterations) + learning_rate * curvature


def best_learning_rate(loss: float, num_iterations: int, curvature: float) -> float:
    """The minimiser of U in a: sqrt(f / (M b))."""
    return math.sqrt(loss / (num_iterations * curvature))


def regret_sides(
    solution: Solution,
    values: FloatArray,
    optimum: FloatArray,
    policy: FloatArray,
    occupancy: FloatArray,
) -> tuple[float, float]:
    """Both sides of the regret identity with switching (THEORY section 2), for exact evaluation.

    sum_m s_m [J_{i_m}(pi*) - J_{i_m}(pi_m)] = E_{nu*}[KL(pi*||pi_0) - KL(pi*||pi_M)] + sum_m E_{nu*}[log Z_m], with
    s_m the signed rate of step m and i_m its objective. ``values`` [M+1, 1+p] are exact; ``optimum`` [1+p], ``policy``
    [S, A] and ``occupancy`` [S] belong to any comparison policy.
    """
    taken = np.arange(solution.branches.size)
    differences = optimum[solution.branches] - values[taken, solution.branches]
    divergence = occupancy @ (policy * (solution.iterates[-1] - solution.iterates[0])).sum(axis=1)
    return float(solution.steps @ differences), float(divergence + (solution.log_normalizers @ occupancy).sum())


def per_run_inequality(
    solution: Solution,
    values: FloatArray,
    optimum: FloatArray,
    tolerance: FloatArray,
    policy: FloatArray,
    occupancy: FloatArray,
) -> tuple[float, float]:
    """Both sides (left <= right) of THEORY section 4's per-run inequality, for exact evaluation.

    alpha_0 sum_{N_0} [J_0(pi*) - J_0(pi_m)] + sum_i alpha_i eta_i |N_i| <= f(phi) + sum_m E_{nu*}[log Z_m].
    """
    on_reward = np.flatnonzero(solution.branches == REWARD_BRANCH)
    on_cost = np.flatnonzero(solution.branches != REWARD_BRANCH)
    left = float(solution.steps[on_reward] @ (optimum[0] - values[on_reward, 0]))
    left += float(-solution.steps[on_cost] @ tolerance[solution.branches[on_cost] - 1])
    loss = initialization_loss(occupancy, policy, np.exp(solution.iterates[0]))
    return left, loss + float((solution.log_normalizers @ occupancy).sum())


def a_priori_tolerance(
    run: Callable[[float], Solution],
    loss: float,
    learning_rate: float,
    num_iterations: int,
    occupancy: FloatArray,
    worst_case: float,
) -> tuple[float, Solution]:
    """The smallest self-consistent tolerance eta = 2 U found by iteration, and the run with it.

    The measured b depends on the run and the run on eta; b is raised to what a run measured until a run measures no
    more than was assumed (b is at most ``worst_case``, so this ends). One rate for all objectives. Then N_0 is not
    empty, the mean gap over N_0 and all violations in N_0 are at most 2 U (THEORY section 4, a-priori form).
    """
    curvature = 0.0
    while True:
        tolerance = 2.0 * upper_bound(loss, learning_rate, num_iterations, curvature)
        solution = run(tolerance)
        measured = float((solution.log_normalizers @ occupancy).mean()) / learning_rate**2
        if measured <= curvature or curvature >= worst_case:
            return tolerance, solution
        curvature = min(measured * (1.0 + 1e-9), worst_case)
