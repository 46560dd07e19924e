"""Gymnasium's MuJoCo v5 robots as array functions over n copies, bitwise equal to the environments' own numbers.

Each formula keeps the order of operations and the precisions of the environment it comes from (the control cost, for
instance, is a float32 sum because actions are float32), so that the results are equal and not merely close.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Fields = Mapping[str, Array]
"""MuJoCo's data of n copies: qpos [n, nq], qvel [n, nv], ctrl [n, A], and flat rows of other fields by name."""


@dataclass(frozen=True)
class Robot:
    """One of Gymnasium's v5 locomotion environments. Speeds are in metres per second."""

    name: str
    """The family's name."""
    gymnasium_id: str
    """The id for ``gymnasium.make``."""
    xml: str
    """File of the model among Gymnasium's assets."""
    frame_skip: int
    """MuJoCo steps in one step of the environment."""
    hidden: int
    """Number of leading coordinates (x, or x and y) that observations leave out."""
    planar: bool
    """Whether the robot moves along x only."""
    reset_noise: float
    """Scale of the noise on the start state."""
    gaussian_velocity: bool
    """Start velocities are normal instead of uniform."""
    observe: Callable[[Fields, Array, int], None]
    """Writes observations [n, size] from the fields."""
    position: Callable[[Fields], Array]
    """[n, 1 or 2], the position whose difference quotient is the velocity."""
    healthy: Callable[[Fields], Array] | None
    """[n], whether the episode continues; None if nothing ends it early."""
    healthy_reward: float
    """Reward of a healthy step."""
    forward_weight: float
    """Weight of the forward speed in Gymnasium's reward."""
    control_weight: float
    """Weight of the squared actions in Gymnasium's reward."""
    contact_cost: Callable[[Fields], Array] | None
    """[n], cost of contact forces in Gymnasium's reward."""
    float64_control: bool
    """Whether the control cost uses MuJoCo's controls (float64) instead of the given actions (float32)."""
    extra_fields: tuple[str, ...]
    """Fields of MuJoCo's data that the robot needs in addition to qpos, qvel and ctrl."""
    world_fields: bool
    """Whether observations include these fields of the world, the first body (v4)."""
    rewards_falls: bool
    """Whether the step of a fall earns the healthy reward too (v4)."""
    speed_limit: float
    """Threshold of Safety-Gymnasium's velocity task of this robot."""
    target_speed: float
    """Middle of the target speeds of the ``velocity`` variant; they range from 0 to twice this."""

    @property
    def needs_contact_forces(self) -> bool:
        """Whether ``mj_rnePostConstraint`` must run after each step (it changes no other field that is read)."""
        return "cfrc_ext" in self.extra_fields

    def survival(self, fields: Fields, reward: Array, terminated: Array) -> None:
        """Write the healthy reward [n] and the ends [n] of a robot with a healthy range."""
        assert self.healthy is not None
        healthy = self.healthy(fields)
        np.multiply(healthy | self.rewards_falls, self.healthy_reward, out=reward)
        np.logical_not(healthy, out=terminated)

    def reward(self, forward: Array, survival: Array, actions: Array, fields: Fields) -> Array:
        """Gymnasium's own reward [n] from forward speed [n], healthy reward [n] and float32 actions [n, A]."""
        applied = fields["ctrl"] if self.float64_control else actions
        costs = self.control_weight * np.add.reduce(np.square(applied), axis=-1)
        if self.contact_cost is not None:
            costs = costs + self.contact_cost(fields)
        return (self.forward_weight * forward + survival) - costs


def observe_state(fields: Fields, out: Array, hidden: int) -> None:
    """Write the visible positions and the velocities."""
    visible = fields["qpos"].shape[1] - hidden
    out[:, :visible] = fields["qpos"][:, hidden:]
    out[:, visible : visible + fields["qvel"].shape[1]] = fields["qvel"]


def _observe_clipped_velocity(fields: Fields, out: Array, hidden: int) -> None:
    visible = fields["qpos"].shape[1] - hidden
    out[:, :visible] = fields["qpos"][:, hidden:]
    np.clip(fields["qvel"], -10, 10, out=out[:, visible:], casting="same_kind")


def _observe_ant(fields: Fields, out: Array, hidden: int) -> None:
    observe_state(fields, out, hidden)
    contact = fields["cfrc_ext"][:, 6:]
    np.clip(contact, -1.0, 1.0, out=out[:, -contact.shape[1] :], casting="same_kind")


HUMANOID_FIELDS = {"cinert": 10, "cvel": 6, "qfrc_actuator": 6, "cfrc_ext": 6}
"""Fields in humanoid's observation, and how many of their numbers belong to the world."""


def observe_humanoid(fields: Fields, out: Array, hidden: int, world: bool = False) -> None:
    """Write the state and ``HUMANOID_FIELDS``, including the world's numbers if ``world``."""
    observe_state(fields, out, hidden)
    start = fields["qpos"].shape[1] - hidden + fields["qvel"].shape[1]
    for name, first in HUMANOID_FIELDS.items():
        part = fields[name] if world else fields[name][:, first:]
        out[:, start : start + part.shape[1]] = part
        start += part.shape[1]


def _x(fields: Fields) -> Array:
    return fields["qpos"][:, :1]


def _xy(fields: Fields) -> Array:
    return fields["qpos"][:, :2]


def _torso(fields: Fields) -> Array:
    return fields["xpos"][:, 3:5]


def _mass_centre(fields: Fields) -> Array:
    mass = fields["body_mass"]
    places = fields["xipos"].reshape(-1, mass.size, 3)
    return np.add.reduce(mass[:, None] * places, axis=1)[:, :2] / mass.sum()


def _hopper_healthy(fields: Fields) -> Array:
    qpos, qvel = fields["qpos"], fields["qvel"]
    height, angle = qpos[:, 1], qpos[:, 2]
    within = (np.abs(qpos[:, 2:]) < 100.0).all(axis=1) & (np.abs(qvel) < 100.0).all(axis=1)
    return within & (height > 0.7) & (height < np.inf) & (angle > -0.2) & (angle < 0.2)


def _walker_healthy(fields: Fields) -> Array:
    height, angle = fields["qpos"][:, 1], fields["qpos"][:, 2]
    return (height > 0.8) & (height < 2.0) & (angle > -1.0) & (angle < 1.0)


def _ant_healthy(fields: Fields) -> Array:
    qpos, qvel = fields["qpos"], fields["qvel"]
    height = qpos[:, 2]
    return np.isfinite(qpos).all(axis=1) & np.isfinite(qvel).all(axis=1) & (height >= 0.2) & (height <= 1.0)


def _humanoid_healthy(fields: Fields) -> Array:
    height = fields["qpos"][:, 2]
    return (height > 1.0) & (height < 2.0)


def _ant_contact(fields: Fields) -> Array:
    return 5e-4 * np.add.reduce(np.square(np.clip(fields["cfrc_ext"], -1.0, 1.0)), axis=-1)


def _humanoid_contact(fields: Fields) -> Array:
    return np.clip(5e-7 * np.add.reduce(np.square(fields["cfrc_ext"]), axis=-1), -np.inf, 10.0)


def _planar(name: str, gymnasium_id: str, xml: str, **changes: Any) -> Robot:
    common: dict[str, Any] = {
        "frame_skip": 4,
        "hidden": 1,
        "planar": True,
        "reset_noise": 5e-3,
        "gaussian_velocity": False,
        "observe": _observe_clipped_velocity,
        "position": _x,
        "healthy": None,
        "healthy_reward": 0.0,
        "forward_weight": 1.0,
        "control_weight": 1e-3,
        "contact_cost": None,
        "float64_control": False,
        "extra_fields": (),
        "world_fields": False,
        "rewards_falls": False,
        "target_speed": 1.0,
    }
    return Robot(name=name, gymnasium_id=gymnasium_id, xml=xml, **(common | changes))


ROBOTS: dict[str, Robot] = {
    robot.name: robot
    for robot in (
        _planar(
            "half_cheetah",
            "HalfCheetah-v5",
            "half_cheetah.xml",
            frame_skip=5,
            reset_noise=0.1,
            gaussian_velocity=True,
            observe=observe_state,
            control_weight=0.1,
            speed_limit=3.2096,
        ),
        _planar("hopper", "Hopper-v5", "hopper.xml", healthy=_hopper_healthy, healthy_reward=1.0, speed_limit=0.7402),
        _planar(
            "swimmer",
            "Swimmer-v5",
            "swimmer.xml",
            hidden=2,
            planar=False,
            reset_noise=0.1,
            observe=observe_state,
            position=_xy,
            control_weight=1e-4,
            speed_limit=0.2282,
            target_speed=0.15,
        ),
        _planar(
            "walker2d",
            "Walker2d-v5",
            "walker2d_v5.xml",
            healthy=_walker_healthy,
            healthy_reward=1.0,
            speed_limit=2.3415,
        ),
        _planar(
            "ant",
            "Ant-v5",
            "ant.xml",
            frame_skip=5,
            hidden=2,
            planar=False,
            reset_noise=0.1,
            gaussian_velocity=True,
            observe=_observe_ant,
            position=_torso,
            healthy=_ant_healthy,
            healthy_reward=1.0,
            control_weight=0.5,
            contact_cost=_ant_contact,
            extra_fields=("xpos", "cfrc_ext"),
            speed_limit=2.6222,
        ),
        _planar(
            "humanoid",
            "Humanoid-v5",
            "humanoid.xml",
            frame_skip=5,
            hidden=2,
            planar=False,
            reset_noise=1e-2,
            observe=observe_humanoid,
            position=_mass_centre,
            healthy=_humanoid_healthy,
            healthy_reward=5.0,
            forward_weight=1.25,
            control_weight=0.1,
            contact_cost=_humanoid_contact,
            float64_control=True,
            extra_fields=("xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext"),
            speed_limit=1.4149,
        ),
    )
}
