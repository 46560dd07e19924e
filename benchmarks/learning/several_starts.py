"""Do two initialisations help where tasks form two groups? Writes docs/results/groups.md.

Two families have two groups each: lakes from two base maps, and a HalfCheetah that runs forwards or backwards. For each
seed, meta-train with one and with two initialisations, then solve the same held-out tasks. Only this page reads the
groups' labels. Finished cells are kept in ``runs/`` and reused under the same settings.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kept_cells import kept
from benchmarks.learning.kept_rows import Rows
from benchmarks.learning.meta_page import formatted
from benchmarks.result_page import RESULTS, header, table, write
from benchmarks.result_plots import band, reward_and_cost, save
from distributed.settings.console import Console
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import load_config
from meta.measuring.intervals import interval
from meta.measuring.measures import measure
from meta.reporting.plot_model import Figure
from meta.reporting.styles import method_style, numbered
from meta.training.experiment import draw
from meta.training.loop import Position, TrainingPlan, train
from meta.training.pool import LocalLearner, LocalPool, Pool, solve_in_order
from policies.common.results import Start, Starts
from policies.solving.algorithms import WithinTask
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task

LAKES = (Path("deploy/runs/frozen_lake_clustered.yaml"), tuple(range(100, 110)), ())
ROBOT = (
    Path("deploy/runs/half_cheetah_direction.yaml"),
    tuple(range(100, 105)),
    (("family.num_tasks", "40"), ("evaluation.num_test_tasks", "8"), ("evaluation.num_iterations", "5")),
)
NAMES = {"fresh": "none learned", "1": "K = 1", "2": "K = 2"}
_STYLES = {"fresh": method_style("random"), "1": numbered(1), "2": numbered(0)}
_SAME_MAP = 8
"""Lakes that differ in fewer tiles share a base map: at most 2 tiles differ within a group, 14 between groups."""


def labels(tasks: Sequence[Task], first: Task) -> list[int]:
    """The true group of every task: 0 for the group of ``first``, 1 for the other."""
    if "weights" in first.parameters:
        return [int(task.parameters["weights"][0] * first.parameters["weights"][0] < 0.0) for task in tasks]
    maps = [np.array(list("".join(task.parameters["desc"]))) for task in (first, *tasks)]
    return [int((tiles != maps[0]).sum() >= _SAME_MAP) for tiles in maps[1:]]


def solve_held_out(pool: Pool, tasks: Sequence[Task], start: Starts, within: WithinTask) -> dict[str, Any]:
    """Solve the held-out tasks and return their measurements in task order."""
    results = solve_in_order(pool, tasks, start, within)
    measures = [measure(result) for result in results]
    return {
        "values": [result.values.tolist() for result in results],
        "gap": [item.gap for item in measures],
        "reward": [float(result.values[result.output, 0]) for result in results],
        "during": [float(item.violation_during.mean()) for item in measures],
        "score": [item.score for item in measures],
        "start": [result.start_index for result in results],
        "probe_steps": [result.probe_steps for result in results],
        "env_steps": [result.env_steps for result in results],
    }


def cell(config: RunConfig, fresh: bool) -> dict[str, Any]:
    """One seed with one number of initialisations; ``fresh`` learns nothing, as the baseline."""
    experiment = config.experiment
    pool = LocalPool(experiment.family)
    drawn = draw(pool, experiment)
    state, seen = drawn.initial_state(experiment.meta), Rows()
    if not fresh:
        learner = LocalLearner(experiment.meta, experiment.dice, experiment.within.num_iterations)
        plan = TrainingPlan(drawn.train, experiment.tasks_per_round, experiment.within)
        state = train(plan, pool, learner, [seen], Position(state))
    start: Starts = (
        Start(drawn.fresh, state.starts[0].learning_rates) if fresh else experiment.held_out_starts(state.start)
    )
    return {
        "rows": seen.rows,
        "limits": [task.limits for task in drawn.test],
        "train_labels": labels(drawn.train, drawn.train[0]),
        "test_labels": labels(drawn.test, drawn.train[0]),
        "held_out": solve_held_out(pool, drawn.test, start, experiment.held_out_within),
    }


def right_share(found: Sequence[int], wanted: Sequence[int]) -> float:
    """Share of tasks in their true group, under the better of the two matchings of groups."""
    same = float(np.mean(np.array(found) == np.array(wanted)))
    return max(same, 1.0 - same)


def held(cells: Sequence[dict[str, Any]], key: str) -> FloatArray:
    """Means over the held-out tasks, by seed."""
    return np.array([np.mean(one["held_out"][key]) for one in cells])


def rows_of(cells: dict[str, list[dict[str, Any]]], exact: bool) -> list[list[object]]:
    """One row of the table for every start, and one for the paired difference of K = 2 and K = 1."""
    key, sign = ("gap", -1.0) if exact else ("reward", 1.0)
    measured = [(key, sign), ("during", -1.0), *([("score", -1.0)] if exact else [])]
    rows: list[list[object]] = []
    for name, found in cells.items():
        curve = [np.array(one["held_out"]["values"])[:, :, 0].mean(axis=0) for one in found]
        rewards = [formatted(interval([mean[mark] for mean in curve]), 3) for mark in (0, 1, len(curve[0]) - 1)]
        rows.append([NAMES[name], *rewards, *(formatted(interval(held(found, one)), 3) for one, _ in measured)])
    better = [way * (held(cells["2"], one) - held(cells["1"], one)) for one, way in measured]
    rows.append(["K = 2 better by", "", "", "", *(formatted(interval(difference), 3) for difference in better)])
    return rows


def group_lines(cells: Sequence[dict[str, Any]]) -> list[str]:
    """How often tasks were assigned to their true group, and the cost of probing."""
    half = len(cells[0]["rows"]) // 2
    assigned = [right_share([r["group"] for r in one["rows"][half:]], one["train_labels"][half:]) for one in cells]
    begun = [right_share([r["start"] for r in one["rows"][half:]], one["train_labels"][half:]) for one in cells]
    held_out = [right_share(one["held_out"]["start"], one["test_labels"]) for one in cells]
    probing, steps = (sum(sum(one["held_out"][key]) for one in cells) for key in ("probe_steps", "env_steps"))
    cost = f"{probing / steps:.1%}" if steps else "none"
    return [
        "- True group, over the last half of the training tasks: assigned to it "
        f"{formatted(interval(assigned), 2)}, started from it {formatted(interval(begun), 2)}; lowest share of any "
        f"seed {min(assigned):.2f}.",
        "- Held-out tasks that start from the initialisation of their group: "
        f"{formatted(interval(held_out), 2)}; lowest share of any seed {min(held_out):.2f}.",
        f"- Probing takes {cost} of the environment steps of a held-out task{'' if steps else ' (values are exact)'}.",
        "",
    ]


def figure(cells: dict[str, list[dict[str, Any]]], name: str) -> Figure:
    """Reward and cost over its limit after every update, means over seeds with 95 % bands."""
    rewards, costs = [], []
    for key, found in cells.items():
        values = [np.array(one["held_out"]["values"]) for one in found]
        limits = [np.array(one["limits"])[:, None] for one in found]
        x = np.arange(values[0].shape[1])
        reward = [one[:, :, 0].mean(axis=0) for one in values]
        cost = [(one[:, :, 1:] / limit).mean(axis=(0, 2)) for one, limit in zip(values, limits, strict=True)]
        rewards.append(band(NAMES[key], x, reward, _STYLES[key]))
        costs.append(band(NAMES[key], x, cost, _STYLES[key]))
    return reward_and_cost(name, "", rewards, costs)


def section(run_file: Path, seeds: Sequence[int], changes: Sequence[tuple[str, str]], console: Console) -> list[str]:
    """Compute the missing cells of a family and return its section of the page."""
    cells: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    for seed in seeds:
        for name, found in cells.items():
            count = "1" if name == "fresh" else name
            options = [*changes, ("meta.num_initializations", count), ("seed", str(seed))]
            config = load_config(run_file, [("tracking.enabled", "false"), *options])
            evaluation = f"{config.evaluation.num_test_tasks}-{config.evaluation.num_iterations}"
            path = Path("runs") / "groups" / config.name / name / f"{config.digest()[:12]}-{evaluation}.json"
            found.append(kept(path, lambda config=config, name=name: cell(config, name == "fresh")))  # type: ignore[misc]
            mean = {key: float(np.mean(found[-1]["held_out"][key])) for key in ("gap", "reward", "during")}
            console.say(f"{config.name} seed {seed} {NAMES[name]}: {json.dumps(mean)}")
    exact = not np.isnan(held(cells["1"], "gap")).any()
    save(RESULTS / "groups", figure(cells, config.name))
    value = "gap of the output" if exact else "reward of the output"
    last = config.evaluation.num_iterations or config.within_task.num_iterations
    columns = ["initialisations", "reward of the start", "after 1 update", f"after {last}", value]
    columns += ["violation during adaptation", *(["score"] if exact else [])]
    return [
        f"## {config.name}",
        "",
        f"`{run_file}`{', '.join(['', *(f'{key} {given}' for key, given in changes)])}; seeds {list(seeds)}, "
        f"{config.family.num_tasks} training tasks, {config.evaluation.num_test_tasks} held-out tasks a seed.",
        "",
        *table(columns, rows_of(cells, exact)),
        *group_lines(cells["2"]),
        f"![{config.name}](groups/{config.name}.png)",
        "",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute both families and write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    console = Console()
    lines = [
        *header("Two initialisations for two groups of tasks", "python -m benchmarks.learning.several_starts"),
        "Means and 95 % t-intervals over seeds; the last row of each table holds the mean difference, paired by seed. "
        "Reward and gap are discounted as the family specifies. The score is gap / |J_0*| + violation during "
        "adaptation / limit; smaller is better. `none learned` solves the held-out tasks from the fresh policy and the "
        "initial rates. No settings were chosen on these seeds. Only this page reads the groups of the tasks.",
        "",
    ]
    for run_file, seeds, changes in (LAKES, ROBOT):
        lines += section(run_file, seeds, changes, console)
    write("groups.md", lines)


if __name__ == "__main__":
    main()
