"""The contribution of each learned part of a neural start; writes docs/results/ablation.md.

The task is HalfCheetah at a target speed. Each row leaves one part of the start unlearned, or also learns the rates;
all rows share the same tasks, seeds and steps. Finished cells are kept in ``runs/`` and reused under the same settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kept_cells import kept
from benchmarks.learning.meta_page import formatted
from benchmarks.learning.several_starts import solve_held_out
from benchmarks.result_page import header, table, write
from distributed.settings.console import Console
from distributed.settings.run_file import load_config
from meta.measuring.intervals import interval
from meta.training.experiment import draw
from meta.training.loop import Position, TrainingPlan, train
from meta.training.pool import LocalLearner, LocalPool
from tasks.contract.tabular_model import FloatArray

RUN_FILE = Path("deploy/runs/half_cheetah_velocity.yaml")
SEEDS = (200, 201, 202)
SMALL = (
    ("tracking.enabled", "false"),
    ("family.num_tasks", "32"),
    ("evaluation.num_test_tasks", "8"),
    ("evaluation.num_iterations", "5"),
)
LEARNED_RATES = (("meta.learning_rates.method", "ftl"), ("meta.learning_rates.forgetting", "0.8"))
CELLS: dict[str, tuple[tuple[str, str], ...]] = {
    "everything (rates fixed)": (),
    "without the critic": (("meta.neural.learned", "[actor, statistics]"),),
    "without the statistics": (("meta.neural.learned", "[actor, critic]"),),
    "the actor alone": (("meta.neural.learned", "[actor]"),),
    "without the actor": (("meta.neural.learned", "[critic, statistics]"),),
    "nothing": (("meta.neural.method", "fixed"),),
    "everything, rates learned": LEARNED_RATES,
    "everything, rates learned, none below 0.03": (*LEARNED_RATES, ("meta.learning_rates.minimum", "0.03")),
}
MARKS = (0, 1, 5)
WHOLE = "everything (rates fixed)"


def cell(changes: Sequence[tuple[str, str]], seed: int) -> tuple[Path, Any]:
    """The file of a cell, and the function that computes it."""
    config = load_config(RUN_FILE, [*SMALL, *changes, ("seed", str(seed))])
    evaluation = f"{config.evaluation.num_test_tasks}-{config.evaluation.num_iterations}"

    def make() -> dict[str, Any]:
        experiment = config.experiment
        pool = LocalPool(experiment.family)
        drawn = draw(pool, experiment)
        learner = LocalLearner(experiment.meta, experiment.dice, experiment.within.num_iterations)
        plan = TrainingPlan(drawn.train, experiment.tasks_per_round, experiment.within)
        state = train(plan, pool, learner, [], Position(drawn.initial_state(experiment.meta)))
        held_out = solve_held_out(pool, drawn.test, experiment.held_out_starts(state.start), experiment.held_out_within)
        rates = state.starts[0].learning_rates.tolist()
        return {**held_out, "limits": [task.limits for task in drawn.test], "rates": rates}

    return Path("runs") / "ablation" / f"{config.digest()[:12]}-{evaluation}.json", make


def rewards(found: Sequence[dict[str, Any]], mark: int) -> FloatArray:
    """Mean reward of the held-out tasks after ``mark`` updates, by seed."""
    return np.array([np.array(one["values"])[:, mark, 0].mean() for one in found])


def violations(found: Sequence[dict[str, Any]]) -> FloatArray:
    """Mean violation over iterates and tasks, in units of the limit, by seed."""
    excess = []
    for one in found:
        limits = np.array(one["limits"])[:, None, :]
        excess.append((np.maximum(np.array(one["values"])[:, :, 1:] - limits, 0.0) / limits).mean())
    return np.array(excess)


def page(cells: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The table of results and the table of differences."""
    whole, rows, differences = cells[WHOLE], [], []
    for name, found in cells.items():
        shown = [formatted(interval(rewards(found, mark))) for mark in MARKS]
        rates = "; ".join(", ".join(f"{rate:.2g}" for rate in one["rates"]) for one in found)
        rows.append([name, *shown, formatted(interval(violations(found)), 4), rates])
        if name != WHOLE:
            lost = [formatted(interval(rewards(found, mark) - rewards(whole, mark))) for mark in MARKS]
            differences.append([name, *lost, formatted(interval(violations(found) - violations(whole)), 4)])
    columns = ["learned", *(f"reward after {mark} updates" for mark in MARKS), "violation / limit, mean over iterates"]
    return [
        *table([*columns, "rates at the end"], rows),
        f"Differences from `{WHOLE}`, paired by seed:",
        "",
        *table(columns, differences),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is missing, seed by seed, and write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    console, cells = Console(), {name: list[dict[str, Any]]() for name in CELLS}
    for seed in SEEDS:
        for name, changes in CELLS.items():
            cells[name].append(kept(*cell(changes, seed)))
            console.say(f"seed {seed}, {name}: rewards {[round(rewards(cells[name], m)[-1], 1) for m in MARKS]}")
    options = " ".join(f"--{key} {value}" for key, value in SMALL[1:])
    write(
        "ablation.md",
        [
            *header("What each part of a learned start brings", "python -m benchmarks.learning.ablation"),
            f"`{RUN_FILE} {options}`, seeds {list(SEEDS)}; means and 95 % t-intervals over seeds. Rewards are "
            "discounted. A part that is not learned starts fresh in every task: the critic is first fitted to the "
            "Monte Carlo returns of the task's first batch, and the statistics come from that task alone.",
            "",
            *page(cells),
        ],
    )


if __name__ == "__main__":
    main()
