"""One self-contained HTML page of a run: interactive plots, tables that sort, a video, and how to do it again."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from meta.reporting.report import COLOURS, format_interval, value_key, warnings_of
from meta.training.records import Row, column, cost_columns
from tasks.contract.tabular_model import FloatArray

_LARGEST_VIDEO = 1_500_000
_SHOWN_COLUMNS = (
    *("task_index", "round", "gap", "reward", "score", "f_hat", "weight", "failed_diagnostics", "estimate_problem"),
    *("violation_", "violation_during_", "dice_effective_sample_size", "dice_flow_residual", "seconds"),
)
"""Columns of ``tasks.csv`` on the page, in this order; names that end in an underscore stand for all that begin so."""


@dataclass(frozen=True)
class Page:
    """What a page shows: ``summary`` as in ``summary.json``, ``rows`` of ``tasks.csv``, the ``config`` file's text,
    ``environment`` (names and values), shell ``commands`` that make it again, and ``videos`` (MP4 files).
    """

    summary: Mapping[str, Any]
    rows: Sequence[Row]
    config: str
    environment: Mapping[str, str]
    commands: Sequence[str]
    videos: Sequence[Path] = field(default=())


def write_page(path: Path, page: Page) -> int:
    """Write the page; returns its size in bytes."""
    content = page_html(page).encode()
    path.write_bytes(content)
    return len(content)


def page_html(page: Page) -> str:
    """The page as text. Nothing is loaded from anywhere; every text from outside is escaped."""
    summary = page.summary
    title = f"{summary['name']}, seed {summary['seed']}"
    figures = page_figures(summary, list(page.rows))
    plots = "\n".join(
        f'<figure><figcaption>{html.escape(caption)}</figcaption><div class="plot" id="{name}"></div></figure>'
        for name, (caption, _) in figures.items()
    )
    data = json.dumps({name: json.loads(figure.to_json()) for name, (_, figure) in figures.items()})
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(_in_words(summary))}</p>",
        *(f'<p class="warning">{html.escape(text)}</p>' for text in warnings_of(summary)),
        "<h2>New tasks, by the start they are solved from</h2>",
        _held_out_table(summary["test"]) if summary["test"] else "<p>No starts were compared.</p>",
        f'<div class="plots">{plots}</div>',
        *_videos(page.videos),
        f"<h2>The {len(page.rows)} training tasks</h2><p>A click on a column's name sorts by it.</p>",
        _task_table(page.rows),
        "<h2>How to do it again</h2>",
        f"<pre>{html.escape(chr(10).join(page.commands))}</pre>",
        "<h2>Environment</h2>",
        _table(["what", "value"], [[name, str(value)] for name, value in page.environment.items()], "environment"),
        f"<h2>Configuration</h2><pre>{html.escape(page.config)}</pre>",
    ]
    return _TEMPLATE.format(
        title=html.escape(title),
        style=_STYLE,
        body="\n".join(parts),
        data=data.replace("<", "\\u003c"),
        plotly=_compressed_plotly(),
        script=_SCRIPT,
    )


def page_figures(summary: Mapping[str, Any], rows: list[Row]) -> dict[str, tuple[str, go.Figure]]:
    """Caption and plot by name."""
    figures: dict[str, tuple[str, go.Figure]] = {}
    test = summary["test"]
    if test:
        figures["adaptation"] = (
            "Held-out tasks: reward and costs after each policy update, means; dashed: the mean limit",
            _adaptation(test, summary["limits_mean"]),
        )
        figures["held-out"] = ("Held-out tasks: means with 95 % intervals over tasks", _held_out(test))
    figures["training"] = ("Training tasks: each one, and the mean so far", _training(rows))
    figures["rates"] = ("Learning rates over the training tasks", _rates(rows))
    if not np.isnan(column(rows, "dice_effective_sample_size")).all():
        figures["estimation"] = ("Diagnostics of the estimated corrections", _estimation(rows))
    return figures


def _adaptation(test: Mapping[str, Any], limits: Sequence[float]) -> go.Figure:
    figure = make_subplots(rows=1, cols=1 + len(limits), subplot_titles=["reward", *_cost_names(len(limits))])
    for name, entry in test.items():
        curves = [entry["reward_curve"], *np.array(entry["cost_curve"]).T.tolist()]
        for number, curve in enumerate(curves):
            figure.add_trace(
                go.Scatter(
                    x=list(range(len(curve))),
                    y=curve,
                    mode="lines+markers",
                    name=name,
                    legendgroup=name,
                    showlegend=number == 0,
                    line={"color": COLOURS.get(name)},
                ),
                row=1,
                col=1 + number,
            )
    for number, limit in enumerate(limits):
        figure.add_hline(limit, line_dash="dash", row=1, col=2 + number)
    figure.update_xaxes(title_text="policy updates", dtick=1)
    return _laid_out(figure)


def _cost_names(count: int) -> list[str]:
    return [f"cost {number + 1}" if count > 1 else "cost" for number in range(count)]


def _held_out(test: Mapping[str, Any]) -> go.Figure:
    measures = [value_key(test), "violation_during_adaptation", "violation"]
    figure = make_subplots(
        rows=1, cols=3, shared_yaxes=True, subplot_titles=[name.replace("_", " ") for name in measures]
    )
    for number, measure in enumerate(measures):
        entries = {name: entry[measure] for name, entry in test.items() if entry[measure]["mean"] is not None}
        means = [entry["mean"] for entry in entries.values()]
        halves = [0.0 if entry["ci95"][1] is None else entry["ci95"][1] - entry["mean"] for entry in entries.values()]
        bars = go.Bar(
            x=means,
            y=list(entries),
            orientation="h",
            error_x={"type": "data", "array": halves},
            marker={"color": [COLOURS.get(name, "#888888") for name in entries]},
            showlegend=False,
        )
        figure.add_trace(bars, row=1, col=1 + number)
    figure.update_yaxes(autorange="reversed", automargin=True)
    return _laid_out(figure)


def _training(rows: list[Row]) -> go.Figure:
    index, gaps = column(rows, "task_index"), column(rows, "gap")
    exact = not np.isnan(gaps).all()
    worth, name = (gaps, "gap") if exact else (column(rows, "reward"), "reward")
    figure = make_subplots(rows=1, cols=2, subplot_titles=[name, "violation during adaptation"])
    during = cost_columns(rows, "violation_during").mean(axis=1)
    for number, (values, running) in enumerate(((worth, "TAOG" if exact else "mean so far"), (during, "mean so far"))):
        dots = go.Scatter(x=index, y=values, mode="markers", marker={"size": 4, "color": "#999999"}, name="a task")
        line = go.Scatter(x=index, y=_running_mean(values), name=running, line={"color": "#d62728"})
        figure.add_trace(dots.update(showlegend=number == 0), row=1, col=1 + number)
        figure.add_trace(line.update(showlegend=number == 0 or exact), row=1, col=1 + number)
    figure.update_xaxes(title_text="training task")
    return _laid_out(figure)


def _rates(rows: list[Row]) -> go.Figure:
    figure = go.Figure()
    index = column(rows, "task_index")
    for number in range(sum(name.startswith("learning_rate_") for name in rows[0])):
        rates = column(rows, f"learning_rate_{number}")
        figure.add_trace(
            go.Scatter(x=index, y=rates, line={"shape": "hv"}, name="reward" if number == 0 else f"cost {number}")
        )
    figure.update_yaxes(type="log", title_text="learning rate")
    figure.update_xaxes(title_text="training task")
    return _laid_out(figure)


def _estimation(rows: list[Row]) -> go.Figure:
    figure, index = go.Figure(), column(rows, "task_index")
    for name in ("mean_correction", "effective_sample_size", "missing_mass", "flow_residual"):
        figure.add_trace(go.Scatter(x=index, y=column(rows, f"dice_{name}"), name=name.replace("_", " ")))
    figure.add_trace(go.Scatter(x=index, y=column(rows, "weight"), name="weight", line={"dash": "dot"}))
    figure.update_xaxes(title_text="training task")
    return _laid_out(figure)


def _laid_out(figure: go.Figure) -> go.Figure:
    return figure.update_layout(
        template="none",
        height=380,
        margin={"l": 60, "r": 20, "t": 40, "b": 50},
        legend={"orientation": "h", "y": -0.25},
        paper_bgcolor="rgba(0,0,0,0)",
    )


def _running_mean(values: FloatArray) -> FloatArray:
    return np.cumsum(values) / np.arange(1, values.size + 1)


def _in_words(summary: Mapping[str, Any]) -> str:
    worth = f"mean reward {summary['mean_reward']:.4g}" if summary["taog"] is None else f"TAOG {summary['taog']:.4g}"
    return (
        f"metasrl learned a start across {summary['num_tasks']} tasks of {summary['family']}: {worth}, TACV "
        f"{[round(value, 4) for value in summary['tacv']]}, in {summary['wall_seconds']:.0f} s with "
        f"{summary['num_workers']} workers ({summary['pool']} pool)."
    )


def _held_out_table(test: Mapping[str, Any]) -> str:
    key = value_key(test)
    heads = ["method", key, "violation during adaptation", "violation of the output"]
    rows = [
        [name, *(format_interval(entry[part]) for part in (key, "violation_during_adaptation", "violation"))]
        for name, entry in test.items()
    ]
    return _table(heads, rows, "held-out-table")


def _task_table(rows: Sequence[Row]) -> str:
    names = [
        name
        for wanted in _SHOWN_COLUMNS
        for name in rows[0]
        if name == wanted or (wanted.endswith("_") and name.removeprefix(wanted).isdigit())
    ]
    cells = [[_short(row[name]) for name in names] for row in rows]
    return _table([name.replace("_", " ") for name in names], cells, "task-table")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], name: str) -> str:
    top = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table id="{name}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _videos(paths: Sequence[Path]) -> list[str]:
    parts = []
    for path in paths:
        if path.stat().st_size > _LARGEST_VIDEO:
            parts.append(f"<p>The video {html.escape(path.name)} is too large for this page; it is beside it.</p>")
            continue
        source = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
        parts.append(f'<video controls loop muted src="{source}" title="{html.escape(path.name)}"></video>')
    return ["<h2>An episode</h2>", *parts] if parts else []


def _compressed_plotly() -> str:
    """Plotly's own minified library, compressed: as it is it would fill the page's five megabytes alone."""
    source = resources.files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(source, mtime=0)).decode()


_STYLE = """
body { font-family: system-ui, sans-serif; margin: 1.5rem auto; max-width: 1500px; padding: 0 1rem; color: #222;
  overflow-wrap: anywhere; }
h1 { margin-bottom: 0.2rem; } h2 { margin-top: 2rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 560px), 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid #ddd; border-radius: 6px; padding: 0.5rem; min-width: 0; }
figcaption { font-weight: 600; font-size: 0.9rem; }
.warning { background: #fff4d6; border-left: 4px solid #e0a030; padding: 0.5rem 0.8rem; }
.wide { overflow: auto; max-height: 32rem; }
table { border-collapse: collapse; font-size: 0.85rem; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.6rem; text-align: left; white-space: nowrap; }
thead th { position: sticky; top: 0; background: #f4f4f4; cursor: pointer; }
th[aria-sort=ascending]::after { content: " \\25B2"; } th[aria-sort=descending]::after { content: " \\25BC"; }
pre { background: #f4f4f4; padding: 0.8rem; overflow: auto; border-radius: 6px; }
video { max-width: 100%; }
"""

_SCRIPT = """
const number = text => { const found = parseFloat(text); return isNaN(found) ? null : found; };
const order = (a, b) => {
  const x = number(a), y = number(b);
  if (x !== null && y !== null) return x - y;
  if ((x === null) !== (y === null)) return x === null ? 1 : -1;
  return a.localeCompare(b);
};
for (const head of document.querySelectorAll("th")) head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0], place = head.cellIndex;
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = Array.from(body.rows);
  rows.sort((a, b) => (up ? 1 : -1) * order(a.cells[place].textContent, b.cells[place].textContent));
  body.append(...rows);
});
(async () => {
  const packed = document.getElementById("plotly").textContent.trim();
  const bytes = Uint8Array.from(atob(packed), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  const figures = JSON.parse(document.getElementById("figures").textContent);
  for (const [name, figure] of Object.entries(figures))
    await Plotly.newPlot(name, figure.data, figure.layout, {responsive: true, displaylogo: false});
  document.body.dataset.ready = "true";
})().catch(error => {
  for (const plot of document.querySelectorAll(".plot")) plot.textContent = "This browser draws no plots: " + error;
});
"""

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script type="application/json" id="figures">{data}</script>
<script type="text/plain" id="plotly">{plotly}</script>
<script>{script}</script>
</body>
</html>
"""
