"""The adapter against what Safety-Gymnasium did in its own old environment (data/safety_gymnasium/record.py)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contract.task import TaskError
from tasks.safety_gymnasium import adapter
from tasks.safety_gymnasium.adapter import NavigationEnv, make_builder, read_blueprint, velocity_env
from tasks.safety_gymnasium.navigation_blueprint import COSTS, Changes, NavigationSpec, kind_of

DATA = Path(__file__).parent.parent.parent / "data" / "safety_gymnasium"
RECORDED = sorted(path.stem for path in DATA.glob("*-v0.npz"))
QUICK = [name for name in RECORDED if name.startswith("SafetyPoint") or name.endswith("Goal1-v0")]
TASKS = {"Goal1": ("goal", 1), "Button1": ("button", 1), "Push1": ("push", 1), "Circle1": ("circle", 1)} | {
    "Run0": ("run", 0),
    "FadingEasy1": ("fading_easy", 1),
}

# MuJoCo 3 rounds otherwise than 2.3.3, and differences grow from the first touch of something hard. So: for this many
# steps every number of the observation agrees to that much (measured, with some margin) ...
EARLY: dict[str, tuple[int, float]] = {"Point": (8, 5e-4), "Car": (24, 2e-4), "Doggo": (20, 1e-4), "Ant": (12, 5e-4)}
# ... but for the accelerometer, which feels single contacts, and the lidar of gremlins, which are driven; Racecar's
# mesh touches the floor otherwise in MuJoCo 3; and for the whole recording rewards agree to this much.
ACCELEROMETER, GREMLINS, RACECAR, REWARDS = 2e-2, 1e-2, 0.3, 5e-2


def _recorded(name: str) -> dict[str, Any]:
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def _env(name: str) -> tuple[str, NavigationEnv]:
    robot, task = re.fullmatch(r"Safety(Point|Car|Doggo|Racecar|Ant)(\w+)-v0.*", name).groups()  # type: ignore[union-attr]
    spec = NavigationSpec(robot.lower(), *TASKS[task])  # type: ignore[arg-type]
    return robot, NavigationEnv(spec, costs=("sum",), horizon=1000)


def _replay(env: NavigationEnv, recorded: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations [T + 1, d], rewards [T] and costs [T] of the recorded actions from the recorded start."""
    observation, _ = env.reset(seed=int(recorded["seed"]))
    layout = env._inner.task.world_info.layout
    assert list(layout) == recorded["names"].tolist()
    np.testing.assert_array_equal(np.array(list(layout.values())), recorded["places"])
    observations, rewards, costs = [observation], [], []
    for action in recorded["actions"]:
        observation, reward, _, _, info = env.step(action)
        observations.append(observation)
        rewards.append(reward)
        costs.append(info["cost"][0])
    return np.array(observations), np.array(rewards), np.array(costs)


def test_every_robot_and_task_is_recorded() -> None:
    assert len(RECORDED) == 5 * len(TASKS)
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 1_000_000


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECORDED]
)
def test_navigation_is_what_the_package_was(name: str) -> None:
    recorded = _recorded(name)
    robot, env = _env(name)
    observations, rewards, costs = _replay(env, recorded)
    wrong = np.abs(observations - recorded["observations"])
    if robot == "Racecar":
        assert wrong[:, 3:].max() < RACECAR
    else:
        steps, tolerance = EARLY[robot]
        lidar = 16 if "Button" in name else 0
        accelerometer, rest, gremlins = np.split(wrong[: steps + 1], [3, wrong.shape[1] - lidar], axis=1)
        assert accelerometer.max() < ACCELEROMETER
        assert rest.max() < tolerance
        assert gremlins.max(initial=0.0) < GREMLINS
    assert wrong[0].max() < (1e-3 if robot == "Racecar" else 1e-12)
    assert np.abs(rewards - recorded["rewards"]).max() < REWARDS
    # A robot that pushes against a gremlin touches it in one instant and not in the next.
    assert np.abs(costs - recorded["costs"]).sum() <= (5 if "Button" in name else 0)


def test_the_recordings_meet_goals_and_every_cost_of_the_first_levels() -> None:
    met = [name for name in RECORDED if (_recorded(name)["rewards"] > 0.9).any() and "Run" not in name]
    assert {"SafetyPointFadingEasy1-v0", "SafetyPointButton1-v0", "SafetyCarFadingEasy1-v0"} <= set(met)
    for task in ("Goal1", "Button1", "Push1", "Circle1", "Run0"):
        assert _recorded(f"SafetyPoint{task}-v0")["costs"].sum() > 5


def test_a_car_whose_other_wheels_touch_first_goes_nearly_the_same_way() -> None:
    recorded = _recorded("SafetyCarGoal1-v0-other-wheels")
    _, env = _env("SafetyCarGoal1-v0")
    observations, rewards, _ = _replay(env, recorded)
    assert abs(observations[0, 2] - recorded["observations"][0, 2]) > 4.0, "the accelerometer tells"
    assert np.abs(rewards - recorded["rewards"]).max() < 1e-3


@pytest.mark.parametrize(
    ("name", "steps", "tolerance"),
    # The last three have contact margins, which MuJoCo adds up since version 3 and took the larger of before: they
    # agree until the first foot touches the ground.
    [
        ("HalfCheetah", 30, 1e-11),
        ("Swimmer", 30, 1e-13),
        ("Walker2d", 20, 1e-11),
        ("Hopper", 6, 1e-13),
        ("Ant", 1, 1e-13),
        ("Humanoid", 3, 1e-12),
    ],
)
def test_velocity_is_what_the_package_was(name: str, steps: int, tolerance: float) -> None:
    recorded, env = _recorded(f"Safety{name}Velocity-v1"), velocity_env(name)
    observation, _ = env.reset(seed=int(recorded["seed"]))
    first = recorded["observations"][0]
    if name in ("Ant", "Humanoid"):  # MuJoCo 2.3.3 normalises the quaternion of the start in place
        turned = slice(1, 5)
        observation[turned] /= np.linalg.norm(observation[turned])
        observation, first = observation[:5], first[:5]
    np.testing.assert_allclose(observation, first, rtol=0.0, atol=1e-14)
    for step in range(steps):
        observation, reward, cost, _, _, _ = env.step(recorded["actions"][step])  # type: ignore[misc]
        np.testing.assert_allclose(observation, recorded["observations"][step + 1], rtol=tolerance, atol=tolerance)
        assert reward == pytest.approx(recorded["rewards"][step], abs=1e-7)  # NumPy 1 summed float32 in float64
        assert cost == recorded["costs"][step]


@pytest.mark.slow
def test_costs_by_name_are_those_the_package_reports() -> None:
    for (kind, level), names in COSTS.items():
        inner = make_builder(NavigationSpec("point", kind, level))
        inner.reset(seed=3)
        reported = {key.removeprefix("cost_") for key in inner._cost() if key != "cost_sum"}
        assert reported == set(names), (kind, level)
        assert kind_of(kind) == kind


def test_only_the_adapter_imports_the_package_and_only_when_asked() -> None:
    imports = "import sys, tasks.safety_gymnasium.navigation, tasks.contract.family_registry"
    code = f"{imports}; print('safety_gymnasium' in sys.modules, 'glfw' in sys.modules)"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split()[0] == "False"
    rooms = Path(adapter.__file__).parent.parent.parent
    for path in (
        path for room in ("tasks", "policies", "meta", "distributed") for path in (rooms / room).rglob("*.py")
    ):
        imported = re.findall(r"(?:import|from) safety_gymnasium|\"safety_gymnasium\"", path.read_text())
        assert not imported or path.name in ("adapter.py", "family_registry.py"), path


def test_a_missing_package_is_reported_with_the_command_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TaskError, match=r"not installed; pip install --no-deps safety-gymnasium==1\.0\.0"):
        adapter._load_package.__wrapped__()


def test_changing_something_a_task_lacks_is_reported() -> None:
    with pytest.raises(TaskError, match=r"SafetyPointRun0-v0: has no hazards to change"):
        make_builder(NavigationSpec("point", "run", 0, Changes(hazards=3)))
    with pytest.raises(TaskError, match=r"SafetyPointRun2-v0: Safety-Gymnasium has no such task .*RunLevel2"):
        make_builder(NavigationSpec("point", "run", 2))
    with pytest.raises(TaskError, match="SafetySnakeVelocity: Safety-Gymnasium has no such task"):
        velocity_env("Snake")


def test_actions_are_clipped_and_instabilities_reported() -> None:
    env = NavigationEnv(NavigationSpec("racecar", "run", 0), costs=("sum",), horizon=50)
    env.reset(seed=0)
    env.step(np.array([50.0, -3.0]))
    np.testing.assert_array_equal(env.data.ctrl, [20.0, -0.785])
    env.data.qvel[0] = 1e12
    with pytest.raises(
        TaskError, match=r"SafetyRacecarRun0-v0, step 2: MuJoCo warns: .* State after the step: qpos \["
    ):
        env.step(np.zeros(2))


def test_the_blueprint_equals_the_package() -> None:
    blueprint = read_blueprint(NavigationSpec("car", "button", 1, Changes(hazards=6, hazard_size=0.3)))
    assert blueprint.lidars == ("buttons", "goal", "hazards", "gremlins")
    hazards, gremlins = blueprint.group("hazards"), blueprint.group("gremlins")
    assert (len(hazards.members), hazards.size, hazards.bodies) == (6, 0.3, ())
    assert gremlins.bodies == ("gremlin0obj", "gremlin1obj", "gremlin2obj", "gremlin3obj")
    assert [sensor.name for sensor in blueprint.sensors if sensor.form == "rotation"] == ["ballquat_rear"]
    assert "hazard0" not in blueprint.xml
    assert "<texture" not in blueprint.xml
