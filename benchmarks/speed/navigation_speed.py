"""Speed of Safety-Gymnasium's tasks: own interface, fast path, raw physics; writes docs/results/navigation.md."""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.result_page import header, table, write
from policies.neural.crpo import NeuralSolution, fresh_policy, solve_neural
from policies.neural.neural_settings import NeuralSettings
from tasks.contract.task import Task
from tasks.safety_gymnasium.adapter import make_builder, read_blueprint
from tasks.safety_gymnasium.navigation import SafetyGymnasium
from tasks.safety_gymnasium.navigation_batch import NavigationBatch
from tasks.safety_gymnasium.navigation_blueprint import NavigationSpec, RobotName, TaskName
from tasks.safety_gymnasium.navigation_scene import FRAME_SKIP
from tasks.stepping.batch import BatchEnvironment, GymnasiumBatch

COPIES, STEPS, LONG = 20, 200, 1000
TASKS: tuple[tuple[RobotName, TaskName, int], ...] = (
    ("point", "goal", 1),
    ("car", "button", 1),
    ("point", "push", 1),
    ("point", "circle", 1),
    ("doggo", "goal", 1),
    ("ant", "goal", 1),
    ("racecar", "goal", 1),
    ("point", "goal", 2),
)


def lines(repeats: int) -> list[str]:
    """Both tables with their explanations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package warns under newer NumPy and Gymnasium
        stepping = [_row(NavigationSpec(*task), STEPS, repeats) for task in TASKS]
        stepping.append(_row(NavigationSpec(*TASKS[0]), LONG, repeats))
        training = [_training_row(*sizes) for sizes in ((200, 4000), (1000, 20_000))]
    return [
        *header("Safety-Gymnasium's navigation", "python -m benchmarks.speed.navigation_speed"),
        f"A training-like run: {COPIES} episodes of {STEPS} (last row: {LONG:,}) steps under random actions, "
        f"including resets; steps per CPU second, medians of {repeats} interleaved repeats. own: the package's "
        "environment (`Builder`), one episode after the other, on the same MuJoCo. batch: the family's fast path, all "
        f"episodes together. raw: only {FRAME_SKIP} `mj_step` calls for each step, on the package's models, without "
        "resets. This run compared the observations (as float32), rewards and costs of own and batch: all were equal.",
        "",
        *table(
            ["task", "raw", "own", "a reset of own", "batch", "a reset of batch", "batch / own", "batch / raw"],
            stepping,
        ),
        f"SafetyPointGoal1 in training: one iteration of neural CRPO with {COPIES} copies (rollouts, update and "
        "critic), in environment steps per CPU second. own: the package's environments one by one in "
        "`GymnasiumBatch`. The estimated values of both were bitwise equal.",
        "",
        *table(
            ["horizon", "steps an iteration", "own", "batch", "batch / own", "update and critic, share of batch"],
            training,
        ),
    ]


def _row(spec: NavigationSpec, steps: int, repeats: int) -> list[str]:
    costs = ("sum",)
    batch = NavigationBatch(read_blueprint(spec), COPIES, costs=costs, horizon=steps, label=spec.task_id)
    builder = make_builder(spec)
    builder.task.num_steps = steps
    builder.reset(seed=0)
    shape = (steps, COPIES, batch.action_low.size)
    actions = np.random.default_rng(0).uniform(batch.action_low, batch.action_high, shape).astype(np.float32)
    rates: dict[str, list[float]] = {"raw": [], "own": [], "batch": []}
    resets: dict[str, list[float]] = {"own": [], "batch": []}
    for _ in range(repeats):
        theirs = _run_own(builder, actions)
        ours = _run_batch(batch, actions)
        for one, other in zip(theirs["episodes"], ours["episodes"], strict=True):
            np.testing.assert_array_equal(one, other)
        made = sum(len(episode) - 1 for episode in theirs["episodes"])
        rates["own"].append(made / theirs["seconds"])
        rates["raw"].append(made / theirs["raw_seconds"])
        rates["batch"].append(steps * COPIES / ours["seconds"])
        resets["own"].append(theirs["reset_seconds"] / COPIES)
        resets["batch"].append(ours["reset_seconds"] / COPIES)
    ratios = [_spread(rates["batch"], rates[name]) for name in ("own", "raw")]
    times = [f"{1e3 * statistics.median(values):,.1f} ms" for values in resets.values()]
    speeds = {name: f"{statistics.median(values):,.0f}" for name, values in rates.items()}
    return [spec.task_id[:-3], speeds["raw"], speeds["own"], times[0], speeds["batch"], times[1], *ratios]


def _spread(values: list[float], bases: list[float]) -> str:
    ratios = [value / base for value, base in zip(values, bases, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _run_own(builder: Any, actions: NDArray[Any]) -> dict[str, Any]:
    """Run every episode, then only its physics; returns the seconds of each and the numbers of each episode."""
    seconds, raw_seconds, reset_seconds, episodes = 0.0, 0.0, 0.0, []
    for copy in range(COPIES):
        began = time.process_time()
        observation, _ = builder.reset(seed=copy)
        reset_seconds += time.process_time() - began
        rows = [np.r_[observation.astype(np.float32), 0.0, 0.0]]
        began = time.process_time()
        for action in actions[:, copy]:
            observation, reward, cost, terminated, truncated, _ = builder.step(action)
            rows.append(np.r_[observation.astype(np.float32), reward, cost])
            if terminated or truncated:
                break
        seconds += time.process_time() - began
        raw_seconds += _raw_seconds(builder.task.model, actions[: len(rows) - 1, copy])
        episodes.append(np.array(rows))
    return {
        "seconds": seconds + reset_seconds,
        "raw_seconds": raw_seconds,
        "reset_seconds": reset_seconds,
        "episodes": episodes,
    }


def _raw_seconds(model: mujoco.MjModel, actions: NDArray[Any]) -> float:
    data = mujoco.MjData(model)
    began = time.process_time()
    for action in actions:
        data.ctrl[:] = action
        mujoco.mj_step(model, data, FRAME_SKIP)
    return time.process_time() - began


def _run_batch(batch: NavigationBatch, actions: NDArray[Any]) -> dict[str, Any]:
    """Run all episodes together; after its end, a copy restarts without recording, so the step count is equal."""
    rows = np.zeros((len(actions) + 1, COPIES, batch.observation_size + 2))
    lengths = np.full(COPIES, len(actions))
    began = time.process_time()
    batch.reset(np.arange(COPIES), np.arange(COPIES))
    reset_seconds = time.process_time() - began
    rows[0, :, :-2] = batch.observations
    for step, action in enumerate(actions, start=1):
        batch.step(action)
        rows[step, :, :-2], rows[step, :, -2], rows[step, :, -1] = batch.observations, batch.reward, batch.costs[:, 0]
        ended = np.flatnonzero(batch.terminated)
        if ended.size:
            lengths[ended] = np.minimum(lengths[ended], step)
            batch.reset(ended, ended + 1000 * step)
    seconds = time.process_time() - began
    episodes = [rows[: length + 1, copy] for copy, length in enumerate(lengths)]
    return {"seconds": seconds, "reset_seconds": reset_seconds, "episodes": episodes}


def _training_row(horizon: int, steps: int) -> list[str]:
    family = SafetyGymnasium(seed=0, horizon=horizon)
    parameters = family.parameters("train", 0, 0)
    task = Task("safety_gymnasium", "train", 0, 0, parameters, tuple(family.limits(parameters)))  # type: ignore[arg-type]
    settings = NeuralSettings(num_iterations=1, steps_per_iteration=steps, num_copies=COPIES, evaluate_last=False)
    makers: dict[str, Callable[[], BatchEnvironment]] = {
        "own": lambda: GymnasiumBatch(lambda: family.make(parameters), COPIES, 1, horizon, task.label, seconds=3600.0),
        "batch": lambda: family.batch(parameters, COPIES),
    }
    rates, values, share = {}, {}, 0.0
    for name, make in makers.items():
        batch = make()
        batch.reset(np.arange(COPIES), np.arange(COPIES))  # the first reset compiles the models
        seconds, solution = _solve(batch, task, settings, family.discount)
        rates[name], values[name] = steps / seconds, solution.values
        share = (solution.seconds["update"] + solution.seconds["critic"]) / sum(solution.seconds.values())
    np.testing.assert_array_equal(values["own"], values["batch"])
    ratio = rates["batch"] / rates["own"]
    return [
        f"{horizon:,}",
        f"{steps:,}",
        f"{rates['own']:,.0f}",
        f"{rates['batch']:,.0f}",
        f"{ratio:.1f}",
        f"{share:.0%}",
    ]


def _solve(
    batch: BatchEnvironment, task: Task, settings: NeuralSettings, discount: float
) -> tuple[float, NeuralSolution]:
    start = fresh_policy(batch, settings, seed=0)
    began = time.process_time()
    solution = solve_neural(
        batch, start, np.ones(2), np.array(task.limits), settings, 0, discount=discount, label=task.label
    )
    return time.process_time() - began, solution


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with threadpool_limits(1):
        write("navigation.md", lines(repeats))


if __name__ == "__main__":
    main()
