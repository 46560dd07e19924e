"""Deliver events to an MLflow tracking server. Only the driver process does, through the outbox."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from distributed.settings.run_config import TrackingSettings
from distributed.settings.tracking_uri import tracking_uri
from distributed.tracking.events import (
    DatasetEntry,
    DatasetsEvent,
    EndEvent,
    Event,
    Logged,
    Memory,
    ResumeEvent,
    StartEvent,
    TaskEvent,
)
from distributed.tracking.outbox import RefusedError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

_METRICS_A_BATCH, _PARAMS_A_BATCH = 1000, 100
_LONGEST_PARAM = 6000
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


class MLflowSender:
    """Delivers events to an MLflow tracking server; a :class:`distributed.tracking.outbox.Sender`.

    Only files inside ``folder``, the directory of the run, are uploaded: the events of a directory that is resumed may
    be somebody else's. Imports MLflow on first use, which takes seconds.
    """

    def __init__(self, settings: TrackingSettings, folder: Path) -> None:
        self._folder = folder
        self._experiment = settings.experiment
        self._uri = tracking_uri(settings.uri)
        self._client: MlflowClient | None = None

    def send(self, event: Event, memory: Memory, *, again: bool) -> None:
        """Deliver one event; see :meth:`distributed.tracking.outbox.Sender.send`."""
        client = self._connected(memory)
        from mlflow.exceptions import MlflowException

        try:
            _deliver(client, event, memory, self._folder, again=again)
        except MlflowException as error:
            if error.error_code in _REFUSALS:
                raise RefusedError(str(error)) from error
            raise

    def _connected(self, memory: Memory) -> MlflowClient:
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
                # A server chooses the location of artifacts itself; a database needs one.
                folder = None if self._uri.startswith(("http:", "https:")) else (Path.cwd() / "mlruns").as_uri()
                memory["experiment_id"] = client.create_experiment(self._experiment, artifact_location=folder)
            self._client = client
        return self._client


def _deliver(client: MlflowClient, event: Event, memory: Memory, folder: Path, *, again: bool) -> None:
    if event["kind"] == "start":
        _start(client, event, memory, again=again)
    elif event["kind"] == "resume":
        _resume(client, event, memory)
    elif event["kind"] == "task":
        _task(client, event, memory, again=again)
    elif event["kind"] == "round":
        _log(client, memory["run_id"], event)
    elif event["kind"] == "datasets":
        _datasets(client, event, memory)
    else:
        _end(client, event, memory, folder)


def _start(client: MlflowClient, event: StartEvent, memory: Memory, *, again: bool) -> None:
    memory["run_id"] = _create(client, event, memory, event["tags"], again=again)
    _log(client, memory["run_id"], event)


def _resume(client: MlflowClient, event: ResumeEvent, memory: Memory) -> None:
    client.update_run(memory["run_id"], status="RUNNING")
    _log(client, memory["run_id"], event)


def _task(client: MlflowClient, event: TaskEvent, memory: Memory, *, again: bool) -> None:
    tags = {**event["tags"], "mlflow.parentRunId": memory["run_id"]}
    run_id = _create(client, event, memory, tags, again=again)
    _log(client, run_id, event)
    client.set_terminated(run_id, end_time=event["end_time"])


def _datasets(client: MlflowClient, event: DatasetsEvent, memory: Memory) -> None:
    client.log_inputs(memory["run_id"], [_dataset_input(entry) for entry in event["datasets"]])


def _end(client: MlflowClient, event: EndEvent, memory: Memory, folder: Path) -> None:
    _log(client, memory["run_id"], event)
    for path, target in event["artifacts"]:
        if _is_own(Path(path), folder):  # a file deleted since must not block later events
            client.log_artifact(memory["run_id"], path, target or None)
    model = Path(event.get("model") or "")
    files = [path for path in model.rglob("*") if not path.is_dir()] if (model / "MLmodel").is_file() else []
    if files and all(_is_own(path, folder) for path in files) and "model_id" not in memory:
        from distributed.models.mlflow_model import log_model

        memory["model_id"], _ = log_model(client, memory["experiment_id"], memory["run_id"], model, 0)
    client.set_terminated(memory["run_id"], status=event["status"], end_time=event["time"])


def _is_own(path: Path, folder: Path) -> bool:
    """Whether ``path`` is an existing file inside ``folder``, links followed."""
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def _create(
    client: MlflowClient, event: StartEvent | TaskEvent, memory: Memory, tags: dict[str, str], *, again: bool
) -> str:
    """Create a run and return its id. If ``again``, look for it by its key first: it may exist already."""
    if again:
        query = f"tags.`metasrl.key` = '{event['key']}'"
        found = client.search_runs([memory["experiment_id"]], query, max_results=1)
        if found:
            return str(found[0].info.run_id)
    tags = {**tags, "metasrl.key": event["key"]}
    run = client.create_run(memory["experiment_id"], start_time=event["time"], tags=tags, run_name=event["name"])
    return str(run.info.run_id)


def _log(client: MlflowClient, run_id: str, event: Logged) -> None:
    """Log the metrics, parameters and tags of an event, in batches of the sizes that MLflow accepts."""
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


def _dataset_input(entry: DatasetEntry) -> DatasetInput:
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
