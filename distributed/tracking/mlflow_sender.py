"""Deliver events to an MLflow tracking server. Only the driver process does, through the outbox."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed.settings.bounded_reading import shortened
from distributed.settings.errors import first_line
from distributed.settings.run_config import TrackingSettings
from distributed.settings.tracking_uri import identity, made_by_one, store_file, tracking_uri
from distributed.tracking.events import (
    DatasetEntry,
    EndEvent,
    Event,
    Logged,
    Memory,
    StartEvent,
    TaskEvent,
)
from distributed.tracking.outbox import LostError, RefusedError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

_METRICS_A_BATCH, _PARAMS_A_BATCH = 1000, 100
_LONGEST_PARAM, _LONGEST_NAME = 6000, 250
_REFUSALS, _UNKNOWN = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE"), "RESOURCE_DOES_NOT_EXIST"


class MLflowSender:
    """Delivers events to an MLflow tracking server; a :class:`distributed.tracking.outbox.Sender`.

    Only files inside ``folder``, the directory of the run, are uploaded: the events of a directory that is resumed may
    be somebody else's. Imports MLflow on first use, which takes seconds.
    """

    def __init__(self, settings: TrackingSettings, folder: Path) -> None:
        self._folder = folder
        self._experiment = settings.experiment
        self._uri, self._start = tracking_uri(settings.uri), Path.cwd()
        self._client: MlflowClient | None = None
        self._store: tuple[int, int] | None = None
        self.notes: list[str] = []

    def send(self, event: Event, memory: Memory, *, again: bool) -> None:
        """Deliver one event; see :meth:`distributed.tracking.outbox.Sender.send`."""
        if self._client is not None and self._store_is_another():
            self._client = None
            raise LostError("its file was deleted or replaced")
        client = self._connected(memory)
        from mlflow.exceptions import MlflowException

        delivery = Delivery(client, memory, self._folder, self.notes)
        try:
            try:
                delivery.deliver(event, again=again)
            except MlflowException as error:
                if error.error_code not in _REFUSALS or not self._restored(client, memory["experiment_id"]):
                    raise
                delivery.deliver(event, again=True)
        except MlflowException as error:
            if error.error_code == _UNKNOWN:
                self._client = None
                raise LostError(str(error)) from error
            if error.error_code in _REFUSALS:
                raise RefusedError(str(error)) from error
            raise
        except (KeyError, TypeError, AttributeError) as error:
            raise RefusedError(f"the event is damaged or its run is unknown ({error!r})") from error

    def _store_is_another(self) -> bool:
        """Whether the file of the SQLite store is not the one that the client is connected to."""
        path = store_file(self._uri)
        found = identity(path)
        return path is not None and (found is None or found != self._store)

    def _restored(self, client: MlflowClient, experiment: str) -> bool:
        """Restore the experiment if it was deleted, so that its runs can be continued; whether it was."""
        if client.get_experiment(experiment).lifecycle_stage == "active":
            return False
        client.restore_experiment(experiment)
        self.notes.append(
            f"the experiment {self._experiment} was deleted; it is restored, since this run is logged to it"
        )
        return True

    def _connected(self, memory: Memory) -> MlflowClient:
        if self._client is None:
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for every nested run
            from mlflow import MlflowClient

            with made_by_one(self._uri) as address:
                client = MlflowClient(tracking_uri=address)
                found = client.get_experiment_by_name(self._experiment)
                if found is not None:
                    memory["experiment_id"] = found.experiment_id
                    self._restored(client, found.experiment_id)
                else:
                    # A server chooses the location of artifacts itself; a database needs one.
                    folder = None if self._uri.startswith(("http:", "https:")) else (self._start / "mlruns").as_uri()
                    memory["experiment_id"] = client.create_experiment(self._experiment, artifact_location=folder)
            self._client, self._store = client, identity(store_file(self._uri))
        return self._client


class Delivery:
    """Delivers one event of a run whose directory is ``folder``; ``notes`` gets what was left out of it."""

    def __init__(self, client: MlflowClient, memory: Memory, folder: Path, notes: list[str]) -> None:
        self._client, self._memory, self._folder, self._notes = client, memory, folder, notes

    def deliver(self, event: Event, *, again: bool) -> None:
        """Deliver; ``again``: it may have been delivered before."""
        client, memory = self._client, self._memory
        if event["kind"] == "start":
            memory["run_id"] = _create(client, event, memory, event["tags"], again=again)
            self._log(memory["run_id"], event)
        elif event["kind"] == "resume":
            client.update_run(memory["run_id"], status="RUNNING")
            self._log(memory["run_id"], event)
        elif event["kind"] == "task":
            tags = {**event["tags"], "mlflow.parentRunId": memory["run_id"]}
            run_id = _create(client, event, memory, tags, again=again)
            self._log(run_id, event)
            client.set_terminated(run_id, end_time=event["end_time"])
        elif event["kind"] == "round":
            self._log(memory["run_id"], event)
        elif event["kind"] == "datasets":
            client.log_inputs(memory["run_id"], [_dataset_input(entry) for entry in event["datasets"]])
        else:
            self._end(event)

    def _end(self, event: EndEvent) -> None:
        client, memory = self._client, self._memory
        self._log(memory["run_id"], event)
        for path, target in event["artifacts"]:
            if _is_own(Path(path), self._folder):  # a file deleted since must not block later events
                client.log_artifact(memory["run_id"], path, target or None)
        model = Path(event.get("model") or "")
        files = [path for path in model.rglob("*") if not path.is_dir()] if (model / "MLmodel").is_file() else []
        if files and all(_is_own(path, self._folder) for path in files) and "model_id" not in memory:
            from distributed.models.mlflow_model import log_model

            memory["model_id"], _ = log_model(client, memory["experiment_id"], memory["run_id"], model, 0)
        client.set_terminated(memory["run_id"], status=event["status"], end_time=event["time"])

    def _log(self, run_id: str, event: Logged) -> None:
        """Log the metrics, parameters and tags of an event, in batches of the sizes that MLflow accepts."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(key, value, event["time"], step) for key, value, step in event.get("metrics", [])]
        given = event.get("params", {})
        names = accepted_names(list(given))
        params = [Param(names[key], str(value)[:_LONGEST_PARAM]) for key, value in given.items()]
        tags = [RunTag(key, str(value)) for key, value in event.get("log_tags", {}).items()]
        batches = max(1, -(-len(metrics) // _METRICS_A_BATCH), -(-len(params) // _PARAMS_A_BATCH))
        for number in range(batches):
            self._log_batch(
                run_id,
                metrics[number * _METRICS_A_BATCH : (number + 1) * _METRICS_A_BATCH],
                params[number * _PARAMS_A_BATCH : (number + 1) * _PARAMS_A_BATCH],
                tags if number == 0 else [],
            )

    def _log_batch(self, run_id: str, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]) -> None:
        """Log a batch; where the server refuses it, log its entries one by one and leave out those that it refuses."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_batch(run_id, metrics=metrics, params=params, tags=tags)
        except MlflowException as error:
            if error.error_code not in _REFUSALS or len(metrics) + len(params) + len(tags) == 0:
                raise
            if len(metrics) + len(params) + len(tags) == 1:
                (entry,) = (*metrics, *params, *tags)
                self._notes.append(f"the server rejects {shortened(entry.key)}, which is left out: {first_line(error)}")
                return
            for one in metrics:
                self._log_batch(run_id, [one], [], [])
            for one in params:
                self._log_batch(run_id, [], [one], [])
            for one in tags:
                self._log_batch(run_id, [], [], [one])


def accepted_names(names: Sequence[str]) -> dict[str, str]:
    """Each name as MLflow accepts it, distinct where the names are: one that is changed into another's gets a digest.

    MLflow takes letters, digits, ``_-./: ``, 250 characters, and no empty, ``.`` or ``..`` part of a path.
    """
    found, taken = dict[str, str](), set(names)
    for name in names:
        parts = [re.sub(r"[^\w.\- :]", "_", part, flags=re.ASCII) for part in name.split("/")]
        text = "/".join("_" * max(1, len(part)) if not part.strip(".") else part for part in parts)
        if len(text) > _LONGEST_NAME or (text != name and text in taken):
            digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
            text = f"{text[: _LONGEST_NAME - 9]}-{digest}"
        taken.add(text)
        found[name] = text
    return found


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
