"""The fast path against Safety-Gymnasium's own task code, bit for bit."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

from tasks.contract.task import TaskError
from tasks.safety_gymnasium.adapter import NavigationEnv, make_builder, read_blueprint
from tasks.safety_gymnasium.navigation_batch import NavigationBatch
from tasks.safety_gymnasium.navigation_blueprint import COSTS, Changes, NavigationSpec, RobotName, TaskName, kind_of
from tasks.safety_gymnasium.navigation_layout import LayoutSampler
from tasks.safety_gymnasium.navigation_scene import Scene
from tasks.safety_gymnasium.navigation_sensing import Lidar
from tasks.stepping.batch import BatchEnvironment

ROBOTS: tuple[RobotName, ...] = ("point", "car", "doggo", "racecar", "ant")
TASKS: list[tuple[TaskName, int]] = [*COSTS, ("fading_easy", 1), ("fading_hard", 2)]
QUICK = {("point", "goal", 2), ("car", "button", 1), ("doggo", "goal", 1), ("racecar", "push", 2), ("ant", "circle", 2)}
ALL = [
    pytest.param(robot, task, level, marks=() if (robot, task, level) in QUICK else pytest.mark.slow)
    for robot in ROBOTS
    for task, level in TASKS
]


class Pair:
    """The package's environment and one copy of a batch under the same seeds and actions; every number is compared."""

    def __init__(self, spec: NavigationSpec, horizon: int, layout_seed: int | None = None) -> None:
        costs = ("sum", *COSTS[kind_of(spec.task), spec.level])
        self.env = NavigationEnv(spec, costs=costs, horizon=horizon, layout_seed=layout_seed)
        self.batch = NavigationBatch(
            read_blueprint(spec), 2, costs=costs, horizon=horizon, label="sg/train/0", layout_seed=layout_seed
        )
        self.batch.reset(np.array([0]), np.array([4]))
        self.goals, self.ends, self.costs = 0, 0, np.zeros(len(costs))

    def reset(self, seed: int) -> None:
        observation, _ = self.env.reset(seed=seed)
        self.batch.reset(np.array([1]), np.array([seed]))
        np.testing.assert_array_equal(self.batch.observations[1], observation.astype(np.float32))
        layout = dict(self.env._inner.task.world_info.layout)
        if "goal" in layout:
            layout["goal"] = self.env._inner.task.goal.pos[:2]
        assert {name: tuple(place) for name, place in layout.items()} == self.batch.layouts[1]

    def step(self, action: np.ndarray, other: np.ndarray) -> bool:
        """Step both (the batch's other copy under ``other``); True at an end."""
        self.batch.step(np.stack([other, action]))
        observation, reward, terminated, truncated, info = self.env.step(action)
        np.testing.assert_array_equal(self.batch.observations[1], observation.astype(np.float32))
        assert self.batch.reward[1] == reward
        np.testing.assert_array_equal(self.batch.costs[1], info["cost"])
        assert (self.batch.terminated[1], self.batch.truncated[1]) == (terminated, truncated)
        self.goals += "goal_met" in info
        self.costs += info["cost"]
        self.ends += terminated or truncated
        if self.batch.terminated[0] or self.batch.truncated[0]:
            self.batch.reset(np.array([0]), np.array([self.ends]))
        return bool(terminated or truncated)

    def drive(self, seed: int, steps: int, ahead: bool = False) -> None:
        """Random actions, some out of bounds, each held for some steps; a new episode after each end."""
        self.reset(seed)
        rng, high = np.random.RandomState(seed), np.asarray(self.batch.action_high, np.float64)
        for step in range(steps):
            if step % 5 == 0:
                held = rng.uniform(-1.2, 1.2, (2, high.size)) * high
                held[:, 0] = high[0] if ahead else held[:, 0]
                held[:, 1] *= 0.3 if ahead else 1.0
            if self.step(*held.astype(np.float32)):
                seed += 100
                self.reset(seed)


@pytest.mark.parametrize(("robot", "task", "level"), ALL)
def test_it_equals_the_package_step_for_step(robot: RobotName, task: TaskName, level: int) -> None:
    pair = Pair(NavigationSpec(robot, task, level), horizon=30)
    pair.drive(seed=7, steps=45)
    assert pair.ends >= 1


@pytest.mark.parametrize(
    ("task", "level", "seed"),
    [("goal", 1, 4), pytest.param("button", 1, 39, marks=pytest.mark.slow)],
)
def test_goals_that_are_reached_and_what_costs_equal_the_package(task: TaskName, level: int, seed: int) -> None:
    pair = Pair(NavigationSpec("point", task, level), horizon=1000)
    pair.drive(seed, 60, ahead=True)
    assert pair.goals >= 1
    if task == "button":
        assert pair.costs[0] > 0


@pytest.mark.parametrize(("task", "level", "seed"), [("goal", 1, 0), ("circle", 1, 24), ("run", 0, 12)])
def test_costs_equal_the_package(task: TaskName, level: int, seed: int) -> None:
    pair = Pair(NavigationSpec("point", task, level), horizon=1000)
    pair.drive(seed, 60, ahead=True)
    assert (pair.costs > 3).all()


def test_a_box_at_its_goal_brings_a_new_goal_apart_from_all_else() -> None:
    pair = Pair(NavigationSpec("point", "push", 1), horizon=1000)
    pair.reset(3)
    first = pair.batch.layouts[1]["goal"]
    for data in (pair.env.data, pair.batch._scene.copies[1]):
        data.joint("push_box").qpos[:2] = first
    pair.batch._scene.settle([1])
    pair.step(np.zeros(2, np.float32), np.zeros(2, np.float32))
    assert pair.goals == 1
    layout = pair.batch.layouts[1]
    assert layout["goal"] != first
    keepouts = {placement.name: placement.keepout for placement in pair.batch._blueprint.placements}
    for name, place in layout.items():
        if name != "goal":
            assert np.hypot(*np.subtract(place, layout["goal"])) >= keepouts[name] + keepouts["goal"]
    pair.step(np.ones(2, np.float32), np.zeros(2, np.float32))


def test_an_episode_ends_where_no_goal_has_room() -> None:
    pair = Pair(NavigationSpec("point", "goal", 1), horizon=1000)
    pair.reset(4)
    placements = pair.env._inner.task.random_generator.placements
    placements["agent"] = (placements["agent"][0], 99.0)
    pair.batch._sampler._goal_distances["agent"] = 99.0
    x, y = pair.batch.layouts[1]["goal"]
    for data, model in ((pair.env.data, pair.env._inner.task.model), (pair.batch._scene.copies[1], None)):
        agent = (model or pair.batch._scene.models[1]).body("agent")
        turn = data.body("agent").xmat.reshape(3, 3)
        data.qpos[:2] = (turn.T @ [x - agent.pos[0], y - agent.pos[1], 0.0])[:2]
    pair.batch._scene.settle([1])
    assert pair.step(np.zeros(2, np.float32), np.zeros(2, np.float32))
    assert pair.batch.terminated.tolist() == [False, True]


def test_changed_tasks_equal_the_package() -> None:
    area = (-1.3, -0.9, 0.9, 1.3)
    pair = Pair(NavigationSpec("racecar", "goal", 1, Changes(hazards=11, hazard_size=0.25, hazard_area=area)), 30)
    pair.drive(1, 20)
    places = [pair.batch.layouts[1][f"hazard{index}"] for index in range(11)]
    assert (np.abs(np.array(places) - [-0.2, 0.2]) <= 1.1 - 0.18).all()


def test_a_changed_circle_equals_the_package() -> None:
    pair = Pair(NavigationSpec("point", "circle", 2, Changes(boundary=0.9, radius=1.2)), 100)
    pair.drive(11, 40, ahead=True)
    assert pair.costs[0] > 3


def test_a_fixed_layout_starts_every_episode_alike() -> None:
    pair = Pair(NavigationSpec("point", "goal", 1), horizon=10, layout_seed=17)
    pair.drive(0, 25)
    first = pair.batch.layouts[1]["agent"]
    pair.reset(5)
    assert pair.batch.layouts[1]["agent"] == first == pair.batch.layouts[0]["agent"]


@pytest.mark.parametrize(
    ("robot", "task", "level"),
    [
        ("racecar", "goal", 2),
        *(
            pytest.param(robot, task, level, marks=pytest.mark.slow)
            for robot in ROBOTS
            for task, level in (("goal", 1), ("button", 1), ("push", 2))
        ),
    ],
)
def test_a_layout_written_into_the_model_gives_the_packages_model(robot: RobotName, task: TaskName, level: int) -> None:
    """All that the physics reads of the bodies, joints, geometries, welds and actuators, by name."""
    spec = NavigationSpec(robot, task, level)
    batch = NavigationBatch(read_blueprint(spec), 1, costs=("sum",), horizon=5, label="x")
    env = NavigationEnv(spec, costs=("sum",), horizon=5)
    for seed in (3, 8):
        env.reset(seed=seed)
        batch.reset(np.array([0]), np.array([seed]))
        _assert_same_physics(env._inner.task.model, batch._scene.models[0])


def _assert_same_physics(package: mujoco.MjModel, ours: mujoco.MjModel) -> None:
    driven = np.flatnonzero(ours.body_mocapid >= 0)
    bodies = [index for index in range(1, ours.nbody) if index not in driven]
    geoms = [index for index in range(ours.ngeom) if ours.geom_bodyid[index] not in (0, *driven)]
    kinds = {"body": (mujoco.mjtObj.mjOBJ_BODY, bodies), "geom": (mujoco.mjtObj.mjOBJ_GEOM, geoms)}
    for kind, (number, indices) in kinds.items():
        theirs = _counterparts(package, ours, number, indices)
        for field in _REAL_FIELDS[kind]:
            np.testing.assert_array_equal(
                getattr(ours, f"{kind}_{field}")[indices], getattr(package, f"{kind}_{field}")[theirs], err_msg=field
            )
    for field in dir(ours):
        value = getattr(ours, field)
        physical = field.split("_")[0] in ("qpos0", "qpos", "dof", "jnt", "eq", "actuator")
        if physical and isinstance(value, np.ndarray) and value.dtype.kind == "f":
            np.testing.assert_array_equal(value, getattr(package, field), err_msg=field)
    assert ours.stat.meaninertia == package.stat.meaninertia


_REAL_FIELDS = {
    "body": ("pos", "quat", "ipos", "iquat", "mass", "inertia", "invweight0", "subtreemass"),
    "geom": ("pos", "quat", "size", "friction", "margin", "gap", "solmix", "solref", "solimp", "rbound", "aabb"),
}


def _counterparts(package: mujoco.MjModel, ours: mujoco.MjModel, number: Any, indices: list[int]) -> list[int]:
    """The package's bodies or geometries; what has no name is the robot's, which stands first in both."""
    names = [mujoco.mj_id2name(ours, number, index) for index in indices]
    return [
        mujoco.mj_name2id(package, number, name) if name else index for name, index in zip(names, indices, strict=True)
    ]


def test_layouts_are_the_packages_draws_for_crowded_fields_too() -> None:
    spec = NavigationSpec("point", "button", 1)
    blueprint, task = read_blueprint(spec), make_builder(spec).task
    task._build_placements_dict()
    generator = task.random_generator
    generator.set_placements_info(task.placements_conf.placements, task.placements_conf.extents, 0.0)
    for seed in (8, 9):
        generator.set_random_seed(seed)
        layout, rng = LayoutSampler(blueprint).draw(seed)
        assert {name: tuple(place) for name, place in generator.build_layout().items()} == layout
        assert generator.uniform() == rng.uniform(), "the generator goes on from the same place"


def test_the_lidar_reads_one_object_as_defined() -> None:
    lidar = Lidar((1,), 1, 16, 3.0)
    angle, distance = 2.0 * np.pi * 3.25 / 16, 1.2
    place = np.array([[[1.0 + distance * np.cos(angle), 2.0 + distance * np.sin(angle)]]])
    lidar.look(place, np.array([[1.0, 2.0, 0.1]]), np.eye(3)[None])
    expected = np.zeros(16)
    expected[[2, 3, 4]] = 0.6 * np.array([0.75, 1.0, 0.25])
    np.testing.assert_allclose(lidar.readings[0], expected, atol=1e-12)


def test_a_new_model_puts_nothing_of_the_old_layout_into_the_next() -> None:
    blueprint = read_blueprint(NavigationSpec("car", "button", 1))
    batch = NavigationBatch(blueprint, 2, costs=("sum",), horizon=50, label="x")
    batch.reset(np.arange(2), np.array([1, 2]))
    for _ in range(5):
        batch.step(np.ones((2, 2)))
    batch.reset(np.array([0]), np.array([2]))
    fresh = NavigationBatch(blueprint, 1, costs=("sum",), horizon=50, label="x")
    fresh.reset(np.array([0]), np.array([2]))
    np.testing.assert_array_equal(batch.observations[0], fresh.observations[0])
    for _ in range(5):
        batch.step(np.ones((2, 2)))
        fresh.step(np.ones((1, 2)))
        np.testing.assert_array_equal(batch.observations[0], fresh.observations[0])


def _small(**changes: Any) -> NavigationBatch:
    spec = NavigationSpec("point", "goal", 1, Changes(**changes))
    return NavigationBatch(read_blueprint(spec), 2, costs=("sum",), horizon=5, label="sg/test/3")


def test_it_keeps_the_batch_protocol() -> None:
    batch = _small()
    assert isinstance(batch, BatchEnvironment)
    with pytest.raises(TaskError, match="sg/test/3: copy 0 was never reset"):
        batch.step(np.zeros((2, 2)))
    batch.reset(np.arange(2), np.arange(2))
    with pytest.raises(TaskError, match=r"sg/test/3, step 1, copy 1: the action .* is not finite"):
        batch.step(np.array([[0.0, 0.0], [np.nan, 0.0]]))
    for _ in range(5):
        batch.step(np.zeros((2, 2)))
    assert batch.truncated.all()
    batch.reset(np.array([0]), np.array([0]))
    with pytest.raises(TaskError, match=r"sg/test/3, step 5, copy 1: the episode has ended; reset the copy"):
        batch.step(np.zeros((2, 2)))
    with pytest.raises(TaskError, match="a batch needs at least one copy"):
        NavigationBatch(read_blueprint(NavigationSpec("point", "run", 0)), 0, costs=("sum",), horizon=5, label="x")
    batch.close()


def test_faults_name_task_step_and_copy() -> None:
    batch = _small()
    batch.reset(np.arange(2), np.arange(2))
    batch.step(np.zeros((2, 2)))
    batch._scene.copies[1].qvel[0] = 1e12
    with pytest.raises(TaskError, match=r"sg/test/3, step 2, copy 1: MuJoCo warns: .*unstable.* qpos \[.*, control \["):
        batch.step(np.zeros((2, 2)))
    with pytest.raises(TaskError, match=r"sg/test/3, step 0, copy 0: costs before the first step"):
        _small(hazard_size=5.0).reset(np.arange(2), np.arange(2))
    with pytest.raises(TaskError, match="SafetyPointGoal1-v0: no layout in 10000 keeps the objects apart"):
        _small(hazard_area=(-0.2, -0.2, 0.2, 0.2)).reset(np.arange(2), np.arange(2))
    with pytest.raises(TaskError, match=r"hazard0: its area \(0.0, 0.0, 0.1, 0.1\) does not hold its keepout 0.18"):
        _small(hazard_area=(0.0, 0.0, 0.1, 0.1))


def test_sensors_are_on_again_after_a_step() -> None:
    batch = _small()
    batch.reset(np.arange(2), np.arange(2))
    batch.step(np.ones((2, 2)))
    assert isinstance(batch._scene, Scene)
    assert all(model.opt.disableflags == 0 for model in batch._scene.models)
    assert (batch.observations[:, 0] != 0.0).all(), "the accelerometer reads"
