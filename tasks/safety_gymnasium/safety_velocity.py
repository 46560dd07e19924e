"""Safety-Gymnasium's velocity tasks as families: run forwards, below a speed limit that varies between tasks.

They use Gymnasium's v4 robots. Differences from the v5 robots of ``tasks.mujoco.locomotion`` (variant ``speed_limit``):
Ant and Humanoid pay nothing for contacts, and Ant does not observe them; Humanoid also observes the world's row of each
field; the step of a fall still earns the healthy reward; Walker2d uses an older model.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tasks.contract.tabular_model import TabularModel
from tasks.contract.task import Parameters, Split
from tasks.contract.variation import Sequence, Similarity, draw_point
from tasks.mujoco import objectives
from tasks.mujoco.locomotion import RobotName
from tasks.mujoco.mujoco_batch import MujocoBatch, compile_model
from tasks.mujoco.robots import HUMANOID_FIELDS, ROBOTS, Robot, observe_humanoid, observe_state
from tasks.safety_gymnasium.adapter import velocity_env

_COST_SHARE = 0.025

SAFETY_ROBOTS: dict[str, Robot] = {name: replace(robot, rewards_falls=True) for name, robot in ROBOTS.items()} | {
    "walker2d": replace(ROBOTS["walker2d"], rewards_falls=True, xml="walker2d.xml"),
    "ant": replace(ROBOTS["ant"], rewards_falls=True, observe=observe_state, contact_cost=None, extra_fields=("xpos",)),
    "humanoid": replace(
        ROBOTS["humanoid"],
        rewards_falls=True,
        observe=partial(observe_humanoid, world=True),
        contact_cost=None,
        extra_fields=("xipos", *HUMANOID_FIELDS),
        world_fields=True,
    ),
}
"""The package's robots under the names of ``tasks.mujoco.robots``."""


class SafetyVelocity(BaseModel):
    """A robot with a varying speed limit; the fields are the keys of a run file's ``family`` section."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    seed: int = Field(ge=0)
    """Seed of every draw of the family."""
    num_tasks: int = Field(default=96, gt=0)
    """Length of the training sequence."""
    robot: RobotName = "half_cheetah"
    """The robot."""
    similarity: Similarity = "high"
    """Spread of the tasks: low is 1 (the whole range), high 0.25, or any number in (0, 1]."""
    sequence: Sequence = "iid"
    """iid; drifting: the tasks move through the range; clustered: `num_clusters` groups in the range."""
    num_clusters: int = Field(default=2, ge=2)
    """Number of groups (sequence: clustered)."""
    horizon: int = Field(default=1000, gt=0)
    """Steps after which an episode is truncated."""
    discount: float = Field(default=0.99, gt=0.0, lt=1.0)
    """Discount of rewards and costs."""
    limit: float | None = Field(default=None, ge=0.0)
    """Limit on the expected discounted cost; None: overspeed at 2.5 % of the steps."""

    @property
    def cost_names(self) -> tuple[str, ...]:
        """One cost."""
        return ("overspeed",)

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        """``speed_limit`` (m/s): the package's threshold times 1 + 0.5 z."""
        (turn,) = draw_point(
            self.seed,
            split,
            index,
            attempt,
            dimensions=1,
            similarity=self.similarity,
            sequence=self.sequence,
            num_tasks=self.num_tasks,
            num_clusters=self.num_clusters,
        )
        return {"speed_limit": self._robot.speed_limit * (1.0 + 0.5 * turn)}

    def make(self, parameters: Parameters) -> gymnasium.Env[Any, Any]:
        """The package's environment with ``info["cost"]`` [1] and clipped actions."""
        name = "".join(word.capitalize() for word in self.robot.split("_"))
        return VelocityEnv(velocity_env(name), float(parameters["speed_limit"]), self.horizon)

    def batch(self, parameters: Parameters, num_copies: int, label: str | None = None) -> MujocoBatch:
        """n copies of the same environment on the fast path; ``label`` names the task in errors."""
        both_axes = self.robot in ("ant", "humanoid")
        return MujocoBatch(
            self._robot,
            compile_model(self._robot),
            num_copies,
            objective=objectives.own_reward_with_speed_limit(float(parameters["speed_limit"]), both_axes),
            num_costs=1,
            horizon=self.horizon,
            label=label or f"safety_velocity {self.robot}",
        )

    def model(self, parameters: Parameters) -> TabularModel | None:
        """None: there is no exact model."""
        del parameters
        return None

    def limits(self, parameters: Parameters) -> tuple[float, ...] | float:
        """The limit on the expected discounted cost, as a discounted number of steps."""
        del parameters
        steps = objectives.discounted_steps(self.discount, self.horizon)
        return (self.limit if self.limit is not None else _COST_SHARE * steps,)

    @property
    def _robot(self) -> Robot:
        return SAFETY_ROBOTS[self.robot]


class VelocityEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The package's velocity environment with five values per step, another threshold (m/s) and clipped actions."""

    def __init__(self, env: gymnasium.Env[Any, Any], threshold: float, horizon: int) -> None:
        super().__init__(env)
        env._velocity_threshold = threshold  # type: ignore[attr-defined]
        self._horizon, self._steps = horizon, 0
        space: Any = env.action_space
        self._low, self._high = space.low, space.high

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset as the package does."""
        self._steps = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Clip the action and step."""
        self._steps += 1
        applied = np.clip(np.asarray(action, np.float32), self._low, self._high)
        results: Any = self.env.step(applied)
        observation, reward, cost, terminated, truncated, info = results
        info["cost"] = np.array([cost])
        return observation, float(reward), bool(terminated), bool(truncated) or self._steps >= self._horizon, info
