"""Copies of a MuJoCo robot that share one compiled model: the numbers of Gymnasium v5 without its overhead."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium.envs.mujoco
import mujoco
import numpy as np
from gymnasium.utils.seeding import np_random
from numpy.typing import NDArray

from tasks.contract.instability import listen, warning_texts
from tasks.contract.task import Parameters, TaskError
from tasks.mujoco.robots import ROBOTS, Robot
from tasks.stepping.batch import FloatArray, check_started, continuous_actions

_ASSETS = Path(gymnasium.envs.mujoco.__file__).parent / "assets"

listen()


class StepValues(NamedTuple):
    """The values of one step of n copies from which a variant computes its reward and costs."""

    own_reward: Callable[[], FloatArray]
    """Computes Gymnasium's own reward, [n]."""
    survival: FloatArray
    """[n], the healthy reward in it; 0 for a robot whose episodes never end early."""
    velocity: FloatArray
    """[n, 2], metres per second along x and y."""
    actions: NDArray[np.float32]
    """[n, A], clipped."""


_FACTORS = ("mass", "friction", "gravity", "strength")
Objective = Callable[[StepValues], tuple[FloatArray, FloatArray]]
"""From a step's values to the task's reward [n] and costs [n, p]."""


@lru_cache(maxsize=2 * len(ROBOTS))
def _base_model(xml: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(_ASSETS / xml))


def compile_model(robot: Robot, body: Parameters | None = None) -> mujoco.MjModel:
    """A new copy of the robot's model as Gymnasium compiles it, with its body changed as in :func:`change_body`."""
    model = copy.copy(_base_model(robot.xml))
    if body is not None:
        change_body(model, body)
    return model


def num_bodies(robot: Robot) -> int:
    """The number of bodies with a mass (without the world)."""
    return int(_base_model(robot.xml).nbody) - 1


def num_motors(robot: Robot) -> int:
    """A, the number of motors."""
    return int(_base_model(robot.xml).nu)


def base_action_bounds(robot: Robot) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The smallest and the largest action of each motor, [A] each."""
    low, high = _base_model(robot.xml).actuator_ctrlrange.astype(np.float32).T.copy()
    return low, high


def change_body(model: mujoco.MjModel, body: Parameters) -> None:
    """Scale a model in place: ``mass`` (a factor per body, inertia with it), ``friction``, ``gravity``, ``strength``.

    ``friction`` scales the sliding friction of every geometry, ``strength`` the gear of every actuator, or of each by
    a factor of its own. What is not named stays. MuJoCo then recomputes what it derives from them.

    Raises:
        ValueError: a name is none of these.
    """
    unknown = sorted(set(body) - set(_FACTORS))
    if unknown:
        raise ValueError(f"a body has no {unknown[0]}: its factors are {', '.join(_FACTORS)}")
    if "mass" in body:
        mass = np.array(body["mass"], dtype=np.float64)
        model.body_mass[1:] *= mass
        model.body_inertia[1:] *= mass[:, None]
    model.geom_friction[:, 0] *= body.get("friction", 1.0)
    model.opt.gravity[:] *= body.get("gravity", 1.0)
    model.actuator_gear[:] *= np.reshape(np.array(body.get("strength", 1.0), np.float64), (-1, 1))
    mujoco.mj_setConst(model, mujoco.MjData(model))


class MujocoBatch:
    """A :class:`tasks.stepping.batch.BatchEnvironment` of n copies of ``robot`` that share ``model``.

    Start states, observations (rounded to float32), Gymnasium's reward and terminations are bitwise equal to those of
    the robot's v5 environment; ``objective`` computes the task's reward and p costs. ``label`` names the task in
    errors. A MuJoCo warning or a number that is not finite raises TaskError with the state before the step.
    """

    def __init__(
        self,
        robot: Robot,
        model: mujoco.MjModel,
        num_copies: int,
        *,
        objective: Objective,
        num_costs: int,
        horizon: int,
        label: str,
    ) -> None:
        if num_copies < 1:
            raise TaskError(f"{label}: a batch needs at least one copy, got {num_copies}")
        self._robot, self._model, self._objective, self._label = robot, model, objective, label
        self._copies = [mujoco.MjData(model) for _ in range(num_copies)]
        self.num_copies, self.num_costs, self.horizon = num_copies, num_costs, horizon
        self.num_actions: int | None = None
        self.action_low, self.action_high = model.actuator_ctrlrange.astype(np.float32).T.copy()
        self._dt = model.opt.timestep * robot.frame_skip
        self._bind()
        self._initial = self._fields["qpos"][0].copy(), self._fields["qvel"][0].copy()
        self.observation_size = self._count_observations()
        self._clipped = np.zeros((num_copies, model.nu), np.float32)
        self._position = np.array(robot.position(self._fields))
        self._velocity, self._survival = np.zeros((num_copies, 2)), np.zeros(num_copies)
        self._values = StepValues(self._own_reward, self._survival, self._velocity, self._clipped)
        self._elapsed, self._started = np.full(num_copies, -1), False
        self.observations = np.zeros((num_copies, self.observation_size), np.float32)
        self.reward = np.zeros(num_copies)
        self.costs = np.zeros((num_copies, num_costs))
        self.terminated = np.zeros(num_copies, np.bool_)
        self.truncated = np.zeros(num_copies, np.bool_)

    @property
    def state(self) -> tuple[FloatArray, FloatArray]:
        """Positions qpos [n, nq] and velocities qvel [n, nv] in full precision, as views of the batch."""
        return self._fields["qpos"], self._fields["qvel"]

    def reset(self, copies: NDArray[Any], seeds: NDArray[Any]) -> None:
        """See :class:`tasks.stepping.batch.BatchEnvironment`; draws what Gymnasium's ``reset(seed=...)`` draws."""
        for index, seed in zip(copies.tolist(), seeds.tolist(), strict=True):
            data = self._copies[index]
            mujoco.mj_resetData(self._model, data)
            data.qpos[:], data.qvel[:] = self._start(seed)
            mujoco.mj_forward(self._model, data)
        self._elapsed[copies] = 0
        self._gather()
        self._position[:] = self._robot.position(self._fields)
        self._robot.observe(self._fields, self.observations, self._robot.hidden)

    def step(self, actions: NDArray[Any]) -> None:
        """See :class:`tasks.stepping.batch.BatchEnvironment`."""
        if not self._started:
            self._started = check_started(self._elapsed, self._label)
        continuous_actions(actions, self.action_low, self.action_high, self._clipped, self._label, self._elapsed)
        self._elapsed += 1
        self._advance()
        self._gather()
        position = self._robot.position(self._fields)
        self._velocity[:, : position.shape[1]] = (position - self._position) / self._dt
        self._position[:] = position
        if self._robot.healthy is not None:
            self._robot.survival(self._fields, self._survival, self.terminated)
        self.reward[:], self.costs[:] = self._objective(self._values)
        np.greater_equal(self._elapsed, self.horizon, out=self.truncated)
        self._robot.observe(self._fields, self.observations, self._robot.hidden)
        self._check_finite()

    def close(self) -> None:
        """Nothing to release."""

    def _own_reward(self) -> FloatArray:
        return self._robot.reward(self._velocity[:, 0], self._survival, self._clipped, self._fields)

    def _start(self, seed: int) -> tuple[FloatArray, FloatArray]:
        """Gymnasium's start state of a seed, with its draws in its order."""
        rng, _ = np_random(seed)
        noise, (qpos, qvel) = self._robot.reset_noise, self._initial
        qpos = qpos + rng.uniform(low=-noise, high=noise, size=qpos.size)
        if self._robot.gaussian_velocity:
            return qpos, qvel + noise * rng.standard_normal(qvel.size)
        return qpos, qvel + rng.uniform(low=-noise, high=noise, size=qvel.size)

    def _bind(self) -> None:
        """Bind views of every copy's memory, and the arrays they are gathered into, once."""
        self._fields: dict[str, NDArray[Any]] = {"body_mass": self._model.body_mass}
        self._gathered: list[tuple[list[NDArray[Any]], NDArray[Any]]] = []
        for name in ("qpos", "qvel", *self._robot.extra_fields):
            views = [getattr(data, name).reshape(-1) for data in self._copies]
            self._fields[name] = np.zeros((self.num_copies, views[0].size))
            self._gathered.append((views, self._fields[name].reshape(-1)))
        controls = np.zeros((self.num_copies, self._model.nu))
        self._fields["ctrl"] = controls
        self._stepped = [(data, data.ctrl, row) for data, row in zip(self._copies, controls, strict=True)]
        self._warnings = [data.warning.number for data in self._copies]
        self._warned = np.zeros(self.num_copies * self._warnings[0].size, self._warnings[0].dtype)
        self._gather()

    def _count_observations(self) -> int:
        skipped = {"xpos": None, "xipos": None, "cinert": 10, "cvel": 6, "qfrc_actuator": 6, "cfrc_ext": 6}
        sizes = {name: self._fields[name].shape[1] for name in self._robot.extra_fields}
        shown = {name: first for name, first in skipped.items() if first is not None and name in sizes}
        extra = sum(sizes[name] - (0 if self._robot.world_fields else first) for name, first in shown.items())
        return int(self._model.nq - self._robot.hidden + self._model.nv + extra)

    def _advance(self) -> None:
        """Step the physics of every copy, then check MuJoCo's warning counts."""
        self._fields["ctrl"][:] = self._clipped
        model, frames, advance = self._model, self._robot.frame_skip, mujoco.mj_step
        if self._robot.needs_contact_forces:
            for data, control, row in self._stepped:
                control[:] = row
                advance(model, data, frames)
                mujoco.mj_rnePostConstraint(model, data)
        else:
            for data, control, row in self._stepped:
                control[:] = row
                advance(model, data, frames)
        np.concatenate(self._warnings, out=self._warned)
        if self._warned.any():
            counts = self._warned.reshape(self.num_copies, -1)
            index = int(np.flatnonzero(counts.any(axis=1))[0])
            raise TaskError(
                f"{self._where(index)}: MuJoCo warns: {warning_texts(counts[index])} {self._before_text(index)}"
            )

    def _gather(self) -> None:
        for views, out in self._gathered:
            np.concatenate(views, out=out)

    def _check_finite(self) -> None:
        """Check observations and rewards; costs are bounded functions of actions and velocities, checked with them."""
        if np.isfinite(self.observations).all() and math.isfinite(float(np.add.reduce(self.reward))):
            return
        numbers = np.column_stack([self.observations, self.reward, self.costs])
        index = int(np.flatnonzero(~np.isfinite(numbers).all(axis=1))[0])
        raise TaskError(
            f"{self._where(index)}: an observation, reward {self.reward[index]} or cost {self.costs[index]} is not "
            f"finite; state after the step: {self._state_text(index)}"
        )

    def _where(self, index: int) -> str:
        return f"{self._label}, step {self._elapsed[index]}, copy {index}"

    def _before_text(self, index: int) -> str:
        return f"State before the step: {self._state_text(index)}, action {self._clipped[index].tolist()}"

    def _state_text(self, index: int) -> str:
        qpos, qvel = (array[index].tolist() for array in self.state)
        return f"qpos {qpos}, qvel {qvel}"
