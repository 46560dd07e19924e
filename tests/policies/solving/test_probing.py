"""Choosing among starts: the rule against its words, the exact model, and estimates from rollouts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from policies.common.results import Candidates, Start
from policies.exact.drawing import draw_task
from policies.exact.solver import ExactModel, evaluate, optimal_policy
from policies.neural.crpo import fresh_policy
from policies.neural.neural_settings import NeuralSettings
from policies.solving.probing import choose_start, start_scores
from policies.solving.solve_task import solve_task
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.task import Task, TaskError
from tasks.lakes.frozen_lake import FrozenLake
from tasks.stepping.batch import make_batch
from tests.distributed.families import NotedPoints

LAKE = FrozenLake(seed=0, map_size=4, horizon=60)
RATES = np.ones(2)


def lake_task() -> Task:
    return draw_task(LAKE, "frozen_lake", 0, "train", 0)


def good_and_bad() -> tuple[np.ndarray, np.ndarray]:
    """The optimum of the task, shrunk, and a policy that goes left only."""
    task = lake_task()
    best = optimal_policy(ExactModel(LAKE.model(task.parameters)), np.array(task.limits)).policy
    left = np.tile([0.97, 0.01, 0.01, 0.01], (len(best), 1))
    return 0.98 * best + 0.005, left


def candidates(*policies: object, **more: object) -> Candidates:
    return Candidates(tuple(Start(policy, RATES) for policy in policies), **more)  # type: ignore[arg-type]


def test_a_score_is_the_loss_of_reward_and_the_violation_each_in_its_own_units() -> None:
    values = np.array([[4.0, 1.0, 6.0], [5.0, 3.0, 2.0], [1.0, 0.0, 0.0]])
    found = start_scores(values, np.array([2.0, 4.0]), np.zeros(2))
    np.testing.assert_allclose(found, [-(1.0 / 5.0) - 0.25, -0.25, -4.0 / 5.0], rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_choice_does_not_depend_on_the_units_of_reward_and_cost(scale: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        values, limits = rng.normal(loc=[0.0, 2.0, 2.0], size=(3, 3)), rng.uniform(1.0, 3.0, size=2)
        units = np.array([scale, 1.0 / scale, scale])
        found = start_scores(values * units, limits * units[1:], np.zeros(2))
        np.testing.assert_allclose(found, start_scores(values, limits, np.zeros(2)), rtol=1e-9)


def test_costs_within_the_tolerance_do_not_violate_and_negative_rewards_are_compared_by_their_loss() -> None:
    values = np.array([[-10.0, 2.4], [-20.0, 1.0]])
    np.testing.assert_allclose(start_scores(values, np.array([2.0]), np.array([0.5])), [0.0, -1.0])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("evaluation", ["exact", "sampled"])
def test_the_better_start_of_a_lake_is_taken_and_its_steps_are_counted(evaluation: str, order: tuple[int, int]) -> None:
    settings = WithinTaskSettings(evaluation=evaluation, num_iterations=2, episodes_per_iteration=10)
    policies, task = good_and_bad(), lake_task()
    starts = candidates(*(policies[number] for number in order))
    index, steps = choose_start(LAKE, task, starts, settings)
    assert order[index] == 0
    assert (steps == 0) == (evaluation == "exact")
    result, dataset = solve_task(LAKE, task, starts, settings, collect=True)
    alone, expected = solve_task(LAKE, task, starts.starts[index], settings, collect=True)
    assert (result.start_index, result.probe_steps) == (index, steps)
    assert result.env_steps == alone.env_steps + steps
    np.testing.assert_array_equal(result.values, alone.values)
    assert dataset is not None
    assert expected is not None
    np.testing.assert_array_equal(dataset.policy, expected.policy)
    assert dataset.start is starts.starts[index]


def test_the_number_of_probing_episodes_is_a_setting() -> None:
    settings, task = WithinTaskSettings(evaluation="sampled", episodes_per_iteration=40), lake_task()
    left = good_and_bad()[1]
    few, many = (
        choose_start(LAKE, task, candidates(left, left, probe_episodes=count), settings)[1] for count in (3, None)
    )
    assert few <= 2 * 3 * LAKE.horizon
    assert many > 5 * few


def test_equal_starts_give_the_first_whatever_their_number_of_copies() -> None:
    settings, task = WithinTaskSettings(evaluation="sampled", num_copies=1), lake_task()
    good = good_and_bad()[0]
    for copies in (1, 7):
        chosen = choose_start(
            LAKE, task, candidates(good, good, good), settings.model_copy(update={"num_copies": copies})
        )
        assert chosen[0] == 0


def test_sampled_choice_is_the_exact_one_where_starts_differ_clearly() -> None:
    settings = WithinTaskSettings(evaluation="sampled", episodes_per_iteration=30)
    rng, agreed = np.random.default_rng(1), 0
    model = ExactModel(LAKE.model(lake_task().parameters))
    for _ in range(10):
        policies = [
            0.9 * good_and_bad()[0] + 0.1 * rng.dirichlet(np.full(4, 0.2), size=16),
            rng.dirichlet(np.ones(4), 16),
        ]
        policies = [0.98 * policy + 0.005 for policy in policies]
        values = np.array([evaluate(model, policy).values for policy in policies])
        wanted = int(np.argmax(start_scores(values, np.array(lake_task().limits), np.zeros(1))))
        agreed += choose_start(LAKE, lake_task(), candidates(*policies), settings)[0] == wanted
    assert agreed == 10


def test_round_robin_takes_turns_by_the_tasks_index_and_costs_nothing() -> None:
    left, task = good_and_bad()[1], lake_task()
    starts = candidates(left, left, left, selection="round_robin")
    for index in range(5):
        turn = choose_start(LAKE, dataclasses.replace(task, index=index), starts, WithinTaskSettings())
        assert turn == (index % 3, 0)


def test_one_row_of_rates_represents_all_starts() -> None:
    left = good_and_bad()[1]
    both = Candidates((Start(left, np.array([1.0, 4.0])), Start(left, np.array([3.0, 2.0]))))
    np.testing.assert_array_equal(both.learning_rates, [2.0, 3.0])


def neural() -> tuple[NotedPoints, Task, NeuralSettings]:
    family = NotedPoints(seed=0, num_tasks=4)
    task = draw_task(family, "points", 0, "train", 0)
    return family, task, NeuralSettings(steps_per_iteration=80, num_copies=4, hidden=(6,), critic_hidden=(6,))


def test_neural_starts_are_probed_and_the_better_one_is_taken() -> None:
    """On points that are to move to one side, by the bias of the actor's last layer."""
    family, task, settings = neural()
    batch = make_batch(family, task, 4)
    fresh = fresh_policy(batch, settings, 0)
    batch.close()
    pushed = []
    for push in (-1.0, 1.0):
        actor = dataclasses.replace(fresh.actor, vector=fresh.actor.vector.copy())
        actor.network.part(actor.vector, f"bias_{actor.network.num_layers - 1}")[:] = push
        pushed.append(dataclasses.replace(fresh, actor=actor))
    alone = []
    for policy in pushed:
        result = solve_task(family, task, Start(policy, RATES), settings, collect=False)[0]
        alone.append(result.values[0])
    wanted = int(np.argmax(start_scores(np.array(alone), np.array(task.limits), np.zeros(1))))
    assert abs(alone[0][0] - alone[1][0]) > 0.1, "the two starts differ"
    for order in ((0, 1), (1, 0)):
        starts = candidates(*(pushed[number] for number in order), probe_episodes=2)
        index, steps = choose_start(family, task, starts, settings)
        assert order[index] == wanted
        assert steps == 2 * 2 * batch.horizon
    whole = choose_start(family, task, candidates(*pushed), settings)
    assert whole == (wanted, 2 * settings.steps_per_iteration)


def test_starts_of_the_wrong_kind_are_refused_by_name() -> None:
    family, task, settings = neural()
    table = good_and_bad()[1]
    with pytest.raises(TaskError, match=r"points/train/0: neural_crpo needs a neural start, got a table"):
        choose_start(family, task, candidates(table, table), settings)
