"""The occupancy linear programme on random problems: solved, or truly infeasible."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linprog

from policies.exact.drawing import require_feasible
from policies.exact.solver import ExactModel, InfeasibleError, SolverError, cost_range, optimal_policy
from policies.solving.solve_task import reference_solution
from tasks.contract.tabular_model import FloatArray, TabularModel
from tasks.contract.task import Task, TaskError
from tasks.lakes.frozen_lake import FrozenLake

DISCOUNTS = (0.9, 0.99, 0.999, 0.9999)


def random_model(seed: int, discount: float) -> TabularModel:
    """A CMDP of 3 to 19 states with 1 to 3 costs; transitions are dense or nearly deterministic."""
    rng = np.random.default_rng(seed)
    states, actions, costs = int(rng.integers(3, 20)), int(rng.integers(2, 5)), int(rng.integers(1, 4))
    matrix = rng.dirichlet(np.full(states, 1.0 if rng.random() < 0.5 else 0.1), size=states * actions)
    matrix[matrix < 1e-6] = 0.0
    matrix /= matrix.sum(axis=1, keepdims=True)
    pairs, next_states = np.nonzero(matrix)
    return TabularModel(
        pairs=pairs,
        next_states=next_states,
        probabilities=matrix[pairs, next_states],
        reward=rng.random((states, actions)),
        costs=rng.random((costs, states, actions)),
        initial=rng.dirichlet(np.ones(states)),
        absorbing=np.zeros(states, np.bool_),
        discount=discount,
    )


def multipliers(model: ExactModel, limits: FloatArray) -> FloatArray:
    """Weights of the costs, from the duals of the least excess: a certificate that some limit must be broken."""
    states, actions = model.shape
    discount = model.tabular.discount
    flow = sparse.kron(sparse.identity(states), np.ones((1, actions))) - discount * model.transitions.T
    wider = sparse.hstack([flow, sparse.csr_matrix((states, 1))], format="csr")
    rows = np.column_stack([model.tabular.costs.reshape(limits.size, -1), -np.ones(limits.size)])
    found: Any = linprog(
        np.append(np.zeros(states * actions), 1.0),
        A_eq=wider,
        b_eq=(1.0 - discount) * model.tabular.initial,
        A_ub=rows,
        b_ub=(1.0 - discount) * limits,
        method="highs-ipm",
    )
    return np.asarray(-found.ineqlin.marginals)


def least_weighted_excess(model: TabularModel, limits: FloatArray, weights: FloatArray) -> float:
    """min over policies of sum_i w_i (J_i - d_i), by a programme without limits; above 0 none keeps all limits."""
    total = np.tensordot(weights, model.costs, axes=1)
    single = dataclasses.replace(model, costs=total[None])
    return float(optimal_policy(ExactModel(single), objective=1).values[1] - weights @ limits)


def check(seed: int) -> str:
    discount = DISCOUNTS[seed % len(DISCOUNTS)]
    tabular = random_model(seed, discount)
    model = ExactModel(tabular)
    interval = cost_range(model)
    share = np.random.default_rng(seed).uniform(0.05, 0.9)
    limits = interval.least + share * np.maximum(interval.unconstrained - interval.least, 1e-3)
    try:
        found = optimal_policy(model, limits)
    except InfeasibleError:
        excess = least_weighted_excess(tabular, limits, multipliers(model, limits))
        assert excess * (1.0 - discount) > 1e-8, f"seed {seed}: called infeasible, least excess {excess}"
        return "infeasible"
    assert ((found.values[1:] - limits) * (1.0 - discount)).max() < 1e-6
    return "solved"


def test_random_problems_are_solved_or_truly_infeasible() -> None:
    found = [check(seed) for seed in range(80)]
    assert found.count("solved") > 40
    assert found.count("infeasible") > 5


@pytest.mark.slow
def test_two_thousand_random_problems_are_solved_or_truly_infeasible() -> None:
    assert set(map(check, range(80, 2080))) == {"solved", "infeasible"}


def test_a_programme_that_simplex_gives_up_on_is_found_infeasible() -> None:
    assert check(935) == "infeasible"


@pytest.mark.parametrize("status", [4, 2])
def test_tolerances_follow_each_other_until_one_succeeds(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tried = ExactModel(random_model(0, 0.9)), list[float]()
    exact, real = optimal_policy(model), linprog

    def stubborn(*arguments: Any, options: Any, **keywords: Any) -> Any:
        found = real(*arguments, options=options, **keywords)
        tried.append(options["primal_feasibility_tolerance"])
        if tried[-1] < 1e-8:
            found.status = status
        return found

    monkeypatch.setattr("scipy.optimize.linprog", stubborn)
    found = optimal_policy(model)
    assert tried == [1e-10, 1e-9, 1e-8]
    assert (exact.accuracy, found.accuracy) == (1e-10, 1e-8)
    np.testing.assert_allclose(found.values, exact.values, rtol=1e-6)


def test_a_failure_names_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **keywords: Any) -> Any:
        raise SolverError("failed at every tolerance")

    family = FrozenLake(seed=0, map_size=4)
    task = Task("frozen_lake", "train", 3, 0, family.parameters("train", 3, 0), (1.0,))
    for module in ("policies.exact.drawing", "policies.solving.solve_task"):
        monkeypatch.setattr(f"{module}.optimal_policy", fails)
    with pytest.raises(TaskError, match=r"frozen_lake/train/3: failed at every tolerance"):
        require_feasible(task, ExactModel(family.model(task.parameters)), ("holes",))
    with pytest.raises(TaskError, match=r"frozen_lake/train/3: failed at every tolerance"):
        reference_solution(family, task)
