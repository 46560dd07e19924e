"""``metasrl adapt``: solve an unseen task from a learned start, beside the random start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from distributed.checkpoints import save_arrays, write_atomically
from distributed.config import ConfigurationError
from distributed.console import Console
from distributed.run_directory import load_final_state, load_run_config, load_summary
from distributed.watch import film, require_pictures
from meta.evaluation import measure
from meta.experiment import fresh_policy
from meta.pool import LocalPool
from meta.report import plot_adaptation
from policies.crpo import REWARD_BRANCH
from policies.neural_policy import PolicyState
from policies.results import Policy, Start, Starts, TaskResult

_FIRST_NEW_INDEX = 2**20
"""Tasks drawn by --task-seed have indices from here on, so that they are none of a run's held-out tasks."""


def adapt(
    run_dir: Path, task_index: int | None, task_seed: int | None, console: Console, *, video: bool = False
) -> str:
    """Solve the task in this process; write the curve to ``adapt/`` in the run directory; return a Markdown table.

    With ``video`` also film the learned start and the policy that was adapted from it.

    Raises:
        ConfigurationError: the directory holds no finished run.
    """
    config = load_run_config(run_dir)
    state = load_final_state(run_dir, config, console.say)
    random = load_summary(run_dir)["test"].get("random")
    if random is None:
        raise ConfigurationError(
            f"{run_dir}: evaluation.methods had no random start to compare with; add it and resume"
        )
    pool = LocalPool(config.experiment.family)
    index = _FIRST_NEW_INDEX + task_seed if task_seed is not None else task_index or 0
    (task,) = pool.draw("test", [index])
    family = config.experiment.family.make()
    if video:
        require_pictures(family, task)
    fresh = fresh_policy(family, task, config.within_task, config.seed)
    starts: dict[str, Starts] = {"random": Start(fresh, np.array(random["learning_rates"])), "meta_srl": state.start}
    results = {
        name: next(iter(pool.solve([task], start, config.experiment.held_out_within, collect=False))).result
        for name, start in starts.items()
    }
    curves = {
        name: {"reward_curve": result.values[:, 0].tolist(), "cost_curve": result.values[:, 1:].tolist()}
        for name, result in results.items()
    }
    folder = run_dir / "adapt"
    folder.mkdir(exist_ok=True)
    figure = plot_adaptation(curves, task.limits[0])
    path = folder / f"{task.split}-{task.index}.png"
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    policy = _write_policy(folder / f"{task.split}-{task.index}-policy", results["meta_srl"].policy)
    console.say(f"plot: {path}\nadapted policy: {policy}")
    if not video:
        return _table(results)
    learned = state.starts[results["meta_srl"].start_index]
    policies = {"learned start": learned.initialization, "adapted": results["meta_srl"].policy}
    return f"{_table(results)}\n\n{film(family, task, policies, path.with_suffix('.mp4'), console)}"


def _write_policy(stem: Path, policy: Policy) -> Path:
    """A table of probabilities as CSV, a row a state; a neural policy as safetensors."""
    if isinstance(policy, PolicyState):
        save_arrays(stem, policy.to_arrays(), {"kind": "neural"})
        return stem.with_suffix(".safetensors")
    rows = "\n".join(",".join(f"{p:.17g}" for p in row) for row in policy)
    write_atomically(stem.with_suffix(".csv"), f"{rows}\n".encode())
    return stem.with_suffix(".csv")


def _table(results: dict[str, TaskResult]) -> str:
    task = next(iter(results.values())).task
    lines = [f"Task {task.label}, limits {[round(limit, 4) for limit in task.limits]}", ""]
    lines.append("| updates | " + " | ".join(f"{name}: reward | cost | step" for name in results) + " |")
    lines.append("|---" * (1 + 3 * len(results)) + "|")
    count = len(next(iter(results.values())).values)
    for iteration in range(count):
        cells = [str(iteration)]
        for result in results.values():
            cost = ", ".join(f"{value:.4f}" for value in result.values[iteration, 1:])
            cells += [f"{result.values[iteration, 0]:.4f}", cost, _step(result, iteration)]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for name, result in results.items():
        measures = measure(result)
        known = f"reward {result.values[result.output, 0]:.4f}"
        if result.reference is not None:
            known = f"gap {measures.gap:.4f}"
        chosen = f"start {result.start_index}, " if result.probe_steps or result.start_index else ""
        lines.append(
            f"- {name} ({chosen}output: iterate {result.output}): {known}, violation of the output "
            f"{measures.violation.round(4).tolist()}, during adaptation {measures.violation_during.round(4).tolist()}"
        )
    return "\n".join(lines)


def _step(result: TaskResult, iteration: int) -> str:
    if iteration >= result.branches.size:
        return "end"
    branch = int(result.branches[iteration])
    return "reward" if branch == REWARD_BRANCH else f"cost {branch}"
