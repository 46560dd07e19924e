"""MLflow tracking. Only the driver process talks to MLflow, through the outbox; metric names are in docs/metrics.md."""

from __future__ import annotations

import getpass
import hashlib
import json
import math
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from distributed.settings.run_config import RunConfig, TrackingSettings
from distributed.tracking.outbox import Event, Outbox, RefusedError
from meta.learning.kinds import State
from meta.training.loop import Finished
from meta.training.records import Row, column
from policies.common.results import TaskResult
from tasks.contract.task import Task

COMMIT_VARIABLE = "METASRL_GIT_COMMIT"
_PACKAGES = ("metasrl", "ray", "torch", "gymnasium", "numpy", "scipy", "mlflow")
_METRICS_A_BATCH, _PARAMS_A_BATCH = 1000, 100
_LONGEST_PARAM, _LONGEST_NOTE = 6000, 5000
NOTE_TAG = "mlflow.note.content"
"""What MLflow shows as a run's description, in Markdown."""
_TASK_METRICS = (
    *("gap", "score", "f_hat", "weight", "violation", "dice_"),
    *("reward", "episodic_", "capped_", "refused_", "mean_kl", "critic_explained"),
)
"""Beginnings of the columns of ``tasks.csv`` that a nested run has."""


class MLflowSender:
    """Delivers events to an MLflow tracking server. Imports MLflow on first use (it takes seconds)."""

    def __init__(self, settings: TrackingSettings) -> None:
        self._experiment = settings.experiment
        self._uri = tracking_uri(settings.uri)
        self._client: Any = None

    def send(self, event: Event, memory: dict[str, Any], *, again: bool) -> None:
        """Deliver one event (see :class:`distributed.tracking.outbox.Sender`)."""
        client = self._connected(memory)
        from mlflow.exceptions import MlflowException

        try:
            getattr(self, f"_send_{event['kind']}")(client, event, memory, again)
        except MlflowException as error:
            if error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
                raise RefusedError(str(error)) from error
            raise

    def _connected(self, memory: dict[str, Any]) -> Any:
        if self._client is None:
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for every nested run
            from mlflow import MlflowClient

            client = MlflowClient(tracking_uri=self._uri)
            found = client.get_experiment_by_name(self._experiment)
            if found is not None:
                memory["experiment_id"] = found.experiment_id
            else:
                # A server decides where artifacts are; a database has none to ask.
                folder = None if self._uri.startswith(("http:", "https:")) else (Path.cwd() / "mlruns").as_uri()
                memory["experiment_id"] = client.create_experiment(self._experiment, artifact_location=folder)
            self._client = client
        return self._client

    def _create(self, client: Any, event: Event, memory: dict[str, Any], again: bool) -> str:
        """Create a run; if an earlier process may have done so, look for it by its key first."""
        if again:
            query = f"tags.`metasrl.key` = '{event['key']}'"
            found = client.search_runs([memory["experiment_id"]], query, max_results=1)
            if found:
                return str(found[0].info.run_id)
        tags = {**event["tags"], "metasrl.key": event["key"]}
        run = client.create_run(memory["experiment_id"], start_time=event["time"], tags=tags, run_name=event["name"])
        return str(run.info.run_id)

    def _send_start(self, client: Any, event: Event, memory: dict[str, Any], again: bool) -> None:
        memory["run_id"] = self._create(client, event, memory, again)
        self._log(client, memory["run_id"], event)

    def _send_resume(self, client: Any, event: Event, memory: dict[str, Any], again: bool) -> None:
        del again
        client.update_run(memory["run_id"], status="RUNNING")
        self._log(client, memory["run_id"], event)

    def _send_task(self, client: Any, event: Event, memory: dict[str, Any], again: bool) -> None:
        event = {**event, "tags": {**event["tags"], "mlflow.parentRunId": memory["run_id"]}}
        run_id = self._create(client, event, memory, again)
        self._log(client, run_id, event)
        client.set_terminated(run_id, end_time=event["end_time"])

    def _send_round(self, client: Any, event: Event, memory: dict[str, Any], again: bool) -> None:
        del again
        self._log(client, memory["run_id"], event)

    def _send_datasets(self, client: Any, event: Event, memory: dict[str, Any], again: bool) -> None:
        del again
        client.log_inputs(memory["run_id"], [_dataset_input(entry) for entry in event["datasets"]])

    def _send_end(self, client: Any, event: Event, memory: dict[str, Any], again: bool) -> None:
        del again
        self._log(client, memory["run_id"], event)
        for path, folder in event["artifacts"]:
            if not Path(path).exists():  # removed since; it must not hold up what comes after
                continue
            client.log_artifact(memory["run_id"], path, folder or None)
        model = Path(event.get("model") or "")
        if (model / "MLmodel").is_file() and "model_id" not in memory:
            from distributed.models.mlflow_model import log_model

            memory["model_id"], _ = log_model(client, memory["experiment_id"], memory["run_id"], model, 0)
        client.set_terminated(memory["run_id"], status=event["status"], end_time=event["time"])

    @staticmethod
    def _log(client: Any, run_id: str, event: Event) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(key, value, event["time"], step) for key, value, step in event.get("metrics", [])]
        params = [Param(key, str(value)[:_LONGEST_PARAM]) for key, value in event.get("params", {}).items()]
        tags = [RunTag(key, str(value)) for key, value in event.get("log_tags", {}).items()]
        batches = max(1, -(-len(metrics) // _METRICS_A_BATCH), -(-len(params) // _PARAMS_A_BATCH))
        for number in range(batches):
            client.log_batch(
                run_id,
                metrics=metrics[number * _METRICS_A_BATCH : (number + 1) * _METRICS_A_BATCH],
                params=params[number * _PARAMS_A_BATCH : (number + 1) * _PARAMS_A_BATCH],
                tags=tags if number == 0 else [],
            )


def tracking_uri(uri: str | None) -> str:
    """Where runs are tracked: ``uri``, else MLFLOW_TRACKING_URI, else a SQLite file in the working directory."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def hide_password(uri: str) -> str:
    """A URI without the password in it."""
    return re.sub(r"(://[^:/@]*):[^@/]+@", r"\1:***@", uri)


def _dataset_input(entry: dict[str, str]) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=entry["name"],
        digest=entry["digest"],
        source_type="metasrl",
        source=entry["source"],
        schema=entry["schema"],
        profile=entry["profile"],
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", entry["context"])])


def describe_tasks(family: str, context: str, tasks: Sequence[Task], source: Mapping[str, Any]) -> dict[str, str]:
    """The tasks of one split as a dataset of MLflow: its digest is that of all their parameters, seeds and limits."""
    content = json.dumps([[task.label, task.seed, task.parameters, task.limits] for task in tasks], sort_keys=True)
    limits = [list(task.limits) for task in tasks]
    return {
        "name": f"{family}-{context}",
        "context": context,
        "digest": hashlib.sha256(content.encode()).hexdigest()[:16],
        "source": json.dumps(source, sort_keys=True),
        "schema": json.dumps({"parameters": sorted(tasks[0].parameters), "num_costs": len(tasks[0].limits)}),
        "profile": json.dumps(
            {"num_tasks": len(tasks), "mean_limits": [sum(column) / len(tasks) for column in zip(*limits, strict=True)]}
        ),
    }


class MLflowTracker:
    """Turns what happens in the loop into events: a parent run, a nested run a task, running metrics a round."""

    def __init__(self, config: RunConfig, run_dir: Path, rows: Sequence[Row], say: Callable[[str], None]) -> None:
        self._rows: list[Row] = list(rows)
        self._key = f"{run_dir.parent.name}/{run_dir.name}"
        self._timeout, self._task_runs = config.tracking.flush_timeout_seconds, config.tracking.task_runs
        self._outbox = Outbox(run_dir / "tracking", MLflowSender(config.tracking), say)
        self._outbox.append(self._started(config) if self._outbox.empty else self._resumed())

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """A nested run: the task's parameters, J_0, J_i and the branch of every iteration, and its row."""
        if not self._task_runs:
            return
        task, row = result.task, finished.row
        metrics: list[tuple[str, float, int]] = []
        for iteration, values in enumerate(result.values):
            metrics += [(f"J_{i}", float(value), iteration) for i, value in enumerate(values)]
        metrics += [("branch", float(branch), m) for m, branch in enumerate(result.branches)]
        metrics += [(name, float(v), task.index) for name, v in row.items() if name.startswith(_TASK_METRICS)]
        now = _now()
        self._outbox.append(
            {
                "kind": "task",
                "key": f"{self._key}/{task.split}/{task.index}",
                "name": f"task {task.label}",
                "time": now - int(1000 * result.seconds),
                "end_time": now,
                "tags": {"task": task.label, "round": str(row["round"])},
                "params": {
                    "task_index": task.index,
                    "task_seed": task.seed,
                    "limits": list(task.limits),
                    **{f"parameters.{_plain(name)}": json.dumps(value) for name, value in task.parameters.items()},
                },
                "metrics": _finite(metrics),
            }
        )

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """Running TAOG and TACV, learning rates, DICE diagnostics and the meta-loss of the round."""
        self._rows += rows
        step = state.num_rounds
        names = [name for name in rows[0] if name.startswith(("dice_", "inexactness_"))]
        metrics = [
            ("taog", column(self._rows, "gap").mean(), step),
            ("mean_reward", column(self._rows, "reward").mean(), step),
            ("meta_loss", column(list(rows), "f_hat").mean(), step),
        ]
        metrics += [
            (f"tacv_{name.removeprefix('violation_')}", column(self._rows, name).mean(), step)
            for name in rows[0]
            if name.startswith("violation_") and not name.startswith("violation_during")
        ]
        several = len(state.starts) > 1
        for number, start in enumerate(state.starts):
            prefix = f"start_{number}/" if several else ""
            metrics += [(f"{prefix}learning_rate_{i}", rate, step) for i, rate in enumerate(start.learning_rates)]
        metrics += [(name, column(list(rows), name).mean(), step) for name in names]
        metrics.append(("weight", column(list(rows), "weight").mean(), step))
        metrics += [(f"system/{name}", value, step) for name, value in machine().items()]
        key = f"{self._key}/round/{step}"
        self._outbox.append({"kind": "round", "key": key, "time": _now(), "metrics": _finite(metrics)})

    def datasets(self, datasets: Sequence[dict[str, str]]) -> None:
        """The tasks of the run, see :func:`describe_tasks`."""
        self._outbox.append(
            {"kind": "datasets", "key": f"{self._key}/datasets", "time": _now(), "datasets": list(datasets)}
        )

    def finish(
        self,
        status: str,
        metrics: dict[str, float],
        artifacts: Sequence[tuple[Path, str]],
        description: str = "",
        model: Path | None = None,
    ) -> int:
        """Close the parent run; returns the events left unsent.

        ``metrics`` are final ones, ``artifacts`` pairs (path, folder), ``description`` is Markdown for the run's page
        and ``model`` the folder of an MLflow model.
        """
        self._outbox.append(
            {
                "kind": "end",
                "time": _now(),
                "status": status,
                "metrics": _finite([(name, value, 0) for name, value in metrics.items()]),
                "artifacts": [(str(path.resolve()), folder) for path, folder in artifacts],
                "log_tags": {NOTE_TAG: description[:_LONGEST_NOTE]} if description else {},
                "model": None if model is None else str(model.resolve()),
            }
        )
        return self._outbox.close(self._timeout)

    def interrupt(self) -> int:
        """Stop sending at once (a signal asks for it); what is unsent stays in the outbox."""
        return self._outbox.close(0.0)

    @property
    def run_id(self) -> str | None:
        """The parent's MLflow run id, once the server has given one."""
        return self._outbox.memory.get("run_id")

    def _started(self, config: RunConfig) -> Event:
        return {
            "kind": "start",
            "key": self._key,
            "name": self._key,
            "time": _now(),
            "tags": {"metasrl.kind": "train"},
            "params": dict(flatten(config.model_dump(mode="json"))),
            "log_tags": environment_tags()
            | {"seed": str(config.seed), "family": config.family.name, "pool": config.cluster.pool}
            | _source_tags()
            | {NOTE_TAG: f"Training on `{config.family.name}`, seed {config.seed}; results come at the end."},
        }

    def _resumed(self) -> Event:
        tags = {f"resumed.{name}": value for name, value in environment_tags().items()}
        return {"kind": "resume", "time": _now(), "log_tags": tags}


def flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested dictionaries as (dotted key, text); an empty one is a value."""
    if isinstance(value, dict) and value:
        return [item for name, inner in value.items() for item in flatten(inner, f"{prefix}{name}.")]
    return [(prefix.removesuffix("."), value if isinstance(value, str) else json.dumps(value))]


def environment_tags() -> dict[str, str]:
    """Git commit, package versions and Ray job id of this process."""
    tags = {f"version.{name}": version(name) for name in _PACKAGES} | {"git_commit": git_commit()}
    import ray

    if ray.is_initialized():
        tags["ray_job_id"] = ray.get_runtime_context().get_job_id()
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata", {})
    if "job_submission_id" in submitted:
        tags["ray_submission_id"] = submitted["job_submission_id"]
    return tags


def _source_tags() -> dict[str, str]:
    """The tags by which MLflow's pages show who ran what, from which commit."""
    commit = git_commit()
    tags = {
        "mlflow.source.name": "distributed/train.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
    }
    return tags | ({} if commit == "unknown" else {"mlflow.source.git.commit": commit.removesuffix("-dirty")})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def machine() -> dict[str, float]:
    """How busy this machine is now, under the names of MLflow's system metrics; percentages and megabytes."""
    memory = psutil.virtual_memory()
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_percentage": memory.percent,
        "system_memory_usage_megabytes": (memory.total - memory.available) / 1e6,
        "driver_memory_megabytes": psutil.Process().memory_info().rss / 1e6,
        "disk_usage_percentage": psutil.disk_usage(os.sep).percent,
    }


def git_commit() -> str:
    """Commit of the code that runs, with ``-dirty`` where files were changed; ``unknown`` outside a checkout.

    A submitted job has no ``.git``: it is told its commit by the one who submits (``metasrl submit``).
    """
    folder = Path(__file__).resolve().parent.parent.parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)  # noqa: S603, S607
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(COMMIT_VARIABLE, "unknown")


def _plain(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w.\- :/]", "_", name)


def _now() -> int:
    return int(1000 * time.time())


def _finite(metrics: Sequence[tuple[str, Any, int]]) -> list[tuple[str, float, int]]:
    """MLflow stores refuse NaN in places: what is not known is left out."""
    return [(name, float(value), step) for name, value, step in metrics if math.isfinite(float(value))]
