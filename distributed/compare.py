"""``metasrl compare``: every method on the same tasks and seeds, with intervals over the seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distributed.checkpoints import write_atomically
from distributed.config import RunConfig
from distributed.console import Console
from distributed.run_directory import RunDirectory
from distributed.tracking import git_commit
from distributed.train import Workplace, stop_on_sigterm, workplace
from meta.baselines import NEURAL_METHODS, TABULAR_METHODS, Method
from meta.evaluation import interval, ratio_interval
from meta.experiment import compare_starts, draw, evaluation_of, measure_similarity
from meta.learning import State
from meta.loop import Position, TrainingPlan, train
from meta.report import (
    SCHEMA_VERSION,
    format_interval,
    held_out_json,
    markdown_table,
    plot_adaptation,
    plot_held_out,
    similarity_json,
    value_key,
)
from policies.neural_update import NeuralSettings

MEASURES = ("gap", "reward", "violation", "violation_during_adaptation")


def compare(config: RunConfig, console: Console, results: Path | None, command: str) -> str:
    """Run the comparison; returns its tables as Markdown. Each finished seed is kept in ``seeds/``."""
    named = config.model_copy(update={"name": f"{config.name}-compare"})
    directory = RunDirectory.create(named)
    console.say(f"comparison directory: {directory.path}")
    (directory.path / "seeds").mkdir()
    cells = []
    methods = NEURAL_METHODS if isinstance(config.within_task, NeuralSettings) else TABULAR_METHODS
    with stop_on_sigterm(), workplace(config, console.say) as place:
        for number, seed in enumerate(config.evaluation.seeds):
            cell = one_seed(config.model_copy(update={"seed": seed}), place, methods)
            write_atomically(directory.path / "seeds" / f"{seed}.json", json.dumps(cell, indent=1).encode())
            cells.append(cell)
            key = value_key(cell["test"])
            told = ", ".join(f"{name} {format_interval(entry[key])}" for name, entry in cell["test"].items())
            console.say(f"seed {seed} ({number + 1} of {len(config.evaluation.seeds)}): {key} {told}")
    summary = summarise(cells, config)
    directory.write_summary(summary)
    _plot(summary, directory.path / "plots")
    page = _page(config, summary, command)
    if results is not None:
        results.parent.mkdir(parents=True, exist_ok=True)
        _plot(summary, results.with_suffix(""))
        pictures = "\n".join(f"\n![{name}]({results.stem}/{name}.png)" for name in ("held_out", "adaptation"))
        results.write_text(f"{page}\n{pictures}\n", encoding="utf-8")
    return page


def one_seed(config: RunConfig, place: Workplace, methods: Sequence[Method]) -> dict[str, Any]:
    """Train meta_srl and judge ``methods`` on the held-out tasks of one seed."""
    experiment = config.experiment
    drawn = draw(place.pool, experiment)
    position = Position(drawn.initial_state(experiment.meta))
    plan = TrainingPlan(drawn.train, experiment.tasks_per_round, experiment.within)
    state: State = train(plan, place.pool, place.learner, [], position)
    similar = measure_similarity(place.pool, experiment, drawn)
    held_out = compare_starts(place.pool, place.learner, experiment, drawn, methods, state.start, similar)
    return {
        "seed": config.seed,
        "similarity": similarity_json(similar),
        "limits_mean": np.mean([task.limits for task in drawn.test], axis=0).tolist(),
        "meta_state_sha256": state.sha256(),
        "test": {name: held_out_json(entry) for name, entry in held_out.items()},
    }


def summarise(cells: Sequence[dict[str, Any]], config: RunConfig) -> dict[str, Any]:
    """Means over seeds with 95 % intervals; ratios to ``random`` and differences to ``fal`` are paired by seed."""
    names = list(cells[0]["test"])
    means = {
        name: {key: np.array([cell["test"][name][key]["mean"] for cell in cells], dtype=np.float64) for key in MEASURES}
        for name in names
    }
    test: dict[str, Any] = {}
    for name in names:
        entries = [cell["test"][name] for cell in cells]
        test[name] = {key: interval(means[name][key]).as_json() for key in MEASURES}
        test[name] |= {key: np.mean([entry[key] for entry in entries], axis=0).tolist() for key in _CURVES}
        for key, measure in (
            ("ratio_to_random", _ratio),
            ("ratio_to_oracle", _ratio),
            ("minus_random", _difference),
            ("minus_fal", _difference),
        ):
            other = key.rpartition("_")[2]
            if other in names and name != other:
                test[name][key] = {item: measure(means[name][item], means[other][item]) for item in MEASURES}
    similarities = [cell["similarity"] for cell in cells if cell["similarity"] is not None]
    return {
        "schema_version": SCHEMA_VERSION,
        "family": config.family.name,
        "evaluation": evaluation_of(config.within_task),
        "num_iterations": config.within_task.num_iterations,
        "num_tasks": config.family.num_tasks,
        "num_test_tasks": config.evaluation.num_test_tasks,
        "seeds": [cell["seed"] for cell in cells],
        "task_similarity": interval([item["task_similarity"] for item in similarities]).as_json(),
        "limits_mean": np.mean([cell["limits_mean"] for cell in cells], axis=0).tolist(),
        "test": test,
    }


_CURVES = ("reward_curve", "cost_curve")


def _ratio(top: Any, bottom: Any) -> dict[str, object] | None:
    if not (np.isfinite(top).all() and np.isfinite(bottom).all() and (bottom > 0.0).all()) or top.size < 3:
        return None
    return ratio_interval(top, bottom).as_json()


def _difference(first: Any, second: Any) -> dict[str, object]:
    return interval(first - second).as_json()


def _plot(summary: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    limit = summary["limits_mean"][0]
    for name, figure in (
        ("held_out", plot_held_out(summary["test"])),
        ("adaptation", plot_adaptation(summary["test"], limit)),
    ):
        figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")


def _page(config: RunConfig, summary: dict[str, Any], command: str) -> str:
    known = summary["task_similarity"]["mean"] is not None
    similar = f"D*^2 = {_told(summary['task_similarity'])}. " if known else ""
    updates, held_out = summary["num_iterations"], config.experiment.held_out_within.num_iterations
    more = "" if held_out == updates else f" ({held_out} on held-out tasks)"
    lines = [
        f"# {config.name}: all methods on the same held-out tasks",
        "",
        f"`{command}` at commit `{git_commit()}`. {len(summary['seeds'])} seeds ({summary['seeds']}), "
        f"{summary['num_tasks']} training and {summary['num_test_tasks']} held-out tasks each, "
        f"{updates} policy updates{more}, {summary['evaluation']} evaluation. "
        f"{similar}Mean limit {summary['limits_mean'][0]:.3f}. "
        "Means and 95 % intervals over seeds.",
        "",
        markdown_table(summary["test"]),
        "",
        "Ratios are paired bootstraps over seeds, differences paired t:",
        "",
        *_paired_table(summary["test"]),
    ]
    return "\n".join(lines)


_WITH_MODEL = {
    "gap / random's": ("ratio_to_random", "gap"),
    "violation during / random's": ("ratio_to_random", "violation_during_adaptation"),
    "gap / oracle's": ("ratio_to_oracle", "gap"),
    "gap - fal's": ("minus_fal", "gap"),
    "violation during - fal's": ("minus_fal", "violation_during_adaptation"),
}
_WITHOUT_MODEL = {
    "reward - random's": ("minus_random", "reward"),
    "violation during - random's": ("minus_random", "violation_during_adaptation"),
    "violation of the output - random's": ("minus_random", "violation"),
}


def _paired_table(test: dict[str, Any]) -> list[str]:
    columns = _WITH_MODEL if value_key(test) == "gap" else _WITHOUT_MODEL
    lines = [f"| method | {' | '.join(columns)} |", f"|---{'|---' * len(columns)}|"]
    for name, entry in test.items():
        cells = [_told(entry.get(comparison, {}).get(measure)) for comparison, measure in columns.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return lines


def _told(entry: Any) -> str:
    if entry is None or entry["mean"] is None:
        return "–"
    low, high = entry["ci95"]
    return f"{entry['mean']:.4f}" if low is None else f"{entry['mean']:.4f} [{low:.4f}, {high:.4f}]"
