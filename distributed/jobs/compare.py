"""``metasrl compare``: every method on the same tasks and seeds, with intervals over the seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distributed.jobs.cells import cell_runner
from distributed.jobs.comparison_cells import Comparison, compare_all, methods_of
from distributed.settings.console import Console
from distributed.settings.provenance import commit_of_results
from distributed.settings.run_config import RunConfig
from distributed.settings.stopping import stop_on_sigterm
from distributed.storage.checkpoints import write_atomically
from distributed.storage.run_directory import HELD_OUT, RunDirectory
from distributed.tracking.work_progress import WorkProgress
from meta.judging.claims import AGAINST, MEASURES, OURS, Judged, claims, line, main_measure, measures_of
from meta.judging.task_records import held_out_rows
from meta.measuring.intervals import interval
from meta.reporting.figures import adaptation, held_out
from meta.reporting.render_matplotlib import save_figures
from meta.reporting.summary import SCHEMA_VERSION, IntervalSummary
from meta.reporting.verdict import listed
from meta.training.records import Row
from policies.common.digits import digits, interval_text

_ABSENT = IntervalSummary(mean=None, ci95=(None, None), n=0)


@dataclass(frozen=True)
class ComparedMethod:
    """What the plots show of a method: means over seeds with intervals, and curves over the policy updates."""

    gap: IntervalSummary
    reward: IntervalSummary
    violation: IntervalSummary
    violation_during_adaptation: IntervalSummary
    reward_curve: list[float]
    cost_curve: list[list[float]]


def compare(
    config: RunConfig, console: Console, results: Path | None, command: str, changed_family: bool = False
) -> str:
    """Run the comparison and return its tables as Markdown.

    Finished cells stay in ``<output.run_dir>/cells``, so the same command resumes a stopped comparison.

    Args:
        config: Settings of the comparison.
        console: Shows progress.
        results: Also write the page and its plots here; None does not.
        command: Shell command for the page.
        changed_family: Compute again what another version of the user's family computed.

    Raises:
        ConfigurationError: The settings do not permit a comparison, or another version of the family computed cells.
    """
    methods_of(config)
    with stop_on_sigterm(), cell_runner(config, console, changed_family=changed_family) as runner:
        (found,) = compare_all([config], runner)
    directory = RunDirectory.create(config.model_copy(update={"name": f"{config.name}-compare"}))
    console.say(f"comparison directory: {directory.path}")
    (directory.path / "seeds").mkdir()
    for position, seed in enumerate(found.seeds):
        cell = {"seed": seed, **found.described[position]}
        cell["methods"] = {method: cells[position] for method, cells in found.judged.items()}
        write_atomically(directory.path / "seeds" / f"{seed}.json", json.dumps(cell, indent=1).encode())
    _write_held_out(found, directory, console)
    summary = summarise(found)
    write_atomically(directory.path / "summary.json", json.dumps(summary, indent=2, allow_nan=False).encode())
    _plot(summary, directory.path / "plots", console)
    page = _page(found, summary, command)
    if results is not None:
        results.parent.mkdir(parents=True, exist_ok=True)
        _plot(summary, results.with_suffix(""), console)
        pictures = "\n".join(f"\n![{name}]({results.stem}/{name}.png)" for name in ("held_out", "adaptation"))
        results.write_text(f"{page}\n{pictures}\n", encoding="utf-8")
    return page


def _write_held_out(found: Comparison, directory: RunDirectory, console: Console) -> None:
    """Write ``held_out.csv`` of all seeds; cells of an older version lack their tasks and are reported."""
    rows: list[Row] = []
    for position, seed in enumerate(found.seeds):
        cells = {method: part[position] for method, part in found.judged.items()}
        rows += held_out_rows({method: cell.get("tasks", []) for method, cell in cells.items()}, {"seed": seed})
        lacking = [method for method, cell in cells.items() if "tasks" not in cell]
        if lacking:
            console.warn(
                f"{HELD_OUT}: without seed {seed} of {', '.join(lacking)}, whose finished cells were computed by an "
                "older version; delete these files of output.run_dir/cells to compute them again"
            )
    directory.write_held_out(rows)


def summarise(found: Comparison) -> dict[str, Any]:
    """The content of the comparison's ``summary.json``: statistics over the seeds by method."""
    config = found.config
    similarities = [item["similarity"] for item in found.described if item["similarity"] is not None]
    test: dict[str, Any] = {}
    for method, cells in found.judged.items():
        entry: dict[str, Any] = {
            measure.key: line(found.judged, method, measure).as_json() for measure in measures_of(found.judged)
        }
        entry["point"] = found.points[method].model_dump(exclude_none=True)
        entry["learning_rates"] = np.mean([cell["learning_rates"] for cell in cells], axis=0).tolist()
        values = np.mean([cell["curves"]["values"] for cell in cells], axis=0)
        entry |= {"reward_curve": values[:, 0].tolist(), "cost_curve": values[:, 1:].tolist()}
        entry |= {"updates": cells[0]["updates"], "env_steps": cells[0]["env_steps"]}
        test[method] = entry
    return {
        "schema_version": SCHEMA_VERSION,
        "family": config.family.name,
        "evaluation": config.within_task.evaluation,
        "num_iterations": config.within_task.num_iterations,
        "num_tasks": config.family.num_tasks,
        "num_test_tasks": config.evaluation.num_test_tasks,
        "seeds": list(found.seeds),
        "tuning_seeds": list(config.evaluation.tuning_seeds),
        "task_similarity": interval([item["task_similarity"] for item in similarities]).as_json(),
        "limits_mean": np.mean([item["limits_mean"] for item in found.described], axis=0).tolist(),
        "test": test,
    }


def plotted(test: Mapping[str, Any]) -> dict[str, ComparedMethod]:
    """The entries of a comparison's summary in the form that the plots take."""

    def mean_of(entry: Mapping[str, Any], key: str) -> IntervalSummary:
        return IntervalSummary.model_validate(entry[key]["mean"]) if key in entry else _ABSENT

    return {
        method: ComparedMethod(
            gap=mean_of(entry, "gap"),
            reward=mean_of(entry, "reward"),
            violation=mean_of(entry, "violation"),
            violation_during_adaptation=mean_of(entry, "violation_during"),
            reward_curve=entry["reward_curve"],
            cost_curve=entry["cost_curve"],
        )
        for method, entry in test.items()
    }


def _plot(summary: Mapping[str, Any], folder: Path, console: Console) -> None:
    test = plotted(summary["test"])
    with WorkProgress(console, "drawing the results") as bar:
        save_figures(folder, [held_out(test), adaptation(test, summary["limits_mean"])], bar.report)


def _page(found: Comparison, summary: Mapping[str, Any], command: str) -> str:
    config = found.config
    known = summary["task_similarity"]["mean"] is not None
    similar = f"D*^2 = {format_interval_json(summary['task_similarity'])}. " if known else ""
    updates, held_out_updates = summary["num_iterations"], config.experiment.held_out_within.num_iterations
    more = "" if held_out_updates == updates else f" ({held_out_updates} on held-out tasks)"
    lines = [
        f"# {config.name}: all methods on the same held-out tasks",
        "",
        f"`{command}` at commit `{commit_of_results()}`. {len(summary['seeds'])} seeds ({summary['seeds']}), "
        f"{summary['num_tasks']} training and {summary['num_test_tasks']} held-out tasks each, "
        f"{updates} policy updates{more}, {summary['evaluation']} evaluation; hyper-parameters chosen on training "
        f"tasks of the seeds {summary['tuning_seeds']}. {similar}Mean limit "
        f"{digits(summary['limits_mean'][0], decimals=3)}. "
        "Means and 95 % t-intervals over seeds.",
        "",
        *told_claims(found.judged),
        *means_table(found),
        *difference_table(found),
    ]
    return "\n".join(lines).rstrip()


def told_claims(judged: Judged) -> list[str]:
    """What meta_srl is better than, worse than, or not told from, in words: a line for each of two measures."""
    if OURS not in judged or len(judged) == 1:
        return []
    told: dict[str, dict[str, list[str]]] = {}
    for claim in claims(judged, [method for method in judged if method != OURS]):
        told.setdefault(claim.measure.title, {}).setdefault(claim.verdict, []).append(f"`{claim.other}`")
    lines = [f"**`{OURS}`**, by 95 % intervals of differences paired by seed:", ""]
    for title, by_verdict in told.items():
        parts = [f"{words} {listed(by_verdict[found])}" for found, words in AGAINST.items() if found in by_verdict]
        lines.append(f"- {title}: {'; '.join(parts)}.")
    return [*lines, ""]


def means_table(found: Comparison) -> list[str]:
    """Mean and interval of every method under every measure."""
    measures = measures_of(found.judged)
    lines = [f"| method | {' | '.join(measure.title for measure in measures)} |", "|---" * (1 + len(measures)) + "|"]
    for method in found.judged:
        cells = [format_interval_json(line(found.judged, method, measure).mean.as_json()) for measure in measures]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return [*lines, ""]


def difference_table(found: Comparison) -> list[str]:
    """meta_srl minus every other method, paired by seed, and the probability that meta_srl is better."""
    if OURS not in found.judged or len(found.judged) == 1:
        return []
    measures = [main_measure(found.judged), *(m for m in MEASURES if m.key.startswith("violation"))]
    columns = [*(f"{measure.title}: difference" for measure in measures), f"P(meta_srl better), {measures[0].title}"]
    lines = ["meta_srl minus each method, paired by seed:", ""]
    lines += [f"| method | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for method in found.judged:
        if method != OURS:
            found_lines = [line(found.judged, method, measure) for measure in measures]
            cells = [
                format_interval_json(None if one.difference is None else one.difference.as_json())
                for one in found_lines
            ]
            better = found_lines[0].improvement
            cells.append(format_interval_json(None if better is None else better.as_json(), 2))
            lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return [*lines, ""]


def format_interval_json(entry: Mapping[str, Any] | None, decimals: int = 4) -> str:
    """``mean [low, high]`` of an interval's JSON; a dash for an unknown mean."""
    if entry is None or entry["mean"] is None:
        return "–"
    low, high = entry["ci95"]
    return interval_text(entry["mean"], low, high, decimals=decimals)
