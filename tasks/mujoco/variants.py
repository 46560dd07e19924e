"""What varies between the tasks of a robot: from a point in a cube to the parameters of each variant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from tasks.contract.task import Parameters
from tasks.mujoco.mujoco_batch import num_bodies, num_motors
from tasks.mujoco.robots import Robot

Variant = Literal["velocity", "direction", "speed_limit", "body", "motors"]
"""Names of the variants; tasks.mujoco.locomotion has their rewards and costs."""
MODEL_FACTORS = {"body": ("mass", "friction", "gravity", "strength"), "motors": ("strength",)}
"""Factors on the robot's model, of the variants whose tasks have models of their own (there ``body_cost`` counts)."""
_HEADING_GAIN = 0.2


def dimensions(robot: Robot, variant: Variant) -> int:
    """How many numbers a task of the variant is drawn from."""
    return {"body": num_bodies(robot) + 3, "motors": num_motors(robot)}.get(variant, 1)


def parameters_at(robot: Robot, variant: Variant, point: Sequence[float]) -> dict[str, Any]:
    """The parameters of the task at ``point``, of which every number is in [-1, 1].

    ``target_speed``; ``weights`` [2] of the heading; ``speed_limit``; or factors of the robot's model: ``mass``,
    ``friction``, ``gravity``, ``strength``.
    """
    if variant == "velocity":
        return {"target_speed": robot.target_speed * (1.0 + point[0])}
    if variant == "direction":
        return {"weights": _heading_weights(robot.planar, point[0])}
    if variant == "speed_limit":
        return {"speed_limit": robot.speed_limit * (1.0 + 0.5 * point[0])}
    if variant == "motors":
        return {"strength": _strengths(point)}
    *mass, friction, gravity, strength = point
    return {
        "mass": [2.0**value for value in mass],
        "friction": 2.0**friction,
        "gravity": 2.0 ** (0.5 * gravity),
        "strength": 2.0 ** (0.5 * strength),
    }


def model_factors(variant: Variant, parameters: Parameters) -> Parameters | None:
    """What a task changes in the robot's model; None where all tasks of the variant share it."""
    if variant not in MODEL_FACTORS:
        return None
    return {name: parameters[name] for name in MODEL_FACTORS[variant]}


def _heading_weights(planar: bool, turn: float) -> list[float]:
    """w, the heading at ``turn`` half-circles from +x; along x only, its sign times a gain that distinguishes tasks."""
    if planar:
        sign = 1.0 if abs(turn) <= 0.5 else -1.0
        return [sign * (1.0 + _HEADING_GAIN * turn), 0.0]
    return [math.cos(math.pi * turn), math.sin(math.pi * turn)]


def _strengths(point: Sequence[float]) -> list[float]:
    """Factors of the motors: 1, but 1 - 2 abs(z) for the one whose number z is the largest.

    A damaged leg is a usual test of adaptation to changed dynamics (Nagabandi et al. 2019, arXiv 1803.11347); below 0
    the motor turns the other way.
    """
    sizes = [abs(float(value)) for value in point]
    damaged = sizes.index(max(sizes))
    return [1.0 - 2.0 * size if place == damaged else 1.0 for place, size in enumerate(sizes)]


def require_shares_of_torque(parameters: Parameters) -> None:
    """Check the factors of motors that somebody gave.

    Raises:
        ValueError: one is not from -1 to 1; the message names it.
    """
    for place, factor in enumerate(parameters["strength"]):
        if not -1.0 <= factor <= 1.0:
            raise ValueError(f"strength[{place}] must be from -1 (the other way) to 1 (whole), got {factor}")
