"""The sections of docs/results/paper.md on the theory: bounds, trends, sensitivity, stress and ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.paper import paper_figures as figures
from benchmarks.paper.paper_page import formatted, short, yes
from benchmarks.paper.paper_studies import Point, Studies
from benchmarks.result_page import table
from benchmarks.result_plots import save
from distributed.jobs.comparison_cells import Comparison
from meta.judging.claims import DURING, GAP, RELATIVE_DURING, RELATIVE_GAP, seed_means
from meta.measuring.intervals import interval
from meta.measuring.statistics import linear_trend, paired_difference


class BoundBrokenError(AssertionError):
    """An exact task exceeds its computed bound, so the page is not written."""


def bounds_section(comparisons: Sequence[Comparison], folder: Path) -> list[str]:
    """Compare every exact task with its computed bounds; raise if one is broken."""
    rows = []
    for found in comparisons:
        for method, cells in found.judged.items():
            checked, held = (sum(cell["bounds"][key] for cell in cells) for key in ("checked", "held"))
            if not checked:
                continue
            if held < checked:
                raise BoundBrokenError(f"{short(found)}, {method}: {checked - held} of {checked} bounds are broken")
            ratio = np.concatenate([cell["bounds"]["tightness"] for cell in cells])
            quartiles = ", ".join(f"{q:.3f}" for q in np.percentile(ratio, (25, 50, 75)))
            worst = max(cell["bounds"]["excess"] for cell in cells)
            rows.append([f"`{short(found)}`", f"`{method}`", f"{checked:,}", f"{held:,}", f"{worst:.2e}", quartiles])
    picture = save(folder, figures.tightness(comparisons))
    total = sum(int(str(row[2]).replace(",", "")) for row in rows)
    columns = ["setting", "method", "checks", "hold", "largest left - right", "left / right, quartiles"]
    return [
        "## Bounds",
        "",
        "Every exact task solved from a learned start is checked against the per-run inequality and the resulting "
        f"bound on the mean gap over N_0 ([symbols](../symbols.md), section 4): **{total:,} checks, all hold** "
        "(otherwise the page would not be written). The ratio left / right shows how tight the bound is: 1 is "
        "equality.",
        "",
        *table(columns, rows),
        picture,
        "",
    ]


def learning_section(comparisons: Sequence[Comparison], folder: Path) -> list[str]:
    """TAOG and TACV over T, and the decomposition of the error of the estimated loss."""
    lines = ["## Learning over tasks", ""]
    lines.append(
        "Means over seeds with 95 % bands. The bound on the mean gap over N_0 follows from the per-run inequality."
    )
    rows = []
    for found in comparisons:
        lines += ["", save(folder, figures.training(found, f"{short(found)}_training"))]
        lines += ["", save(folder, figures.inexactness(found, f"{short(found)}_inexactness"))]
        cells = found.judged["meta_srl"]
        names = ("total", "occupancy_shift", "estimation", "suboptimality")
        means = [np.array([np.mean(cell["training"][f"inexactness_{name}"]) for cell in cells]) for name in names]
        sizes = np.array([np.mean(np.abs(cell["training"]["inexactness_estimation"])) for cell in cells])
        loss = np.array([np.mean(cell["training"]["f_hat"]) for cell in cells])
        rows.append([f"`{short(found)}`", *(formatted(interval(part)) for part in (loss, *means, sizes))])
    columns = ["setting", "f_hat", "f_hat - f", "occupancy shift (A)", "DualDICE (B)", "suboptimality (C)", "mean |B|"]
    return [*lines, "", "The parts of f_hat - f, means over training tasks:", "", *table(columns, rows)]


def trend_row(points: Sequence[Point], similarity: str, key: str, names: tuple[str, str]) -> list[object]:
    """The fitted trend of one measure in one similarity number."""
    x, y = figures.pairs(points, similarity, key)
    if np.ptp(x) == 0.0:
        return [*names, x.size, f"{x.min():.3f}", "–", "–", "all alike"]
    found = linear_trend(x, y)
    rising = "rises" if found.slope.low > 0.0 else "falls" if found.slope.high < 0.0 else "no trend shown"
    rank = f"{found.rank_correlation:.2f} (p = {found.p_value:.1g})"
    return [*names, x.size, f"{x.min():.3f} to {x.max():.3f}", formatted(found.slope), rank, rising]


def trend_section(studies: Studies, folder: Path) -> list[str]:
    """TAOG and TACV against D*^2 and V_psi^2."""
    keys = {"gap": "TAOG", "violation_during": "violation during adaptation"}
    rows = [
        trend_row(points, similarity, key, (name, title))
        for points, similarity, name in (
            (studies.dissimilarity, "task_similarity", "D*^2"),
            (studies.drifting, "task_relatedness", "V_psi^2"),
        )
        for key, title in keys.items()
    ]
    columns = ["over", "of the last half of training", "runs", "range", "slope", "Spearman", "so it"]
    plan = studies.plan
    return [
        "## TAOG and TACV against how alike tasks are",
        "",
        f"frozen_lake, {plan.num_tasks} training tasks, seeds {plan.seeds[0]}–{plan.seeds[-1]}. D*^2: i.i.d. tasks "
        f"that differ in {', '.join(map(str, plan.changed_tiles))} tiles. V_psi^2: tasks whose base map drifts by "
        f"{', '.join(map(str, plan.drifts))} tiles a task. Least squares over runs; slopes have 95 % bootstrap "
        "intervals.",
        "",
        *table(columns, rows),
        save(folder, figures.trends(studies)),
        "",
    ]


def sensitivity_section(studies: Studies, folder: Path) -> list[str]:
    """The cost of wrong corrections."""
    rows = []
    for (base, kind), points in studies.sensitivity.items():
        clean = {key: figures.last_half(points[0].judged["meta_srl"], key) for key in ("gap", "violation_during")}
        for point in points:
            cells = [f"{base}", kind, f"{100 * point.x:.0f} %"]
            for key in clean:
                own = figures.last_half(point.judged["meta_srl"], key)
                cells += [formatted(interval(own)), formatted(paired_difference(own, clean[key])) if point.x else "–"]
            rows.append(cells)
    columns = ["similarity", "error", "size", "TAOG", "minus error-free", "violation during", "minus error-free"]
    return [
        "## Sensitivity to DualDICE's errors",
        "",
        "Corrections are multiplied by max(0, 1 + e). *noise* draws e anew for every task and state (normal with the "
        "given standard deviation); *bias* draws e once for all tasks (uniform between minus and plus the size), so "
        "it does not average out. Last half of the training tasks, means over seeds "
        f"{studies.plan.seeds[0]}–{studies.plan.seeds[-1]}; differences are paired.",
        "",
        *table(columns, rows),
        save(folder, figures.sensitivity(studies)),
        "",
    ]


@dataclass(frozen=True)
class Stressed:
    """One point of the stress test: whether meta_srl helps or hurts, and how many of its runs warn."""

    tiles: float
    helps: bool
    hurts: bool
    warned: int
    runs: int
    cells: list[object]


def stressed(point: Point) -> Stressed:
    """Compare meta_srl with random at one number of changed tiles."""
    found = [
        paired_difference(seed_means(point.judged["meta_srl"], measure), seed_means(point.judged["random"], measure))
        for measure in (RELATIVE_GAP, RELATIVE_DURING)
    ]
    signatures = [cell["training"]["signature"] for cell in point.judged["meta_srl"]]
    warned, runs = sum(noticed_by(signature) for signature in signatures), len(signatures)
    helps, hurts = all(one.high < 0.0 for one in found), any(one.low > 0.0 for one in found)
    similarity = formatted(interval([item["similarity"]["task_similarity"] for item in point.described]))
    cells: list[object] = [f"{point.x:g}", similarity, *map(formatted, found)]
    return Stressed(point.x, helps, hurts, warned, runs, [*cells, yes(helps), yes(hurts), f"{warned} of {runs}"])


def stress_answer(points: Sequence[Stressed]) -> str:
    """The result of the stress test in words."""
    helps = [point.tiles for point in points if point.helps]
    rest = [point.tiles for point in points if not point.helps]
    hurts = [point for point in points if point.hurts]
    answer = f"Better than random in both measures at {tiles(helps)} changed tiles"
    answer += f", not shown at {tiles(rest)}. " if rest else ", which is everywhere. "
    if not hurts:
        return answer + "Never worse."
    unseen = sum(point.runs - point.warned for point in hurts)
    return answer + f"Worse in one of them at {tiles([p.tiles for p in hurts])}; {unseen} of those runs did not warn."


def stress_section(studies: Studies, folder: Path) -> list[str]:
    """From nearly identical to unrelated tasks: where meta_srl helps, where it hurts, and whether the run warns."""
    points = [stressed(point) for point in studies.dissimilarity]
    columns = ["tiles changed", "D*^2", "gap / optimum: minus random's", "violation during / limit: minus random's"]
    return [
        "## Unlike tasks",
        "",
        stress_answer(points),
        "",
        "Held-out tasks after five updates: meta_srl minus random at its best rate, paired over seeds "
        f"{studies.plan.seeds[0]}–{studies.plan.seeds[-1]}. A run *warns* if, by its failure signature at the end, the "
        "last half of the training tasks is not below the first round, or is rising.",
        "",
        *table([*columns, "helps", "hurts", "runs that warn"], [point.cells for point in points]),
        save(folder, figures.stress(studies)),
        "",
    ]


def tiles(numbers: Sequence[float]) -> str:
    """A list of numbers in words."""
    return ", ".join(f"{number:g}" for number in numbers) or "no number of"


def ablation_section(comparisons: Sequence[Comparison], studies: Studies) -> list[str]:
    """meta_srl on the lakes with one part replaced at a time, minus unchanged meta_srl, paired by seed."""
    rows = []
    for found in comparisons:
        for name, cells in studies.ablation.get(short(found).removeprefix("frozen_lake_"), {}).items():
            unchanged = found.judged["meta_srl"][: len(cells)]
            differences = [
                paired_difference(seed_means(cells, measure), seed_means(unchanged, measure))
                for measure in (GAP, DURING)
            ]
            means = [formatted(interval(seed_means(cells, measure))) for measure in (GAP, DURING)]
            mixed = [part for pair in zip(means, map(formatted, differences), strict=True) for part in pair]
            rows.append([f"`{short(found)}`", name, len(cells), *mixed])
    columns = ["setting", "changed", "seeds", "gap", "minus unchanged", "violation during", "minus unchanged"]
    return [
        "## Which part does what",
        "",
        "meta_srl with one part replaced and everything else as in the comparison (hyper-parameters are not tuned "
        "again). A positive difference means that the replaced part helps.",
        "",
        *table(columns, rows),
    ]


def noticed_by(signature: dict[str, dict[str, object] | None]) -> bool:
    """Whether a run's failure signature warns."""
    return any(part is not None and (not part["improved"] or part["rising"]) for part in signature.values())


def signature_section(comparisons: Sequence[Comparison]) -> list[str]:
    """The failure signatures of all runs of meta_srl."""
    rows = []
    for found in comparisons:
        cells = found.judged["meta_srl"]
        for name in cells[0]["training"]["signature"]:
            parts = [cell["training"]["signature"][name] for cell in cells]
            known = [part for part in parts if part is not None]
            counts = [f"{sum(part[key] for part in known)} of {len(known)}" for key in ("improved", "rising")]
            rows.append([f"`{short(found)}`", name.replace("_", " "), *counts])
    return [
        "## Failure signatures",
        "",
        "At its end a run tests whether the last half of its training tasks lies below its first round (one-sided "
        "Mann-Whitney) and whether that half rises (Kendall's tau), both at the 5 % level. The first test has little "
        "power if a round has few tasks. Runs of meta_srl:",
        "",
        *table(["setting", "of", "improved", "rising"], rows),
    ]
