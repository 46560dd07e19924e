"""Do corrections matter? ``make bench-corrections`` writes docs/results/corrections.md and its figure.

Three measurements: the error of f_hat for each estimator, against the exact value (FrozenLake) or fresh episodes of
pi_hat (HalfCheetah); the effect of corrections on the learned start; and the meta-learner's cost on HalfCheetah.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.dice.correction_errors import (
    CHEETAH,
    CHEETAH_ESTIMATORS,
    LAKE,
    LAKE_ESTIMATORS,
    cheetah_errors,
    lake_errors,
)
from benchmarks.result_page import RESULTS, header, table
from benchmarks.result_plots import ESTIMATOR_STYLES, save
from distributed.cluster.workplace import workplace
from distributed.settings.console import Console
from distributed.settings.run_file import load_config
from meta.judging.protocol import judge
from meta.measuring.intervals import interval
from meta.reporting.plot_model import Bar, Figure, Panel
from meta.training.evaluation_settings import GridPoint
from meta.training.experiment import Experiment, draw
from meta.training.loop import Position, TrainingPlan, train
from tasks.contract.tabular_model import FloatArray

MAIN = Path("deploy/runs/half_cheetah_velocity.yaml")
FRESH_EPISODES = 400
SEEDS = tuple(range(40, 50))


def error_rows(names: Sequence[str], errors: FloatArray) -> list[list[str]]:
    """Mean absolute error of each estimator, and its difference from plain weights, paired by task."""
    plain = np.abs(errors[names.index("none")])
    rows = []
    for name, found in zip(names, errors, strict=True):
        own, less = interval(np.abs(found)), interval(np.abs(found) - plain)
        difference = "–" if name == "none" else f"{less.mean:+.4f} [{less.low:+.4f}, {less.high:+.4f}]"
        rows.append(
            [f"`{name}`", f"{own.mean:.4f} [{own.low:.4f}, {own.high:.4f}]", f"{found.mean():+.4f}", difference]
        )
    return rows


def learned_with(
    path: Path, overrides: Sequence[tuple[str, str]], seeds: Sequence[int], point: GridPoint
) -> dict[str, FloatArray]:
    """Results of meta_srl by seed: gaps or rewards, and violations, on training tasks and on held-out tasks."""
    cells = [judge(load_config(path, overrides).experiment.with_seed(seed), "meta_srl", point) for seed in seeds]
    measure = "gap" if cells[0]["test"]["gap"] is not None else "reward"
    taken = {
        ("TAOG" if measure == "gap" else "mean reward of training tasks"): ("training", measure),
        "TACV": ("training", "violation"),
        "violation during adaptation, training": ("training", "violation_during"),
        f"held-out {measure}": ("test", measure),
        "held-out violation during adaptation": ("test", "violation_during"),
    }
    return {name: np.array([np.mean(cell[part][key]) for cell in cells]) for name, (part, key) in taken.items()}


def effect_rows(corrected: dict[str, FloatArray], plain: dict[str, FloatArray]) -> list[list[str]]:
    """The means with and without corrections, and their difference paired by seed."""
    rows = []
    for name, with_them in corrected.items():
        less = interval(with_them - plain[name])
        shown = f"{less.mean:+.4f} [{less.low:+.4f}, {less.high:+.4f}]"
        rows.append([name, f"{with_them.mean():.4f}", f"{plain[name].mean():.4f}", shown])
    return rows


def meta_learner_share(num_tasks: int, repeats: int) -> list[float]:
    """Seconds of estimates and updates, as a share of the wall-clock time of training with the main run file."""
    shares = []
    for repeat in range(repeats):
        config = load_config(MAIN, [("family.num_tasks", str(num_tasks)), ("seed", str(repeat))])
        experiment: Experiment = config.experiment
        with workplace(config, Console().say) as place:
            drawn = draw(place.pool, experiment)
            plan = TrainingPlan(drawn.train, experiment.tasks_per_round, experiment.training_within)
            began = time.perf_counter()
            train(plan, place.pool, place.learner, [], Position(drawn.initial_state(experiment.meta)))
            seconds = time.perf_counter() - began
            learner = place.learner
            assert hasattr(learner, "busy_seconds")
            shares.append(learner.busy_seconds() / seconds)
    return shares


def figure(results: dict[str, tuple[Sequence[str], FloatArray]]) -> Figure:
    """Mean absolute errors of every estimator on every family, with 95 % t-intervals over tasks."""
    panels = []
    for title, (names, errors) in results.items():
        found = [interval(np.abs(row)) for row in errors]
        bars = [
            Bar(name, one.mean, one.low, one.high, ESTIMATOR_STYLES[name].colour)
            for name, one in zip(names, found, strict=True)
        ]
        panels.append(Panel(title, "mean |f_hat - f| / f", bars=tuple(bars)))
    return Figure("error", "", tuple(panels))


def error_section(target: Path, seeds: Sequence[int], *, quick: bool) -> list[str]:
    """How far f_hat is from f: both families, with the figure."""
    tasks, fresh = (2, 5) if quick else (6, FRESH_EPISODES)
    names = ("dualdice_linear", "none") if quick else CHEETAH_ESTIMATORS
    lakes = lake_errors(LAKE_ESTIMATORS, seeds, tasks)
    cheetah, seconds = cheetah_errors(names, seeds[:1] if quick else seeds, tasks, fresh)
    panels: dict[str, tuple[Sequence[str], FloatArray]] = {
        "FrozenLake, sampled": (LAKE_ESTIMATORS, lakes),
        "HalfCheetah": (names, cheetah),
    }
    picture = save(target / "corrections", figure(panels))
    columns = ["estimator", "mean absolute error", "mean error", "absolute error minus that of `none`"]
    timed = [[*row, f"{spent:.2f}"] for row, spent in zip(error_rows(names, cheetah), seconds, strict=True)]
    return [
        f"Relative errors of f_hat over {lakes.shape[1]} lakes and {cheetah.shape[1]} HalfCheetah tasks of "
        f"{len(seeds)} seeds ({seeds[0]} to {seeds[-1]}); 95 % t-intervals over tasks, differences paired by task.",
        "",
        "## FrozenLake with sampled values",
        "",
        "The reference is the exact f_hat, with nu of pi_hat in the true model.",
        "",
        *table(columns, error_rows(LAKE_ESTIMATORS, lakes)),
        "## HalfCheetah at target speeds",
        "",
        f"The reference is the discounted mean over {fresh} fresh episodes of pi_hat. Each task has 4,000 transitions; "
        "the last column is the CPU seconds of one estimate.",
        "",
        *table([*columns, "s"], timed),
        picture,
        "",
    ]


def effect_section(seeds: Sequence[int], *, quick: bool) -> list[str]:
    """What corrections change in the learned start: both families."""
    few = [("family.num_tasks", "4" if quick else "12"), ("evaluation.num_test_tasks", "2" if quick else "8")]
    lake_point, point = GridPoint(forgetting=0.8), GridPoint(rate=0.1, step=0.001)
    sampled = [("within_task.evaluation", "sampled"), *([("family.num_tasks", "8")] if quick else [])]
    effects = {
        "FrozenLake, values sampled": [
            learned_with(LAKE, [*sampled, ("dice.estimator", name)], seeds, lake_point)
            for name in ("dualdice_tabular", "none")
        ],
        "HalfCheetah, 12 training tasks": [
            learned_with(CHEETAH, [*few, ("dice.estimator", name)], seeds[:1] if quick else seeds[:5], point)
            for name in ("dualdice_linear", "none")
        ],
    }
    lines = [
        "## What they change in what is learned",
        "",
        "meta_srl with the default estimator and with plain weights, on the same tasks and seeds; differences are "
        "paired by seed.",
        "",
    ]
    for title, (corrected, plain) in effects.items():
        lines += [f"{title}:", "", *table(["", "corrected", "plain", "difference"], effect_rows(corrected, plain))]
    return lines


def page(target: Path, *, quick: bool) -> list[str]:
    """Measure everything and make the page."""
    seeds = SEEDS[:2] if quick else SEEDS
    return [
        *header("Do corrections matter?", "python -m benchmarks.dice.corrections"),
        *error_section(target, seeds, quick=quick),
        *effect_section(seeds, quick=quick),
    ]


def share_lines(*, quick: bool) -> list[str]:
    """The section on the meta-learner's share of the training time."""
    shares = meta_learner_share(4 if quick else 24, 1 if quick else 3)
    listed = ", ".join(f"{share:.3f}" for share in shares)
    return [
        "## What the meta-learner costs",
        "",
        f"Share of estimation and update in the wall-clock time of training, `{MAIN}` with two workers: {listed} (at "
        "most 0.10).",
        "",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run a small version in a minute")
    parser.add_argument(
        "--results", type=Path, help="folder of the page (default: docs/results, with --quick runs/quick)"
    )
    given = parser.parse_args(arguments)
    target = given.results or (Path("runs/quick") if given.quick else RESULTS)
    with threadpool_limits(1):
        lines = page(target, quick=given.quick)
    lines += share_lines(quick=given.quick)
    (target / "corrections.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
