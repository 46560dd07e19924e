"""Safe steps of a table: unbiased costs of a candidate, limits that are kept, and plain CRPO where nothing binds."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from policies.common.results import Start, TaskResult
from policies.common.safety import Safety, SafetySettings
from policies.exact.drawing import draw_task
from policies.exact.softmax import log_policy, natural_gradient_step
from policies.exact.solver import ExactModel, evaluate
from policies.solving.solve_task import solve_task
from policies.tabular.crpo import WithinTaskSettings
from policies.tabular.rollouts import TabularRollouts
from policies.tabular.safe_steps import costs_of_episodes
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task
from tasks.lakes.frozen_lake import FrozenLake
from tests.support.few_variants import few

LAKE = FrozenLake(seed=2, map_size=4, horizon=120, discount=0.9)
TASK = draw_task(LAKE, "frozen_lake", 2, "train", 0)


def model() -> ExactModel:
    return ExactModel(LAKE.model(TASK.parameters))


def policies() -> tuple[FloatArray, FloatArray]:
    """Logits of the uniform policy, and of one that CRPO's step on the reward makes of it."""
    uniform = log_policy(np.zeros(model().shape))
    return uniform, natural_gradient_step(
        uniform, evaluate(model(), np.exp(uniform)).advantages()[0], 1.5, LAKE.discount
    )


def careful() -> FloatArray:
    """A policy of low cost, whose reward can only rise with its cost."""
    logits = policies()[0]
    for _ in range(8):
        logits = natural_gradient_step(logits, evaluate(model(), np.exp(logits)).advantages()[1], -2.0, LAKE.discount)
    return np.exp(logits)


def solved(
    task: Task = TASK, start: FloatArray | None = None, safety: Safety | None = None, **changes: Any
) -> TaskResult:
    settings = WithinTaskSettings(num_iterations=6, episodes_per_iteration=30).model_copy(update=changes)
    policy = np.exp(policies()[0]) if start is None else start
    result, _ = solve_task(LAKE, task, Start(policy, np.array([1.0, 1.0]), safety=safety), settings, collect=False)
    return result


def safety(confidence: float = 0.95, **settings: Any) -> Safety:
    return Safety(SafetySettings(confidence=confidence, **settings), np.zeros(1))


@pytest.mark.parametrize("known", few([True, False], 1), ids=["with Q", "with any Q"])
def test_costs_of_a_candidate_are_estimated_without_bias(known: bool) -> None:
    acted, candidate = policies()
    exact = evaluate(model(), np.exp(acted)).action_values[1:]
    values = exact if known else np.random.default_rng(0).random(exact.shape)
    rollouts = TabularRollouts(LAKE, TASK, 10)
    data = rollouts.collect(np.exp(acted), 0, 4000)
    rollouts.close()
    found, effective = costs_of_episodes(data, acted, candidate, values, LAKE.discount)
    truth = evaluate(model(), np.exp(candidate)).values[1]
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - truth) < 4.0 * error
    assert abs(truth - evaluate(model(), np.exp(acted)).values[1]) > 8.0 * error or not known, "the two differ by more"
    assert 0.0 < effective < 1.0


def test_without_q_the_acting_policy_has_the_costs_of_its_episodes() -> None:
    acted, _ = policies()
    rollouts = TabularRollouts(LAKE, TASK, 3)
    data = rollouts.collect(np.exp(acted), 0, 7)
    rollouts.close()
    found, effective = costs_of_episodes(data, acted, acted, np.zeros((1, *acted.shape)), LAKE.discount)
    expected = []
    for episode in range(7):
        costs = data.costs[data.episodes == episode, 0]
        expected.append(float(costs @ LAKE.discount ** np.arange(len(costs))))
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-12)
    assert effective == pytest.approx(1.0)


def test_weights_that_overflow_say_nothing() -> None:
    acted, candidate = policies()
    rollouts = TabularRollouts(LAKE, TASK, 3)
    data = rollouts.collect(np.exp(acted), 0, 20)
    rollouts.close()
    far = acted + 400.0 * (candidate - acted)
    assert costs_of_episodes(data, acted, far, np.zeros((1, *acted.shape)), LAKE.discount)[1] == 0.0


def test_with_exact_values_no_deployed_policy_is_over_the_limit_and_crpo_deploys_some() -> None:
    cost = float(solved(start=careful()).values[0, 1])
    task = dataclasses.replace(TASK, limits=(1.5 * cost,))
    plain, safe = solved(task, careful()), solved(task, careful(), safety())
    assert (plain.values[:, 1] > task.limits[0]).any()
    assert (safe.values[:, 1] <= task.limits[0]).all()
    assert safe.values[safe.output, 0] > safe.values[0, 0], "it moves nevertheless"
    report = safe.safety
    assert report is not None
    assert (report.shares < 1.0).any()
    assert report.margins.tolist() == [0.0], "exact bounds need no margin"
    assert report.test_steps == 0


@pytest.mark.parametrize("evaluation", ["exact", "sampled"])
def test_where_the_bounds_never_bind_it_is_plain_crpo_to_the_last_bit(evaluation: str) -> None:
    task = dataclasses.replace(TASK, limits=(1e6,))
    loose = safety(least_effective=1e-9)
    plain, safe = solved(task, evaluation=evaluation), solved(task, safety=loose, evaluation=evaluation)
    assert safe.safety is not None
    assert (safe.safety.shares == 1.0).all()
    np.testing.assert_array_equal(np.asarray(safe.policy), np.asarray(plain.policy))
    np.testing.assert_array_equal(safe.values, plain.values)
    assert safe.env_steps == plain.env_steps + safe.safety.test_steps


def test_a_sampled_step_stays_below_the_limit_and_says_why() -> None:
    cost = float(solved(start=careful()).values[0, 1])
    task = dataclasses.replace(TASK, limits=(1.5 * cost,))
    safe = solved(task, careful(), safety(0.9), evaluation="sampled")
    report = safe.safety
    assert report is not None
    assert (report.shares < 1.0).any()
    assert any("over its limit" in reason or "too little" in reason for reason in report.reasons)
    assert report.test_steps > 0
    task = dataclasses.replace(TASK, limits=(1.0001 * cost,))
    tight = solved(task, careful(), safety(0.999), evaluation="sampled")
    assert tight.safety is not None
    on_reward = tight.branches == 0
    assert (tight.safety.shares[on_reward] == 0.0).all(), "no step where the bounds allow none"


def test_a_policy_over_the_limit_is_brought_below_it() -> None:
    cost = float(solved().values[0, 1])
    task = dataclasses.replace(TASK, limits=(0.7 * cost,))
    for evaluation in ("exact", "sampled"):
        safe = solved(task, safety=safety(0.9), evaluation=evaluation, num_iterations=10)
        assert safe.values[0, 1] > task.limits[0] > safe.values[-1, 1], evaluation
