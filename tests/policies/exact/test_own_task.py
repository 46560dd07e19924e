"""Own tasks: the same environment and limits as a drawn task of the same parameters; every wrong entry is named."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.exact.drawing import draw_task
from policies.exact.own_task import OwnTaskError, own_task
from policies.exact.solver import ExactModel, evaluate, optimal_policy
from tasks.contract.family_registry import make_family
from tasks.contract.task import Parameters, Split, Task, TaskFamily
from tasks.lakes.frozen_lake import FrozenLake
from tests.support.user_families import CourierFamily

LAKE = FrozenLake(seed=0, map_size=4)
COURIER = CourierFamily(4, 8)


def made(name: str, **parameters: Any) -> TaskFamily:
    return make_family(name, seed=0, num_tasks=4, parameters=parameters)


CHEETAH, BODY, ACROBOT = made("half_cheetah"), made("half_cheetah", variant="body"), made("acrobot")
MAP = ["SFFF", "FHFH", "FFFH", "FFFG"]


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("family", [LAKE, COURIER, FrozenLake(seed=1, limit=0.4)])
def test_the_parameters_of_a_drawn_task_give_its_model_limits_and_optimum(family: TaskFamily, index: int) -> None:
    drawn = draw_task(family, "family", 7, "test", index)
    own = own_task(family, "family", drawn.parameters, seed=7)
    assert (own.parameters, own.limits) == (drawn.parameters, drawn.limits)
    models = [family.model(task.parameters) for task in (own, drawn)]
    assert models[0] is not None
    assert models[1] is not None
    uniform = np.full((models[0].num_states, models[0].num_actions), 1.0 / models[0].num_actions)
    values = [evaluate(ExactModel(model), uniform).values for model in models if model is not None]
    np.testing.assert_array_equal(*values)
    optima = [optimal_policy(ExactModel(model), np.array(own.limits)).values for model in models if model is not None]
    np.testing.assert_array_equal(*optima)


@pytest.mark.parametrize(("name", "variant"), [("half_cheetah", {"variant": "body"}), ("acrobot", {}), ("hopper", {})])
def test_the_parameters_of_a_drawn_robot_give_the_same_steps(name: str, variant: dict[str, str]) -> None:
    family = made(name, **variant)
    drawn = draw_task(family, name, 0, "test", 1)
    own = own_task(family, name, json.loads(json.dumps(drawn.parameters)), seed=0)
    assert own.limits == drawn.limits
    ended = []
    for task in (own, drawn):
        env = family.make(task.parameters)
        env.reset(seed=3)
        env.action_space.seed(3)
        ended.append([env.step(env.action_space.sample())[:2] for _ in range(5)])
        env.close()
    for (observation, reward), (other, same) in zip(*ended, strict=True):
        np.testing.assert_array_equal(observation, other)
        assert reward == same


def test_the_seed_follows_from_the_content_and_the_runs_seed() -> None:
    base = own_task(CHEETAH, "half_cheetah", {"target_speed": 2.0}, seed=0)
    assert own_task(CHEETAH, "half_cheetah", {"target_speed": 2}, [base.limits[0]], seed=0, index=5).seed == base.seed
    others = [
        own_task(CHEETAH, "half_cheetah", {"target_speed": 2.0}, seed=1),
        own_task(CHEETAH, "half_cheetah", {"target_speed": 2.5}, seed=0),
        own_task(CHEETAH, "half_cheetah", {"target_speed": 2.0}, [8.0], seed=0),
    ]
    assert len({base.seed, *(task.seed for task in others)}) == 4
    assert pickle.loads(pickle.dumps(base)) == base


def test_names_are_readable_and_tell_tasks_apart() -> None:
    task = own_task(CHEETAH, "half_cheetah", {"target_speed": 1.69}, seed=0)
    assert task.label == "half_cheetah own {target_speed: 1.69}"
    assert task.stem.startswith("own-target_speed-1_69-")
    assert own_task(CHEETAH, "half_cheetah", {"target_speed": 1.69}, [8.0], seed=0).stem != task.stem
    lake = own_task(LAKE, "frozen_lake", {"desc": MAP}, seed=0)
    assert len(lake.stem) == len("own-") + 6
    long = dataclasses.replace(task, parameters={"word": "a/b " * 50})
    assert len(long.label) <= 100
    assert long.stem.startswith("own-word-a_b_a_b")
    assert len(long.stem) < 60
    assert Path(f"{task.stem}-policy").suffix == "", "writers replace what follows a dot"
    assert draw_task(CHEETAH, "half_cheetah", 0, "test", 3).stem == "test-3"


def changed(family: TaskFamily, **changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(dict(family.parameters("test", 0, 0))), **changes}


TOLL = CourierFamily(0, 4, toll=0.25, limit=(2.0, 1.0))


@pytest.mark.parametrize(
    ("family", "parameters", "limits", "message"),
    [
        (CHEETAH, {"speed": 1.0}, None, "parameters: tasks of it have no parameter speed, only target_speed"),
        (LAKE, {"map_size": 4}, None, "no parameter map_size, only desc; it is a setting of the family"),
        (CHEETAH, {}, None, 'parameters: target_speed missing; give a value as in {"target_speed": '),
        (BODY, {"mass": [1.0] * 7}, None, "parameters: friction, gravity, strength missing"),
        (CHEETAH, {"target_speed": "fast"}, None, "target_speed must be a number, as in 1.0685; got 'fast'"),
        (CHEETAH, {"target_speed": True}, None, "target_speed must be a number, as in 1.0685; got True"),
        (CHEETAH, {"target_speed": None}, None, "target_speed must be a number, as in 1.0685; got None"),
        (CHEETAH, {"target_speed": [1.0]}, None, "target_speed must be a number"),
        (CHEETAH, {"target_speed": float("nan")}, None, "target_speed must be finite"),
        (CHEETAH, {"target_speed": 10**400}, None, "target_speed must be finite"),
        (BODY, changed(BODY, mass=[1.0] * 6), None, "mass must have 7 entries"),
        (BODY, changed(BODY, mass=[1.0] * 6 + ["heavy"]), None, "mass[6] must be a number"),
        (BODY, changed(BODY, mass=[1.0] * 6 + [0.0]), None, "mass[6] must be above 0, got 0.0"),
        (ACROBOT, changed(ACROBOT, lengths=[-1.0, 1.0]), None, "lengths[0] must be above 0, got -1.0"),
        (LAKE, {"desc": ["SFF", *MAP[1:]]}, None, "desc[0] must have 4 tiles of S, F, H and G, got 'SFF'"),
        (LAKE, {"desc": ["SFFX", *MAP[1:]]}, None, "desc[0] must have 4 tiles of S, F, H and G, got 'SFFX'"),
        (LAKE, {"desc": ["SFFF", "SFFF", "FFFF", "FFFG"]}, None, "desc must have one S and a G, got 2 and 1"),
        (LAKE, {"desc": ["SFFF", "FFFF", "FFFF", "FFFF"]}, None, "desc must have one S and a G, got 1 and 0"),
        (LAKE, {"desc": MAP[:3]}, None, "desc must have 4 entries"),
        (LAKE, {"desc": ["SFFF", "FFFF", "FFFF", "FFFG"]}, None, "parameters: under them the family's limit fraction"),
        (CHEETAH, {"target_speed": 1.0}, [1.0, 2.0], "limits: 2 given for 1 costs (control_effort)"),
        (CHEETAH, {"target_speed": 1.0}, [], "limits: 0 given for 1 costs (control_effort)"),
        (CHEETAH, {"target_speed": 1.0}, [0.0], "limits: the limit of control_effort must be finite and above 0"),
        (CHEETAH, {"target_speed": 1.0}, [-2.0], "limits: the limit of control_effort must be finite and above 0"),
        (CHEETAH, {"target_speed": 1.0}, [float("inf")], "limits: the limit of control_effort must be finite"),
        (TOLL, {"grip": 0.7}, [0.01, 1.0], "limits: it own {grip: 0.7}: no policy keeps its limits (fuel: limit 0.01"),
        (CourierFamily(0, 4, toll=0.25, limit=(0.01, 1.0)), {"grip": 0.7}, None, "limits: of the family: it own"),
    ],
    ids=lambda value: None if isinstance(value, TaskFamily) else str(value)[:40],
)
def test_a_wrong_entry_is_named(family: TaskFamily, parameters: Any, limits: Any, message: str) -> None:
    with pytest.raises(OwnTaskError) as error:
        own_task(family, "it", parameters, limits, seed=0)
    assert message in str(error.value)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


class Fussy(CourierFamily):
    """A family whose own code rejects a grip, and whose tasks have parameters of all types."""

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        more = {"wheels": 4, "wet": False, "places": ((np.float64(0.0), 1.0),) * (1 + index), "colour": {"hue": 0.5}}
        grip = np.float64(super().parameters(split, index, attempt)["grip"])
        return {"grip": grip, **more, **({"extra": "x"} if index else {})}

    def make(self, parameters: Parameters) -> Any:
        if parameters["grip"] > 0.95:
            raise RuntimeError("too sticky")
        return super().make(parameters)


def test_what_only_the_familys_code_rejects_is_its_words() -> None:
    given = {"grip": 0.96, "wheels": 4, "wet": True, "places": [], "colour": {"hue": 1}}
    with pytest.raises(OwnTaskError, match="parameters: fussy makes no environment of them: RuntimeError: too sticky"):
        own_task(Fussy(0, 4), "fussy", given, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wheels": 4.5}, "wheels must be a whole number, as in 4; got 4.5"),
        ({"grip": "firm"}, "grip must be a number, as in 0.[0-9]+; got 'firm'"),
        ({"places": 3}, r"places must be a list, as in \[\[0.0, 1.0\]\]; got 3"),
        ({"wet": 1}, "wet must be true or false, as in False; got 1"),
        ({"places": [[0.0, 1.0], [0.0]]}, r"places\[1\] must have 2 entries"),
        ({"colour": {"tint": 0.5}}, r"no parameter colour\.tint, only hue"),
        ({"colour": {"hue": "red"}}, r"colour\.hue must be a number"),
        ({"extra": 3}, "extra must be text"),
    ],
)
def test_every_type_is_checked_down_to_its_entries(changes: dict[str, Any], message: str) -> None:
    given = {"grip": np.float64(0.7), "wheels": 6, "wet": True, "places": [[1, 2]] * 5, "colour": {"hue": 1}}
    task: Task = own_task(Fussy(0, 4), "fussy", given, seed=0)
    assert json.dumps(task.parameters["places"]) == json.dumps([[1.0, 2.0]] * 5)
    assert type(task.parameters["grip"]) is float
    with pytest.raises(OwnTaskError, match=message):
        own_task(Fussy(0, 4), "fussy", {**given, **changes}, seed=0)
