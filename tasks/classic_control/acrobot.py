"""Gymnasium's Acrobot-v1 as a family of constrained MDPs: swing up with little torque in two prohibited regions.

State: angles theta_1 (first link, 0 hanging down) and theta_2 (second link relative to the first) in [-pi, pi], and
their velocities. Observation [6]: cosine and sine of both angles, and both velocities. Actions: 0, 1, 2 apply a torque
of -1, 0, +1 N m at the joint between the links. Start: each state number uniform in [-0.1, 0.1]. Dynamics: Gymnasium's
(the book's equations, Runge-Kutta over 0.2 s). Reward: -1 per step, 0 on reaching the goal -cos(theta_1) -
cos(theta_1 + theta_2) > 1, which ends the episode. The goal is Gymnasium's rule on the angles, for any lengths.
Costs: ``torque_first`` is 1 if the step applies a torque (action 0 or 2) while theta_1 is in ``first_region``;
``torque_second`` does the same for theta_2 and ``second_region``. Both use the state in which the action is taken.
Tasks differ in the lengths, masses and centres of mass of the links.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.utils.seeding import np_random
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tasks.contract.tabular_model import TabularModel
from tasks.contract.task import Parameters, Split, TaskError
from tasks.contract.variation import Sequence, Similarity, draw_point, require_positive
from tasks.stepping.batch import FloatArray, check_started, discrete_actions

Region = tuple[float, float]
"""Smallest and largest angle in radians."""
_TORQUES = np.array(AcrobotEnv.AVAIL_TORQUE)
_GRAVITY = 9.8
_RANGE = 0.4
"""At spread 1 every length, mass and centre is within a factor 1 +- 0.4 of Gymnasium's."""


def torque_costs(angles: FloatArray, actions: NDArray[Any], regions: tuple[Region, Region]) -> FloatArray:
    """[n, 2]: 1 where the action [n] applies a torque while the angle of ``angles`` [n, 2] is in its region, else 0."""
    low, high = np.array(regions).T
    inside = (angles >= low) & (angles <= high)
    return np.asarray(inside & (_TORQUES[actions] != 0.0)[:, None], dtype=np.float64)


def _square(values: FloatArray) -> FloatArray:
    """Equal to NumPy's ``scalar ** 2`` (the C library's pow) to the last bit, unlike ``array ** 2``."""
    return np.asarray(np.float_power(values, 2.0))


def derivatives(state: FloatArray, torque: FloatArray, links: Parameters) -> FloatArray:
    """Time derivatives [4, n] of ``state`` [4, n] under ``torque`` [n]: Gymnasium's equations, term by term."""
    (m1, m2), (l1, _), (lc1, lc2) = links["masses"], links["lengths"], links["centres"]
    inertia1 = inertia2 = AcrobotEnv.LINK_MOI
    g, pi, cos, sin = _GRAVITY, np.pi, np.cos, np.sin
    theta1, theta2, dtheta1, dtheta2 = state
    d1 = m1 * lc1**2 + m2 * (l1**2 + lc2**2 + 2 * l1 * lc2 * cos(theta2)) + inertia1 + inertia2
    d2 = m2 * (lc2**2 + l1 * lc2 * cos(theta2)) + inertia2
    phi2 = m2 * lc2 * g * cos(theta1 + theta2 - pi / 2.0)
    phi1 = (
        -m2 * l1 * lc2 * _square(dtheta2) * sin(theta2)
        - 2 * m2 * l1 * lc2 * dtheta2 * dtheta1 * sin(theta2)
        + (m1 * lc1 + m2 * l1) * g * cos(theta1 - pi / 2)
        + phi2
    )
    ddtheta2 = (torque + d2 / d1 * phi1 - m2 * l1 * lc2 * _square(dtheta1) * sin(theta2) - phi2) / (
        m2 * lc2**2 + inertia2 - _square(d2) / d1
    )
    ddtheta1 = -(d2 * ddtheta2 + phi1) / d1
    return np.array([dtheta1, dtheta2, ddtheta1, ddtheta2])


def advance(state: FloatArray, torque: FloatArray, links: Parameters) -> FloatArray:
    """The states [4, n] one step (0.2 s) later, as in Gymnasium: Runge-Kutta, wrapped angles, bounded velocities."""
    dt = AcrobotEnv.dt
    k1 = derivatives(state, torque, links)
    k2 = derivatives(state + dt / 2.0 * k1, torque, links)
    k3 = derivatives(state + dt / 2.0 * k2, torque, links)
    k4 = derivatives(state + dt * k3, torque, links)
    after = state + dt / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)
    angles = after[:2]
    while (above := angles > np.pi).any():
        angles[above] -= 2.0 * np.pi
    while (below := angles < -np.pi).any():
        angles[below] += 2.0 * np.pi
    after[2] = np.clip(after[2], -AcrobotEnv.MAX_VEL_1, AcrobotEnv.MAX_VEL_1)
    after[3] = np.clip(after[3], -AcrobotEnv.MAX_VEL_2, AcrobotEnv.MAX_VEL_2)
    return after


class AcrobotBatch:
    """n acrobots computed on arrays, bitwise equal to Gymnasium's."""

    def __init__(
        self, links: Parameters, regions: tuple[Region, Region], num_copies: int, horizon: int, label: str
    ) -> None:
        if num_copies < 1:
            raise TaskError(f"{label}: a batch needs at least one copy, got {num_copies}")
        self._links, self._regions, self._label = links, regions, label
        self.num_copies, self.num_costs, self.horizon = num_copies, 2, horizon
        self.observation_size, self.num_actions = 6, len(_TORQUES)
        self.action_low, self.action_high = None, None
        self._elapsed = np.full(num_copies, -1)
        self.state = np.zeros((4, num_copies))
        """theta_1, theta_2 and their velocities, one column for each copy."""
        self.observations = np.zeros((num_copies, 6), np.float32)
        self.reward = np.zeros(num_copies)
        self.costs = np.zeros((num_copies, 2))
        self.terminated = np.zeros(num_copies, np.bool_)
        self.truncated = np.zeros(num_copies, np.bool_)

    def reset(self, copies: NDArray[Any], seeds: NDArray[Any]) -> None:
        """See :class:`tasks.stepping.batch.BatchEnvironment`; draws what Gymnasium's ``reset(seed=...)`` draws."""
        for copy, seed in zip(copies.tolist(), seeds.tolist(), strict=True):
            rng, _ = np_random(seed)
            start = rng.uniform(low=-0.1, high=0.1, size=(4,)).astype(np.float32)
            self.state[:, copy] = start
            self._observe(start[:, None], slice(copy, copy + 1))
            self._elapsed[copy] = 0

    def step(self, actions: NDArray[Any]) -> None:
        """See :class:`tasks.stepping.batch.BatchEnvironment`."""
        check_started(self._elapsed, self._label)
        discrete_actions(actions, self.num_copies, self.num_actions, self._label, self._elapsed)
        self._elapsed += 1
        self.costs[:] = torque_costs(self.state[:2].T, actions, self._regions)
        self.state[:] = advance(self.state, _TORQUES[actions], self._links)
        theta1, theta2 = self.state[:2]
        np.greater(-np.cos(theta1) - np.cos(theta2 + theta1), 1.0, out=self.terminated)
        self.reward[:] = np.where(self.terminated, 0.0, -1.0)
        np.greater_equal(self._elapsed, self.horizon, out=self.truncated)
        self._observe(self.state, slice(None))

    def close(self) -> None:
        """Nothing to release."""

    def _observe(self, state: NDArray[Any], copies: slice) -> None:
        """Compute in the state's own precision (float32 after a reset, as in Gymnasium) and store as float32."""
        out = self.observations[copies]
        for link in range(2):
            out[:, 2 * link], out[:, 2 * link + 1] = np.cos(state[link]), np.sin(state[link])
        out[:, 4:] = state[2:].T


class _TorqueCost(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds ``info["cost"]`` [2]."""

    def __init__(self, env: gymnasium.Env[Any, Any], regions: tuple[Region, Region]) -> None:
        super().__init__(env)
        self._regions = regions

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        acrobot: Any = self.env.unwrapped
        before = np.array(acrobot.state[:2], dtype=np.float64)
        observation, reward, terminated, truncated, info = self.env.step(action)
        info["cost"] = torque_costs(before[None], np.array([action]), self._regions)[0]
        return observation, reward, terminated, truncated, info


class Acrobot(BaseModel):
    """The ``acrobot`` family; its fields are the keys of a run file's ``family`` section."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    seed: int = Field(ge=0)
    """Seed of every draw of the family."""
    num_tasks: int = Field(default=96, gt=0)
    """Length of the training sequence."""
    similarity: Similarity = "high"
    """Spread of the tasks: low is 1 (factors within 1 +- 0.4), high 0.25, or any number in (0, 1]."""
    sequence: Sequence = "iid"
    """iid; drifting: the tasks move through the range; clustered: `num_clusters` groups in the range."""
    num_clusters: int = Field(default=2, ge=2)
    """Number of groups (sequence: clustered)."""
    horizon: int = Field(default=500, gt=0)
    """Steps after which an episode is truncated; 500 is Gymnasium's own."""
    discount: float = Field(default=0.99, gt=0.0, lt=1.0)
    """Discount of rewards and costs."""
    first_region: Region = (-np.pi / 2, 0.0)
    """Angles of the first link, in radians, in which torque costs."""
    second_region: Region = (0.0, np.pi / 2)
    """Angles of the second link relative to the first, in radians, in which torque costs."""
    first_limit: float = Field(default=5.0, ge=0.0)
    """Limit on the expected discounted cost of torque in the first link's region."""
    second_limit: float = Field(default=5.0, ge=0.0)
    """Limit on the expected discounted cost of torque in the second link's region."""

    @field_validator("first_region", "second_region")
    @classmethod
    def _region_is_one(cls, value: Region) -> Region:
        if not -np.pi <= value[0] < value[1] <= np.pi:
            raise ValueError("a region must be a smaller and a larger angle between -pi and pi")
        return value

    @property
    def cost_names(self) -> tuple[str, ...]:
        """Two costs."""
        return ("torque_first", "torque_second")

    @property
    def regions(self) -> tuple[Region, Region]:
        """Both regions."""
        return self.first_region, self.second_region

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        """``lengths`` [m], ``masses`` [kg] and ``centres`` (of mass, from the link's start) [m] of both links."""
        point = draw_point(
            self.seed,
            split,
            index,
            attempt,
            dimensions=6,
            similarity=self.similarity,
            sequence=self.sequence,
            num_tasks=self.num_tasks,
            num_clusters=self.num_clusters,
        )
        factors = [1.0 + _RANGE * value for value in point]
        lengths, masses, shares = factors[:2], factors[2:4], factors[4:]
        return {
            "lengths": lengths,
            "masses": masses,
            "centres": [0.5 * share * length for share, length in zip(shares, lengths, strict=True)],
        }

    def check_parameters(self, parameters: Parameters) -> None:
        """Check the links that somebody gave.

        Raises:
            ValueError: a length, mass or centre is not above 0.
        """
        require_positive(parameters)

    def make(self, parameters: Parameters, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
        """Gymnasium's Acrobot-v1 with the task's links, and the costs added."""
        env = gymnasium.make(
            "Acrobot-v1", max_episode_steps=self.horizon, render_mode=render_mode, disable_env_checker=True
        )
        acrobot: Any = env.unwrapped
        acrobot.LINK_LENGTH_1, acrobot.LINK_LENGTH_2 = parameters["lengths"]
        acrobot.LINK_MASS_1, acrobot.LINK_MASS_2 = parameters["masses"]
        acrobot.LINK_COM_POS_1, acrobot.LINK_COM_POS_2 = parameters["centres"]
        return _TorqueCost(env, self.regions)

    def batch(self, parameters: Parameters, num_copies: int, label: str = "acrobot") -> AcrobotBatch:
        """n copies of the same environment, computed as arrays; ``label`` names the task in errors."""
        return AcrobotBatch(parameters, self.regions, num_copies, self.horizon, label)

    def model(self, parameters: Parameters) -> TabularModel | None:
        """None: there is no exact model."""
        del parameters
        return None

    def limits(self, parameters: Parameters) -> tuple[float, ...] | float:
        """The limits on the expected discounted costs."""
        del parameters
        return (self.first_limit, self.second_limit)
