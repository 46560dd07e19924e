"""One worker of the training-speed benchmark: a process that trains one task and answers on standard output.

It imports only what a worker of a real run needs, so its peak memory is comparable. A line ``train N`` on standard
input runs N iterations; ``round`` times the raw physics, one iteration and the parts of that iteration.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from policies.neural.crpo import fresh_policy
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState
from policies.neural.rollouts import NeuralRollouts
from policies.neural.update import Problem, UpdateReport, improve
from tasks.contract.family_registry import make_family
from tasks.contract.task import Task
from tasks.mujoco.mujoco_batch import MujocoBatch, compile_model
from tasks.mujoco.robots import ROBOTS
from tasks.safety_gymnasium.navigation_batch import NavigationBatch
from tasks.safety_gymnasium.navigation_scene import FRAME_SKIP
from tasks.stepping.batch import BatchEnvironment, make_batch
from tasks.stepping.context_batch import ContextBatch

COPIES, HORIZON, WARM_UP = 20, 200, 5
NAVIGATION, CONTEXT = "safety_point_goal", "half_cheetah_context"
SETTINGS = NeuralSettings(steps_per_iteration=COPIES * HORIZON, num_copies=COPIES, returns="episodic")
_DISCOUNT = 0.99


def make_task(name: str) -> tuple[BatchEnvironment, NDArray[np.float64]]:
    """A robot with a speed limit, the acrobot with its two costs or SafetyPointGoal1, in episodes of 200 steps.

    :data:`CONTEXT` is HalfCheetah at a target speed that its observations end with. Returns the copies and the limits
    [p].
    """
    if name == CONTEXT:
        batch, limits = _made("half_cheetah", name, {"variant": "velocity", "similarity": "low"})
        return ContextBatch(batch, np.full((COPIES, 1), 0.5)), limits
    variant = {"variant": "speed_limit"} if name in ROBOTS else {}
    return _made("safety_gymnasium" if name == NAVIGATION else name, name, variant)


def _made(family_name: str, name: str, variant: dict[str, Any]) -> tuple[BatchEnvironment, NDArray[np.float64]]:
    family = make_family(family_name, seed=0, num_tasks=1, parameters={"horizon": HORIZON, **variant})
    parameters = family.parameters("train", 0, 0)
    limits = family.limits(parameters)
    assert isinstance(limits, tuple)
    return make_batch(family, Task(name, "train", 0, 0, parameters, limits), COPIES), np.array(limits)


class Recorder:
    """A proxy of a batch that records its calls: actions [T, n, A] and the seed of each start."""

    def __init__(self, batch: BatchEnvironment) -> None:
        self._batch = batch
        self.actions: list[NDArray[Any]] = []
        self.resets: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def reset(self, copies: NDArray[Any], seeds: NDArray[Any]) -> None:
        """Record, then reset."""
        self.resets[len(self.actions)] = copies.copy(), seeds.copy()
        self._batch.reset(copies, seeds)

    def step(self, actions: NDArray[Any]) -> None:
        """Record, then step."""
        self.actions.append(actions.copy())
        self._batch.step(actions)


class Worker:
    """A policy and its task, with timed training."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.batch, limits = make_task(name)
        self.problem = Problem(np.ones(1 + limits.size), limits, np.zeros(limits.size), _DISCOUNT, HORIZON)
        self.rollouts = NeuralRollouts(self.batch, HORIZON, 0, name)
        self.policy: PolicyState = fresh_policy(self.batch, SETTINGS, 0)
        self.rng, self.iteration = np.random.default_rng(0), 0
        self.train(WARM_UP)

    def train(self, iterations: int) -> dict[str, float]:
        """Run iterations; returns steps, wall and CPU seconds, and this process's peak memory in MB."""
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(iterations):
            self._collect()
            self._update()
        return {
            "steps": float(iterations * COPIES * HORIZON),
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }

    def round(self) -> dict[str, dict[str, float]]:
        """Wall and CPU seconds of the parts of one iteration, each run separately, directly after one another."""
        recorder = Recorder(self.batch)
        NeuralRollouts(recorder, HORIZON, 0, self.name).collect(self.policy, self.iteration)
        found = {}
        plain = self.batch._batch if isinstance(self.batch, ContextBatch) else self.batch
        if isinstance(plain, MujocoBatch):
            found["raw"] = _timed(_raw(self.name.removesuffix("_context"), plain, recorder))
        elif isinstance(plain, NavigationBatch):
            found["raw"] = _timed(_raw_navigation(plain, recorder))
        found["batch"] = _timed(lambda: _replay(self.batch, recorder))
        found["sampling"] = _timed(self._collect)
        reports: list[UpdateReport] = []
        found["update"] = _timed(lambda: reports.append(self._update()))
        critic = {"wall": reports[0].critic_seconds, "cpu": reports[0].critic_seconds}
        return {**found, "critic": critic}

    def _collect(self) -> None:
        self.data = self.rollouts.collect(self.policy, self.iteration)

    def _update(self) -> UpdateReport:
        self.policy, report = improve(self.policy, self.data, self.problem, SETTINGS, self.rng)
        self.iteration += 1
        return report


def _replay(batch: BatchEnvironment, recorder: Recorder) -> None:
    for step, actions in enumerate(recorder.actions):
        if step in recorder.resets:
            batch.reset(*recorder.resets[step])
        batch.step(actions)


def _raw(name: str, batch: MujocoBatch, recorder: Recorder) -> Callable[[], None]:
    """A function that runs only the physics of the recorded episodes; start states are drawn beforehand."""
    robot, model = ROBOTS[name], compile_model(ROBOTS[name])
    data = mujoco.MjData(model)
    actions = np.clip(np.array(recorder.actions), batch.action_low, batch.action_high)
    starts = {
        (step, int(copy)): batch._start(int(seed))
        for step, (copies, seeds) in recorder.resets.items()
        for copy, seed in zip(copies, seeds, strict=True)
    }

    def run() -> None:
        for copy in range(actions.shape[1]):
            for step, action in enumerate(actions[:, copy]):
                start = starts.get((step, copy))
                if start is not None:
                    mujoco.mj_resetData(model, data)
                    data.qpos[:], data.qvel[:] = start
                data.ctrl[:] = action
                mujoco.mj_step(model, data, robot.frame_skip)

    return run


def _raw_navigation(batch: NavigationBatch, recorder: Recorder) -> Callable[[], None]:
    """Like :func:`_raw`; every copy has its own model with its layout, and an episode starts at the model's state.

    The layouts are those of the latest resets. Goals and hazards have no contacts, so they cost no physics time.
    """
    scene = batch._scene
    copies = [(model, mujoco.MjData(model)) for model in scene.models]
    actions = np.clip(np.array(recorder.actions), scene.control_low, scene.control_high)
    first = {(step, int(copy)) for step, (indices, _) in recorder.resets.items() for copy in indices}

    def run() -> None:
        for copy, (model, data) in enumerate(copies):
            for step, action in enumerate(actions[:, copy]):
                if (step, copy) in first:
                    mujoco.mj_resetData(model, data)
                data.ctrl[:] = action
                mujoco.mj_step(model, data, FRAME_SKIP)

    return run


def _timed(call: Callable[[], object]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def main() -> None:
    """Answer commands until the input ends."""
    with threadpool_limits(1):
        worker = Worker(sys.argv[1])
        print(json.dumps(worker.train(1)), flush=True)
        for line in sys.stdin:
            command, *arguments = line.split()
            answer = worker.round() if command == "round" else worker.train(int(arguments[0]))
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
