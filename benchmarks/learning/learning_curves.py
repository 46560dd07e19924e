"""Learning curves of neural CRPO from fresh policies: CSV files, plots and docs/results/learning_curves.md.

``python -m benchmarks.learning.learning_curves --task half_cheetah --steps 3000000 --seeds 0 1 2`` trains. Every
iteration is written when it ends, so an interrupted run keeps its curve. ``--page`` writes the page of all finished
runs.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.learning.curve_page import write_page
from benchmarks.learning.curve_tasks import TASKS, CurveTask, solver_limits
from benchmarks.result_page import RESULTS
from distributed.settings.provenance import git_commit
from policies.common.branches import REWARD_BRANCH
from policies.neural.crpo import NeuralIteration, fresh_policy, iterate_neural
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState
from policies.neural.rollouts import NeuralRollouts
from tasks.contract.tabular_model import FloatArray

CURVES = RESULTS / "learning_curves"
EVALUATION_EPISODES, _EVALUATION_STREAM = 100, 31


def train(name: str, task: CurveTask, steps: int, seed: int, folder: Path) -> dict[str, Any]:
    """Train once; write the rows and then the summary to ``folder``."""
    settings = task.settings_for(steps)
    batch = task.batch(settings.num_copies)
    problem = task.problem(settings, batch.horizon)
    rng = np.random.default_rng([seed, 0])
    start = fresh_policy(batch, settings, seed)
    output: NeuralIteration | None = None
    stem = folder / f"{name}-{steps}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    wall, cpu = time.perf_counter(), time.process_time()
    rows: list[dict[str, float | str]] = []
    with stem.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _columns(len(task.limits)))
        writer.writeheader()
        for iteration in iterate_neural(batch, start, problem, settings, seed, rng, label=f"{name}/{seed}"):
            output = chosen(output, iteration, settings.output)
            rows.append(row(iteration, settings, time.perf_counter() - wall))
            writer.writerow(rows[-1])
            file.flush()
            if iteration.index % 20 == 19:
                print(name, seed, rows[-1], flush=True)
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    assert output is not None
    final = evaluate(task, output.policy, seed)
    summary = summarise(name, task, settings, steps, seed, rows, final) | {
        "wall_seconds": round(seconds[0], 1),
        "cpu_seconds": round(seconds[1], 1),
        "output_iteration": output.index,
        "output_estimate": [round(float(value), 2) for value in output.values],
    }
    stem.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def chosen(before: NeuralIteration | None, now: NeuralIteration, rule: str) -> NeuralIteration:
    """CRPO's output so far: one of the iterates that kept the solver's limits, or the newest one if none has.

    ``last`` takes the newest of them, ``best`` the one whose own batch has the highest reward.
    """
    assert now.update is not None
    earlier_kept_them = before is not None and before.update is not None and before.update.branch == REWARD_BRANCH
    if before is None or not earlier_kept_them:
        return now
    if now.update.branch != REWARD_BRANCH:
        return before
    return now if rule == "last" or now.values[0] > before.values[0] else before


def _columns(num_costs: int) -> list[str]:
    costs = [f"cost_{i + 1}" for i in range(num_costs)]
    return [
        "steps",
        "reward",
        *costs,
        "episodes",
        "branch",
        "cap",
        "scale",
        "kl",
        "std",
        "explained",
        "seconds",
    ]


def row(iteration: NeuralIteration, settings: NeuralSettings, seconds: float) -> dict[str, float | str]:
    """One line of the curve; ``steps`` counts the steps up to the end of the iterate's batch."""
    update = iteration.update
    assert update is not None
    actor = iteration.policy.actor
    std = np.exp(actor.network.part(actor.vector, "log_std")).mean() if "log_std" in actor.network.places else 0.0
    costs = {f"cost_{i + 1}": round(float(cost), 3) for i, cost in enumerate(iteration.values[1:])}
    return {
        "steps": (iteration.index + 1) * settings.steps_per_iteration,
        "reward": round(float(iteration.values[0]), 2),
        **costs,
        "episodes": update.num_episodes,
        "branch": update.branch,
        "cap": update.step.cap,
        "scale": round(update.step.scale, 5),
        "kl": round(update.step.kl, 5),
        "std": round(float(std), 4),
        "explained": " ".join(f"{value:.2f}" for value in update.predicted_variance),
        "seconds": round(seconds, 2),
    }


def evaluate(task: CurveTask, policy: PolicyState, seed: int) -> FloatArray:
    """Reward and costs [episodes, 1+p] of fresh, complete episodes of the stochastic policy."""
    batch = task.batch(EVALUATION_EPISODES)
    own_seed = int(np.random.SeedSequence([seed, _EVALUATION_STREAM]).generate_state(1)[0])
    data = NeuralRollouts(batch, batch.horizon, own_seed, "evaluation").collect(policy, 0)
    ended_before = np.zeros(data.ended.shape, dtype=np.int64)
    ended_before[1:] = np.cumsum(data.ended, axis=0)[:-1]
    return np.asarray((data.signals * (ended_before == 0)[..., None]).sum(axis=0, dtype=np.float64))


def summarise(
    name: str,
    task: CurveTask,
    settings: NeuralSettings,
    steps: int,
    seed: int,
    rows: list[dict[str, float | str]],
    final: FloatArray,
) -> dict[str, Any]:
    """The numbers of a run that the page shows."""
    keys = ["reward", *(f"cost_{i + 1}" for i in range(len(task.limits)))]
    last = rows[-max(1, len(rows) // 10) :]
    error = final.std(axis=0, ddof=1) / np.sqrt(len(final))
    return {
        "task": name,
        "steps": steps,
        "seed": seed,
        "last_tenth": [round(float(np.mean([float(r[key]) for r in last])), 2) for key in keys],
        "final": [round(float(value), 2) for value in final.mean(axis=0)],
        "final_standard_error": [round(float(value), 3) for value in error],
        "final_episodes": len(final),
        "limits": task.limits,
        "solver_limits": solver_limits(task).tolist(),
        "learning_rates": task.learning_rates,
        "discount": task.discount,
        "settings": settings.model_dump(),
        "commit": git_commit(),
    }


def main() -> None:
    """Train as the arguments say, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted(TASKS), default="half_cheetah")
    parser.add_argument("--steps", type=int, default=3_000_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=CURVES)
    parser.add_argument("--page", action="store_true", help="write the page of the finished runs without training")
    arguments = parser.parse_args()
    if arguments.page:
        write_page(CURVES)
        return
    with threadpool_limits(1):
        for seed in arguments.seeds:
            summary = train(arguments.task, TASKS[arguments.task], arguments.steps, seed, arguments.out)
            print(json.dumps({key: summary[key] for key in ("task", "seed", "last_tenth", "final", "cpu_seconds")}))


if __name__ == "__main__":
    main()
