"""Gymnasium's MuJoCo v5 robots as families of constrained MDPs: half_cheetah, hopper, swimmer, walker2d, ant, humanoid.

States and observations are those of the v5 environment (all its default parts), actions the torques of its A motors in
[-1, 1] (humanoid: [-0.4, 0.4]). **Actions are clipped to these bounds before use**: physics, reward and costs all use
the clipped action. Start states, dynamics and early ends (hopper, walker2d, ant, humanoid fall) are
Gymnasium's own. With v the velocity of the torso (humanoid: of the centre of mass) in m/s and h the healthy reward
(hopper, walker2d, ant 1; humanoid 5; half_cheetah, swimmer 0), the variants are:

| variant | reward | cost | what varies |
|---|---|---|---|
| ``velocity`` | -abs(v_x - v*), plus h + v* on healthy steps where episodes can end early | 0.1 abs(a)^2 | v* |
| ``direction`` | w . v + h | 0.1 abs(a)^2 | the heading w |
| ``speed_limit`` | Gymnasium's own | 1 when the speed is above the limit | the limit |
| ``body`` | Gymnasium's own | 0.1 abs(a)^2, or as speed_limit | masses, friction, gravity, motor strength |
| ``motors`` | Gymnasium's own | as body | one motor is damaged, or turns the other way |

Limits are on the expected discounted cost of an episode from its start. docs/families_continuous.md has the details.
"""

from __future__ import annotations

from collections.abc import Sequence as Sequence_
from typing import Any, Literal

import gymnasium
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.contract.context import numbers_in
from tasks.contract.tabular_model import TabularModel
from tasks.contract.task import Parameters, Split
from tasks.contract.variation import Sequence, Similarity, draw_point, require_positive
from tasks.mujoco import objectives
from tasks.mujoco.mujoco_batch import MujocoBatch, Objective, base_action_bounds, change_body, compile_model
from tasks.mujoco.robots import ROBOTS, Robot
from tasks.mujoco.variants import (
    MODEL_FACTORS,
    Variant,
    dimensions,
    model_factors,
    parameters_at,
    require_shares_of_torque,
)

RobotName = Literal["half_cheetah", "hopper", "swimmer", "walker2d", "ant", "humanoid"]
CostKind = Literal["control_effort", "overspeed"]

_LIMIT_STREAM = 71
_EFFORT_SHARE = 0.2
"""Default limit of control effort, as a share of the effort of full actions at every step."""
_OVERSPEED_SHARE = 0.025
"""Default limit of overspeed, as a share of the steps (25 of 1,000, as is usual with Safety-Gymnasium)."""


class Locomotion(BaseModel):
    """A robot, a variant and a distribution of tasks; the fields are the keys of a run file's ``family`` section."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    robot: RobotName
    """Which of Gymnasium's v5 robots."""
    seed: int = Field(ge=0)
    """Seed of every draw of the family."""
    num_tasks: int = Field(default=96, gt=0)
    """Length of the training sequence."""
    variant: Variant = "velocity"
    """Defines reward, cost and what varies between tasks; see the module's table."""
    similarity: Similarity = "high"
    """Spread of the tasks: low is 1 (the whole range), high 0.25, or any number in (0, 1]."""
    sequence: Sequence = "iid"
    """iid; drifting: the tasks move through the range; clustered: `num_clusters` groups in the range."""
    num_clusters: int = Field(default=2, ge=2)
    """Number of groups (sequence: clustered)."""
    horizon: int = Field(default=200, gt=0)
    """Steps after which an episode is truncated. Gymnasium's own is 1,000."""
    discount: float = Field(default=0.99, gt=0.0, lt=1.0)
    """Discount of rewards and costs."""
    body_cost: CostKind = "control_effort"
    """The cost of body and motors; overspeed uses the robot's own threshold. The other variants have one cost."""
    limit: float | None = Field(default=None, ge=0.0)
    """Limit on the expected discounted cost; None: 20 % of the effort of full actions, overspeed at 2.5 % of steps."""

    limit_factors: tuple[float, float] | None = None
    """Least and greatest factor on the limit, drawn log-uniformly for each task; None: the same limit for all."""

    @model_validator(mode="after")
    def _factors_are_a_range(self) -> Locomotion:
        if self.limit_factors is not None and not 0.0 < self.limit_factors[0] < self.limit_factors[1]:
            raise ValueError(f"limit_factors must be two rising numbers above 0, got {list(self.limit_factors)}")
        return self

    @model_validator(mode="after")
    def _body_cost_is_used(self) -> Locomotion:
        if self.variant not in MODEL_FACTORS and self.body_cost != "control_effort":
            raise ValueError(f"body_cost belongs to the variants body and motors; {self.variant} has its own cost")
        return self

    @property
    def gauges(self) -> dict[str, str]:
        """What films show beside a speed of the task: the speed that the robot has."""
        return {"target_speed": "x_velocity", "speed_limit": "x_velocity"}

    @property
    def cost_names(self) -> tuple[str, ...]:
        """One cost."""
        return (self._cost,)

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        """The parameters of the variant, with ``limit_factor`` where limits differ between tasks."""
        own = self._variant_parameters(split, index, attempt)
        if self.limit_factors is None:
            return own
        rng = np.random.default_rng([self.seed, ("train", "test").index(split), index, attempt, _LIMIT_STREAM])
        low, high = np.log(self.limit_factors)
        return {**own, "limit_factor": round(float(np.exp(rng.uniform(low, high))), 4)}

    def context(self, parameters: Parameters) -> dict[str, float]:
        """The numbers of the variant; limits are entries where ``meta.contexts.limits`` asks for them.

        The second weight of a heading, which is 0 for robots that move along x only, is no entry of theirs.
        """
        ignored = ("limit_factor", "weights[1]") if self._robot.planar else ("limit_factor",)
        return {name: value for name, value in numbers_in(parameters) if name not in ignored}

    def _variant_parameters(self, split: Split, index: int, attempt: int) -> dict[str, Any]:
        """By variant: ``target_speed``, ``weights`` [2], ``speed_limit``, or factors of :func:`change_body`."""
        point = draw_point(
            self.seed,
            split,
            index,
            attempt,
            dimensions=dimensions(self._robot, self.variant),
            similarity=self.similarity,
            sequence=self.sequence,
            num_tasks=self.num_tasks,
            num_clusters=self.num_clusters,
        )
        return parameters_at(self._robot, self.variant, point)

    def check_parameters(self, parameters: Parameters) -> None:
        """Check the factors of a body or of motors that somebody gave.

        Raises:
            ValueError: a factor of a body is not above 0, or one of a motor is not between -1 and 1.
        """
        if self.variant == "body":
            require_positive(parameters)
        if self.variant == "motors":
            require_shares_of_torque(parameters)

    def make(self, parameters: Parameters, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
        """Gymnasium's v5 environment with the variant's body, reward and ``info["cost"]`` [1]."""
        env = gymnasium.make(
            self._robot.gymnasium_id, max_episode_steps=self.horizon, render_mode=render_mode, disable_env_checker=True
        )
        factors = model_factors(self.variant, parameters)
        if factors is not None:
            change_body(env.unwrapped.model, factors)  # type: ignore[attr-defined]
        return objectives.ObjectiveEnv(env, self._robot, self._objective(parameters), self.robot)

    def batch(self, parameters: Parameters, num_copies: int, label: str | None = None) -> MujocoBatch:
        """n copies of the same environment on the fast path; ``label`` names the task in errors."""
        return MujocoBatch(
            self._robot,
            compile_model(self._robot, model_factors(self.variant, parameters)),
            num_copies,
            objective=self._objective(parameters),
            num_costs=1,
            horizon=self.horizon,
            label=label or self.robot,
        )

    def mixed_batch(
        self, parameters: Sequence_[Parameters], copies_of_each: int, label: str | None = None
    ) -> MujocoBatch | None:
        """Copies of several tasks in one batch; None for body and motors, whose tasks have models of their own."""
        if self.variant in MODEL_FACTORS:
            return None
        return MujocoBatch(
            self._robot,
            compile_model(self._robot, None),
            len(parameters) * copies_of_each,
            objective=self._mixed_objective(parameters, copies_of_each),
            num_costs=1,
            horizon=self.horizon,
            label=label or self.robot,
        )

    def model(self, parameters: Parameters) -> TabularModel | None:
        """None: there is no exact model."""
        del parameters
        return None

    def limits(self, parameters: Parameters) -> tuple[float, ...] | float:
        """The limit on the expected discounted cost, a number in the cost's own unit."""
        return (self._usual_limit() * float(parameters.get("limit_factor", 1.0)),)

    def _usual_limit(self) -> float:
        if self.limit is not None:
            return self.limit
        steps = objectives.discounted_steps(self.discount, self.horizon)
        if self._cost == "overspeed":
            return _OVERSPEED_SHARE * steps
        _, high = base_action_bounds(self._robot)
        return _EFFORT_SHARE * float(objectives.control_effort(high[None])[0]) * steps

    @property
    def _robot(self) -> Robot:
        return ROBOTS[self.robot]

    @property
    def _cost(self) -> CostKind:
        return "overspeed" if self.variant == "speed_limit" else self.body_cost

    def _mixed_objective(self, parameters: Sequence_[Parameters], copies_of_each: int) -> Objective:
        """The objective of every copy, computed for all copies at once."""

        def repeated(values: list[Any]) -> Any:
            return np.repeat(np.array(values, np.float64), copies_of_each, axis=0)

        if self.variant == "velocity":
            return objectives.target_speed(
                repeated([float(one["target_speed"]) for one in parameters]), self._robot.healthy is not None
            )
        if self.variant == "direction":
            weights = repeated([list(one["weights"]) for one in parameters])
            return objectives.heading((weights[:, 0], weights[:, 1]))
        limits = repeated([float(one["speed_limit"]) for one in parameters])
        return objectives.own_reward_with_speed_limit(limits, both_axes=self.robot in ("ant", "humanoid"))

    def _objective(self, parameters: Parameters) -> Objective:
        if self.variant == "velocity":
            return objectives.target_speed(float(parameters["target_speed"]), self._robot.healthy is not None)
        if self.variant == "direction":
            first, second = parameters["weights"]
            return objectives.heading((float(first), float(second)))
        if self._cost == "overspeed":
            limit = float(parameters.get("speed_limit", self._robot.speed_limit))
            return objectives.own_reward_with_speed_limit(limit, both_axes=self.robot in ("ant", "humanoid"))
        return objectives.own_reward_with_effort()


class HalfCheetah(Locomotion):
    """The ``half_cheetah`` family on HalfCheetah-v5: 17 observations, 6 actions, never ends early."""

    robot: Literal["half_cheetah"] = "half_cheetah"
    """The robot; fixed."""


class Hopper(Locomotion):
    """The ``hopper`` family on Hopper-v5: 11 observations, 3 actions, ends on falling."""

    robot: Literal["hopper"] = "hopper"
    """The robot; fixed."""


class Swimmer(Locomotion):
    """The ``swimmer`` family on Swimmer-v5: 8 observations, 2 actions, never ends early."""

    robot: Literal["swimmer"] = "swimmer"
    """The robot; fixed."""


class Walker2d(Locomotion):
    """The ``walker2d`` family on Walker2d-v5: 17 observations, 6 actions, ends on falling."""

    robot: Literal["walker2d"] = "walker2d"
    """The robot; fixed."""


class Ant(Locomotion):
    """The ``ant`` family on Ant-v5: 105 observations, 8 actions, ends on falling or jumping."""

    robot: Literal["ant"] = "ant"
    """The robot; fixed."""


class Humanoid(Locomotion):
    """The ``humanoid`` family on Humanoid-v5: 348 observations, 17 actions, ends on falling."""

    robot: Literal["humanoid"] = "humanoid"
    """The robot; fixed."""
