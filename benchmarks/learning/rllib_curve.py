"""RLlib's CRPO beside the project's own loop on half_cheetah under its speed limit; writes docs/results/rllib.md.

The same settings, environments, steps and seeds; random numbers differ. Rewards and costs are plain sums of an episode.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.tune.registry import register_env
from threadpoolctl import threadpool_limits

from benchmarks.kept_cells import kept
from benchmarks.learning.curve_tasks import TASKS, solver_limits
from benchmarks.learning.learning_curves import train
from benchmarks.learning.meta_page import formatted
from benchmarks.result_page import header, table, write
from distributed.rllib.crpo_algorithm import CRPOConfig
from meta.measuring.intervals import interval
from tasks.contract.family_registry import make_family

NAME, FOLDER = "half_cheetah", Path("runs") / "rllib_curve"
_SETTINGS = ("hidden", "critic_hidden", "initial_log_std", "trust_region", "critic")


def with_rllib(steps: int, seed: int) -> dict[str, float]:
    """Mean reward and cost of the last tenth of the iterations, and environment steps per second."""
    task = TASKS[NAME]
    family = make_family(task.family, seed=0, num_tasks=1, parameters=task.family_parameters)
    register_env("limited", lambda config: family.make(task.task_parameters))
    chosen = task.settings.model_dump(mode="json")
    config = (
        CRPOConfig()
        .environment("limited")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=task.settings.num_copies)
        .training(
            cost_limits=solver_limits(task).tolist(),
            learning_rates=task.learning_rates,
            horizon=family.horizon,
            gamma=task.discount,
            train_batch_size=task.settings.steps_per_iteration,
            settings={key: chosen[key] for key in _SETTINGS},
        )
        .debugging(seed=seed)
    )
    algorithm: Any = config.build_algo()
    began, rows = time.perf_counter(), list[tuple[float, float]]()
    for _ in range(steps // task.settings.steps_per_iteration):
        learned = algorithm.train()["learners"]["default_policy"]
        rows.append((float(learned["reward"]), float(learned["cost_1"])))
    speed = steps / (time.perf_counter() - began)
    algorithm.stop()
    return _result(np.array(rows), speed)


def without(steps: int, seed: int) -> dict[str, float]:
    """The same of the project's own loop."""
    summary = train(NAME, TASKS[NAME], steps, seed, FOLDER)
    file = FOLDER / f"{NAME}-{steps}-{seed}.csv"
    lines = np.genfromtxt(file, delimiter=",", names=True, dtype=None, encoding="utf-8")
    return _result(np.stack([lines["reward"], lines["cost_1"]], axis=1), steps / summary["wall_seconds"])


def _result(rows: Any, speed: float) -> dict[str, float]:
    last = rows[-max(1, len(rows) // 10) :].mean(axis=0)
    excess = np.maximum(rows[:, 1] - TASKS[NAME].limits[0], 0.0).mean()
    return {"reward": float(last[0]), "cost": float(last[1]), "excess": float(excess), "speed": speed}


def _cell(steps: int, seed: int) -> dict[str, dict[str, float]]:
    """The results of one seed, kept in ``runs/`` once they are there."""

    def measured() -> dict[str, Any]:
        with threadpool_limits(1):
            return {"RLlib, 0 remote runners": with_rllib(steps, seed), "the project's own loop": without(steps, seed)}

    cell = kept(FOLDER / f"{steps}-{seed}.json", measured)
    print(seed, cell, flush=True)
    return cell


def main() -> None:
    """Run both and write docs/results/rllib.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[200, 201, 202, 203, 204])
    chosen = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    cells = [_cell(chosen.steps, seed) for seed in chosen.seeds]
    results = {label: [cell[label] for cell in cells] for label in cells[0]}
    rows = [
        [label, *(formatted(interval([one[name] for one in found])) for name in ("reward", "cost", "excess", "speed"))]
        for label, found in results.items()
    ]
    command = f"python -m benchmarks.learning.rllib_curve {' '.join(sys.argv[1:])}"
    seeds = ", ".join(map(str, chosen.seeds))
    text = (
        f"half_cheetah under its speed limit, cost limit 25, {chosen.steps:,} steps, seeds {seeds} (no setting was "
        "chosen on them), the same settings, environments and update; random numbers differ. Reward and cost: the last "
        "tenth of the iterations. Excess: of the cost over 25, mean over all iterations. Mean [95 % interval over "
        "seeds, Student's t]."
    )
    columns = ("", "reward", "cost", "mean excess", "steps/s")
    write("rllib.md", [*header("RLlib's CRPO beside the project's own loop", command), text, "", *table(columns, rows)])


if __name__ == "__main__":
    main()
