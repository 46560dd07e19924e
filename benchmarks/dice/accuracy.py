"""How accurate the estimators of corrections are: ``make bench-dice`` writes docs/results/dice.md and its figures.

Every number is against an exact one: occupancies by linear algebra, moments of a linear system in closed form.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from threadpoolctl import threadpool_limits

from benchmarks.dice.dice_problems import GRIDWALK_VALUE, TabularProblem, coded, gridwalk, random_problem, taxi
from benchmarks.page import RESULTS, header, table
from meta.estimators.estimation import Estimate, estimate_corrections
from meta.offline.dice_settings import DICESettings, LinearDICESettings, NeuralDICESettings
from meta.offline.target_policy import TableTarget
from policies.common.transition_sample import TransitionSample
from tasks.contract.tabular_model import FloatArray
from tests.support.linear_system import HORIZON, LinearSystem

WIDE = LinearDICESettings(num_features=256)
ESTIMATORS: dict[str, DICESettings] = {
    "dualdice_tabular": DICESettings(estimator="dualdice_tabular"),
    "dualdice_linear": DICESettings(estimator="dualdice_linear", linear=WIDE),
    "dualdice_neural": DICESettings(estimator="dualdice_neural"),
    "dualdice_neural, as trained": DICESettings(
        estimator="dualdice_neural", neural=NeuralDICESettings(last_layer="trained")
    ),
    "gendice": DICESettings(estimator="gendice"),
    "bestdice": DICESettings(estimator="bestdice"),
    "importance": DICESettings(estimator="importance"),
    "none": DICESettings(estimator="none"),
}
SLOW = ("dualdice_neural", "dualdice_neural, as trained", "gendice", "bestdice")
SIZES = ((50, 50), (50, 400), (200, 100), (200, 400), (1000, 50), (1000, 100))
ALPHAS = (0.0, 0.33, 0.66, 1.0)
MAIN = (200, 400)


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    repeats: int = 20
    slow_repeats: int = 20
    slow_repeats_elsewhere: int = 5
    sizes: tuple[tuple[int, int], ...] = SIZES
    slow_sizes: tuple[tuple[int, int], ...] = ((50, 50), (200, 400))
    alphas: tuple[float, ...] = ALPHAS
    main: tuple[int, int] = MAIN
    rows_for_time: int = 40000
    steps: int = 3000

    def settings(self, name: str) -> DICESettings:
        """Of one estimator; networks take ``steps``."""
        found = ESTIMATORS[name]
        return found.model_copy(update={"neural": found.neural.model_copy(update={"steps": self.steps})})


QUICK = Plan(2, 1, 1, ((20, 20), (40, 20)), ((20, 20),), (0.0, 1.0), (40, 20), 2000, 50)


@dataclass(frozen=True)
class Errors:
    """Of one estimator on one setting: ``value`` and ``correction`` [repeats], mean ``seconds`` of CPU."""

    value: FloatArray
    correction: FloatArray
    seconds: float

    @property
    def rmse(self) -> float:
        """Root-mean-square error of the value."""
        return float(np.sqrt(np.mean(self.value**2)))


Sampler = Callable[[np.random.Generator], tuple[TransitionSample, FloatArray]]


def on_table(
    problem: TabularProblem, settings: DICESettings, rows: TransitionSample, share: FloatArray, seed: int
) -> tuple[float, float, float]:
    """Errors of the value and (root mean square over the rows) of the corrections, and CPU seconds.

    The value is self-normalised: sum mass r over the mass found, the absorbing state's included. d^D of the exact
    correction is the behaviour's own, ``share`` [S, A].
    """
    states, actions = rows.observations[:, 0].astype(int), rows.actions
    horizon = int(rows.ages.max()) + 1
    began = time.process_time()
    if settings.estimator in ("dualdice_tabular", "importance", "none"):
        found = estimate_corrections(rows, TableTarget(problem.target), problem.discount, horizon, settings, seed)
    else:
        sample, target = coded(problem, rows)
        began = time.process_time()
        found = estimate_corrections(sample, target, problem.discount, horizon, settings, seed)
    seconds = time.process_time() - began
    value = found.mass @ problem.reward[states, actions] / found.diagnostics.mean_correction
    exact = (problem.exact / np.where(share > 0.0, share, 1.0))[states, actions]
    ratio = found.mass * len(rows)
    return float(value - problem.value), float(np.sqrt(np.mean((ratio - exact) ** 2))), seconds


def measure_table(
    problems: Sequence[TabularProblem], settings: DICESettings, alpha: float, size: tuple[int, int], repeats: int
) -> Errors:
    """Repeat on fresh data; the problems take turns. The data depend on the repeat alone, not on the estimator."""
    found = []
    for repeat in range(repeats):
        problem = problems[repeat % len(problems)]
        policy = problem.behaviour(alpha)
        rng = np.random.default_rng([repeat, *size, round(100 * alpha)])
        rows = problem.sample(policy, *size, rng)
        found.append(on_table(problem, settings, rows, problem.visited(alpha, size[1]), repeat))
    value, correction, seconds = np.array(found).T
    return Errors(value, correction, float(seconds.mean()))


def measure_linear_system(settings: DICESettings, episodes: int, repeats: int) -> Errors:
    """Largest error of the discounted first and second moments of the state, of which the largest is 2.95."""
    system, found = LinearSystem.make(), []
    exact = system.discounted_moments(system.target)
    for repeat in range(repeats):
        rows = system.sample(1000 + repeat, episodes)
        began = time.process_time()
        estimate: Estimate = estimate_corrections(rows, system.target, system.discount, HORIZON, settings, repeat)
        seconds = time.process_time() - began
        x = rows.observations.astype(np.float64)
        moments = np.concatenate([estimate.mass @ x, ((x * estimate.mass[:, None]).T @ x).ravel()])
        found.append((np.abs(moments - exact).max(), np.nan, seconds))
    value, correction, seconds_each = np.array(found).T
    return Errors(value, correction, float(seconds_each.mean()))


def spread(errors: Errors, *, of: str = "value") -> str:
    """Root mean square over the repeats and its 95 % interval by the percentile bootstrap (2,000 draws)."""
    values = getattr(errors, of)
    squares = values**2
    drawn = np.random.default_rng(0).choice(squares, size=(2000, squares.size)).mean(axis=1)
    low, high = np.sqrt(np.percentile(drawn, (2.5, 97.5)))
    return f"{np.sqrt(squares.mean()):.2g} [{low:.2g}, {high:.2g}]"


def sweep(
    problems: Sequence[TabularProblem], plan: Plan, names: Sequence[str]
) -> dict[tuple[str, float, tuple[int, int]], Errors]:
    """Every estimator by size at alpha 0, and by alpha at the main size."""
    found = {}
    for name in names:
        sizes = plan.slow_sizes if name in SLOW else plan.sizes
        repeats = plan.slow_repeats if name in SLOW else plan.repeats
        settings = [(0.0, size) for size in sizes]
        settings += [(alpha, sizes[-2 if len(sizes) > 1 else 0]) for alpha in plan.alphas[1:]]
        settings.append((0.0, plan.main))
        for alpha, size in settings:
            if (name, alpha, size) not in found:
                found[name, alpha, size] = measure_table(problems, plan.settings(name), alpha, size, repeats)
                print(
                    f"{problems[0].name} {name} alpha {alpha:g} {size}: {spread(found[name, alpha, size])}", flush=True
                )
    return found


def by_size(found: dict[tuple[str, float, tuple[int, int]], Errors], names: Sequence[str], alpha: float) -> list[str]:
    """A table of value errors, one column a size."""
    sizes = sorted({size for _, a, size in found if a == alpha})
    columns = ["estimator", *(f"{episodes} x {steps}" for episodes, steps in sizes)]
    rows = [[f"`{n}`", *(spread(found[n, alpha, s]) if (n, alpha, s) in found else "–" for s in sizes)] for n in names]
    return table(columns, rows)


def by_alpha(found: dict[tuple[str, float, tuple[int, int]], Errors], names: Sequence[str]) -> list[str]:
    """A table of value errors, one column a behaviour mix; each estimator at its own size."""
    alphas = sorted({alpha for _, alpha, _ in found})
    rows = []
    for name in names:
        size = next(size for n, alpha, size in found if n == name and alpha != 0.0)
        cells = [spread(found[name, alpha, size]) if (name, alpha, size) in found else "–" for alpha in alphas]
        rows.append([f"`{name}`", f"{size[0]} x {size[1]}", *cells])
    return table(["estimator", "data", *(f"alpha {alpha:g}" for alpha in alphas)], rows)


def figure(
    found: dict[tuple[str, float, tuple[int, int]], Errors], names: Sequence[str], path: Path, title: str
) -> None:
    """Value error against the number of transitions, at alpha 0."""
    picture, axes = plt.subplots(figsize=(7.0, 4.2), layout="constrained")
    for name in names:
        points = sorted(
            (size[0] * size[1], errors.rmse) for (n, a, size), errors in found.items() if n == name and a == 0.0
        )
        axes.plot(*np.array(points).T, marker="o", label=name)
    axes.set(
        xscale="log", yscale="log", xlabel="transitions", ylabel="root-mean-square error of the value", title=title
    )
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=110)
    plt.close(picture)


def linear_seconds(rows_wanted: int) -> float:
    """CPU seconds of dualdice_linear with 256 features, diagnostics and cross-validation included; best of three."""
    system = LinearSystem.make()
    rows = system.sample(0, rows_wanted // HORIZON // 3 * 3 + 3)
    spent = []
    for _ in range(3):
        began = time.process_time()
        estimate_corrections(rows, system.target, system.discount, HORIZON, ESTIMATORS["dualdice_linear"], 0)
        spent.append((time.process_time() - began) * rows_wanted / len(rows))
    return min(spent)


def verdicts(grid: dict[tuple[str, float, tuple[int, int]], Errors], plan: Plan) -> list[str]:
    """The bounds, each with its figure."""
    tabular = grid["dualdice_tabular", 0.0, plan.main]
    rows = []
    for name in ("dualdice_linear", "dualdice_neural"):
        ratio = grid[name, 0.0, plan.main].rmse / tabular.rmse
        rows.append(
            [
                f"`{name}` / tabular value error on GridWalk, {plan.main[0]} x {plan.main[1]}, at most 3",
                f"{ratio:.2f}",
                _yes(ratio <= 3.0),
            ]
        )
    seconds = linear_seconds(plan.rows_for_time)
    rows.append(
        [
            f"`dualdice_linear`, {plan.rows_for_time} transitions, 256 features, at most 0.5 s of one core",
            f"{seconds:.2f} s",
            _yes(seconds <= 0.5),
        ]
    )
    neural = grid["dualdice_neural", 0.0, plan.main].seconds
    rows.append(
        ["`dualdice_neural` to the accuracy above, at most 10 s of one core", f"{neural:.1f} s", _yes(neural <= 10.0)]
    )
    exponent = np.log10(tabular.rmse)
    rows.append(["tabular value error, for orientation 10^-2.9 in DualDICE's paper", f"10^{exponent:.2f}", ""])
    value = gridwalk().value
    rows.append(
        [
            f"exact value of GridWalk's target, {GRIDWALK_VALUE}",
            f"{value:.6f}",
            _yes(abs(value - GRIDWALK_VALUE) < 1e-6),
        ]
    )
    return table(["bound", "measured", "kept"], rows)


def _yes(kept: bool) -> str:
    return "yes" if kept else "no"


def page(plan: Plan, command: str, folder: Path) -> list[str]:
    """Measure everything; figures go to ``folder``."""
    names = list(ESTIMATORS)
    grid = sweep([gridwalk()], plan, names)
    plan = dataclasses.replace(plan, slow_repeats=plan.slow_repeats_elsewhere)
    cabs = sweep([taxi()], plan, names)
    small = sweep([random_problem(seed) for seed in range(plan.repeats)], plan, names)
    system = {
        name: measure_linear_system(plan.settings(name), 400 if plan.repeats > 2 else 60, plan.slow_repeats)
        for name in names[1:]
    }
    lines = [
        *header("Accuracy of the estimators", command),
        f"Root-mean-square errors over {plan.repeats} repeats (networks {plan.slow_repeats} but on GridWalk), fresh "
        "data, and 95 % bootstrap intervals. Values are normalised, (1 - gamma) times the discounted sum, and divided "
        "by the mass found. Data: episodes x steps. alpha mixes the behaviour: 0.1 + 0.6 (1 - alpha) of its actions "
        "are random, 0.1 of the target's. Estimators on features see coordinates (GridWalk), indicators of row, "
        "column, passenger and destination (Taxi), of the state (random). Settings are the defaults, with 256 "
        "features.",
        "",
        "## Bounds",
        "",
        *verdicts(grid, plan),
    ]
    for title, found, about in (
        ("GridWalk 10 x 10", grid, "Value 0.9639; with `none` the value of the behaviour comes out."),
        ("Taxi", cabs, "500 states, 6 actions; an episode ends at the drop-off. Reward -1 a step, 20, -10."),
        ("Random problems", small, "10 states, 3 actions, a problem a repeat."),
    ):
        picture = folder / f"{title.split()[0].lower()}.png"
        figure(found, names, picture, title)
        lines += [f"## {title}", "", about, "", "Value error by size, alpha 0:", "", *by_size(found, names, 0.0)]
        lines += ["Value error by behaviour:", "", *by_alpha(found, names)]
        rows = [
            [f"`{n}`", spread(found[n, 0.0, plan.main], of="correction"), f"{found[n, 0.0, plan.main].seconds:.2f}"]
            for n in names
        ]
        lines += [
            f"Error of the corrections w at {plan.main[0]} x {plan.main[1]}, alpha 0, and CPU seconds of an estimate:",
            "",
        ]
        lines += [*table(["estimator", "error of w", "s"], rows), f"![{title}]({folder.name}/{picture.name})", ""]
    rows = [[f"`{name}`", spread(errors), f"{errors.seconds:.2f}"] for name, errors in system.items()]
    lines += [
        "## A linear system with Gaussian noise",
        "",
        "Two states, one continuous action, three behaviour policies; 400 episodes of 50 steps. Largest error of "
        "E[x] and E[x x'] under d^pi, of which the largest is 2.95:",
        "",
    ]
    return [*lines, *table(["estimator", "error", "s"], rows)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small form of everything, in seconds")
    parser.add_argument("--results", type=Path, help="folder of the page; by default docs/results, quick: runs/quick")
    given = parser.parse_args(arguments)
    target = given.results or (Path("runs/quick") if given.quick else RESULTS)
    with threadpool_limits(1):
        lines = page(QUICK if given.quick else Plan(), "python -m benchmarks.dice", target / "dice")
    target.mkdir(parents=True, exist_ok=True)
    (target / "dice.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
