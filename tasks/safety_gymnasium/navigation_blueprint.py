"""The parts of a navigation task of Safety-Gymnasium as plain data, read from the package by the adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RobotName = Literal["point", "car", "doggo", "racecar", "ant"]
TaskName = Literal["goal", "button", "push", "circle", "run", "fading_easy", "fading_hard"]
Kind = Literal["goal", "button", "push", "circle", "run"]
SensorForm = Literal["plain", "height", "angle", "rotation"]
Area = tuple[float, float, float, float]
"""Smallest x and y, largest x and y; metres."""

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
    """The kind of a task; fading tasks are goal tasks whose objects fade only on pictures."""
    return "goal" if task in ("fading_easy", "fading_hard") else task  # type: ignore[return-value]


@dataclass(frozen=True)
class Changes:
    """Changes to the package's own task, in metres; None keeps the package's value."""

    hazards: int | None = None
    """Number of hazards."""
    hazard_size: float | None = None
    """Radius of a hazard."""
    hazard_area: Area | None = None
    """The area of the hazards."""
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
    """The placement of one object at a reset; objects are placed one after the other."""

    name: str
    area: Area
    """The rectangle that contains the object with its keepout."""
    keepout: float
    """The distance of two objects is at least the sum of their keepouts."""


@dataclass(frozen=True)
class Group:
    """Objects of one kind, in the order of the package."""

    name: str
    """The package's name: goal, hazards, vases, ..."""
    members: tuple[str, ...]
    """Names of their placements."""
    bodies: tuple[str, ...]
    """Their bodies in the physics; empty if they have no contacts."""
    moving: bool
    """Whether their bodies can move."""
    observed: bool
    """Whether the lidar sees them."""
    size: float
    height: float
    """Height of the body's origin at a reset."""


@dataclass(frozen=True)
class Sensor:
    """One sensor of the robot in the observation."""

    name: str
    form: SensorForm
    """plain: unchanged; height: z alone; angle: sine and cosine; rotation: a quaternion as a matrix."""


@dataclass(frozen=True)
class Blueprint:
    """Everything that the fast path needs of a task. Groups, sensors and lidars follow the package's order."""

    spec: NavigationSpec
    xml: str
    """MuJoCo model of the bodies in the physics: the robot and the objects that it can touch."""
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
    """Range of the lidar."""
    travel: float
    """Radius of the circle on which gremlins move; 0 without gremlins."""
    num_walls: int
    """2: the boundary limits x only; 4: x and y; 0: no boundary."""
    boundary: float

    @property
    def kind(self) -> Kind:
        """The kind of task, which defines the reward."""
        return kind_of(self.spec.task)

    @property
    def costs(self) -> tuple[str, ...]:
        """Names of the task's costs."""
        return COSTS[self.kind, self.spec.level]

    def group(self, name: str) -> Group:
        """The group with this name."""
        return next(group for group in self.groups if group.name == name)
