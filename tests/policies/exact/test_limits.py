from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
import pytest

from policies.exact.drawing import draw_task, require_feasible
from policies.exact.solver import ExactModel, cost_range, optimal_policy
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.lakes.frozen_lake import FrozenLake
from tests.support.user_families import CourierFamily, NeverBinds

FAMILIES = {
    "thin_ice": FrozenLake(seed=0),
    "holes_end": FrozenLake(seed=1, hole_ends_episode=True, similarity="low"),
    "small": FrozenLake(seed=2, map_size=4, limit_fraction=0.7),
    "clustered": FrozenLake(seed=3, sequence="clustered"),
    "courier": CourierFamily(4, 8),
}


def _exact(family: TaskFamily, task: Task) -> ExactModel:
    model = family.model(task.parameters)
    assert model is not None
    return ExactModel(model)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", FAMILIES)
def test_limits_lie_inside_the_cost_range_and_bind(name: str, split: Any) -> None:
    family = FAMILIES[name]
    for index in range(6):
        task = draw_task(family, name, 0, split, index)
        model, limits = _exact(family, task), np.array(task.limits)
        interval = cost_range(model)
        assert (interval.least < limits).all()
        assert (limits < interval.unconstrained).all()
        constrained, free = optimal_policy(model, limits), optimal_policy(model)
        assert 0.0 < constrained.values[0] < free.values[0] - 1e-6
        assert (constrained.values[1:] <= limits + 1e-6).all()


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_a_fraction_places_the_limit(fraction: float) -> None:
    for family in (FrozenLake(seed=0, limit_fraction=fraction), CourierFamily(0, 4, limit=fraction)):
        task = draw_task(family, "family", 0, "train", 0)
        interval = cost_range(_exact(family, task))
        expected = interval.least + fraction * (interval.unconstrained - interval.least)
        np.testing.assert_allclose(task.limits, expected, rtol=1e-12)


def test_drawing_is_pure() -> None:
    family = FrozenLake(seed=0, sequence="drifting")
    drawn = [draw_task(family, "lake", 7, "train", index) for index in range(4)]
    again = [draw_task(FrozenLake(seed=0, sequence="drifting"), "lake", 7, "train", index) for index in (3, 2, 1, 0)]
    assert drawn == again[::-1]
    assert len({task.seed for task in drawn}) == 4


def test_seed_split_and_index_each_change_the_task_seed() -> None:
    family = CourierFamily(0, 4)
    seeds = {
        draw_task(family, "courier", seed, split, index).seed
        for seed in range(3)
        for split in ("train", "test")
        for index in range(5)
    }
    assert len(seeds) == 30


def test_a_task_carries_its_name() -> None:
    task = draw_task(CourierFamily(0, 4), "courier", 0, "test", 3)
    assert (task.label, task.family, task.split, task.index) == ("courier/test/3", "courier", "test", 3)


@pytest.mark.parametrize(("map_size", "most"), [(4, 4096), (8, 4096), (32, 4096), (64, 8192)])
def test_a_task_pickles_by_value_into_a_few_kilobytes(map_size: int, most: int) -> None:
    parameters = FrozenLake(seed=0, map_size=map_size).parameters("train", 0, 0)
    task = Task("frozen_lake", "train", 0, 2**32 - 1, parameters, (0.12345678901234567,))
    data = pickle.dumps(task)
    assert len(data) < most
    assert pickle.loads(data) == task


def test_given_limits_are_taken_as_they_are() -> None:
    assert draw_task(FrozenLake(seed=0, limit=0.25), "lake", 0, "train", 0).limits == (0.25,)
    assert draw_task(CourierFamily(0, 4, limit=(2, 0.5)), "courier", 0, "train", 0).limits == (2.0, 0.5)


def test_given_limits_need_no_model() -> None:
    family = CourierFamily(0, 4, limit=(0.0, 0.0), toll=1.0, with_model=False)
    assert draw_task(family, "courier", 0, "train", 0).limits == (0.0, 0.0)


def test_an_infeasible_limit_names_the_task_and_the_least_reachable_cost() -> None:
    family = CourierFamily(0, 4, limit=(0.1, 5.0), toll=0.5)
    with pytest.raises(TaskError, match="courier/train/2: no policy keeps its limits") as caught:
        draw_task(family, "courier", 0, "train", 2)
    least = cost_range(ExactModel(family.model(family.parameters("train", 2, 0)))).least
    reported = re.findall(r"(\w+): limit ([\d.]+), least reachable cost ([\d.e-]+)", str(caught.value))
    assert [name for name, _, _ in reported] == ["fuel", "damage"]
    np.testing.assert_allclose([float(limit) for _, limit, _ in reported], [0.1, 5.0])
    np.testing.assert_allclose([float(cost) for _, _, cost in reported], least, rtol=1e-5, atol=1e-12)
    assert least[0] > 0.5


def test_the_least_reachable_cost_itself_is_feasible() -> None:
    family = CourierFamily(0, 4, limit=0.5, toll=0.5)
    task = draw_task(family, "courier", 0, "train", 0)
    model = _exact(family, task)
    least = cost_range(model).least
    for shift, feasible in ((1e-6, True), (-1e-3, False)):
        changed = Task("courier", "train", 0, 0, task.parameters, (float(least[0]) + shift, 5.0))
        if feasible:
            require_feasible(changed, model, family.cost_names)
        else:
            with pytest.raises(TaskError, match="fuel"):
                require_feasible(changed, model, family.cost_names)


@pytest.mark.parametrize("limits", [(), (1.0,), (1.0, 1.0, 1.0)])
def test_a_wrong_number_of_limits_is_reported(limits: tuple[float, ...]) -> None:
    with pytest.raises(TaskError, match=rf"courier/train/1: {len(limits)} limit\(s\) for 2 cost\(s\) \(fuel, damage\)"):
        draw_task(CourierFamily(0, 4, limit=limits), "courier", 0, "train", 1)


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf")])
def test_a_limit_that_no_cost_can_have_is_reported(wrong: float) -> None:
    with pytest.raises(TaskError, match="courier/train/1: limits must be finite and not negative"):
        draw_task(CourierFamily(0, 4, limit=(1.0, wrong)), "courier", 0, "train", 1)


def test_a_fraction_without_a_model_is_reported() -> None:
    with pytest.raises(TaskError, match="courier/train/0: a limit fraction needs an exact model"):
        draw_task(CourierFamily(0, 4, with_model=False), "courier", 0, "train", 0)


@pytest.mark.parametrize("absent", ["reward", "costs"])
def test_a_draw_that_cannot_bind_is_drawn_again(absent: str) -> None:
    family = NeverBinds(0, 4, fault=absent, fault_step=3)
    assert draw_task(family, "courier", 0, "train", 0).parameters == family.parameters("train", 0, 3)


def test_costs_that_never_oppose_the_reward_are_reported() -> None:
    with pytest.raises(TaskError, match="courier/train/0: in 200 draws no limits were found that restrict the reward"):
        draw_task(NeverBinds(0, 4, fault="costs", fault_step=1000), "courier", 0, "train", 0)
