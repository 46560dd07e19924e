"""Observations of navigation tasks over n copies (sensors and lidar), bitwise equal to the package's.

The package computes one object after the other; here each operation handles all objects of all copies together. The
operations and their order are the package's, so the results are equal and not merely close.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from tasks.safety_gymnasium.navigation_blueprint import Blueprint
from tasks.stepping.batch import FloatArray

_TURN = np.pi * 2


class Lidar:
    """For each observed group, the proximity of the nearest object in each of ``num_bins`` directions.

    A bin reads 1 - distance / max_distance, at least 0. Its two neighbours read a share of that value, which depends on
    the object's place within the bin. Distances are measured in the robot's own horizontal plane.
    """

    def __init__(self, group_sizes: tuple[int, ...], num_copies: int, num_bins: int, max_distance: float) -> None:
        self._bins, self._max, self._width = num_bins, max_distance, _TURN / num_bins
        count = sum(group_sizes)
        groups = np.repeat(np.arange(len(group_sizes)), group_sizes)
        rows = np.arange(num_copies)[:, None] * len(group_sizes) + groups
        self._first_bin = rows * num_bins
        self.readings = np.zeros((num_copies, len(group_sizes) * num_bins))
        """[n, groups x bins], the latest readings."""
        self._vectors = np.zeros((num_copies, count, 1, 3))

    def look(self, places: FloatArray, robot: FloatArray, frame: FloatArray) -> None:
        """Update the readings from ``places`` [n, objects, 2] by group, ``robot`` [n, 3] and its rotation [n, 3, 3]."""
        vectors = self._vectors
        np.subtract(places, robot[:, None, :2], out=vectors[:, :, 0, :2])
        np.subtract(0.0, robot[:, 2:], out=vectors[:, :, 0, 2])
        # Multiply one vector with one matrix at a time: a product of larger matrices rounds differently.
        seen = np.matmul(vectors, frame[:, None])[:, :, 0]
        distance = np.abs(np.ascontiguousarray(seen[..., :2]).view(np.complex128)[..., 0])
        angle = np.arctan2(seen[..., 1], seen[..., 0]) % _TURN
        number = (angle / self._width).astype(np.int64)
        share = (angle - self._width * number) / self._width
        reading = np.maximum(0.0, self._max - distance) / self._max
        flat, last = self.readings.reshape(-1), self._bins
        flat[:] = 0.0
        for step, value in ((0, reading), (1, share * reading), (-1, (1.0 - share) * reading)):
            np.maximum.at(flat, self._first_bin + (number + step) % last, value)


class RobotSensors:
    """The places and forms of the robot's sensors in the observation."""

    def __init__(self, blueprint: Blueprint, model: mujoco.MjModel) -> None:
        self._plain: list[tuple[int, int]] = []
        self._angles: list[tuple[int, int]] = []
        self._rotations: list[tuple[int, int]] = []
        self.size = 0
        """Number of values in the observation before the lidar."""
        for sensor in blueprint.sensors:
            found = model.sensor(sensor.name)
            first, count = int(found.adr[0]), int(found.dim[0])
            if sensor.form == "angle":
                self._angles.append((self.size, first))
                self.size += 2
            elif sensor.form == "rotation":
                self._rotations.append((self.size, first))
                self.size += 9
            else:
                read = range(first + 2, first + 3) if sensor.form == "height" else range(first, first + count)
                self._plain += [(self.size + place, source) for place, source in enumerate(read)]
                self.size += len(read)
        self._plain_index, self._angle_index = _columns(self._plain), _columns(self._angles)
        self._matrix = np.zeros(9)

    def write(self, sensors: FloatArray, out: NDArray[Any]) -> None:
        """Write the observation's first ``size`` numbers [n, size] from MuJoCo's sensor data [n, numbers]."""
        places, sources = self._plain_index
        out[:, places] = sensors[:, sources]
        if self._angles:
            places, sources = self._angle_index
            angles = sensors[:, sources]
            out[:, places], out[:, places + 1] = np.sin(angles), np.cos(angles)
        for place, source in self._rotations:
            for row, quaternion in zip(out, sensors[:, source : source + 4], strict=True):
                mujoco.mju_quat2Mat(self._matrix, quaternion)
                row[place : place + 9] = self._matrix


def _columns(pairs: list[tuple[int, int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
