"""Place the objects of a navigation task with exactly the package's random numbers.

Objects are placed one after the other. Each is drawn uniformly from its area until it keeps its distance from all
earlier ones; after 100 tries the complete layout is drawn again. All numbers come from
``numpy.random.RandomState(seed)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.contract.task import TaskError
from tasks.safety_gymnasium.navigation_blueprint import Area, Blueprint, Placement

Point = tuple[float, float]
Layout = dict[str, Point]
"""Places by the name of the placement, in metres."""

_LAYOUTS, _TRIES, _GOAL_TRIES = 10_000, 100, 10_000
_SINGLE_TRIES = 12
"""Number of tries made one by one; the rest are made at once, which is cheaper in a crowded field."""
_BLOCK = 4096


@dataclass(frozen=True)
class _Spot:
    """A prepared placement: its area, and its distance from each earlier placement."""

    name: str
    area: Area
    distances: tuple[float, ...]
    distance_array: NDArray[np.float64]


class LayoutSampler:
    """Draws layouts and goals of one task."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._task_id, placements, margin = blueprint.spec.task_id, blueprint.placements, blueprint.margin
        self._spots = []
        for index, placement in enumerate(placements):
            distances = tuple(other.keepout + margin + placement.keepout for other in placements[:index])
            self._spots.append(_Spot(placement.name, _shrunk(placement), distances, np.array(distances)))
        goals = [placement for placement in placements if placement.name == "goal"]
        if goals:
            self._goal_area = _shrunk(goals[0])
            self._goal_distances = {other.name: other.keepout + margin + goals[0].keepout for other in placements}

    def draw(self, seed: int) -> tuple[Layout, np.random.RandomState]:
        """The layout of a seed, and the generator in the state in which the package leaves it.

        Raises:
            TaskError: none of 10,000 layouts keeps the objects apart.
        """
        stream = _Stream(np.random.RandomState(seed))
        for _ in range(_LAYOUTS):
            starts = self._attempt(stream)
            if starts is not None:
                return self._replay(seed, starts)
        raise TaskError(f"{self._task_id}: no layout in {_LAYOUTS} keeps the objects apart; use fewer or smaller ones")

    def goal(self, layout: Layout, rng: np.random.RandomState) -> Point | None:
        """A new place for the goal, apart from all other objects in ``layout``; None if 10,000 draws find none."""
        others = [name for name in layout if name != "goal"]
        places, distances = [layout[name] for name in others], [self._goal_distances[name] for name in others]
        low_x, low_y, high_x, high_y = self._goal_area
        for _ in range(_GOAL_TRIES):
            point = rng.uniform(low_x, high_x), rng.uniform(low_y, high_y)
            if _is_apart(point, places, distances):
                return point
        return None

    def _attempt(self, stream: _Stream) -> list[int] | None:
        """How many numbers were drawn before each object's place; None if an object found no place."""
        places: list[Point] = []
        starts = []
        for spot in self._spots:
            point = _place(spot, places, stream)
            if point is None:
                return None
            places.append(point)
            starts.append(stream.used - 2)
        return starts

    def _replay(self, seed: int, starts: Sequence[int]) -> tuple[Layout, np.random.RandomState]:
        """Draw the same places with the generator's own ``uniform``, so that its rounding cannot differ."""
        rng, used, layout = np.random.RandomState(seed), 0, {}
        for spot, start in zip(self._spots, starts, strict=True):
            low_x, low_y, high_x, high_y = spot.area
            rng.random_sample(start - used)
            layout[spot.name] = (rng.uniform(low_x, high_x), rng.uniform(low_y, high_y))
            used = start + 2
        return layout, rng


class _Stream:
    """The generator's numbers in [0, 1), drawn in blocks."""

    def __init__(self, rng: np.random.RandomState) -> None:
        self._rng, self._block, self._next, self.used = rng, rng.random_sample(_BLOCK), 0, 0

    def take(self, count: int) -> NDArray[np.float64]:
        """The next ``count`` numbers."""
        if self._next + count > self._block.size:
            self._block = np.concatenate([self._block[self._next :], self._rng.random_sample(_BLOCK)])
            self._next = 0
        taken = self._block[self._next : self._next + count]
        self._next += count
        self.used += count
        return taken

    def give_back(self, count: int) -> None:
        """Put back the last ``count`` numbers."""
        self._next -= count
        self.used -= count


def _place(spot: _Spot, places: Sequence[Point], stream: _Stream) -> Point | None:
    """The first of 100 draws that keeps its distances, or None."""
    low_x, low_y, high_x, high_y = spot.area
    numbers = stream.take(2 * _TRIES)
    for tried, (x, y) in enumerate(_points(numbers[: 2 * _SINGLE_TRIES].tolist(), spot.area), start=1):
        if _is_apart((x, y), places, spot.distances):
            stream.give_back(2 * (_TRIES - tried))
            return x, y
    rest = numbers[2 * _SINGLE_TRIES :].reshape(-1, 2)
    others = np.array(places)
    x_all, y_all = low_x + (high_x - low_x) * rest[:, 0], low_y + (high_y - low_y) * rest[:, 1]
    squares = np.square(np.subtract.outer(x_all, others[:, 0])) + np.square(np.subtract.outer(y_all, others[:, 1]))
    fits = np.flatnonzero((np.sqrt(squares) >= spot.distance_array).all(axis=1))
    if not fits.size:
        return None
    first = int(fits[0])
    stream.give_back(2 * (_TRIES - _SINGLE_TRIES - first - 1))
    return float(x_all[first]), float(y_all[first])


def _points(numbers: Sequence[float], area: Area) -> Iterator[Point]:
    low_x, low_y, high_x, high_y = area
    width, depth = high_x - low_x, high_y - low_y
    for along, across in zip(numbers[::2], numbers[1::2], strict=True):
        yield low_x + width * along, low_y + depth * across


def _shrunk(placement: Placement) -> Area:
    low_x, low_y, high_x, high_y = placement.area
    keepout = placement.keepout
    area = low_x + keepout, low_y + keepout, high_x - keepout, high_y - keepout
    if area[0] > area[2] or area[1] > area[3]:
        raise TaskError(f"{placement.name}: its area {placement.area} does not hold its keepout {keepout}")
    return area


def _is_apart(point: Point, places: Sequence[Point], distances: Sequence[float]) -> bool:
    x, y = point
    for (other_x, other_y), distance in zip(places, distances, strict=True):
        along, across = x - other_x, y - other_y
        if math.sqrt(along * along + across * across) < distance:
            return False
    return True
