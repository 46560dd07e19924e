"""Safety-Gymnasium's own task code on current libraries; no other module imports the package.

The package (1.0.0, unmaintained) does not import on Python 3.11 with Gymnasium 1.x, but its task code does: see
docs/decisions/0016-safety-gymnasium.md. Nothing is imported before the first task is made.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import gymnasium
import numpy as np

from tasks.contract.instability import listen, warning_texts
from tasks.contract.task import TaskError
from tasks.safety_gymnasium.navigation_blueprint import Blueprint, Changes, Group, NavigationSpec, Placement, Sensor
from tasks.safety_gymnasium.uncompiled import no_model_compiled

_PACKAGE = "safety_gymnasium"
_INSTALL = "pip install --no-deps safety-gymnasium==1.0.0 (and xmltodict, pygame; make setup does it)"
_RENDER_SIZE = 256
_UNPLACED = ("sigwalls", "circle")
"""Groups whose places are never read: walls act by their distance, and the circle is observed at the origin."""


class _HashableArray(np.ndarray[Any, Any]):
    """An array that Python 3.11 accepts as the default of a dataclass field; it rejects unhashable values."""

    __hash__ = object.__hash__  # type: ignore[assignment]


@lru_cache(maxsize=1)
def _load_package() -> None:
    """Make the package's task code importable.

    Raises:
        TaskError: the package is not installed; the message gives the command.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None:
        raise TaskError(f"Safety-Gymnasium is not installed; {_INSTALL}")
    # Its __init__ needs modules that Gymnasium 1.x no longer has, so the package is registered without running it.
    sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)
    try:
        colors = importlib.import_module(f"{_PACKAGE}.assets.color").COLOR
        for name, color in colors.items():
            colors[name] = color.view(_HashableArray)
        underlying: Any = importlib.import_module(f"{_PACKAGE}.bases.underlying")
        importlib.import_module(f"{_PACKAGE}.builder")
    except ImportError as error:
        raise TaskError(f"Safety-Gymnasium does not import ({error}); {_INSTALL}") from error
    underlying.OffScreenViewer = partial(underlying.OffScreenViewer, width=_RENDER_SIZE, height=_RENDER_SIZE)
    listen()


@contextlib.contextmanager
def _old_numpy() -> Iterator[None]:
    """Ignore two harmless warnings: arrays of one element used as numbers, and bounds of infinite float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)
        yield


def make_builder(spec: NavigationSpec, render_mode: str | None = None) -> Any:
    """The package's own environment (its ``Builder``, six values per step), changed according to ``spec``.

    Raises:
        TaskError: the package is missing, has no such task, or the task has no such object to change.
    """
    _load_package()
    builder = importlib.import_module(f"{_PACKAGE}.builder").Builder
    config = {"agent_name": spec.robot.capitalize()}
    try:
        with _old_numpy():
            made = builder(task_id=spec.task_id, config=config, render_mode=render_mode)
    except AssertionError as error:
        raise TaskError(f"{spec.task_id}: Safety-Gymnasium has no such task ({error})") from error
    _change(made.task, spec)
    return made


def _change(task: Any, spec: NavigationSpec) -> None:
    given: Changes = spec.changes
    needed = {
        "hazards": (given.hazards, given.hazard_size, given.hazard_area),
        "sigwalls": (given.boundary,),
        "circle": (given.radius,),
    }
    for name, values in needed.items():
        if any(value is not None for value in values) and not hasattr(task, name):
            raise TaskError(f"{spec.task_id}: has no {name} to change")
    if given.hazards is not None:
        task.hazards.num = given.hazards
    if given.hazard_size is not None:
        task.hazards.size = given.hazard_size
    if given.hazard_area is not None:
        task.hazards.placements = [given.hazard_area]
    if given.boundary is not None:
        far = given.boundary
        task.sigwalls.locate_factor = far
        task.sigwalls.locations = [(far, 0), (-far, 0), (0, far), (0, -far)]
    if given.radius is not None:
        task.circle.radius = given.radius


class NavigationEnv(gymnasium.Env[Any, Any]):
    """The package's environment with five values per step, ``info["cost"]`` [p] and clipped float32 actions.

    ``costs`` lists the reported costs: the package's own (without ``cost_``), or ``sum`` for its sum; all are 1 or 0.
    With ``layout_seed``, every episode starts the same way; None starts each episode from its own seed. Raises
    TaskError with the state if MuJoCo counts a warning.
    """

    def __init__(
        self,
        spec: NavigationSpec,
        *,
        costs: tuple[str, ...],
        horizon: int,
        layout_seed: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self._inner = make_builder(spec, render_mode)
        self._inner.task.num_steps = horizon
        self._label, self._costs, self._layout_seed = spec.task_id, costs, layout_seed
        self.render_mode, self.metadata = render_mode, self._inner.metadata
        self.observation_space = self._inner.observation_space
        space = self._inner.action_space
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self._low, self._high = low, high

    @property
    def data(self) -> Any:
        """MuJoCo's data of the current episode."""
        return self._inner.task.data

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draw a new layout from ``seed`` (or from ``layout_seed``)."""
        super().reset(seed=seed)
        with _old_numpy():
            return self._inner.reset(seed=self._layout_seed if self._layout_seed is not None else seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Clip the action and step."""
        applied = np.clip(np.asarray(action, np.float32), self._low, self._high)
        with _old_numpy():
            observation, reward, _, terminated, truncated, info = self._inner.step(applied)
        if self.data.warning.number.any():
            raise TaskError(
                f"{self._label}, step {self._inner.steps}: MuJoCo warns: {warning_texts(self.data.warning.number)} "
                f"State after the step: qpos {self.data.qpos.tolist()}, action {applied.tolist()}"
            )
        # While the buttons rest, wrong buttons cost nothing and the package leaves the key out.
        info["cost"] = np.array([float(info.get(f"cost_{name}", 0.0)) for name in self._costs])
        return observation, float(reward), bool(terminated), bool(truncated), info

    def render(self) -> Any:
        """A picture [256, 256, 3] of the camera on the robot."""
        return self._inner.render()

    def close(self) -> None:
        """Close the viewers."""
        for viewer in self._inner.task._viewers.values():
            viewer.close()


def velocity_env(name: str) -> gymnasium.Env[Any, Any]:
    """The package's own, unchanged velocity task (v1) of a robot such as ``HalfCheetah`` (six values per step).

    Raises:
        TaskError: the package is missing or has no task for this robot.
    """
    _load_package()
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    module = f"{_PACKAGE}.tasks.safe_velocity.safety{words}_velocity_v1"
    if importlib.util.find_spec(module) is None:
        raise TaskError(f"Safety{name}Velocity: Safety-Gymnasium has no such task")
    with _old_numpy():
        return getattr(importlib.import_module(module), f"Safety{name}VelocityEnv")()


def read_blueprint(spec: NavigationSpec) -> Blueprint:
    """Read everything that the fast path needs from the package's task."""
    task = make_builder(spec).task
    with _old_numpy():
        task._build_placements_dict()
    bodies, xml = _physics(NavigationSpec(spec.robot, spec.task, spec.level))
    obstacles = {obstacle.name: obstacle for obstacle in task._obstacles}
    gremlins, walls = obstacles.get("gremlins"), obstacles.get("sigwalls")
    info, observed = task.agent.sensor_info, tuple(task.obs_info.obs_space_dict.spaces)
    return Blueprint(
        spec=spec,
        xml=xml,
        placements=_placements(task),
        margin=float(task.placements_conf.margin),
        robot_height=float(task.agent.z_height),
        robot_geoms=frozenset(task.agent.body_info.geom_names),
        groups=tuple(_group(obstacle, bodies) for obstacle in obstacles.values()),
        sensors=tuple(Sensor(name, _form(info, name)) for name in observed if not name.endswith("_lidar")),
        lidars=tuple(name.removesuffix("_lidar") for name in observed if name.endswith("_lidar")),
        num_bins=int(task.lidar_conf.num_bins),
        max_distance=float(task.lidar_conf.max_dist),
        travel=float(gremlins.travel) if gremlins else 0.0,
        num_walls=int(walls.num) if walls else 0,
        boundary=float(walls.locate_factor) if walls else 0.0,
    )


def _placements(task: Any) -> tuple[Placement, ...]:
    placements = []
    for name, (areas, keepout) in task.placements_conf.placements.items():
        (area,) = areas or [task.placements_conf.extents]
        least_x, least_y, greatest_x, greatest_y = (float(value) for value in area)
        placements.append(Placement(name, (least_x, least_y, greatest_x, greatest_y), float(keepout)))
    return tuple(placements)


def _group(obstacle: Any, bodies: frozenset[str]) -> Group:
    several = hasattr(obstacle, "num")
    members = tuple(f"{obstacle.name[:-1]}{index}" for index in range(obstacle.num)) if several else (obstacle.name,)
    moved = tuple(f"{member}obj" if obstacle.type == "mocaps" else member for member in members)
    height = 0.0
    if obstacle.name not in _UNPLACED:
        shape = obstacle.get_config(np.zeros(2), 0.0)
        height = float((shape["obj"] if obstacle.type == "mocaps" else shape)["pos"][2])
    return Group(
        name=obstacle.name,
        members=members,
        bodies=moved if bodies.issuperset(moved) else (),
        moving=obstacle.type != "geoms",
        observed=bool(obstacle.is_lidar_observed),
        size=float(obstacle.radius if obstacle.name == "circle" else obstacle.size),
        height=height,
    )


def _form(info: Any, name: str) -> Any:
    if name == info.freejoint_pos_name:
        return "height"
    if name in info.hinge_pos_names:
        return "angle"
    return "rotation" if name in info.ballquat_names else "plain"


@lru_cache(maxsize=32)
def _physics(spec: NavigationSpec) -> tuple[frozenset[str], str]:
    """Names of the bodies other than the robot that take part in the physics, and a model of only these as XML.

    Objects without collisions (hazards, goals, walls, cameras, lights, pictures) do not change the motion of others.
    """
    built = make_builder(spec)
    # The package's compiled model has 190 MB of pictures and an arena of 470 MB, and briefly exists twice.
    with _old_numpy(), no_model_compiled(importlib.import_module(f"{_PACKAGE}.world")):
        built.task.reset()
    tree = built.task.world.xml
    model = tree["mujoco"]
    world = model["worldbody"]
    robot, *others = world["body"]
    taking_part = [body for body in others if "freejoint" in body or "@mocap" in body or _collides(body)]
    for body in taking_part:
        if "@mocap" in body:
            del body["geom"]
    for part in ("camera", "light"):
        world.pop(part, None)
        robot.pop(part, None)
    for part in ("texture", "material"):
        model["asset"].pop(part, None)
    for geom in world["geom"]:
        geom.pop("@material", None)
    world["body"] = [robot, *taking_part]
    # The package's own size claims half a gigabyte per copy; MuJoCo raises an error if this is too little.
    model["size"] = {"@memory": "32M"}
    unparse = importlib.import_module("xmltodict").unparse
    return frozenset(body["@name"] for body in taking_part), unparse(tree)


def _collides(body: Any) -> bool:
    geoms = body["geom"] if isinstance(body["geom"], list) else [body["geom"]]
    return any(geom.get("@contype", "1") != "0" or geom.get("@conaffinity", "1") != "0" for geom in geoms)
