"""Reptile, MAML with a penalty and the multitask policy on networks: identities, and a gradient held to torch's."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch

from meta.learning.neural import NeuralContribution
from meta.learning.settings import MetaSettings
from meta.methods.maml_penalty import NeuralPenaltyLearner, adapt, penalized_policy_gradient
from meta.methods.multitask import multitask_network, side_by_side
from meta.methods.reptile import reptile_policy
from meta.offline.dice_settings import DICESettings
from meta.training.pool import LocalLearner, LocalPool
from policies.common.branches import tolerance_of_each
from policies.common.results import Start
from policies.neural.crpo import fresh_policy, iterate_neural
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState
from policies.neural.rollouts import NeuralRollouts
from policies.neural.update import Problem, estimate_advantages
from tasks.contract.family_registry import FamilySpec
from tasks.contract.task import Task
from tasks.stepping.batch import make_batch

SPEC = FamilySpec("tests.support.point_batch:PointFamily", 0, 8, {})
WITHIN = NeuralSettings(num_iterations=3, steps_per_iteration=400, num_copies=4, hidden=(6,), critic_hidden=(6,))
FAMILY = SPEC.make()


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return LocalPool(SPEC).draw("train", range(4))


def as_start(policy: PolicyState, rate: float) -> Start:
    return Start(policy, np.full(policy.num_objectives, rate))


def fresh(task: Task) -> PolicyState:
    batch = make_batch(FAMILY, task, 1)
    try:
        return fresh_policy(batch, WITHIN, 0)
    finally:
        batch.close()


def test_reptile_with_one_task_and_a_full_step_acts_as_that_tasks_policy(tasks: list[Task]) -> None:
    pool, start = LocalPool(SPEC), fresh(tasks[0])
    learner = LocalLearner(MetaSettings(), DICESettings(estimator="none"), 3)
    (solved,) = pool.solve(tasks[:1], as_start(start, 0.1), WITHIN, collect=True)
    items = [cast("NeuralContribution", learner.estimate(solved.dataset, "task").result())]
    found = reptile_policy(start, items, 1.0)
    rows = items[0].observations
    for mine, others in zip(found.act(rows), items[0].policy.act(rows), strict=True):
        np.testing.assert_allclose(mine, others, atol=2e-5)
    np.testing.assert_allclose(found.values(rows), items[0].policy.values(rows), atol=2e-4)
    half = reptile_policy(items[0].policy, items, 0.5)
    np.testing.assert_allclose(half.act(rows)[0], items[0].policy.act(rows)[0], atol=2e-5)


def test_the_outer_gradient_is_torchs(tasks: list[Task]) -> None:
    """Autograd of mean((A_0 - lambda A_1) log pi) with the advantages held fixed."""
    batch = make_batch(FAMILY, tasks[0], 4)
    adapted = adapt(FAMILY, tasks[0], as_start(fresh(tasks[0]), 0.1), WITHIN)
    batch.close()
    penalties, trace = np.array([2.0]), np.full(2, 0.95)
    found = penalized_policy_gradient(adapted.policy, adapted.data, penalties, FAMILY.discount, trace)
    estimates = estimate_advantages(adapted.policy, adapted.data, FAMILY.discount, trace)
    combined = estimates.advantages[:, 0] - 2.0 * estimates.advantages[:, 1]
    combined = combined - combined.mean()
    network = adapted.policy.actor.network
    parameters = {
        name: torch.tensor(part.astype(np.float64), requires_grad=True)
        for name, part in adapted.policy.actor.arrays().items()
    }
    hidden = torch.tanh(
        torch.tensor(estimates.inputs.astype(np.float64)) @ parameters["weights_0"] + parameters["bias_0"]
    )
    mean = hidden @ parameters["weights_1"] + parameters["bias_1"]
    std = torch.exp(parameters["log_std"])
    actions = torch.tensor(adapted.data.flat(adapted.data.actions).astype(np.float64))
    log_probability = torch.distributions.Normal(mean, std).log_prob(actions).sum(dim=1)
    (torch.tensor(combined.astype(np.float64)) * log_probability).mean().backward()
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        expected = parameter.grad.numpy()
        np.testing.assert_allclose(network.part(found, name), expected, atol=2e-4 * max(1.0, np.abs(expected).max()))


def test_the_penalty_learner_climbs_and_sees_every_task(tasks: list[Task]) -> None:
    start = fresh(tasks[0])
    learner = NeuralPenaltyLearner(start, np.array([1.0]), 0.01, FAMILY.discount, WITHIN)
    adapted = [adapt(FAMILY, task, as_start(start, 0.1), WITHIN) for task in tasks[:2]]
    learner.update(adapted)
    assert learner.policy.statistics.count == sum(item.statistics.count for item in adapted)
    moved = learner.policy.actor.vector - start.with_statistics(learner.policy.statistics).actor.vector
    assert np.abs(moved).max() == pytest.approx(0.01, rel=1e-2)


def test_without_a_batch_of_the_last_iterate_there_is_no_outer_gradient(tasks: list[Task]) -> None:
    within = WITHIN.model_copy(update={"evaluate_last": False})
    with pytest.raises(ValueError, match="evaluate_last: maml_penalty needs the batch of the last iterate"):
        adapt(FAMILY, tasks[0], as_start(fresh(tasks[0]), 0.1), within)


def test_batches_side_by_side_are_one_batch(tasks: list[Task]) -> None:
    start, parts = fresh(tasks[0]), []
    for task in tasks[:2]:
        batch = make_batch(FAMILY, task, 2)
        parts.append(NeuralRollouts(batch, 50, task.seed, task.label).collect(start, 0).copy())
        batch.close()
    both = side_by_side(parts)
    assert both.signals.shape[:2] == (50, 4)
    np.testing.assert_array_equal(both.observations[:, 2:], parts[1].observations)
    steps, copies = both.final_steps[len(parts[0].final_steps) :].T
    np.testing.assert_array_equal(copies, parts[1].final_steps[:, 1] + 2)
    assert both.ended[steps, copies][steps < 49].all()


def test_multitask_with_one_task_is_crpo(tasks: list[Task]) -> None:
    task, start = tasks[0], fresh(tasks[0])
    found = multitask_network(FAMILY, [task], start, np.full(2, 0.1), WITHIN, group_size=4, seed=5)
    batch, limits = make_batch(FAMILY, task, 4), np.array(task.limits)
    problem = Problem(np.full(2, 0.1), limits, tolerance_of_each(0.0, 1), FAMILY.discount, batch.horizon)
    longer = WITHIN.model_copy(update={"num_iterations": 4, "evaluate_last": False})
    rng = np.random.default_rng([5, 42])
    iterates = [
        (iteration.values, iteration.policy)
        for iteration in iterate_neural(batch, start, problem, longer, task.seed, rng, label="t")
    ]
    batch.close()
    kept = [policy for values, policy in iterates if values[1] <= limits[0]]
    expected = kept[-1] if kept else min(iterates, key=lambda item: item[0][1])[1]
    np.testing.assert_array_equal(found.actor.vector, expected.actor.vector)
    np.testing.assert_array_equal(found.critic.vector, expected.critic.vector)


def test_multitask_learns_on_several_tasks(tasks: list[Task]) -> None:
    start = fresh(tasks[0])
    within = WITHIN.model_copy(update={"num_iterations": 8})
    found = multitask_network(FAMILY, tasks, start, np.full(2, 0.1), within, group_size=4, seed=0)
    rewards = []
    for policy in (start, found):
        batch = make_batch(FAMILY, tasks[1], 20)
        rewards.append(float(NeuralRollouts(batch, 40, 1, "t").collect(policy, 0).reward.mean()))
        batch.close()
    assert rewards[1] > rewards[0] + 0.05
