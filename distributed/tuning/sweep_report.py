"""The results of a sweep: table, CSV file, plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distributed.storage.checkpoints import write_atomically
from distributed.tuning.search_space import short
from distributed.tuning.trials import SCORE, Trial
from policies.common.digits import digits

_COMPLETE, _INCOMPLETE = "#d62728", "#bbbbbb"
_LOG_FROM = 30.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""


def trials_table(trials: Sequence[Trial], most: int = 20) -> str:
    """The best ``most`` trials as Markdown, best first."""
    names = _names(trials)
    lines = [
        f"| trial | score | rounds | {' | '.join(names)} |",
        f"|---|---|---|{'---|' * len(names)}",
    ]
    for trial in _ordered(trials)[:most]:
        score = digits(trial.score) if np.isfinite(trial.score) else trial.state
        values = " | ".join(short(trial.values.get(name)) for name in names)
        lines.append(f"| {trial.name} | {score} | {len(trial.scores)} | {values} |")
    complete = sum(np.isfinite(trial.score) for trial in trials)
    lines += ["", f"{len(trials)} trials, {complete} complete. Score: mean of the last half of the training tasks."]
    return "\n".join(lines)


def write_trials(folder: Path, trials: Sequence[Trial]) -> list[Path]:
    """Write ``trials.csv`` and ``trials.png``; return their paths."""
    table, picture = folder / "trials.csv", folder / "trials.png"
    write_atomically(table, _csv(trials).encode())
    figure = plot_trials(trials)
    figure.savefig(picture, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return [table, picture]


def plot_trials(trials: Sequence[Trial]) -> Figure:
    """Score by round, and final score against each varied value. The caller closes the figure."""
    names = _names(trials)
    figure, axes = plt.subplots(1, 1 + len(names), figsize=(4.2 * (1 + len(names)), 3.6), squeeze=False)
    for trial in trials:
        colour = _COMPLETE if trial.complete else _INCOMPLETE
        axes[0, 0].plot(np.arange(1, len(trial.scores) + 1), trial.scores, color=colour, linewidth=1.0)
    axes[0, 0].set(xlabel="round", ylabel="score (lower is better)", title="red: complete; grey: ended early")
    for axis, name in zip(axes[0, 1:], names, strict=True):
        _plot_values(axis, name, [trial for trial in trials if np.isfinite(trial.score)])
    for axis in axes[0]:
        axis.grid(alpha=0.3)
    figure.tight_layout()
    return figure


def _plot_values(axis: Axes, name: str, trials: Sequence[Trial]) -> None:
    values = [trial.values[name] for trial in trials]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    axis.plot(values if numbers else [str(value) for value in values], [trial.score for trial in trials], "o")
    if numbers and values and min(values) > 0 and max(values) / min(values) > _LOG_FROM:
        axis.set_xscale("log")
    axis.set(xlabel=name)


def _csv(trials: Sequence[Trial]) -> str:
    names, text = _names(trials), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", SCORE, "rounds", "complete", "state", "error", *names])
    for trial in _ordered(trials):
        last = trial.scores[-1] if trial.scores else ""
        facts = (trial.name, last, len(trial.scores), trial.complete, trial.state, trial.error or "")
        writer.writerow([*facts, *(trial.values.get(name) for name in names)])
    return text.getvalue()


def _names(trials: Sequence[Trial]) -> list[str]:
    return sorted({key for trial in trials for key in trial.values})


def _ordered(trials: Sequence[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda trial: (trial.score, trial.name))
