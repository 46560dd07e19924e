"""Do corrections matter? ``make bench-corrections`` writes docs/results/corrections.md and its figure.

Two measurements: the error of f_hat for each estimator, against the exact value (FrozenLake) or fresh episodes of
pi_hat (HalfCheetah), and the effect of corrections on the learned start. A cell is one measurement on one seed, with
the commit that computed it. Finished cells lie under docs/results/corrections/cells, so that the command can be stopped
and continued. Remove a cell where a default or an equation changes.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from benchmarks.kept_cells import in_processes, kept
from benchmarks.learning.contexts_page import commits
from benchmarks.learning.contexts_verdict import sided
from benchmarks.result_page import RESULTS, header, table
from benchmarks.result_plots import ESTIMATOR_STYLES, save
from distributed.settings.console import Console
from distributed.settings.provenance import commit_of_results
from distributed.settings.run_file import load_config
from meta.judging.protocol import judge
from meta.measuring.intervals import Interval, interval
from meta.reporting.plot_model import Bar, Figure, Panel
from meta.training.evaluation_settings import GridPoint
from tasks.contract.tabular_model import FloatArray

SEEDS = tuple(range(40, 50))
PARTS = ("lake_errors", "cheetah_errors", "lake_starts", "cheetah_starts")
PLAIN = "none"
CORRECTED = {"lake_starts": "dualdice_tabular", "cheetah_starts": "dualdice_linear"}
"""The default estimator of each family."""


@dataclass(frozen=True)
class Size:
    """How much is measured: tasks of a seed, fresh episodes of each, training and held-out tasks of a learned start."""

    seeds: tuple[int, ...] = SEEDS
    cheetah_seeds: tuple[int, ...] = SEEDS
    cheetah_start_seeds: tuple[int, ...] = SEEDS[:5]
    tasks: int = 6
    fresh: int = 400
    cheetah_estimators: tuple[str, ...] = CHEETAH_ESTIMATORS
    lake_training: int | None = None
    cheetah_training: int = 12
    cheetah_held_out: int = 8

    def seeds_of(self, part: str) -> tuple[int, ...]:
        """The seeds of a part."""
        own = {"cheetah_errors": self.cheetah_seeds, "cheetah_starts": self.cheetah_start_seeds}
        return own.get(part, self.seeds)


QUICK = Size(
    seeds=SEEDS[:2],
    cheetah_seeds=SEEDS[:1],
    cheetah_start_seeds=SEEDS[:1],
    tasks=2,
    fresh=5,
    cheetah_estimators=("dualdice_linear", PLAIN),
    lake_training=8,
    cheetah_training=4,
    cheetah_held_out=2,
)


def computed(folder: Path, part: str, seed: int, size: Size) -> dict[str, Any]:
    """The cell of a part on a seed, from its file where it is finished."""
    with threadpool_limits(1):
        return kept(folder / part / f"{seed}.json", lambda: {"commit": commit_of_results(), **cell(part, seed, size)})


def cell(part: str, seed: int, size: Size) -> dict[str, Any]:
    """Errors [estimators, tasks] with seconds of an estimate, or measures of a start with and without corrections."""
    if part == "lake_errors":
        return {"errors": lake_errors(LAKE_ESTIMATORS, seed, size.tasks).tolist()}
    if part == "cheetah_errors":
        errors, seconds = cheetah_errors(size.cheetah_estimators, seed, size.tasks, size.fresh)
        return {"errors": errors.tolist(), "seconds": seconds.tolist()}
    return {name: learned_with(part, name, seed, size) for name in (CORRECTED[part], PLAIN)}


def learned_with(part: str, estimator: str, seed: int, size: Size) -> dict[str, float]:
    """Results of meta_srl: gaps or rewards, and violations, on training tasks and on held-out tasks."""
    if part == "lake_starts":
        path, point = LAKE, GridPoint(forgetting=0.8)
        changes = [("within_task.evaluation", "sampled")]
        changes += [] if size.lake_training is None else [("family.num_tasks", str(size.lake_training))]
    else:
        path, point = CHEETAH, GridPoint(rate=0.1, step=0.001)
        changes = [
            ("family.num_tasks", str(size.cheetah_training)),
            ("evaluation.num_test_tasks", str(size.cheetah_held_out)),
        ]
    config = load_config(path, [*changes, ("dice.estimator", estimator)])
    judged = judge(config.experiment.with_seed(seed), "meta_srl", point)
    measure = "gap" if judged["test"]["gap"] is not None else "reward"
    taken = {
        ("TAOG" if measure == "gap" else "mean reward of training tasks"): ("training", measure),
        "TACV": ("training", "violation"),
        "violation during adaptation, training": ("training", "violation_during"),
        f"held-out {measure}": ("test", measure),
        "held-out violation during adaptation": ("test", "violation_during"),
    }
    return {name: float(np.mean(judged[where][key])) for name, (where, key) in taken.items()}


def signed(found: Interval) -> str:
    """A difference with its interval."""
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def error_differences(names: Sequence[str], errors: FloatArray) -> dict[str, Interval]:
    """The absolute error of each estimator minus that of plain weights, paired by task."""
    plain = np.abs(errors[names.index(PLAIN)])
    return {name: interval(np.abs(found) - plain) for name, found in zip(names, errors, strict=True) if name != PLAIN}


def effect_differences(corrected: Mapping[str, FloatArray], plain: Mapping[str, FloatArray]) -> dict[str, Interval]:
    """Each measure with corrections minus that without, paired by seed."""
    return {name: interval(with_them - plain[name]) for name, with_them in corrected.items()}


def error_rows(names: Sequence[str], errors: FloatArray) -> list[list[str]]:
    """Mean absolute error of each estimator, and its difference from plain weights, paired by task."""
    rows, differences = [], error_differences(names, errors)
    for name, found in zip(names, errors, strict=True):
        own = interval(np.abs(found))
        difference = "–" if name == PLAIN else signed(differences[name])
        rows.append(
            [f"`{name}`", f"{own.mean:.4f} [{own.low:.4f}, {own.high:.4f}]", f"{found.mean():+.4f}", difference]
        )
    return rows


def effect_rows(corrected: Mapping[str, FloatArray], plain: Mapping[str, FloatArray]) -> list[list[str]]:
    """The means with and without corrections, and their difference paired by seed."""
    return [
        [name, f"{corrected[name].mean():.4f}", f"{plain[name].mean():.4f}", signed(difference)]
        for name, difference in effect_differences(corrected, plain).items()
    ]


def error_verdict(names: Sequence[str], errors: FloatArray) -> str:
    """Which estimators are nearer to the reference than plain weights."""
    differences = {f"`{name}`": one for name, one in error_differences(names, errors).items()}
    return sided(differences, {"below": f"nearer to the reference than `{PLAIN}`", "above": "farther from it"})


def figure(results: Mapping[str, tuple[Sequence[str], FloatArray]]) -> Figure:
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


def error_section(target: Path, cells: Mapping[str, Sequence[dict[str, Any]]], size: Size) -> list[str]:
    """How far f_hat is from f: both families, with the figure."""
    lakes, cheetah = (np.hstack([one["errors"] for one in cells[part]]) for part in PARTS[:2])
    seconds = np.mean([one["seconds"] for one in cells["cheetah_errors"]], axis=0)
    names = size.cheetah_estimators
    picture = save(
        target / "corrections",
        figure({"FrozenLake, sampled": (LAKE_ESTIMATORS, lakes), "HalfCheetah": (names, cheetah)}),
    )
    columns = ["estimator", "mean absolute error", "mean error", f"absolute error minus that of `{PLAIN}`"]
    timed = [[*row, f"{spent:.2f}"] for row, spent in zip(error_rows(names, cheetah), seconds, strict=True)]
    return [
        f"Relative errors of f_hat over {lakes.shape[1]} lakes and {cheetah.shape[1]} HalfCheetah tasks of "
        f"{len(size.seeds)} seeds ({size.seeds[0]} to {size.seeds[-1]}); 95 % t-intervals over tasks, differences "
        "paired by task.",
        "",
        "## FrozenLake with sampled values",
        "",
        "The reference is the exact f_hat, with nu of pi_hat in the true model.",
        "",
        error_verdict(LAKE_ESTIMATORS, lakes),
        "",
        *table(columns, error_rows(LAKE_ESTIMATORS, lakes)),
        "## HalfCheetah at target speeds",
        "",
        f"The reference is the discounted mean over {size.fresh} fresh episodes of pi_hat. Each task has 4,000 "
        "transitions; the last column is the CPU seconds of one estimate.",
        "",
        error_verdict(names, cheetah),
        "",
        *table([*columns, "s"], timed),
        picture,
        "",
    ]


def effect_section(cells: Mapping[str, Sequence[dict[str, Any]]], size: Size) -> list[str]:
    """What corrections change in the learned start: both families."""
    titles = {
        "lake_starts": "FrozenLake, values sampled",
        "cheetah_starts": f"HalfCheetah, {size.cheetah_training} training tasks",
    }
    lines = [
        "## What they change in what is learned",
        "",
        "meta_srl with the default estimator and with plain weights, on the same tasks and "
        f"{len(size.seeds)} seeds (HalfCheetah: {len(size.cheetah_start_seeds)}); differences are paired by seed.",
        "",
    ]
    for part, title in titles.items():
        corrected, plain = (
            {name: np.array([one[estimator][name] for one in cells[part]]) for name in cells[part][0][estimator]}
            for estimator in (CORRECTED[part], PLAIN)
        )
        verdict = sided(
            effect_differences(corrected, plain),
            {"below": "lower with corrections", "above": "higher with corrections"},
        )
        rows = effect_rows(corrected, plain)
        lines += [f"### {title}", "", verdict, "", *table(["", "corrected", "plain", "difference"], rows)]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the missing cells, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run a small version in a minute, all of it anew")
    parser.add_argument("--processes", type=int, default=2, help="default: 2")
    parser.add_argument(
        "--results", type=Path, help="folder of the page (default: docs/results, with --quick runs/quick)"
    )
    given = parser.parse_args(arguments)
    target = given.results or (Path("runs/quick") if given.quick else RESULTS)
    size, folder = (
        QUICK if given.quick else Size(),
        target / "corrections" / ("quick_cells" if given.quick else "cells"),
    )
    if given.quick:
        shutil.rmtree(folder, ignore_errors=True)
    jobs = [(folder, part, seed, size) for part in PARTS for seed in size.seeds_of(part)]
    console = Console()
    missing = [job for job in jobs if not (folder / job[1] / f"{job[2]}.json").exists()]
    for done, (_, part, seed, _), _ in in_processes(computed, missing, given.processes):
        console.say(f"{done}/{len(missing)} {part}, seed {seed}")
    cells = {part: [computed(*job) for job in jobs if job[1] == part] for part in PARTS}
    lines = [
        *header("Do corrections matter?", "python -m benchmarks.dice.corrections"),
        *commits([one for found in cells.values() for one in found]),
        *error_section(target, cells, size),
        *effect_section(cells, size),
    ]
    (target / "corrections.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
