"""How the benefit of meta-learning shrinks with D*^2: ``make results`` writes docs/results/similarity.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.learning.kept_rows import Rows
from benchmarks.result_page import RESULTS, header, table, write
from benchmarks.result_plots import dots, save
from distributed.cluster.workplace import Workplace, workplace
from distributed.settings.console import Console
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import load_config
from meta.judging.held_out import compare_starts
from meta.measuring.intervals import interval
from meta.reporting.plot_model import Dash, Figure, Panel, Series
from meta.reporting.styles import INK, numbered
from meta.training.experiment import draw, measure_similarity
from meta.training.loop import Position, TrainingPlan, train
from meta.training.records import column, cost_columns

CHANGES = (1, 2, 4, 6, 9, 12, 16)
SEEDS = tuple(range(200, 203))


def one(config: RunConfig, place: Workplace) -> dict[str, float]:
    """One seed: D*^2, TAOG and TACV over the last half, and held-out results of meta_srl and random."""
    experiment = config.experiment
    drawn = draw(place.pool, experiment)
    plan = TrainingPlan(drawn.train, experiment.tasks_per_round, experiment.within)
    seen = Rows()
    state = train(plan, place.pool, place.learner, [seen], Position(drawn.initial_state(experiment.meta)))
    similar = measure_similarity(place.pool, experiment, drawn)
    assert similar is not None
    start, methods = experiment.held_out_starts(state.start), ("random", "meta_srl")
    test = compare_starts(place.pool, place.learner, experiment, drawn, methods, start, similar)
    half = len(seen.rows) // 2
    return {
        "task_similarity": similar.task_similarity,
        "taog": float(column(seen.rows, "gap")[half:].mean()),
        "bound": float(np.nanmean(column(seen.rows, "gap_bound")[half:])),
        "tacv_during": float(cost_columns(seen.rows, "violation_during")[half:].mean()),
        "gap": test["meta_srl"].gap.mean,
        "gap_random": test["random"].gap.mean,
        "gap_ratio": test["meta_srl"].gap.mean / test["random"].gap.mean,
        "violation_ratio": test["meta_srl"].violation_during.mean / test["random"].violation_during.mean,
    }


def main() -> None:
    """Run every k and seed; write the page and its plot."""
    base = load_config(Path("deploy/runs/frozen_lake.yaml"), [("tracking.enabled", "false")])
    console = Console()
    results: dict[int, list[dict[str, float]]] = {}
    with workplace(base, console.say) as place:
        for changes in CHANGES:
            for seed in SEEDS:
                family = base.family.model_copy(update={"similarity": changes})
                cell = one(base.model_copy(update={"family": family, "seed": seed}), place)
                results.setdefault(changes, []).append(cell)
                console.say(f"k = {changes}, seed {seed}: " + ", ".join(f"{k} {v:.4f}" for k, v in cell.items()))
    keys = ("task_similarity", "taog", "bound", "tacv_during", "gap", "gap_ratio", "violation_ratio")
    rows = [[k, *(_formatted(np.array([cell[key] for cell in cells])) for key in keys)] for k, cells in results.items()]
    everything = [cell for cells in results.values() for cell in cells]
    means = [{key: float(np.mean([cell[key] for cell in cells])) for key in cells[0]} for cells in results.values()]
    lines = header("The advantage of meta-learning against the similarity of the tasks", "make results")
    lines += [
        f"deploy/runs/frozen_lake.yaml (8x8), k tiles changed between tasks, seeds {list(SEEDS)}; 96 training tasks, "
        "20 held-out. TAOG, the computed bound and the violation during adaptation are means over the last half of the "
        "training tasks; the bound is the per-run inequality's on the mean gap over N_0, for the tasks that have one. "
        "Ratios divide meta_srl's held-out result by that of random at its best rate of the grid. 95 % intervals over "
        "seeds.",
        "",
        *table(
            ["k", "D*^2", "TAOG", "computed bound", "violation during", "held-out gap", "gap ratio", "violation ratio"],
            rows,
        ),
    ]
    for key, name in (("taog", "TAOG"), ("gap_ratio", "gap ratio"), ("violation_ratio", "violation ratio")):
        over_k = stats.spearmanr([m["task_similarity"] for m in means], [m[key] for m in means])
        over_all = stats.spearmanr([c["task_similarity"] for c in everything], [c[key] for c in everything])
        lines.append(
            f"- Spearman's rank correlation of D*^2 and {name}: {over_k.statistic:.3f} over the means of each k "
            f"(p = {over_k.pvalue:.3g}, n = {len(means)}), {over_all.statistic:.3f} over all runs "
            f"(p = {over_all.pvalue:.3g}, n = {len(everything)})"
        )
    lines += ["", "![TAOG and gap ratio against D*^2](similarity.png)"]
    save(RESULTS, figure(results))
    write("similarity.md", lines)


def _formatted(values: np.ndarray) -> str:
    found = interval(values)
    return f"{found.mean:.4f} ± {found.high - found.mean:.4f}"


def figure(results: dict[int, list[dict[str, float]]]) -> Figure:
    """TAOG with its computed bound, and the gap ratio, against D*^2: every run, and the mean of every k."""
    taog = [*_points(results, "taog"), _means(results, "mean of a k", "taog", "dot")]
    taog.append(_means(results, "computed bound", "bound", "dash"))
    ratio = [*_points(results, "gap_ratio"), _means(results, "mean of a k", "gap_ratio", "dot")]
    along = "D*² of the training tasks"
    panels = (
        Panel("", along, "TAOG", tuple(taog), scale="fitting"),
        Panel("", along, "held-out gap, meta_srl / random", tuple(ratio)),
    )
    return Figure("similarity", "", panels)


def _points(results: dict[int, list[dict[str, float]]], key: str) -> list[Series]:
    return [
        dots(f"k = {k}", [cell["task_similarity"] for cell in cells], [cell[key] for cell in cells], numbered(place))
        for place, (k, cells) in enumerate(results.items())
    ]


def _means(results: dict[int, list[dict[str, float]]], label: str, key: str, dash: Dash) -> Series:
    x, y = (
        np.array([np.mean([cell[name] for cell in cells]) for cells in results.values()], np.float64)
        for name in ("task_similarity", key)
    )
    return Series(label, x, y, INK, "marked", dash, "hexagram")


if __name__ == "__main__":
    main()
