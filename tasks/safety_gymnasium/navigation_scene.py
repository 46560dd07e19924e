"""The physics of n copies of a navigation task: place layouts in compiled models, step them, and gather the results.

The package writes and compiles an XML text at every reset. Here the model is compiled once. A reset writes the layout
into a copy's arrays and lets MuJoCo recompute the derived values, which gives the same arrays.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from tasks.contract.instability import listen, warning_texts
from tasks.contract.task import TaskError
from tasks.safety_gymnasium.navigation_blueprint import Blueprint
from tasks.safety_gymnasium.navigation_layout import Layout
from tasks.stepping.batch import BoolArray, FloatArray

FRAME_SKIP = 10
"""MuJoCo steps in one step of the environment."""
_SENSORS_OFF = int(mujoco.mjtDisableBit.mjDSBL_SENSOR)
_WELD_QUATERNION = slice(6, 10)

listen()


class Scene:
    """n copies of the robot and the objects. Each copy has its own model, because the model holds the layout.

    The arrays hold the values after the latest ``settle`` or ``advance``; places are in metres.
    """

    def __init__(self, blueprint: Blueprint, num_copies: int, label: str, steps: int, with_contacts: bool) -> None:
        base = mujoco.MjModel.from_xml_string(blueprint.xml)
        self._label, self._blueprint = label, blueprint
        self.models = [copy.copy(base) for _ in range(num_copies)]
        self.copies = [mujoco.MjData(model) for model in self.models]
        self.robot = base.body("agent").id
        self.control_low, self.control_high = base.actuator_ctrlrange.T.copy()
        self._bodies = _placed_bodies(base, blueprint)
        # MuJoCo's split step supports only Euler. Without driven bodies, its first half has already been computed.
        euler = base.opt.integrator == mujoco.mjtIntegrator.mjINT_EULER
        self._first_half_is_done = euler and base.nmocap == 0
        self._drive = _drive(blueprint, base, steps) if base.nmocap else None
        self._with_contacts = with_contacts
        self._bind(base)

    def geoms(self, names: Sequence[str]) -> list[int]:
        """The ids of geometries in the physics."""
        return [self.models[0].geom(name).id for name in names]

    def place(self, index: int, layout: Layout, turns: Mapping[str, float]) -> None:
        """Place the robot (``agent``) and the objects of a copy as in ``layout``, turned by ``turns`` (radians)."""
        model, data = self.models[index], self.copies[index]
        for name, body, coordinate, height in self._bodies:
            x, y = layout[name]
            half = turns[name] / 2
            pose = (x, y, height, np.cos(half), 0.0, 0.0, np.sin(half))
            model.body_pos[body], model.body_quat[body] = pose[:3], pose[3:]
            if model.body_mass[body] == 0.0:  # the compiler then uses the body's pose for its inertia
                model.body_ipos[body], model.body_iquat[body] = pose[:3], pose[3:]
            if coordinate >= 0:
                model.qpos0[coordinate : coordinate + 7] = pose
                model.qpos_spring[coordinate : coordinate + 7] = pose
        # A weld keeps its old pose unless it is unset.
        model.eq_data[model.eq_type == mujoco.mjtEq.mjEQ_WELD, _WELD_QUATERNION] = 0.0
        mujoco.mj_setConst(model, data)
        # The solver scales its tolerances by this value; only the compiler computes it, as a sum in this order.
        model.stat.meaninertia = sum(model.dof_M0.tolist()) / model.nv
        mujoco.mj_resetData(model, data)

    def bend(self, index: int, actuator: int, angle: float) -> None:
        """Set the joint of an actuator (radians)."""
        model = self.models[index]
        self.copies[index].qpos[model.jnt_qposadr[model.actuator_trnid[actuator, 0]]] = angle

    def settle(self, indices: Sequence[int]) -> None:
        """Compute the values that depend on the copies' positions."""
        for index in indices:
            mujoco.mj_forward(self.models[index], self.copies[index])
        self._gather()

    def advance(self, controls: FloatArray, elapsed: NDArray[np.int64]) -> None:
        """Step every copy with ``controls`` [n, A]; ``elapsed`` [n] counts the previous steps of each copy."""
        self._controls[:] = controls
        if self._drive is None:
            self._advance_freely()
        else:
            self._advance_driven(self._drive, elapsed)
        self._gather()
        np.concatenate(self._warnings, out=self._warned)

    def check(self, elapsed: NDArray[np.int64]) -> None:
        """Raise TaskError if MuJoCo has counted a warning."""
        if not self._warned.any():
            return
        counts = self._warned.reshape(len(self.copies), -1)
        index = int(np.flatnonzero(counts.any(axis=1))[0])
        raise TaskError(
            f"{self._label}, step {elapsed[index]}, copy {index}: MuJoCo warns: {warning_texts(counts[index])} "
            f"State after the step: {self.state_text(index)}, control {self._controls[index].tolist()}"
        )

    def state_text(self, index: int) -> str:
        """Positions and velocities of a copy as text."""
        data = self.copies[index]
        return f"qpos {data.qpos.tolist()}, qvel {data.qvel.tolist()}"

    def robot_velocity(self) -> FloatArray:
        """The velocity [n, 3] of the robot's origin, as in the package: the body's Jacobian times the velocities."""
        for model, data, jacobian in zip(self.models, self.copies, self._jacobians, strict=True):
            mujoco.mj_jacBody(model, data, jacobian, None, self.robot)
        return np.asarray(np.matmul(self._jacobians, self.velocities[:, :, None])[:, :, 0])

    def _advance_freely(self) -> None:
        step, rest = mujoco.mj_step, FRAME_SKIP
        for model, data, control, row, options in self._stepped:
            control[:] = row
            options.disableflags |= _SENSORS_OFF
            if self._first_half_is_done:
                mujoco.mj_step2(model, data)
                rest = FRAME_SKIP - 1
            step(model, data, rest)
            options.disableflags &= ~_SENSORS_OFF
            mujoco.mj_forward(model, data)

    def _advance_driven(self, drive: FloatArray, elapsed: NDArray[np.int64]) -> None:
        step = mujoco.mj_step
        for (model, data, control, row, options), done in zip(self._stepped, elapsed.tolist(), strict=True):
            control[:] = row
            options.disableflags |= _SENSORS_OFF
            driven = data.mocap_pos
            for target in drive[done * FRAME_SKIP : (done + 1) * FRAME_SKIP]:
                driven[:] = target
                step(model, data)
            options.disableflags &= ~_SENSORS_OFF
            mujoco.mj_forward(model, data)

    def _bind(self, base: mujoco.MjModel) -> None:
        """Bind views of every copy's memory once, and the arrays they are gathered into."""
        count, copies = len(self.copies), self.copies
        self._controls = np.zeros((count, base.nu))
        self._stepped = [
            (model, data, data.ctrl, row, model.opt)
            for model, data, row in zip(self.models, copies, self._controls, strict=True)
        ]
        self.bodies = np.zeros((count, base.nbody, 3))
        self.frame = np.zeros((count, 3, 3))
        self.sensors = np.zeros((count, base.nsensordata))
        self.velocities = np.zeros((count, base.nv))
        self._gathered: list[tuple[list[NDArray[Any]], NDArray[Any]]] = [
            ([data.xpos.reshape(-1) for data in copies], self.bodies.reshape(-1)),
            ([data.xmat[self.robot] for data in copies], self.frame.reshape(-1)),
            ([data.sensordata for data in copies], self.sensors.reshape(-1)),
            ([data.qvel for data in copies], self.velocities.reshape(-1)),
        ]
        self._jacobians = np.zeros((count, 3, base.nv))
        self._warnings = [data.warning.number for data in copies]
        self._warned = np.zeros(count * self._warnings[0].size, self._warnings[0].dtype)
        names = self._blueprint.robot_geoms
        self._is_robot = np.array([base.geom(index).name in names for index in range(base.ngeom)])
        self.touched: BoolArray = np.zeros((count, base.ngeom), np.bool_)

    @property
    def place_of_robot(self) -> FloatArray:
        """[n, 3]."""
        return self.bodies[:, self.robot]

    def _gather(self) -> None:
        for views, out in self._gathered:
            np.concatenate(views, out=out)
        if self._with_contacts:
            self._find_touched()

    def _find_touched(self) -> None:
        """Write ``touched`` [n, geometries]: whether a geometry is in contact with the robot."""
        pairs = [data.contact.geom for data in self.copies]
        owners = np.repeat(np.arange(len(pairs)), [len(pair) for pair in pairs])
        first, second = np.concatenate(pairs).T
        self.touched[:] = False
        by_first, by_second = self._is_robot[first], self._is_robot[second]
        self.touched[owners[by_first], second[by_first]] = True
        self.touched[owners[by_second], first[by_second]] = True


def _placed_bodies(model: mujoco.MjModel, blueprint: Blueprint) -> list[tuple[str, int, int, float]]:
    """Placement, body, first coordinate (-1 without a free joint) and height of every placed object."""
    named = [("agent", "agent", blueprint.robot_height)]
    for group in blueprint.groups:
        named += [(name, body, group.height) for name, body in zip(group.members, group.bodies, strict=False)]
    placed = []
    for name, body_name, height in named:
        body = model.body(body_name).id
        joint = int(model.body_jntadr[body])
        free = joint >= 0 and model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE
        placed.append((name, body, int(model.jnt_qposadr[joint]) if free else -1, height))
    return placed


def _drive(blueprint: Blueprint, model: mujoco.MjModel, steps: int) -> FloatArray:
    """Places [steps * FRAME_SKIP, 3] of the driven bodies at each MuJoCo step, on a circle with period 2 pi s."""
    times, now, timestep = np.zeros(steps * FRAME_SKIP), 0.0, float(model.opt.timestep)
    for index in range(times.size):
        times[index] = now
        now += timestep
    height = np.full(times.size, blueprint.group("gremlins").size)
    return np.stack([np.sin(times) * blueprint.travel, np.cos(times) * blueprint.travel, height], axis=1)
