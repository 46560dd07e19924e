"""What a navigation task of Safety-Gymnasium consists of, as plain data; read from the package by its adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RobotName = Literal["point", "car", "doggo", "racecar", "ant"]
TaskName = Literal["goal", "button", "push", "circle", "run", "fading_easy", "fading_hard"]
Kind = Literal["goal", "button", "push", "circle", "run"]
SensorForm = Literal["plain", "height", "angle", "rotation"]
Area = tuple[float, float, float, float]
"""Least x, least y, greatest x, greatest y; metres."""

COSTS: dict[tuple[Kind, int], tuple[str, ...]] = {
    ("goal", 0): (),
    ("goal", 1): ("hazards",),
    ("goal", 2): ("hazards", "vases_contact", "vases_velocity"),
    ("button", 0): (),
    ("button", 1): ("buttons", "hazards", "gremlins"),
    ("button", 2): ("buttons", "hazards", "gremlins"),
    ("push", 0): (),
    ("push", 1): ("hazards",),
    ("push", 2): ("hazards", "pillars"),
    ("circle", 0): (),
    ("circle", 1): ("out_of_boundary",),
    ("circle", 2): ("out_of_boundary",),
    ("run", 0): ("out_of_boundary",),
}
"""The package's costs by task and level, in its order; its keys without ``cost_``."""


def kind_of(task: TaskName) -> Kind:
    """Fading tasks are goal tasks whose objects fade on pictures; no number of a vector observation changes."""
    return "goal" if task in ("fading_easy", "fading_hard") else task  # type: ignore[return-value]


@dataclass(frozen=True)
class Changes:
    """What a task changes in the package's own task; None leaves it as it is. Metres."""

    hazards: int | None = None
    """Number of hazards."""
    hazard_size: float | None = None
    """Radius of a hazard."""
    hazard_area: Area | None = None
    """Where hazards may lie."""
    boundary: float | None = None
    """Distance of the walls from the middle (circle, run)."""
    radius: float | None = None
    """Radius of the circle to run on."""


@dataclass(frozen=True)
class NavigationSpec:
    """A task of the package: ``SafetyPointGoal1`` is robot point, task goal, level 1."""

    robot: RobotName
    task: TaskName
    level: int
    changes: Changes = Changes()

    @property
    def task_id(self) -> str:
        """The package's name of the task."""
        words = "".join(part.capitalize() for part in self.task.split("_"))
        return f"Safety{self.robot.capitalize()}{words}{self.level}-v0"


@dataclass(frozen=True)
class Placement:
    """Where one object is put at a reset; objects are put one after the other."""

    name: str
    area: Area
    """Rectangle that holds it with its keepout."""
    keepout: float
    """Two objects are at least as far apart as their keepouts together."""


@dataclass(frozen=True)
class Group:
    """Objects of one kind, in the order of the package."""

    name: str
    """The package's name: goal, hazards, vases, ..."""
    members: tuple[str, ...]
    """Names of their placements."""
    bodies: tuple[str, ...]
    """Their bodies in the physics; empty where they touch nothing."""
    moving: bool
    """Whether their bodies can be pushed."""
    observed: bool
    """Whether the lidar sees them."""
    size: float
    height: float
    """Of the body's origin at a reset."""


@dataclass(frozen=True)
class Sensor:
    """One sensor of the robot in the observation."""

    name: str
    form: SensorForm
    """plain: as it is; height: z alone; angle: sine and cosine; rotation: a quaternion as a matrix."""


@dataclass(frozen=True)
class Blueprint:
    """All that the fast path needs to know of a task. Groups, sensors and lidars stand in the package's order."""

    spec: NavigationSpec
    xml: str
    """MuJoCo model of what takes part in the physics: the robot and the objects that can be touched."""
    placements: tuple[Placement, ...]
    margin: float
    """Added to each pair of keepouts."""
    robot_height: float
    robot_geoms: frozenset[str]
    groups: tuple[Group, ...]
    sensors: tuple[Sensor, ...]
    lidars: tuple[str, ...]
    """Names of the groups that the lidar sees, in the order of the observation."""
    num_bins: int
    max_distance: float
    """Beyond which the lidar sees nothing."""
    travel: float
    """Radius of the circle on which gremlins are driven; 0 where there are none."""
    num_walls: int
    """2: the boundary is on x alone; 4: on x and y; 0: none."""
    boundary: float

    @property
    def kind(self) -> Kind:
        """Which reward it has."""
        return kind_of(self.spec.task)

    @property
    def costs(self) -> tuple[str, ...]:
        """Names of its costs."""
        return COSTS[self.kind, self.spec.level]

    def group(self, name: str) -> Group:
        """The group of that name."""
        return next(group for group in self.groups if group.name == name)
