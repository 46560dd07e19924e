"""Copies of a navigation task of Safety-Gymnasium, stepped together: equal to the package and several times faster."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contract.task import TaskError
from tasks.safety_gymnasium.navigation_blueprint import Blueprint
from tasks.safety_gymnasium.navigation_layout import Layout, LayoutSampler
from tasks.safety_gymnasium.navigation_objectives import (
    BUTTON_REST,
    CostMeter,
    Places,
    ReachGoal,
    clip_reward,
    make_pursuit,
)
from tasks.safety_gymnasium.navigation_scene import Scene
from tasks.safety_gymnasium.navigation_sensing import Lidar, RobotSensors
from tasks.stepping.batch import BoolArray, Float32Array, FloatArray, check_started, continuous_actions

_ANT_NOISE, _ANT_FALLEN = 0.1, 0.08
_ANT_MIRRORED = (3, 5)


class NavigationBatch:
    """A :class:`tasks.stepping.batch.BatchEnvironment` of n copies of a task.

    Observations (rounded to float32), rewards, costs, ends and layouts are bitwise equal to the package's. ``costs``
    lists the reported costs: names from ``blueprint.costs``, or ``sum``. With ``layout_seed``, every episode starts the
    same way; None starts each episode from its own seed. ``label`` names the task in errors. A MuJoCo warning, a number
    that is not finite, or a cost before the first step raises TaskError.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        num_copies: int,
        *,
        costs: tuple[str, ...],
        horizon: int,
        label: str,
        layout_seed: int | None = None,
    ) -> None:
        if num_copies < 1:
            raise TaskError(f"{label}: a batch needs at least one copy, got {num_copies}")
        self._blueprint, self._label, self._layout_seed = blueprint, label, layout_seed
        self._sampler = LayoutSampler(blueprint)
        touching = blueprint.kind == "button" or any(name in _TOUCHING for name in blueprint.costs)
        self._scene = Scene(blueprint, num_copies, label, horizon, touching)
        self._places = Places(blueprint, self._scene, num_copies)
        self._pursuit = make_pursuit(blueprint, self._scene, self._places)
        self._meter = CostMeter(blueprint, self._scene, self._places, costs)
        self._sensors = RobotSensors(blueprint, self._scene.models[0])
        sizes = tuple(len(blueprint.group(name).members) for name in blueprint.lidars)
        self._lidar = Lidar(sizes, num_copies, blueprint.num_bins, blueprint.max_distance) if sizes else None
        self.num_copies, self.num_costs, self.horizon = num_copies, len(costs), horizon
        self.num_actions: int | None = None
        self.action_low = self._scene.control_low.astype(np.float32)
        self.action_high = self._scene.control_high.astype(np.float32)
        self.observation_size = self._sensors.size + len(sizes) * blueprint.num_bins
        self._layouts: list[Layout] = [{} for _ in range(num_copies)]
        self._generators = [np.random.RandomState(0) for _ in range(num_copies)]
        self._elapsed, self._resting = np.full(num_copies, -1), np.zeros(num_copies, np.int64)
        self._undrawn = np.zeros(num_copies, np.int64)
        """[n], random numbers that the package has drawn since our latest draw: one per step, for its frame skip."""
        self._started, self._ended = False, np.zeros(num_copies, np.bool_)
        self._clipped: Float32Array = np.zeros((num_copies, self.action_low.size), np.float32)
        self.observations: Float32Array = np.zeros((num_copies, self.observation_size), np.float32)
        self.reward, self.costs = np.zeros(num_copies), np.zeros((num_copies, len(costs)))
        self.terminated, self.truncated = np.zeros(num_copies, np.bool_), np.zeros(num_copies, np.bool_)

    def reset(self, copies: NDArray[Any], seeds: NDArray[Any]) -> None:
        """See :class:`tasks.stepping.batch.BatchEnvironment`; the package's ``reset(seed=...)``."""
        indices = copies.tolist()
        self._elapsed[copies], self._undrawn[copies] = 0, 0
        for index, seed in zip(indices, seeds.tolist(), strict=True):
            self._start(index, seed if self._layout_seed is None else self._layout_seed)
        self._resting[copies], self._ended[copies] = 0, False
        self._scene.settle(indices)
        self._places.look()
        self._pursuit.begin(copies)
        costs = self._measure()[copies]
        if costs.any():
            index = indices[int(np.flatnonzero(costs.any(axis=1))[0])]
            raise TaskError(f"{self._where(index)}: costs before the first step; Safety-Gymnasium refuses such layouts")
        self._observe()

    def step(self, actions: NDArray[Any]) -> None:
        """See :class:`tasks.stepping.batch.BatchEnvironment`."""
        if not self._started:
            self._started = check_started(self._elapsed, self._label)
        if self._ended.any():
            index = int(np.argmax(self._ended))
            raise TaskError(f"{self._where(index)}: the episode has ended; reset the copy before the next step")
        continuous_actions(actions, self.action_low, self.action_high, self._clipped, self._label, self._elapsed)
        # In float32, the bounds of racecar are rounded up.
        controls = np.clip(self._clipped.astype(np.float64), self._scene.control_low, self._scene.control_high)
        self._scene.advance(controls, self._elapsed)
        self._elapsed += 1
        self._undrawn += 1
        self._scene.check(self._elapsed)
        self._places.look()
        reward, reached = self._pursuit.reward()
        self.reward[:] = clip_reward(self._blueprint, reward)
        self.costs[:] = self._measure()
        np.maximum(self._resting - 1, 0, out=self._resting)
        self.terminated[:] = self._fallen()
        if reached.any():
            self._renew(np.flatnonzero(reached))
        np.greater_equal(self._elapsed, self.horizon, out=self.truncated)
        np.logical_or(self.terminated, self.truncated, out=self._ended)
        self._observe()

    def close(self) -> None:
        """Nothing to release."""

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Places of every copy's objects at its latest reset, with the current goal."""
        return tuple(self._layouts)

    def _start(self, index: int, seed: int) -> None:
        """Draw and place all objects of a new episode, in the package's order."""
        layout, rng = self._sampler.draw(seed)
        turns = {"agent": rng.uniform(0, 2 * np.pi)}
        for group in self._blueprint.groups:
            turns |= {name: rng.uniform(0, 2 * np.pi) for name in group.members}
        self._layouts[index], self._generators[index] = layout, rng
        self._scene.place(index, layout, turns)
        for group in self._blueprint.groups:
            if group.name not in _UNSEEN:
                self._places.of[group.name][index, :, :2] = [layout[name] for name in group.members]
        if "goal" in layout and not self._new_goal(index):
            raise TaskError(f"{self._where(index)}: no place for the goal in the layout of seed {seed}")
        if self._blueprint.spec.robot == "ant":
            self._bend_legs(index, rng)

    def _bend_legs(self, index: int, rng: np.random.RandomState) -> None:
        for actuator in range(self._clipped.shape[1]):
            noise = rng.uniform(low=-_ANT_NOISE, high=_ANT_NOISE)
            angle = noise if actuator % 2 == 0 else np.pi / 2 + noise
            self._scene.bend(index, actuator, -angle if actuator in _ANT_MIRRORED else angle)

    def _new_goal(self, index: int) -> bool:
        """Draw a goal for a copy; False if there is no place for one."""
        rng, layout = self._generators[index], self._layouts[index]
        rng.random_sample(self._undrawn[index])
        self._undrawn[index] = 0
        if isinstance(self._pursuit, ReachGoal) and self._blueprint.kind == "button":
            button = rng.choice(len(self._blueprint.group("buttons").members))
            self._pursuit.button[index], self._resting[index] = button, BUTTON_REST
            place = layout[f"button{button}"]
        else:
            found = self._sampler.goal(layout, rng)
            if found is None:
                return False
            place = found
        layout["goal"] = place
        self._places.of["goal"][index, 0, :2] = place
        return True

    def _renew(self, copies: NDArray[np.int64]) -> None:
        """Draw new goals for copies that reached theirs; end the episode if there is no place."""
        for index in copies.tolist():
            self._find_moved(index)
            self.terminated[index] |= not self._new_goal(index)
        self._pursuit.begin(copies)

    def _find_moved(self, index: int) -> None:
        """Update the layout with the places of robot and objects; gremlins keep their start, as in the package."""
        layout = self._layouts[index]
        x, y = self._scene.place_of_robot[index, :2].tolist()
        layout["agent"] = (x, y)
        for group in self._blueprint.groups:
            if group.moving and group.name != "gremlins":
                places = self._places.of[group.name][index, :, :2].tolist()
                layout.update({name: (x, y) for name, (x, y) in zip(group.members, places, strict=True)})

    def _fallen(self) -> BoolArray:
        if self._blueprint.spec.robot != "ant":
            return np.zeros(self.num_copies, np.bool_)
        return np.asarray(~(self._scene.place_of_robot[:, 2] > _ANT_FALLEN))

    def _measure(self) -> FloatArray:
        return self._meter.measure(self._pursuit, self._resting != 0)

    def _observe(self) -> None:
        """Write the observations of all copies and check every number."""
        split = self._sensors.size
        self._sensors.write(self._scene.sensors, self.observations[:, :split])
        if self._lidar is not None:
            seen = [self._places.of[name][:, :, :2] for name in self._blueprint.lidars]
            self._lidar.look(np.concatenate(seen, axis=1), self._scene.place_of_robot, self._scene.frame)
            self.observations[:, split:] = self._lidar.readings
            if self._blueprint.kind == "button":
                first = split + self._blueprint.lidars.index("buttons") * self._blueprint.num_bins
                self.observations[self._resting != 0, first : first + self._blueprint.num_bins] = 0.0
        if not (np.isfinite(self.observations).all() and math.isfinite(float(np.add.reduce(self.reward)))):
            self._refuse()

    def _refuse(self) -> None:
        numbers = np.column_stack([self.observations, self.reward])
        index = int(np.flatnonzero(~np.isfinite(numbers).all(axis=1))[0])
        raise TaskError(
            f"{self._where(index)}: an observation or the reward {self.reward[index]} is not finite; state after the "
            f"step: {self._scene.state_text(index)}"
        )

    def _where(self, index: int) -> str:
        return f"{self._label}, step {self._elapsed[index]}, copy {index}"


_TOUCHING = ("buttons", "gremlins", "vases_contact", "pillars")
_UNSEEN = ("circle", "sigwalls")
"""The circle is observed at the origin, wherever the layout places it; walls are not observed."""
