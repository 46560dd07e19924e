"""Held-out tasks that are given: which they are, what they change, and the settings that solve held-out tasks."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pydantic
import pytest

from meta.judging.held_out import HeldOut, hold_out
from meta.learning.bounds import best_learning_rate
from meta.learning.settings import LearningRateSettings, MetaSettings
from meta.offline.dice_settings import DICESettings
from meta.training.evaluation_settings import EvaluationSettings, GivenTask, HeldOutTrustRegion
from meta.training.experiment import Experiment, draw
from meta.training.held_out_tasks import given_tasks, held_out_settings, held_out_tasks, require_held_out_settings
from meta.training.pool import LocalPool
from policies.common.results import Candidates, Start
from policies.neural.neural_settings import NeuralSettings
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.family_registry import FamilySpec
from tasks.contract.task import TaskError
from tests.support.wings import ROOT

LAKES = FamilySpec("frozen_lake", 1, 4, {"map_size": 4})
CHEETAHS = FamilySpec("half_cheetah", 0, 4, {})
NEURAL = NeuralSettings(steps_per_iteration=400, num_copies=2)
TRAINING = ("meta/training/loop.py", "meta/methods/fal.py")
"""They solve training tasks with what was learned so far."""


def experiment(**changes: Any) -> Experiment:
    within = WithinTaskSettings(num_iterations=3, episodes_per_iteration=5, num_copies=5)
    made = Experiment(LAKES, 4, within, DICESettings(), MetaSettings(), EvaluationSettings(num_test_tasks=3))
    return dataclasses.replace(made, **changes)


def held_out(chosen: Experiment) -> HeldOut:
    """The fresh policy on the held-out tasks."""
    pool = LocalPool(chosen.family)
    drawn = draw(pool, chosen)
    return hold_out(pool, drawn.test, Start(drawn.fresh, np.ones(2)), chosen.held_out_within)


def as_given(chosen: Experiment) -> Experiment:
    """The same with the drawn held-out tasks given by their parameters."""
    tasks = [{"parameters": dict(task.parameters)} for task in LocalPool(LAKES).draw("test", range(3))]
    return dataclasses.replace(chosen, evaluation=EvaluationSettings.model_validate({"tasks": tasks}))


def test_the_drawn_tasks_given_by_their_parameters_give_the_same_exact_numbers() -> None:
    drawn, given = held_out(experiment()), held_out(as_given(experiment()))
    np.testing.assert_array_equal(given.reward_curve, drawn.reward_curve)
    np.testing.assert_array_equal(given.cost_curve, drawn.cost_curve)
    assert (given.gap, given.score) == (drawn.gap, drawn.score)
    assert [record["limits"] for record in given.records] == [record["limits"] for record in drawn.records]


def test_with_sampled_values_the_seeds_of_given_tasks_make_other_rollouts() -> None:
    sampled = experiment(within=experiment().within.model_copy(update={"evaluation": "sampled"}))
    drawn, given = held_out(sampled), held_out(as_given(sampled))
    assert (given.reward_curve[1:] != drawn.reward_curve[1:]).any()
    np.testing.assert_array_equal(held_out(as_given(sampled)).reward_curve, given.reward_curve)


def test_given_tasks_come_in_their_order_with_their_limits() -> None:
    given = (GivenTask(parameters={"target_speed": 2}), GivenTask(parameters={"target_speed": 1.5}, limits=(8.0,)))
    tasks = given_tasks(CHEETAHS, given)
    assert [(task.index, task.split, task.parameters["target_speed"]) for task in tasks] == [
        (0, "own", 2.0),
        (1, "own", 1.5),
    ]
    assert tasks[1].limits == (8.0,)
    assert tasks[0].limits == LocalPool(CHEETAHS).draw("test", [0])[0].limits
    evaluation = EvaluationSettings(tasks=given)
    assert evaluation.num_test_tasks == 2
    assert held_out_tasks(LocalPool(CHEETAHS), CHEETAHS, evaluation) == tasks
    assert len(held_out_tasks(LocalPool(CHEETAHS), CHEETAHS, EvaluationSettings(num_test_tasks=3))) == 3


def test_a_repeated_task_has_a_seed_of_its_own() -> None:
    speeds = (2.0, 1.5, 2.0, 2.0)
    tasks = given_tasks(CHEETAHS, tuple(GivenTask(parameters={"target_speed": speed}) for speed in speeds))
    assert len({task.seed for task in tasks}) == 4
    (alone,) = given_tasks(CHEETAHS, (GivenTask(parameters={"target_speed": 1.5}),))
    assert alone.seed == tasks[1].seed


def test_parameters_alone_stand_for_a_task() -> None:
    short = EvaluationSettings.model_validate({"tasks": [{"target_speed": 2.0}]})
    assert short.tasks == (GivenTask(parameters={"target_speed": 2.0}),)
    assert EvaluationSettings.model_validate(short.model_dump(mode="json")) == short, "as a run directory keeps it"


@pytest.mark.parametrize("number", [20, 2])
def test_the_default_number_and_the_right_one_agree_with_given_tasks(number: int) -> None:
    settings = EvaluationSettings.model_validate({"tasks": [{"a": 1.0}, {"a": 2.0}], "num_test_tasks": number})
    assert settings.num_test_tasks == 2


def test_another_number_than_that_of_the_given_tasks_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="num_test_tasks is 3, but tasks holds 1: leave num_test_tasks"):
        EvaluationSettings.model_validate({"tasks": [{"a": 1.0}], "num_test_tasks": 3})


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([{"target_speed": 1.0}, {"speed": 1.0}], "evaluation.tasks.1.parameters: tasks of half_cheetah have no"),
        ([{"parameters": {"target_speed": 1.0}, "limits": [0.0]}], "evaluation.tasks.0.limits: the limit of"),
    ],
)
def test_a_given_task_that_cannot_be_used_is_named_by_its_key(tasks: Any, message: str) -> None:
    settings = EvaluationSettings.model_validate({"tasks": tasks})
    with pytest.raises(TaskError) as error:
        held_out_tasks(LocalPool(CHEETAHS), CHEETAHS, settings)
    assert str(error.value).startswith(message)


def test_settings_for_held_out_tasks_replace_those_within_a_task() -> None:
    assert held_out_settings(NEURAL, EvaluationSettings()) == NEURAL
    region = HeldOutTrustRegion(delta_max=0.003)
    changed = EvaluationSettings(num_iterations=4, safety_margin=0.1, steps_per_iteration=600, trust_region=region)
    found = held_out_settings(NEURAL, changed)
    assert isinstance(found, NeuralSettings)
    assert (found.num_iterations, found.safety_margin, found.steps_per_iteration) == (4, 0.1, 600)
    assert found.trust_region == NEURAL.trust_region.model_copy(update={"delta_max": 0.003})
    assert found == NEURAL.model_copy(
        update={
            **{"num_iterations": 4, "safety_margin": 0.1, "steps_per_iteration": 600},
            "trust_region": found.trust_region,
        }
    )


def test_rates_of_new_tasks_minimise_the_bound_of_their_own_number_of_updates() -> None:
    """The least f_hat / (alpha M) + alpha b: M = 15 in training and M' = 5 on a new task ask for sqrt(3) times it."""
    learned = np.array([best_learning_rate(0.7, 15, curvature) for curvature in (0.3, 20.0)])
    deep = experiment(
        within=WithinTaskSettings(num_iterations=15),
        evaluation=EvaluationSettings(num_iterations=5),
        meta=MetaSettings(learning_rates=LearningRateSettings(new_tasks="scaled")),
    )
    start = Start(np.full((2, 2), 0.5), learned)
    found = deep.held_out_starts(start)
    assert isinstance(found, Start)
    assert found.initialization is start.initialization
    best = [best_learning_rate(0.7, 5, curvature) for curvature in (0.3, 20.0)]
    np.testing.assert_allclose(found.learning_rates, best, rtol=1e-12)
    several = deep.held_out_starts(Candidates((start, start), "round_robin", 3))
    assert isinstance(several, Candidates)
    assert (several.selection, several.probe_episodes) == ("round_robin", 3)
    np.testing.assert_allclose([one.learning_rates for one in several.starts], [best, best], rtol=1e-12)


@pytest.mark.parametrize(("rates", "updates"), [("same", 5), ("scaled", 15), ("scaled", None)])
def test_rates_stay_where_nothing_asks_for_others(rates: Any, updates: int | None) -> None:
    chosen = experiment(
        within=WithinTaskSettings(num_iterations=15),
        evaluation=EvaluationSettings(num_iterations=updates),
        meta=MetaSettings(learning_rates=LearningRateSettings(new_tasks=rates)),
    )
    start = Start(np.full((2, 2), 0.5), np.ones(2))
    assert chosen.held_out_starts(start) is start


@pytest.mark.parametrize(
    ("within", "evaluation", "message"),
    [
        (WithinTaskSettings(), {"steps_per_iteration": 400}, r"evaluation\.steps_per_iteration: has no effect where"),
        (WithinTaskSettings(), {"trust_region": {"delta_last": 0.1}}, r"evaluation\.trust_region: has no effect where"),
        (NEURAL, {"steps_per_iteration": 401}, "401 is no multiple of within_task.num_copies 2"),
    ],
)
def test_settings_without_effect_are_refused(within: Any, evaluation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_held_out_settings(within, EvaluationSettings.model_validate(evaluation))


def learned_starts_elsewhere() -> list[str]:
    """Where a module outside the training loop reads a learner's start without making it a new task's."""
    rooms = (path for room in ("meta", "distributed", "metasrl", "benchmarks") for path in (ROOT / room).rglob("*.py"))
    others = (path for path in rooms if path.relative_to(ROOT).as_posix() not in TRAINING)
    return [str(path) for path in others if re.search(r"(?<!held_out_starts\()\bstate\.start\b", path.read_text())]


def test_a_learned_start_reaches_new_tasks_with_the_rates_of_new_tasks() -> None:
    assert learned_starts_elsewhere() == []
