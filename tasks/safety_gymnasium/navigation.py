"""Safety-Gymnasium's navigation tasks as a family of constrained MDPs; docs/families_continuous.md writes them out.

A robot (point, car, doggo, racecar, ant) reaches goals, presses buttons, pushes a box to goals, runs around a circle or
runs away, and avoids hazards and objects that it must not touch. Episodes, rewards and costs are the package's own.
Tasks differ in the number, size and places of the hazards, the boundary, the robot, the limit and, with
``layout: fixed``, the layout.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.contract.tabular_model import TabularModel
from tasks.contract.task import Parameters, Split
from tasks.contract.variation import Sequence, Similarity, draw_point
from tasks.mujoco.objectives import discounted_steps
from tasks.safety_gymnasium.adapter import NavigationEnv, read_blueprint
from tasks.safety_gymnasium.navigation_batch import NavigationBatch
from tasks.safety_gymnasium.navigation_blueprint import (
    COSTS,
    Blueprint,
    Changes,
    Kind,
    NavigationSpec,
    RobotName,
    TaskName,
    kind_of,
)

ROBOT_SIZES: dict[RobotName, tuple[int, int]] = {
    "point": (12, 2),
    "car": (24, 2),
    "doggo": (56, 12),
    "racecar": (12, 2),
    "ant": (40, 8),
}
"""The number of the robot's sensor values in an observation, and of its actions."""


class _Hazards(NamedTuple):
    """The package's half-width of the field (m), number and radius (m) of hazards, and the spread of each."""

    half_width: float
    number: int
    size: float
    number_spread: float = 0.5
    shift: float = 0.2


HAZARDS: dict[tuple[Kind, int], _Hazards] = {
    ("goal", 1): _Hazards(1.5, 8, 0.2),
    ("goal", 2): _Hazards(2.0, 10, 0.2),
    # Buttons and gremlins leave little room: with half as many hazards more, no layout is found.
    ("button", 1): _Hazards(1.5, 4, 0.2, number_spread=0.25, shift=0.1),
    ("button", 2): _Hazards(1.8, 8, 0.2, number_spread=0.25, shift=0.1),
    ("push", 1): _Hazards(1.5, 2, 0.3),
    ("push", 2): _Hazards(2.0, 4, 0.3),
}
"""The hazards by task and level."""

BOUNDARY: dict[Kind, float] = {"circle": 1.125, "run": 0.5}
RADIUS = 1.5

_COST_SHARE = 0.025
"""Default limit as a share of the steps, as in the package's usual 25 of 1,000."""
_LAYOUT_STREAM, _ROBOT_STREAM = 31, 32


class SafetyGymnasium(BaseModel):
    """A task of Safety-Gymnasium and its variation; the fields are the keys of a run file's ``family`` section."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    seed: int = Field(ge=0)
    """Seed of every draw of the family."""
    num_tasks: int = Field(default=96, gt=0)
    """Length of the training sequence."""
    robot: RobotName | tuple[RobotName, ...] = "point"
    """The robot, or several of equal sizes (point and racecar); each task then draws one."""
    task: TaskName = "goal"
    """The robot's goal. The fading tasks have the same numbers as goal; only their pictures fade."""
    level: int = Field(default=1, ge=0, le=2)
    """0: no costs (run: its only level); 1: the usual level; 2: more objects and more costs."""
    layout: Literal["random", "fixed"] = "random"
    """random: every episode draws a layout; fixed: each task has one layout and one order of goals."""
    costs: Literal["sum", "each"] = "sum"
    """sum: one cost, 1 if any of the package's costs is; each: the package's costs one by one."""
    similarity: Similarity = "high"
    """Spread of the tasks: low is 1 (the whole range), high 0.25, or any number in (0, 1]."""
    sequence: Sequence = "iid"
    """iid; drifting: the tasks move through the range; clustered: `num_clusters` groups in the range."""
    num_clusters: int = Field(default=2, ge=2)
    """Number of groups (sequence: clustered)."""
    horizon: int = Field(default=1000, gt=0)
    """Steps after which an episode is truncated; the default of circle and run is 500, as in the package."""
    discount: float = Field(default=0.99, gt=0.0, lt=1.0)
    """Discount of rewards and costs."""
    limit: float | None = Field(default=None, ge=0.0)
    """Middle of the limits on each expected discounted cost; None: a cost at 2.5 % of the steps."""

    @model_validator(mode="before")
    @classmethod
    def _package_defaults(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        task = given.get("task", "goal")
        own = {"run": {"level": 0, "horizon": 500}, "circle": {"horizon": 500}}
        return own.get(task, {}) | given

    @model_validator(mode="after")
    def _task_exists(self) -> SafetyGymnasium:
        names = COSTS.get((self._kind, self.level))
        if names is None:
            raise ValueError(f"{self.task} has no level {self.level}; run has level 0 only")
        if self.costs == "each" and not names:
            raise ValueError(f"{self.task} has no costs on level {self.level}; use level 1 or 2, or costs: sum")
        sizes = {robot: ROBOT_SIZES[robot] for robot in self._robots}
        if len(set(sizes.values())) != 1:
            listed = ", ".join(f"{robot} {sensors} and {actions}" for robot, (sensors, actions) in sizes.items())
            raise ValueError(f"robots of one family need equal numbers of sensors and actions, got {listed or 'none'}")
        return self

    @property
    def cost_names(self) -> tuple[str, ...]:
        """``any_cost``, or the package's names."""
        return ("any_cost",) if self.costs == "sum" else COSTS[self._kind, self.level]

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        """``robot``, ``limit``, the fields of ``Changes`` that vary, and ``layout_seed`` if the layout is fixed."""
        point = draw_point(
            self.seed,
            split,
            index,
            attempt,
            dimensions=1 + self._dimensions,
            similarity=self.similarity,
            sequence=self.sequence,
            num_tasks=self.num_tasks,
            num_clusters=self.num_clusters,
        )
        key = [self.seed, ("train", "test").index(split), index, attempt]
        robots = self._robots
        drawn: dict[str, Any] = {
            "robot": robots[int(np.random.default_rng([*key, _ROBOT_STREAM]).integers(len(robots)))],
            "limit": self._base_limit * (1.0 + 0.5 * point[0]),
            **self._changes(point[1:]),
        }
        if self.layout == "fixed":
            # Training seeds are even and test seeds odd, so the splits share no layout.
            number = int(np.random.default_rng([*key, _LAYOUT_STREAM]).integers(2**30))
            drawn["layout_seed"] = 2 * number + (split == "test")
        return drawn

    def make(self, parameters: Parameters, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
        """The package's environment with ``info["cost"]`` [p]."""
        return NavigationEnv(
            self._spec(parameters),
            costs=self._reported,
            horizon=self.horizon,
            layout_seed=parameters.get("layout_seed"),
            render_mode=render_mode,
        )

    def batch(self, parameters: Parameters, num_copies: int, label: str | None = None) -> NavigationBatch:
        """n copies of the same environment on the fast path; ``label`` names the task in errors."""
        spec = self._spec(parameters)
        return NavigationBatch(
            _blueprint(spec),
            num_copies,
            costs=self._reported,
            horizon=self.horizon,
            label=label or spec.task_id,
            layout_seed=parameters.get("layout_seed"),
        )

    def model(self, parameters: Parameters) -> TabularModel | None:
        """None: there is no exact model."""
        del parameters
        return None

    def limits(self, parameters: Parameters) -> tuple[float, ...] | float:
        """The task's limit on each expected discounted cost, as a discounted number of steps."""
        return (float(parameters["limit"]),) * len(self.cost_names)

    @property
    def _robots(self) -> tuple[RobotName, ...]:
        return self.robot if isinstance(self.robot, tuple) else (self.robot,)

    @property
    def _kind(self) -> Kind:
        return kind_of(self.task)

    @property
    def _reported(self) -> tuple[str, ...]:
        return ("sum",) if self.costs == "sum" else self.cost_names

    @property
    def _base_limit(self) -> float:
        return self.limit if self.limit is not None else _COST_SHARE * discounted_steps(self.discount, self.horizon)

    @property
    def _dimensions(self) -> int:
        if (self._kind, self.level) in HAZARDS:
            return 4
        return {"circle": 1 if self.level == 0 else 2, "run": 1}.get(self._kind, 0)

    def _changes(self, point: tuple[float, ...]) -> dict[str, Any]:
        """The task's parameters for coordinates in [-1, 1]."""
        if (self._kind, self.level) in HAZARDS:
            return _change_hazards(HAZARDS[self._kind, self.level], point)
        if self._kind == "circle":
            radius = {"radius": RADIUS * (1.0 + 0.2 * point[0])}
            return radius if self.level == 0 else radius | {"boundary": BOUNDARY["circle"] * (1.0 + 0.2 * point[1])}
        return {"boundary": BOUNDARY["run"] * (1.0 + 0.5 * point[0])} if self._kind == "run" else {}

    def _spec(self, parameters: Parameters) -> NavigationSpec:
        given = {name: parameters[name] for name in Changes.__dataclass_fields__ if name in parameters}
        if "hazard_area" in given:
            given["hazard_area"] = tuple(given["hazard_area"])
        return NavigationSpec(parameters["robot"], self.task, self.level, Changes(**given))


def _change_hazards(own: _Hazards, point: tuple[float, ...]) -> dict[str, Any]:
    """Number (at least 1), size and area of hazards; the area is a little smaller than the field and moves in it."""
    reach = (1.0 - own.shift) * own.half_width
    along, across = (own.shift * own.half_width * value for value in point[2:])
    return {
        "hazards": max(1, round(own.number * (1.0 + own.number_spread * point[0]))),
        "hazard_size": own.size * (1.0 + 0.25 * point[1]),
        "hazard_area": [along - reach, across - reach, along + reach, across + reach],
    }


@lru_cache(maxsize=64)
def _blueprint(spec: NavigationSpec) -> Blueprint:
    return read_blueprint(spec)
