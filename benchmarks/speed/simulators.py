"""Speed of batched stepping against raw physics and Gymnasium, as ratios; writes docs/results/simulators.md."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.result_page import header, table, write
from tasks.classic_control.acrobot import Acrobot, AcrobotBatch
from tasks.mujoco.locomotion import Locomotion
from tasks.mujoco.mujoco_batch import MujocoBatch, compile_model
from tasks.mujoco.robots import ROBOTS, Robot

COPIES = 16
STEPS = 100
HORIZON = 1000


@dataclass(frozen=True)
class Plan:
    """The episodes of every contestant: actions [steps, copies, A], and the seed of each start by (step, copy)."""

    actions: NDArray[Any]
    seeds: dict[tuple[int, int], int]
    states: dict[tuple[int, int], tuple[NDArray[Any], NDArray[Any]]]


def run_batch(batch: MujocoBatch | AcrobotBatch, actions: NDArray[Any]) -> dict[tuple[int, int], int]:
    """Step every copy through ``actions``, with a new start after each end; returns the seeds of the starts."""
    seeds = {(0, copy): copy for copy in range(batch.num_copies)}
    batch.reset(np.arange(batch.num_copies), np.arange(batch.num_copies))
    for step, action in enumerate(actions):
        batch.step(action)
        if (batch.terminated | batch.truncated).any():
            ended = np.flatnonzero(batch.terminated | batch.truncated)
            fresh = (step + 1) * batch.num_copies + ended
            batch.reset(ended, fresh)
            seeds |= {(step + 1, int(copy)): int(seed) for copy, seed in zip(ended, fresh, strict=True)}
    return seeds


def run_raw(robot: Robot, model: mujoco.MjModel, plan: Plan) -> None:
    """Run only the physics of the same episodes: set the start, set the control, ``mj_step``."""
    data = mujoco.MjData(model)
    for copy in range(plan.actions.shape[1]):
        for step, action in enumerate(plan.actions[:, copy]):
            start = plan.states.get((step, copy))
            if start is not None:
                mujoco.mj_resetData(model, data)
                data.qpos[:], data.qvel[:] = start
            data.ctrl[:] = action
            mujoco.mj_step(model, data, robot.frame_skip)


def run_gymnasium(env: gymnasium.Env[Any, Any], plan: Plan) -> None:
    """Run the same episodes in Gymnasium's own environment."""
    for copy in range(plan.actions.shape[1]):
        for step, action in enumerate(plan.actions[:, copy]):
            seed = plan.seeds.get((step, copy))
            if seed is not None:
                env.reset(seed=seed)
            env.step(action)


def robot_rows(name: str, repeats: int) -> list[list[str]]:
    """Steps per CPU second, and their ratios in each repeat."""
    robot, family = ROBOTS[name], Locomotion(robot=name, seed=0, variant="velocity", horizon=HORIZON)
    batch = family.batch(family.parameters("train", 0, 0), COPIES)
    shape = (STEPS, COPIES, batch.action_high.size)
    actions = np.random.default_rng(0).uniform(batch.action_low, batch.action_high, shape).astype(np.float32)
    seeds = run_batch(batch, actions)
    plan = Plan(actions, seeds, {place: batch._start(seed) for place, seed in seeds.items()})
    env = gymnasium.make(robot.gymnasium_id, max_episode_steps=HORIZON, disable_env_checker=True)
    model = compile_model(robot)
    runs: dict[str, Callable[[], object]] = {
        "raw": lambda: run_raw(robot, model, plan),
        "gymnasium": lambda: run_gymnasium(env, plan),
        "batch": lambda: run_batch(batch, actions),
    }
    return [[name, *_rates(runs, repeats, "raw")]]


def acrobot_row(repeats: int) -> list[str]:
    """Steps per CPU second of Gymnasium and of batches of 16 and 64 copies."""
    family = Acrobot(seed=0)
    links = family.parameters("train", 0, 0)
    actions = np.random.default_rng(0).integers(3, size=(STEPS, 4 * COPIES))
    env = family.make(links)
    few, many = family.batch(links, COPIES), family.batch(links, 4 * COPIES)
    plan = Plan(actions[:, :COPIES], {(0, copy): copy for copy in range(COPIES)}, {})
    runs: dict[str, Callable[[], object]] = {
        "gymnasium": lambda: run_gymnasium(env, plan),
        "batch": lambda: run_batch(few, actions[:, :COPIES]),
        "more": lambda: run_batch(many, actions),
    }
    rates: dict[str, list[float]] = {run: [] for run in runs}
    for _ in range(repeats):
        for run, call in runs.items():
            count = STEPS * COPIES * (4 if run == "more" else 1)
            rates[run].append(count / _cpu_seconds(call))
    middle = {run: statistics.median(values) for run, values in rates.items()}
    ratios = [
        _spread([one / other for one, other in zip(rates[run], rates["gymnasium"], strict=True)])
        for run in ("batch", "more")
    ]
    return [*(f"{value:,.0f}" for value in middle.values()), *ratios]


def _rates(runs: dict[str, Callable[[], object]], repeats: int, base: str) -> list[str]:
    rates: dict[str, list[float]] = {run: [] for run in runs}
    for _ in range(repeats):
        for run, call in runs.items():
            rates[run].append(STEPS * COPIES / _cpu_seconds(call))
    cells = [f"{statistics.median(values):,.0f}" for values in rates.values()]
    for run in ("gymnasium", "batch"):
        cells.append(_spread([one / other for one, other in zip(rates[run], rates[base], strict=True)]))
    return cells


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _cpu_seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def main() -> None:
    """Measure every robot and the acrobot; write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    with threadpool_limits(1):
        rows = [row for name in ROBOTS for row in robot_rows(name, repeats)]
        acrobot = acrobot_row(repeats)
    lines = [
        *header("Simulators", "python -m benchmarks.speed.simulators"),
        f"Steps per CPU second on one core, medians of {repeats} interleaved repeats. Ratios are taken within a "
        f"repeat and shown with their range. All contestants run the same episodes: {COPIES} copies of {STEPS} steps "
        "each, the same random actions, a new start after each fall.",
        "",
        "raw: only the physics of these episodes (`mj_step`, one copy after the other, no observation). Gymnasium: its "
        "own v5 environment, one copy. batch: all copies together, with observations, reward, cost and ends of the "
        "family's velocity variant, and all checks.",
        "",
        *table(["robot", "raw", "Gymnasium", "batch", "Gymnasium / raw", "batch / raw"], rows),
        "Acrobot needs no physics engine: its batch evaluates Gymnasium's equations on arrays.",
        "",
        *table(
            [
                "Gymnasium",
                f"batch of {COPIES}",
                f"batch of {4 * COPIES}",
                f"{COPIES} / Gymnasium",
                f"{4 * COPIES} / Gymnasium",
            ],
            [acrobot],
        ),
    ]
    write("simulators.md", lines)


if __name__ == "__main__":
    main()
