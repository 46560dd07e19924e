"""The sections of docs/results/paper.md that compare methods: protocol, claims and the tables of every setting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.result_page import table
from distributed.jobs.comparison_cells import Comparison
from meta.judging.claims import (
    DURING,
    RELATIVE_DURING,
    Claim,
    claims,
    line,
    main_measure,
    measures_of,
    seed_means,
)
from meta.measuring.intervals import Interval
from meta.measuring.statistics import improvement_interval
from meta.methods.registry import OURS, grid_of
from meta.training.evaluation_settings import MethodName

WEAK: tuple[MethodName, ...] = ("random", "pretrained", "simple_average")
STRONG: tuple[MethodName, ...] = ("fal", "reptile", "multitask", "maml_penalty")


def formatted(found: Interval | None, digits: int = 3) -> str:
    """A mean with its interval, rounded."""
    if found is None or np.isnan(found.mean):
        return "–"
    if np.isnan(found.low):
        return f"{found.mean:.{digits}f}"
    return f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def short(found: Comparison) -> str:
    """The name of a setting on the page."""
    return found.config.name.removeprefix("paper_")


def is_high(found: Comparison) -> bool:
    """Whether the tasks of a setting have high similarity."""
    return dict(found.config.family.model_extra or {}).get("similarity") == "high"


def protocol(comparisons: Sequence[Comparison]) -> list[str]:
    """The shared conditions of all methods, and what each method spent."""
    rows = []
    for found in comparisons:
        config, evaluation = found.config, found.config.evaluation
        points = {len(grid_of(evaluation, method)) for method in found.judged}
        cells = {method: cells[0] for method, cells in found.judged.items() if cells[0]["updates"]}
        updates = sorted({cell["updates"] for cell in cells.values()})
        rows.append(
            [
                f"`{short(found)}`",
                f"{config.family.num_tasks} / {evaluation.num_test_tasks}",
                config.within_task.num_iterations,
                f"{found.seeds[0]}–{found.seeds[-1]} ({len(found.seeds)})",
                ", ".join(map(str, evaluation.tuning_seeds)),
                " or ".join(map(str, sorted(points))),
                " to ".join(f"{count:,}" for count in dict.fromkeys((updates[0], updates[-1]))),
            ]
        )
    columns = ["setting", "training / held-out tasks", "M", "seeds", "tuned on seeds", "grid points"]
    return [
        "## Protocol",
        "",
        "Every method gets the same training tasks in the same order, spends about the same number of CRPO iterations "
        "on them (each on one task's data), and produces a start. The same CRPO then solves the same held-out tasks "
        "from every start. random and oracle need no training. Each method's hyper-parameters are the best point of a "
        "grid of equal size, chosen on *training* tasks of seeds that are not reported. The score is the relative gap "
        "plus the violation during adaptation over the limit. The run files are in `deploy/runs/paper/`.",
        "",
        *table([*columns, "CRPO iterations in training"], rows),
    ]


def claim_rows(found: Comparison, others: Sequence[MethodName]) -> list[list[object]]:
    """One row for every other method: both differences with their verdicts."""
    grouped: dict[MethodName, list[Claim]] = {}
    for claim in claims(found.judged, others):
        grouped.setdefault(claim.other, []).append(claim)
    rows: list[list[object]] = []
    for other, (main, during) in grouped.items():
        shown = [f"{formatted(claim.difference)}: {claim.verdict}" for claim in (main, during)]
        rows.append([f"`{short(found)}`", main.measure.title, f"`{other}`", *shown])
    return rows


def verdicts(comparisons: Sequence[Comparison]) -> list[str]:
    """The claim at high similarity, answered by the data, and the comparison with all methods."""
    lines = ["## Does it beat the baselines?", ""]
    lines.append(
        "Differences are meta_srl minus the other method, paired by seed: mean and 95 % t-interval over seeds. "
        "*better* and *worse* mean that the interval excludes 0. Smaller gaps and violations and larger rewards are "
        "better."
    )
    columns = ["setting", "by", "against", "gap", "violation during adaptation"]
    high = [found for found in comparisons if is_high(found)]
    answers = []
    for found in high:
        made = claims(found.judged, WEAK)
        for measure in (main_measure(found.judged), DURING):
            own = [claim for claim in made if claim.measure.key == measure.key]
            against = ", ".join(f"{claim.other} {claim.verdict}" for claim in own)
            answers.append(
                [f"`{short(found)}`", measure.title, yes(all(claim.verdict == "better" for claim in own)), against]
            )
    lines += [
        "",
        "**Claim**: at high similarity meta_srl beats random, pretrained and simple_average, and the interval excludes "
        "parity.",
        "",
        *table(["setting", "measure", "holds", "meta_srl is, against"], answers),
        *table(columns, [row for found in high for row in claim_rows(found, WEAK)]),
        "**Against the stronger methods** (`fal`, `reptile`, `multitask`, `maml_penalty`) and, at low similarity, "
        "against all:",
        "",
        *table(columns, [row for found in comparisons for row in claim_rows(found, STRONG)]),
        *table(columns, [row for found in comparisons if not is_high(found) for row in claim_rows(found, WEAK)]),
        *across(comparisons),
    ]
    return lines


def yes(value: bool) -> str:
    """The answer to a claim."""
    return "yes" if value else "no"


def across(comparisons: Sequence[Comparison]) -> list[str]:
    """Probability of improvement over all settings, each a stratum; needs no common unit."""
    rows = []
    for other in (*WEAK, *STRONG, "oracle"):
        chosen = [found for found in comparisons if other in found.judged]
        if not chosen:
            continue
        cells: list[object] = [f"`{other}`", len(chosen)]
        for pick in (main_measure, lambda judged: RELATIVE_DURING):
            first, second = [], []
            for found in chosen:
                measure = pick(found.judged)
                sign = -1.0 if measure.less_is_better else 1.0
                first.append(sign * seed_means(found.judged[OURS], measure))
                second.append(sign * seed_means(found.judged[other], measure))
            cells.append(formatted(improvement_interval(first, second), 2))
        rows.append(cells)
    return [
        "**Over all settings**: the probability that a seed of meta_srl beats a seed of the other method, mean over "
        "settings with a stratified-bootstrap interval (1/2 is parity; ties count half).",
        "",
        *table(["against", "settings", "gap", "violation during adaptation"], rows),
    ]


def family_section(found: Comparison, pictures: Sequence[str]) -> list[str]:
    """The tables and figures of one setting."""
    measures = measures_of(found.judged)
    rows, middle, chosen = [], [], []
    for method in found.judged:
        lines = [line(found.judged, method, measure) for measure in measures]
        rows.append([f"`{method}`", *(formatted(one.mean) for one in lines)])
        middle.append([f"`{method}`", *(formatted(one.iqm) for one in lines), formatted(lines[0].improvement, 2)])
        point = ", ".join(f"{k} {v:g}" for k, v in found.points[method].model_dump(exclude_none=True).items())
        tried = ", ".join(f"{score:.3f}" for score in found.scores(method)) if method in found.tuned else "–"
        chosen.append([f"`{method}`", point or "as configured", tried])
    titles = [measure.title for measure in measures]
    known = [item["similarity"]["task_similarity"] for item in found.described if item["similarity"] is not None]
    limits = np.mean([item["limits_mean"] for item in found.described], axis=0)
    similar = f"D*^2 = {np.mean(known):.4f} (mean over seeds). " if known else ""
    return [
        f"## {short(found)}",
        "",
        f"{similar}Gaps are against the linear programme's optimum. "
        f"Mean limits {', '.join(f'{limit:.3f}' for limit in limits)}. Means over held-out tasks, then "
        "over seeds, with 95 % t-intervals:",
        "",
        *table(["method", *titles], rows),
        "Interquartile means over all (seed, held-out task) pairs, with intervals from resampling seeds; the last "
        f"column is the probability that a seed of meta_srl has the better {titles[0]}:",
        "",
        *table(["method", *titles, "P(meta_srl better)"], middle),
        *(part for picture in pictures for part in (picture, "")),
        *table(["method", "hyper-parameters chosen", "score of every grid point on the tuning seeds"], chosen),
    ]
