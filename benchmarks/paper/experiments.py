"""The paper's experiments and the checks of its claims: ``make paper`` writes docs/results/paper.md and its figures.

All tasks are exact lakes, so that gaps and bounds are known. ``make contexts`` compares methods on robots.
Finished cells are kept in ``runs/cells`` (docs/decisions/0032), so the same command resumes an interrupted run.
``--quick`` runs a small version in a few minutes and writes it to another folder.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper import paper_figures as figures
from benchmarks.paper.paper_page import family_section, protocol, short, verdicts
from benchmarks.paper.paper_studies import Studies, StudyPlan, run_studies
from benchmarks.paper.paper_theory import (
    ablation_section,
    bounds_section,
    learning_section,
    sensitivity_section,
    signature_section,
    stress_section,
    trend_section,
)
from benchmarks.result_page import RESULTS, header
from benchmarks.result_plots import save
from distributed.jobs.cells import cell_runner
from distributed.jobs.comparison_cells import Comparison, compare_all
from distributed.settings.console import Console
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import load_config
from distributed.settings.stopping import stop_on_sigterm
from distributed.storage.family_sources import sources_digest

RUN_FILES = Path("deploy/runs/paper")
SETTINGS = ("frozen_lake_high", "frozen_lake_low")
QUICK_STUDIES = StudyPlan(
    changed_tiles=(1, 12),
    drifts=(1, 4),
    errors=(0.0, 3.0),
    num_tasks=12,
    seeds=(200, 201),
    ablation_seeds=1,
    bases=("high",),
)


QUICK = (
    ("family.num_tasks", "12"),
    ("evaluation.seeds", "[100, 101, 102]"),
    ("evaluation.tuning_seeds", "[0]"),
    ("evaluation.num_test_tasks", "4"),
    ("evaluation.grid_tasks", "4"),
    ("evaluation.tuning_tasks", "2"),
)
"""Overrides that make a run file small."""


def configs(pool: str, workers: int, *, quick: bool) -> list[RunConfig]:
    """The run files with the chosen pool and number of workers."""
    changes = [*(QUICK if quick else ()), ("cluster.pool", pool), ("cluster.num_workers", str(workers))]
    return [load_config(RUN_FILES / f"{name}.yaml", changes) for name in SETTINGS]


def page(comparisons: Sequence[Comparison], studies: Studies, command: str, folder: Path) -> list[str]:
    """The complete page; its figures go to ``folder``."""
    sections = [protocol(comparisons), verdicts(comparisons), bounds_section(comparisons, folder)]
    sections += [learning_section(comparisons, folder), trend_section(studies, folder)]
    sections += [stress_section(studies, folder), sensitivity_section(studies, folder)]
    sections += [ablation_section(comparisons, studies), signature_section(comparisons)]
    for found in comparisons:
        pictures = [
            save(folder, figures.adaptation(found, f"{short(found)}_adaptation")),
            save(folder, figures.profiles(found, f"{short(found)}_profiles")),
        ]
        sections.append(family_section(found, pictures))
    return [
        *header("The paper's experiments", command),
        *made_of(comparisons, studies),
        *(part for section in sections for part in section),
    ]


def made_of(comparisons: Sequence[Comparison], studies: Studies) -> list[str]:
    """The commits that computed the numbers, and the time it took."""
    cells = {cell["digest"]: cell for found in comparisons for cell in found.cells}
    cells |= {cell["digest"]: cell for cell in studies.cells}
    commits = Counter(cell["commit"] for cell in cells.values())
    stale = sum(cell["sources"] != sources_digest() for cell in cells.values())
    minutes = sum(cell["seconds"] for cell in cells.values()) / 60.0
    by = ", ".join(f"{count} at `{commit}`" for commit, count in commits.most_common())
    warning = f" **Other sources than the current ones computed {stale} of them.**" if stale else ""
    return [
        f"{len(cells)} cells (one method on one seed of one setting), {minutes:.0f} core-minutes: {by}.{warning} "
        "[contexts.md](contexts.md) has robots. [Symbols](../symbols.md), section 6, defines the methods.",
        "",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the missing cells, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run a small version in a few minutes")
    parser.add_argument("--pool", choices=("ray", "local"), default="ray", help="local: run in this process")
    parser.add_argument("--workers", type=int, default=2, help="number of cells computed at the same time")
    parser.add_argument(
        "--results", type=Path, help="folder of the page (default: docs/results, with --quick runs/quick)"
    )
    given = parser.parse_args(arguments)
    target = given.results or (Path("runs/quick") if given.quick else RESULTS)
    console, began = Console(), time.monotonic()
    chosen = configs(given.pool, given.workers, quick=given.quick)
    with stop_on_sigterm(), cell_runner(chosen[0], console) as runner:
        comparisons = compare_all(chosen, runner)
        lakes = {short(found).removeprefix("frozen_lake_"): found for found in comparisons}
        studies = run_studies(lakes, QUICK_STUDIES if given.quick else StudyPlan(), runner)
    command = f"python -m benchmarks.paper{' --quick' if given.quick else ''}"
    lines = page(comparisons, studies, command, target / "paper")
    target.mkdir(parents=True, exist_ok=True)
    (target / "paper.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    console.say(f"{target / 'paper.md'} after {(time.monotonic() - began) / 60.0:.1f} min")


if __name__ == "__main__":
    main()
