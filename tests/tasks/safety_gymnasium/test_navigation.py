from __future__ import annotations

from typing import Any

import numpy as np
import pydantic
import pytest

from tasks.contract.family_registry import FamilyError, make_family
from tasks.contract.task import Task, TaskFamily
from tasks.safety_gymnasium.adapter import make_builder, read_blueprint
from tasks.safety_gymnasium.navigation import BOUNDARY, HAZARDS, RADIUS, ROBOT_SIZES, SafetyGymnasium
from tasks.safety_gymnasium.navigation_batch import NavigationBatch
from tasks.safety_gymnasium.navigation_blueprint import COSTS, NavigationSpec
from tasks.safety_gymnasium.navigation_layout import LayoutSampler
from tasks.stepping.batch import GymnasiumBatch, make_batch


def _family(**parameters: Any) -> SafetyGymnasium:
    return make_family("safety_gymnasium", seed=5, num_tasks=8, parameters=parameters)  # type: ignore[return-value]


def test_fast_and_general_path_give_the_same_bits() -> None:
    family = _family(robot=["point", "racecar"], similarity="low", costs="each", level=2, horizon=12)
    parameters = family.parameters("train", 2, 0)
    task = Task("safety_gymnasium", "train", 2, 0, parameters, family.limits(parameters))  # type: ignore[arg-type]
    fast = make_batch(family, task, 2)
    general = GymnasiumBatch(lambda: family.make(parameters), 2, 3, family.horizon, task.label)
    assert isinstance(fast, NavigationBatch)
    rng = np.random.default_rng(0)
    for step in range(20):
        ended = np.flatnonzero(fast.terminated | fast.truncated) if step else np.arange(2)
        actions = rng.normal(size=(2, 2)) * fast.action_high
        for batch in (fast, general):
            batch.reset(ended, ended + 10 * step)
            batch.step(actions)
        for field in ("observations", "reward", "costs", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(fast, field), getattr(general, field), err_msg=field)


def test_the_same_episode_whatever_the_other_copies_do() -> None:
    family = _family()
    parameters = family.parameters("train", 0, 0)
    few, many = family.batch(parameters, 1), family.batch(parameters, 5)
    few.reset(np.array([0]), np.array([9]))
    many.reset(np.arange(5), np.array([1, 2, 3, 9, 4]))
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 5, 2))
    for action in actions:
        few.step(action[3:4])
        many.step(action)
        np.testing.assert_array_equal(few.observations[0], many.observations[3])
        assert few.reward[0] == many.reward[3]


@pytest.mark.parametrize("task", ["goal", "button", "push", "circle", "run", "fading_easy", "fading_hard"])
def test_tasks_vary_within_what_the_package_can_lay_out_and_keep_their_sizes(task: str) -> None:
    family = _family(task=task, similarity="low")
    sizes = set()
    for index in range(6):
        parameters = family.parameters("train", index, 0)
        batch = family.batch(parameters, 1)
        batch.reset(np.array([0]), np.array([index]))
        sizes.add(batch.observation_size)
    assert len(sizes) == 1
    assert isinstance(family, TaskFamily)
    assert family.cost_names == ("any_cost",)
    assert family.model({}) is None


@pytest.mark.parametrize(("kind", "level"), HAZARDS)
def test_the_most_crowded_layouts_can_be_drawn(kind: str, level: int) -> None:
    family = _family(task=kind, level=level)
    changes = family._changes((1.0, 1.0, 0.0, 0.0))
    sampler = LayoutSampler(read_blueprint(family._spec({"robot": "point", **changes})))
    for seed in range(3):
        layout, _ = sampler.draw(seed)
        assert sum(name.startswith("hazard") for name in layout) == changes["hazards"]


def test_the_middle_of_the_range_is_the_packages_task() -> None:
    for (kind, level), own in HAZARDS.items():
        task = make_builder(NavigationSpec("point", kind, level)).task
        assert (own.half_width, own.number, own.size) == (
            task.placements_conf.extents[3],
            task.hazards.num,
            task.hazards.size,
        )
        changes = _family(task=kind, level=level)._changes((0.0, 0.0, 0.0, 0.0))
        assert (changes["hazards"], changes["hazard_size"]) == (own.number, own.size)
    circle = make_builder(NavigationSpec("point", "circle", 1)).task
    assert (circle.circle.radius, circle.sigwalls.locate_factor) == (RADIUS, BOUNDARY["circle"])
    assert _family(task="circle")._changes((0.0, 0.0)) == {"radius": RADIUS, "boundary": BOUNDARY["circle"]}
    run = make_builder(NavigationSpec("point", "run", 0)).task
    assert run.sigwalls.locate_factor == BOUNDARY["run"] == _family(task="run")._changes((0.0,))["boundary"]


def test_sizes_of_robots_are_the_packages() -> None:
    for robot, sizes in ROBOT_SIZES.items():
        builder = make_builder(NavigationSpec(robot, "run", 0))
        assert (builder.observation_space.shape[0], builder.action_space.shape[0]) == sizes


def test_high_similarity_stays_near_the_package_and_low_reaches_far() -> None:
    spread = {}
    for similarity in ("high", "low"):
        family = _family(similarity=similarity)
        drawn = [family.parameters("train", index, 0) for index in range(60)]
        spread[similarity] = np.array([[one["hazards"], one["hazard_size"], one["limit"]] for one in drawn])
    assert set(spread["high"][:, 0]) <= {7, 8, 9}
    assert {4, 5, 11, 12} & set(spread["low"][:, 0])
    middle = 0.025 * (1 - 0.99**1000) / 0.01
    assert np.abs(spread["high"][:, 2] / middle - 1.0).max() <= 0.125 + 1e-9
    assert 0.3 < np.abs(spread["low"][:, 2] / middle - 1.0).max() <= 0.5 + 1e-9
    assert np.abs(spread["low"][:, 1] / 0.2 - 1.0).max() <= 0.25 + 1e-9


def test_fixed_layouts_differ_between_tasks_and_splits_share_none() -> None:
    family = _family(layout="fixed")
    train, test = (
        {family.parameters(split, index, 0)["layout_seed"] for index in range(40)} for split in ("train", "test")
    )
    assert len(train) == len(test) == 40
    assert not train & test
    batch = family.batch(family.parameters("train", 0, 0), 2)
    batch.reset(np.arange(2), np.arange(2))
    np.testing.assert_array_equal(batch.observations[0], batch.observations[1])
    assert "layout_seed" not in _family().parameters("train", 0, 0)


def test_limits_and_costs() -> None:
    family = _family(costs="each", level=2, limit=4.0, similarity=1e-3)
    assert family.cost_names == COSTS["goal", 2]
    limits = family.limits(family.parameters("train", 0, 0))
    assert limits == pytest.approx((4.0,) * 3, rel=1e-3)
    assert len(set(limits)) == 1  # type: ignore[arg-type]
    assert (_family(task="circle").horizon, _family(task="run").level, _family().horizon) == (500, 0, 1000)
    assert _family(task="run", horizon=50).horizon == 50


def test_robots_of_one_size_share_a_family() -> None:
    family = _family(robot=["point", "racecar"])
    assert {family.parameters("train", index, 0)["robot"] for index in range(20)} == {"point", "racecar"}


@pytest.mark.parametrize(
    ("wrong", "reported"),
    [
        ({"robot": ["point", "car"]}, "equal numbers of sensors and actions, got point 12 and 2, car 24 and 2"),
        ({"robot": []}, "equal numbers of sensors and actions, got none"),
        ({"task": "run", "level": 1}, "run has no level 1; run has level 0 only"),
        ({"task": "push", "level": 0, "costs": "each"}, "push has no costs on level 0"),
        ({"similarity": 0.0}, "must lie in"),
        ({"robot": "snake"}, "point"),
        ({"speed": 1}, "has no such parameter"),
    ],
)
def test_bad_fields_are_refused(wrong: dict[str, Any], reported: str) -> None:
    with pytest.raises(FamilyError, match=reported):
        _family(**wrong)
    with pytest.raises(pydantic.ValidationError):
        SafetyGymnasium(seed=0, **wrong)
