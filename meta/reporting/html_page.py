"""One self-contained HTML page of a run: interactive plots, sortable tables, videos, and how to reproduce it.

The markup is in ``page.html.j2``. Jinja escapes every value; the page loads nothing from elsewhere.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined

from meta.methods.registry import OURS
from meta.reporting.figures import run_figures
from meta.reporting.plot_model import Figure
from meta.reporting.render_plotly import draw
from meta.reporting.summary import IntervalSummary, MethodSummary, RunSummary
from meta.reporting.tables import format_interval, held_out_columns, warnings_of
from meta.reporting.verdict import verdict
from meta.training.records import Row, Value
from policies.common.digits import rounded

_MEANINGS = {
    "gap": "Optimality gap: the optimal expected discounted reward of a task minus that of its output. 0 is best.",
    "reward": "Expected discounted reward J_0 of the output. More is better.",
    "violation during adaptation": "Mean excess of the expected discounted costs over their limits, over the start and "
    "all policy updates. 0: no limit is broken on the way.",
    "violation of the output": "Mean excess of the output's expected discounted costs over their limits.",
    "f hat": "The estimated suboptimality bound of the task, on which the meta-learner takes its step.",
    "weight": "How much the meta-learner trusts the task's estimate: 1 fully, 0 not at all.",
    "violation": "Excess of the output's expected discounted cost over its limit; 0: the limit is kept.",
    "violation during": "Mean excess of the expected discounted cost over its limit, over the start and all updates.",
    "failed diagnostics": "Checks of the task's estimate that it did not pass; such a task gets less weight.",
    "estimate problem": "Why the task's data allowed no estimate.",
    "dice effective sample size": "Share of the task's data that its corrections use.",
    "dice flow residual": "How far the corrections are from those of a stationary distribution; 0 is best.",
    "seconds": "Time on one worker to solve the task.",
    "score": "Relative gap plus relative violation during adaptation; less is better.",
}
"""What columns mean, as tooltips."""
_LARGEST_VIDEO = 1_500_000
_LONGEST_CELL = 80
_SHOWN_COLUMNS = (
    *("task_index", "round", "gap", "reward", "score", "f_hat", "weight", "failed_diagnostics", "estimate_problem"),
    *("violation_", "violation_during_", "dice_effective_sample_size", "dice_flow_residual", "seconds"),
)
"""Columns of ``tasks.csv`` on the page, in this order; a name that ends in an underscore matches numbered columns."""


@dataclass(frozen=True)
class Page:
    """The content of a page.

    ``config`` is the run file's text, ``commands`` are shell commands that reproduce the run, ``videos`` MP4 files,
    ``held_out`` the rows of ``held_out.csv``, and ``next_steps`` commands that use the run.
    """

    summary: RunSummary
    rows: Sequence[Row]
    config: str
    environment: Mapping[str, str]
    commands: Sequence[str]
    videos: Sequence[Path] = field(default=())
    held_out: Sequence[Row] = field(default=())
    next_steps: Sequence[str] = field(default=())


@dataclass(frozen=True)
class _Video:
    """A video's name and its base64 text; no text if it is too large."""

    name: str
    data: str


def page_html(page: Page) -> str:
    """Render the page."""
    summary, figures = page.summary, run_figures(page.summary, list(page.rows))
    names, by_task = _shown(page.rows), task_table(page.held_out)
    loader = PackageLoader("meta.reporting", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.get_template("page.html.j2").render(
        title=f"{summary.name}, seed {summary.seed}",
        verdict=verdict(summary).replace("`", ""),
        introduction=_introduction(summary),
        warnings=warnings_of(summary),
        held_out_heads=_heads(["method", *held_out_columns(summary.test)]),
        held_out=method_table(summary.test),
        by_task_heads=_heads(by_task[0]),
        by_task=by_task[1:],
        figures=figures,
        videos=[_video(path) for path in page.videos],
        task_heads=_heads([name.replace("_", " ") for name in names]),
        tasks=[[_short(row[name]) for name in names] for row in page.rows],
        absent=_without_values(page.rows),
        next="\n".join(page.next_steps),
        commands="\n".join(page.commands),
        environment_heads=_heads(["name", "value"]),
        environment=list(page.environment.items()),
        config=page.config,
        plots=_as_script(figures),
        plotly=_compressed_plotly(),
    )


def page_figures(summary: RunSummary, rows: list[Row]) -> dict[str, go.Figure]:
    """The page's plots by name."""
    return {figure.name: draw(figure) for figure in run_figures(summary, rows)}


def _as_script(figures: Sequence[Figure]) -> str:
    """The plots as JSON for a script element, where Jinja must not escape it: without ``<``, no tag can end it."""
    text = json.dumps({figure.name: json.loads(draw(figure).to_json()) for figure in figures if figure.panels})
    return text.replace("<", "\\u003c")


def _introduction(summary: RunSummary) -> str:
    gap = "task-averaged optimality gap (TAOG)"
    result = f"mean reward {summary.mean_reward:.4g}" if summary.taog is None else f"{gap} {summary.taog:.4g}"
    return (
        f"Learned across {summary.num_tasks} training tasks of {summary.family} in {summary.wall_seconds:.0f} s with "
        f"{summary.num_workers} worker{'' if summary.num_workers == 1 else 's'} ({summary.pool} pool). Over the "
        f"training tasks: {result}, task-averaged constraint violation (TACV) {rounded(summary.tacv).strip('[]')}."
    )


def method_table(test: Mapping[str, MethodSummary]) -> list[list[str]]:
    """The methods on the held-out tasks, the best first: one row each, and a star at the best of every column.

    A column in which all are equal has none.
    """
    columns = held_out_columns(test)
    first = next(iter(columns))
    signs = {title: -1.0 if title == "reward" else 1.0 for title in columns}
    means = {
        title: {name: signs[title] * entry.mean for name, entry in part.items() if entry.mean is not None}
        for title, part in columns.items()
    }
    best = {title: min(found.values()) if len(set(found.values())) > 1 else None for title, found in means.items()}
    return [
        [name, *(_starred(part[name], means[title].get(name), best[title]) for title, part in columns.items())]
        for name in sorted(test, key=lambda name: means[first].get(name, math.inf))
    ]


def _starred(entry: IntervalSummary, value: float | None, best: float | None) -> str:
    return format_interval(entry) + (" \u2605" if value is not None and value == best else "")


def _heads(names: Sequence[str]) -> list[tuple[str, str]]:
    """Names of columns with what they mean, for those that need a word."""
    return [(name, _MEANINGS.get(name.rstrip(" 0123456789"), "")) for name in names]


def task_table(held_out: Sequence[Row]) -> list[list[str]]:
    """The held-out tasks solved from the learned start, with a row of heads: first and last iterate of each.

    Costs are shares of their limits (costs themselves where the limit is 0).
    """
    tasks: dict[Value, list[Row]] = {}
    for row in held_out:
        if row["method"] == OURS:
            tasks.setdefault(row["task_index"], []).append(row)
    found = list(tasks.values())
    count = 0 if not found else sum(name.startswith("limit_") for name in found[0][0])
    costs = ["cost / limit" if count == 1 else f"cost {i + 1} / limit {i + 1}" for i in range(count)]
    heads = ["task", "parameters", *(f"{what}, {when}" for what in ("reward", *costs) for when in ("start", "end"))]
    return [heads, *(_task_cells(rows, count) for rows in found)]


def _task_cells(rows: Sequence[Row], num_costs: int) -> list[str]:
    ends = (rows[0], rows[-1])
    text = str(rows[0]["parameters"])
    cells = [str(rows[0]["task_index"]), text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 3]}..."]
    cells += [_short(row["reward"]) for row in ends]
    for i in range(1, 1 + num_costs):
        cells += [f"{float(row[f'cost_{i}']) / (float(row[f'limit_{i}']) or 1.0):.4g}" for row in ends]
    return cells


def _shown(rows: Sequence[Row]) -> list[str]:
    """The columns of the table that have a value for at least one task."""
    return [name for name in _wanted(rows) if not all(_empty(row[name]) for row in rows)]


def _without_values(rows: Sequence[Row]) -> str:
    """What the table leaves out; the text columns are empty where all went well."""
    absent = [name for name in _wanted(rows) if all(_empty(row[name]) for row in rows)]
    return ", ".join(name.replace("_", " ") for name in absent)


def _empty(value: Value) -> bool:
    return value == "" or (isinstance(value, float) and math.isnan(value))


def _wanted(rows: Sequence[Row]) -> list[str]:
    return [
        name
        for wanted in _SHOWN_COLUMNS
        for name in rows[0]
        if name == wanted or (wanted.endswith("_") and name.removeprefix(wanted).isdigit())
    ]


def _short(value: Value) -> str:
    if _empty(value):
        return "\u2013"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _video(path: Path) -> _Video:
    large = path.stat().st_size > _LARGEST_VIDEO
    return _Video(path.name, "" if large else base64.b64encode(path.read_bytes()).decode())


def _compressed_plotly() -> str:
    """Plotly's minified library, compressed and in base64: uncompressed it would take five megabytes of the page."""
    source = resources.files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(source, mtime=0)).decode()
