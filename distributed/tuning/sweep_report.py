"""The results of a sweep: table, CSV file, plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from distributed.storage.checkpoints import write_atomically
from distributed.tuning.search_space import short
from distributed.tuning.trials import SCORE, Trial
from meta.reporting.plot_model import Figure, Panel, Series
from meta.reporting.render_matplotlib import save_figure
from meta.reporting.styles import numbered
from policies.common.digits import digits


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
    save_figure(picture, plot_trials(trials))
    return [table, picture]


def plot_trials(trials: Sequence[Trial]) -> Figure:
    """Score by round of every trial, and the final score against each varied value."""
    rounds = []
    for trial in trials:
        name, style = ("complete", numbered(0)) if trial.complete else ("ended early", numbered(8))
        x = np.arange(1, len(trial.scores) + 1).astype(np.float64)
        rounds.append(Series(name, x, np.array(trial.scores, np.float64), style.colour, "marked", marker=style.marker))
    finished = [trial for trial in trials if np.isfinite(trial.score)]
    label = "score (lower is better)"
    panels = [Panel("", "round", label, tuple(rounds), scale="fitting", whole_x=True, alike="score")]
    panels += [_values_panel(name, finished) for name in _names(trials)]
    return Figure("trials", "Score of every trial by round, and of the complete ones by value", tuple(panels))


def _values_panel(name: str, trials: Sequence[Trial]) -> Panel:
    """The final scores against one varied value: numbers, or the names of what is chosen."""
    values, scores = [trial.values[name] for trial in trials], np.array([trial.score for trial in trials], np.float64)
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    names = () if numbers else tuple(dict.fromkeys(str(value) for value in values))
    x = np.array([float(value) if numbers else names.index(str(value)) for value in values], np.float64)
    series = Series("complete", x, scores, numbered(0).colour, "points", marker=numbered(0).marker)
    x_scale: Literal["linear", "fitting"] = "fitting" if numbers else "linear"
    return Panel("", name, "", (series,), scale="fitting", x_scale=x_scale, x_names=names, alike="score")


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
