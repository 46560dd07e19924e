"""MLflow tracking of a training run: a parent run, a nested run for each task, metrics after each round.

docs/metrics.md explains the name of every metric.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil

from distributed.models.meta_policy import STEM, load_meta_policy
from distributed.models.mlflow_model import build_model, is_portable
from distributed.settings.keys import flatten
from distributed.settings.provenance import environment_tags, source_tags
from distributed.settings.run_config import RunConfig
from distributed.storage.run_directory import HELD_OUT, RunDirectory
from distributed.storage.run_page import PAGE
from distributed.tracking.events import NOTE_TAG, DatasetEntry, Event, Point, StartEvent, finite, now
from distributed.tracking.mlflow_sender import MLflowSender
from distributed.tracking.mlflow_view import VERDICT_TAG, show_view
from distributed.tracking.outbox import Outbox
from distributed.tracking.run_tracker import RunContext, RunStart, RunTracker
from meta.learning.online import State
from meta.reporting.summary import RunSummary
from meta.reporting.tables import report_lines, warnings_of
from meta.reporting.verdict import verdict
from meta.training.loop import Finished
from meta.training.records import Row, column
from meta.training.warm_up import rounds_of
from policies.common.results import TaskResult
from policies.mixtures.team import TeamStep, round_numbers
from tasks.contract.task import Task

_LONGEST_NOTE = 5000
_TASK_METRICS = (
    *("gap", "score", "f_hat", "weight", "violation", "dice_"),
    *("reward", "episodic_", "capped_", "refused_", "mean_kl", "critic_explained"),
)
"""Prefixes of the columns of ``tasks.csv`` that a nested run logs."""

_WARM_UP_EVERY = 10


class MLflowTracker(RunTracker):
    """Translates the events of a run into those of the outbox."""

    def __init__(self, context: RunContext) -> None:
        self._config, self._directory, self._console = context.config, context.directory, context.console
        self._rows: list[Row] = []
        self._key = run_key(context.directory.path)
        self._outbox: Outbox | None = None

    @classmethod
    def of(cls, context: RunContext) -> Self | None:
        """None if ``tracking.enabled`` is false."""
        return cls(context) if context.config.tracking.enabled else None

    def started(self, start: RunStart) -> None:
        """Open the outbox; create or resume the parent run and describe its tasks."""
        path = self._directory.path / "tracking"
        self._rows = list(self._directory.rows)
        self._outbox = Outbox(path, MLflowSender(self._config.tracking, self._directory.path), self._console.say)
        if self._outbox.empty:
            self._append(_start_event(self._config, self._key))
        else:
            tags = {f"resumed.{name}": value for name, value in environment_tags().items()}
            self._append({"kind": "resume", "time": now(), "log_tags": tags})
        family, name = self._config.family.model_dump(mode="json"), self._config.family.name
        splits = (("training", start.drawn.train), ("held-out", start.drawn.test))
        datasets = [describe_tasks(name, split, tasks, family) for split, tasks in splits]
        self._append({"kind": "datasets", "key": f"{self._key}/datasets", "time": now(), "datasets": datasets})

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """Log a nested run: the task's parameters, J_0..J_p and the branch of every iteration, and its row."""
        if not self._config.tracking.task_runs:
            return
        task, row, time = result.task, finished.row, now()
        metrics: list[Point] = []
        for iteration, values in enumerate(result.values):
            metrics += [(f"J_{i}", float(value), iteration) for i, value in enumerate(values)]
        metrics += [("branch", float(branch), m) for m, branch in enumerate(result.branches)]
        metrics += [(name, float(v), task.index) for name, v in row.items() if name.startswith(_TASK_METRICS)]
        self._append(
            {
                "kind": "task",
                "key": f"{self._key}/{task.split}/{task.index}",
                "name": f"task {task.label}",
                "time": time - int(1000 * result.seconds),
                "end_time": time,
                "tags": {"task": task.label, "round": str(row["round"])},
                "params": {
                    "task_index": task.index,
                    "task_seed": task.seed,
                    "limits": list(task.limits),
                    **{f"parameters.{name}": json.dumps(value) for name, value in task.parameters.items()},
                },
                "metrics": finite(metrics),
            }
        )

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """Log the running TAOG and TACV, learning rates, diagnostics and the meta-loss of the round."""
        self._rows += rows
        metrics = round_metrics(self._rows, list(rows), state)
        key = f"{self._key}/round/{state.num_rounds}"
        self._append({"kind": "round", "key": key, "time": now(), "metrics": finite(metrics)})

    def warmed_up(self, state: State, steps: Sequence[TeamStep]) -> None:
        """Log what the round shows, by the number of direct rounds; every tenth and the last, as they may be short."""
        if state.warm_up_rounds % _WARM_UP_EVERY and state.warm_up_rounds < rounds_of(self._config.meta):
            return
        metrics = [(name, value, state.warm_up_rounds) for name, value in round_numbers(steps).items()]
        key = f"{self._key}/warm-up/{state.warm_up_rounds}"
        self._append({"kind": "round", "key": key, "time": now(), "metrics": finite(metrics)})

    def finished(self, summary: RunSummary) -> None:
        """Log the final metrics, all files of the run directory and the model; wait until they are sent."""
        folder = self._directory.path
        with self._console.status("sending the last results to MLflow"):
            policy = load_meta_policy(folder / STEM)
            model = build_model(folder / "model", folder / STEM, policy) if is_portable(policy) else None
            told = {NOTE_TAG: run_description(summary)[:_LONGEST_NOTE], VERDICT_TAG: verdict(summary)[:_LONGEST_NOTE]}
            unsent = self._end("FINISHED", final_metrics(summary), _artifacts(folder), told, model)
        if not unsent:
            show_view(self._config.tracking.uri, self._directory.tracked_as(), summary, self._console)
        else:
            self._console.warn(
                f"{unsent} tracking events were not sent; `metasrl train ... --resume {folder}` sends them"
            )

    def failed(self) -> None:
        """Mark the parent run as failed."""
        if self._outbox is not None:
            self._end("FAILED", [], [], {}, None)

    def interrupted(self) -> None:
        """Stop sending; unsent events stay in the outbox."""
        if self._outbox is not None:
            self._outbox.close(0.0)

    def _append(self, event: Event) -> None:
        assert self._outbox is not None
        self._outbox.append(event)

    def _end(
        self,
        status: str,
        metrics: list[Point],
        artifacts: Sequence[tuple[Path, str]],
        tags: Mapping[str, str],
        model: Path | None,
    ) -> int:
        """Append the last event and close the outbox; return the number of unsent events."""
        assert self._outbox is not None
        self._append(
            {
                "kind": "end",
                "time": now(),
                "status": status,
                "metrics": finite(metrics),
                "artifacts": [(str(path.resolve()), folder) for path, folder in artifacts],
                "log_tags": dict(tags),
                "model": None if model is None else str(model.resolve()),
            }
        )
        return self._outbox.close(self._config.tracking.flush_timeout_seconds)


def run_key(path: Path) -> str:
    """Name and key of the MLflow run of a run directory: its last two components."""
    return f"{path.parent.name}/{path.name}"


def _start_event(config: RunConfig, key: str) -> StartEvent:
    note = f"Training on `{config.family.name}`, seed {config.seed}; results follow at the end."
    return {
        "kind": "start",
        "key": key,
        "name": key,
        "time": now(),
        "tags": {"metasrl.kind": "train"},
        "params": dict(flatten(config.model_dump(mode="json"))),
        "log_tags": {
            **environment_tags(),
            **{"seed": str(config.seed), "family": config.family.name, "pool": config.cluster.pool},
            **source_tags(),
            NOTE_TAG: note,
        },
    }


def round_metrics(so_far: list[Row], rows: list[Row], state: State) -> list[Point]:
    """Metrics after a round: ``so_far`` are the rows of all tasks, ``rows`` those of the round."""
    step, several = state.num_rounds, len(state.starts) > 1
    metrics: list[Point] = [
        ("taog", column(so_far, "gap").mean(), step),
        ("mean_reward", column(so_far, "reward").mean(), step),
        ("meta_loss", column(rows, "f_hat").mean(), step),
    ]
    metrics += [
        (f"tacv_{name.removeprefix('violation_')}", column(so_far, name).mean(), step)
        for name in rows[0]
        if name.startswith("violation_") and not name.startswith("violation_during")
    ]
    for number, start in enumerate(state.starts):
        prefix = f"start_{number}/" if several else ""
        metrics += [(f"{prefix}learning_rate_{i}", rate, step) for i, rate in enumerate(start.learning_rates)]
    names = [name for name in rows[0] if name.startswith(("dice_", "inexactness_"))]
    metrics += [(name, column(rows, name).mean(), step) for name in (*names, "weight")]
    return [*metrics, *((f"system/{name}", value, step) for name, value in machine().items())]


def final_metrics(summary: RunSummary) -> list[Point]:
    """The results of a run and of its methods on held-out tasks."""
    last = {
        "mean_reward": summary.mean_reward,
        "taog": summary.taog,
        "taog_last_half": summary.taog_last_half,
        "env_steps": summary.env_steps,
        "wall_seconds": summary.wall_seconds,
    }
    named = {f"final/{name}": value for name, value in last.items()}
    for method, entry in summary.test.items():
        named |= {
            f"test/{method}/gap": entry.gap.mean,
            f"test/{method}/reward": entry.reward.mean,
            f"test/{method}/violation": entry.violation.mean,
            f"test/{method}/violation_during_adaptation": entry.violation_during_adaptation.mean,
        }
    return [(name, float(value), 0) for name, value in named.items() if value is not None]


def _artifacts(folder: Path) -> list[tuple[Path, str]]:
    """The files of a finished run, each with the artifact folder it goes to."""
    newest = RunDirectory.newest_checkpoint(folder)
    return [
        *((path, "plots") for path in sorted((folder / "plots").glob("*.png"))),
        *((folder / name, "") for name in (PAGE, "summary.json", "tasks.csv", HELD_OUT, "config.yaml")),
        *((path, "checkpoint") for path in (newest, newest.with_suffix(".safetensors"))),
    ]


def run_description(summary: RunSummary) -> str:
    """The description on MLflow's page of the run, in Markdown."""
    warnings = "\n".join(f"- **Note**: {text}" for text in warnings_of(summary))
    return (
        f"Meta-training on `{summary.family}`, seed {summary.seed}. {report_lines(summary)}\n\n{warnings}\n\n"
        f"Artifact `{PAGE}` has interactive plots and every task; the nested runs are the training tasks; the model "
        f"`{STEM}` maps observations to actions, and `metasrl adapt` solves new tasks from it."
    )


def describe_tasks(family: str, context: str, tasks: Sequence[Task], source: Mapping[str, object]) -> DatasetEntry:
    """The tasks of one split as a dataset of MLflow.

    Args:
        family: Name of the family.
        context: Name of the split.
        tasks: The tasks; the digest covers their parameters, seeds and limits.
        source: The family section of the run file.
    """
    content = json.dumps([[task.label, task.seed, task.parameters, task.limits] for task in tasks], sort_keys=True)
    limits = zip(*(task.limits for task in tasks), strict=True)
    return {
        "name": f"{family}-{context}",
        "context": context,
        "digest": hashlib.sha256(content.encode()).hexdigest()[:16],
        "source": json.dumps(source, sort_keys=True),
        "schema": json.dumps({"parameters": sorted(tasks[0].parameters), "num_costs": len(tasks[0].limits)}),
        "profile": json.dumps(
            {"num_tasks": len(tasks), "mean_limits": [sum(values) / len(tasks) for values in limits]}
        ),
    }


def machine() -> dict[str, float]:
    """Load of this machine under the names of MLflow's system metrics, in percent and megabytes."""
    memory = psutil.virtual_memory()
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_percentage": memory.percent,
        "system_memory_usage_megabytes": (memory.total - memory.available) / 1e6,
        "driver_memory_megabytes": psutil.Process().memory_info().rss / 1e6,
        "disk_usage_percentage": psutil.disk_usage(os.sep).percent,
    }
