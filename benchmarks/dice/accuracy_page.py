"""The page of the estimators' accuracy: ``make bench-dice`` writes docs/results/dice.md and its figures."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.dice.accuracy import ESTIMATORS, QUICK, Errors, Plan, Setting, measure_linear_system, spread, sweep
from benchmarks.dice.dice_problems import GRIDWALK_VALUE, gridwalk, random_problem, taxi
from benchmarks.result_page import RESULTS, header, table
from benchmarks.result_plots import ESTIMATOR_STYLES, save
from meta.estimators.estimation import estimate_corrections
from meta.reporting.plot_model import Figure, Panel, Series
from tests.support.linear_system import HORIZON, LinearSystem


def by_size(found: dict[Setting, Errors], names: Sequence[str], alpha: float) -> list[str]:
    """A table of value errors with one column for each size."""
    sizes = sorted({size for _, a, size in found if a == alpha})
    columns = ["estimator", *(f"{episodes} x {steps}" for episodes, steps in sizes)]
    rows = [[f"`{n}`", *(spread(found[n, alpha, s]) if (n, alpha, s) in found else "–" for s in sizes)] for n in names]
    return table(columns, rows)


def by_alpha(found: dict[Setting, Errors], names: Sequence[str]) -> list[str]:
    """A table of value errors with one column for each behaviour mix; estimators may differ in size."""
    alphas = sorted({alpha for _, alpha, _ in found})
    rows = []
    for name in names:
        size = next(size for n, alpha, size in found if n == name and alpha != 0.0)
        cells = [spread(found[name, alpha, size]) if (name, alpha, size) in found else "–" for alpha in alphas]
        rows.append([f"`{name}`", f"{size[0]} x {size[1]}", *cells])
    return table(["estimator", "data", *(f"alpha {alpha:g}" for alpha in alphas)], rows)


def figure(found: dict[Setting, Errors], names: Sequence[str], title: str) -> Figure:
    """The value error against the number of transitions, at alpha 0."""
    series = []
    for name in names:
        points = sorted(
            (size[0] * size[1], errors.rmse) for (n, a, size), errors in found.items() if n == name and a == 0.0
        )
        x, y = np.array(points, np.float64).T
        style = ESTIMATOR_STYLES[name]
        series.append(Series(name, x, y, style.colour, "marked", marker=style.marker))
    y_label = "root-mean-square error of the value"
    panel = Panel(title, "transitions", y_label, tuple(series), scale="fitting", x_scale="fitting")
    return Figure(title.split()[0].lower(), "", (panel,))


def linear_seconds(rows_wanted: int) -> float:
    """Best of three CPU times of dualdice_linear with 256 features, with diagnostics and cross-validation."""
    system = LinearSystem.make()
    rows = system.sample(0, rows_wanted // HORIZON // 3 * 3 + 3)
    spent = []
    for _ in range(3):
        began = time.process_time()
        estimate_corrections(rows, system.target, system.discount, HORIZON, ESTIMATORS["dualdice_linear"], 0)
        spent.append((time.process_time() - began) * rows_wanted / len(rows))
    return min(spent)


def verdicts(grid: dict[Setting, Errors], plan: Plan) -> list[str]:
    """The bounds, each with what was measured."""
    tabular = grid["dualdice_tabular", 0.0, plan.main]
    neural = grid["dualdice_neural", 0.0, plan.main].seconds
    seconds, value = linear_seconds(plan.rows_for_time), gridwalk().value
    size = f"{plan.main[0]} x {plan.main[1]}"
    ratios = {name: grid[name, 0.0, plan.main].rmse / tabular.rmse for name in ("dualdice_linear", "dualdice_neural")}
    rows = [
        [f"`{name}` / tabular value error on GridWalk, {size}, at most 3", f"{ratio:.2f}", _yes(ratio <= 3.0)]
        for name, ratio in ratios.items()
    ]
    rows += [
        [
            f"`dualdice_linear`, {plan.rows_for_time} transitions, 256 features, at most 0.5 s of one core",
            f"{seconds:.2f} s",
            _yes(seconds <= 0.5),
        ],
        ["`dualdice_neural` to the accuracy above, at most 10 s of one core", f"{neural:.1f} s", _yes(neural <= 10.0)],
        [
            "tabular value error; DualDICE's paper reports about 10^-2.9",
            f"10^{np.log10(tabular.rmse):.2f}",
            "",
        ],
        [
            f"exact value of GridWalk's target, {GRIDWALK_VALUE}",
            f"{value:.6f}",
            _yes(abs(value - GRIDWALK_VALUE) < 1e-6),
        ],
    ]
    return table(["bound", "measured", "kept"], rows)


def _yes(kept: bool) -> str:
    return "yes" if kept else "no"


def problem_section(found: dict[Setting, Errors], plan: Plan, title: str, about: str, folder: Path) -> list[str]:
    """The tables and the figure of one problem."""
    names, main_size = list(ESTIMATORS), f"{plan.main[0]} x {plan.main[1]}"
    picture = save(folder, figure(found, names, title))
    rows = [
        [f"`{n}`", spread(found[n, 0.0, plan.main], of="correction"), f"{found[n, 0.0, plan.main].seconds:.2f}"]
        for n in names
    ]
    return [
        *(f"## {title}", "", about, "", "Value error by size, alpha 0:", ""),
        *by_size(found, names, 0.0),
        *("Value error by behaviour:", ""),
        *by_alpha(found, names),
        *(f"Error of the corrections w at {main_size}, alpha 0, and CPU seconds of one estimate:", ""),
        *table(["estimator", "error of w", "s"], rows),
        *(picture, ""),
    ]


def linear_system_section(plan: Plan) -> list[str]:
    """The linear system, measured by every estimator that needs no table."""
    episodes = 400 if plan.repeats > 2 else 60
    system = {
        name: measure_linear_system(plan.settings(name), episodes, plan.slow_repeats) for name in list(ESTIMATORS)[1:]
    }
    rows = [[f"`{name}`", spread(errors), f"{errors.seconds:.2f}"] for name, errors in system.items()]
    return [
        "## A linear system with Gaussian noise",
        "",
        "Two states, one continuous action, three behaviour policies; 400 episodes of 50 steps. The error is the "
        "largest one over E[x] and E[x x'] under d^pi, whose largest entry is 2.95:",
        "",
        *table(["estimator", "error", "s"], rows),
    ]


def page(plan: Plan, command: str, folder: Path) -> list[str]:
    """Measure everything; figures go to ``folder``."""
    names = list(ESTIMATORS)
    grid = sweep([gridwalk()], plan, names)
    fewer = dataclasses.replace(plan, slow_repeats=plan.slow_repeats_elsewhere)
    cabs = sweep([taxi()], fewer, names)
    small = sweep([random_problem(seed) for seed in range(plan.repeats)], fewer, names)
    system = linear_system_section(fewer)
    return [
        *header("Accuracy of the estimators", command),
        f"Root-mean-square errors over {plan.repeats} repeats on fresh data, with 95 % bootstrap intervals (networks: "
        f"{fewer.slow_repeats} repeats, and {plan.slow_repeats} on GridWalk). Values are normalised: (1 - gamma) times "
        "the discounted sum, divided by the estimated mass. Data: episodes x steps. alpha sets the behaviour policy: a "
        "share of 0.1 + 0.6 (1 - alpha) of its actions is random; the target's share is 0.1. Estimators on features "
        "observe coordinates (GridWalk), indicators of row, column, passenger and destination (Taxi), or indicators of "
        "the state (random). All settings are the defaults, except for 256 features.",
        "",
        "## Bounds",
        "",
        *verdicts(grid, plan),
        *problem_section(
            grid, plan, "GridWalk 10 x 10", "The value is 0.9639; `none` returns the behaviour's value.", folder
        ),
        *problem_section(
            cabs,
            plan,
            "Taxi",
            "500 states, 6 actions; an episode ends at the drop-off. Rewards: -1 a step, 20 for the drop-off, -10 for "
            "an illegal move.",
            folder,
        ),
        *problem_section(small, plan, "Random problems", "10 states, 3 actions, a new problem in each repeat.", folder),
        *system,
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run a small version in seconds")
    parser.add_argument(
        "--results", type=Path, help="folder of the page (default: docs/results, with --quick runs/quick)"
    )
    given = parser.parse_args(arguments)
    target = given.results or (Path("runs/quick") if given.quick else RESULTS)
    with threadpool_limits(1):
        lines = page(QUICK if given.quick else Plan(), "python -m benchmarks.dice", target / "dice")
    target.mkdir(parents=True, exist_ok=True)
    (target / "dice.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
