from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from policies.exact.drawing import draw_task
from tasks.contract.context import ContextError, ContextSpace, context_distance, context_space, raw_context
from tasks.contract.family_registry import make_family
from tasks.contract.task import Task, TaskFamily


def _tasks(number: int = 5) -> tuple[TaskFamily, list[Task]]:
    family = make_family("half_cheetah", seed=0, num_tasks=number, parameters={"variant": "velocity", "limit": 10.0})
    return family, [draw_task(family, "half_cheetah", 0, "train", index) for index in range(number)]


def _with(task: Task, **parameters: Any) -> Task:
    return dataclasses.replace(task, parameters=parameters)


def test_the_context_is_the_numbers_of_the_parameters() -> None:
    family, tasks = _tasks()
    task = _with(tasks[0], target_speed=1.5, mass=[1.0, 2], name="deep", flag=True)
    expected = {"target_speed": 1.5, "mass[0]": 1.0, "mass[1]": 2.0}
    assert raw_context(family, task, limits=False) == expected
    assert raw_context(family, task, limits=True) == {**expected, f"limit of {family.cost_names[0]}": 10.0}
    assert context_distance(family) == "euclidean"


def test_contexts_are_normalised_over_training_tasks_and_name_entries_outside() -> None:
    family, tasks = _tasks()
    space, contexts = context_space(family, tasks, limits=False)
    np.testing.assert_allclose(contexts.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(contexts.std(axis=0), 1.0)
    np.testing.assert_array_equal(space.of(family, tasks[2]), contexts[2])
    assert all(not space.outside(context) for context in contexts)
    outside = space.outside(space.of(family, _with(tasks[0], target_speed=99.0)))
    assert len(outside) == 1
    assert outside[0].startswith("target_speed 99 (trained on ")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"target_speed": float("nan")}, "entry target_speed is nan; it must be finite"),
        ({"name": "deep"}, "its parameters hold no numbers"),
    ],
)
def test_a_context_that_is_not_numbers_is_refused_with_its_entry(parameters: dict[str, Any], message: str) -> None:
    family, tasks = _tasks()
    with pytest.raises(ContextError, match=message):
        raw_context(family, _with(tasks[0], **parameters), limits=False)


def test_tasks_need_the_same_entries_and_entries_must_vary() -> None:
    family, tasks = _tasks()
    space, _ = context_space(family, tasks, limits=False)
    with pytest.raises(ContextError, match="lacks target_speed"):
        space.of(family, _with(tasks[0], other=1.0))
    with pytest.raises(ContextError, match="unknown entry other"):
        space.of(family, _with(tasks[0], target_speed=1.0, other=1.0))
    with pytest.raises(ContextError, match="all tasks of a family need the same"):
        context_space(family, [tasks[0], _with(tasks[1], other=1.0)], limits=False)
    with pytest.raises(ContextError, match="target_speed is 1 in all 2 training tasks"):
        context_space(family, [_with(task, target_speed=1.0) for task in tasks[:2]], limits=False)


def test_an_entry_is_not_outside_where_others_tell_most_of_its_effects() -> None:
    low, high = np.array([0.0, 0.0, 0.0]), np.array([1.0, 0.0, 0.0])
    space = ContextSpace(("varies", "alike", "alone"), np.zeros(3), np.ones(3), low, high, limits=False)
    effects = np.array([[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0], [1, 0, 1, 3], [0, 0, 2, 2]])
    assert space.outside(np.array([1.0, 1.0, 0.0])) == ["alike 1 (trained on 0 to 0)"]
    assert space.outside(np.array([1.0, 1.0, 0.0]), effects) == [], "two of its three effects are those of varies"
    assert space.outside(np.array([1.5, 1.5, 1.0]), effects) == [
        "varies 1.5 (trained on 0 to 1)",
        "alike 1.5 (trained on 0 to 0)",
        "alone 1 (trained on 0 to 0)",
    ]
    half = np.vstack([effects, [[1, 1, 1, 3]]])
    assert space.outside(np.array([1.0, 1.0, 0.0]), half) == ["alike 1 (trained on 0 to 0)"], "half is not most"
