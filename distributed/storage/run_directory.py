"""A run's directory: ``config.yaml``, ``summary.json``, ``tasks.csv``, ``plots/``, ``checkpoints/``, ``tracking/``."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import parse_config, read_yaml
from distributed.storage.checkpoints import CheckpointFolder, DamagedFileError, write_atomically
from distributed.storage.object_store import is_url, read_file, read_manifest, restore, runs_at
from meta.learning.kinds import State
from meta.training.loop import Finished, Position
from meta.training.records import Row, Value
from policies.common.results import TaskResult
from tasks.contract.memory import return_freed_memory

_TEXT_COLUMNS = ("failed_diagnostics", "estimate_problem")


class RunDirectory:
    """Keeps a run on disk as it goes; a :class:`meta.training.loop.Tracker`."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self._checkpoints = CheckpointFolder(path / "checkpoints", config.digest(), config.output.keep_checkpoints)
        self._began = time.monotonic()
        self._earlier_seconds = 0.0
        self.rows: list[Row] = []

    @staticmethod
    def create(config: RunConfig) -> RunDirectory:
        """Make ``<run_dir>/<name>/<timestamp>``.

        Raises:
            ConfigurationError: it cannot be written to.
        """
        parent = local_parent(config)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        for suffix in ("", *(f"-{number}" for number in range(2, 100))):
            path = parent / f"{stamp}{suffix}"
            try:
                path.mkdir(parents=True)
                write_atomically(path / "config.yaml", config.to_yaml().encode())
                return RunDirectory(path, config)
            except FileExistsError:
                if not parent.is_dir():
                    break
            except OSError as error:
                raise ConfigurationError(f"output.run_dir: {path} cannot be written: {error.strerror}") from error
        raise ConfigurationError(f"output.run_dir: {parent} is not a directory that can hold runs")

    @staticmethod
    def open(path: Path, config: RunConfig) -> RunDirectory:
        """Open an earlier run for resuming under ``config``.

        Raises:
            ConfigurationError: it is no run, or was made under settings that compute something else.
        """
        earlier = load_run_config(path)
        if earlier.digest() != config.digest():
            raise ConfigurationError(
                f"--resume {path}: its config.yaml computes something else than the run file; differing: "
                f"{', '.join(_differences(earlier, config))}"
            )
        return RunDirectory(path, config)

    @staticmethod
    def latest(config: RunConfig) -> Path | None:
        """The newest run of that name under ``output.run_dir`` that computes the same as ``config``; None without one.

        Directories that are no runs, or whose configuration cannot be read any more, are passed over.
        """
        if is_url(config.output.run_dir):
            return _latest_in_store(config)
        parent = local_parent(config)
        runs = sorted(parent.glob("*/config.yaml"), key=lambda file: _age(file.parent.name), reverse=True)
        for file in runs:
            with contextlib.suppress(ConfigurationError):
                if load_run_config(file.parent).digest() == config.digest():
                    return file.parent
        return None

    def position(self, initial: State, say: Callable[[str], None]) -> Position:
        """Where the run stands on disk (``initial`` for a new one); also reads back the rows of finished tasks.

        Raises:
            DamagedFileError: no checkpoint is whole.
        """
        found = self._checkpoints.load_state(say)
        state, facts = (initial, {}) if found is None else found
        self._earlier_seconds = facts.get("wall_seconds", 0.0)
        table = self.path / "tasks.csv"
        self.rows = [row for row in read_rows(table) if int(row["task_index"]) < state.num_tasks]
        if [row["task_index"] for row in self.rows] != list(range(state.num_tasks)):
            raise DamagedFileError(f"{table}: does not hold the rows of the first {state.num_tasks} tasks")
        write_atomically(table, _csv(self.rows).encode())
        return Position(state, self._checkpoints.load_finished(state, say))

    def discard_if_untouched(self) -> None:
        """Remove the directory again, and parents that it leaves empty, where nothing was done in it yet."""
        if (self.path / "tasks.csv").exists():
            return
        shutil.rmtree(self.path)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()
            self.path.parent.parent.rmdir()

    @property
    def wall_seconds(self) -> float:
        """Seconds spent in this run, those before a resume included."""
        return self._earlier_seconds + time.monotonic() - self._began

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """Keep the task, so that it stays finished whatever happens to its round."""
        del result
        self._checkpoints.save_finished(finished)

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """Write the table with the new rows, then the checkpoint that makes them count."""
        self.rows += rows
        write_atomically(self.path / "tasks.csv", _csv(self.rows).encode())
        self._checkpoints.save_state(state, {"wall_seconds": self.wall_seconds})
        return_freed_memory()

    def tracked_as(self) -> str | None:
        """MLflow's id of this run; None where it was not tracked."""
        file = self.path / "tracking" / "sent.json"
        return json.loads(file.read_text(encoding="utf-8"))["memory"].get("run_id") if file.is_file() else None

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        write_atomically(self.path / "summary.json", json.dumps(summary, indent=2, allow_nan=False).encode())


def local_parent(config: RunConfig) -> Path:
    """Where run directories of this name are on this machine."""
    place = config.output.local_dir if is_url(config.output.run_dir) else config.output.run_dir
    return Path(place) / config.name


def url_of(config: RunConfig, path: Path) -> str | None:
    """Where a run directory is copied to; None where it is not."""
    place = config.output.run_dir
    return f"{place.rstrip('/')}/{config.name}/{path.name}" if is_url(place) else None


def fetch(place: str, local_dir: str) -> Path:
    """A run directory on this machine: ``place`` itself, or a copy of what is at that URL.

    Raises:
        DamagedFileError: the copy in the store is not whole.
    """
    if not is_url(place):
        return Path(place)
    name, stamp = place.rstrip("/").split("/")[-2:]
    return restore(place.rstrip("/"), Path(local_dir) / name / stamp)


def _latest_in_store(config: RunConfig) -> Path | None:
    """As :meth:`RunDirectory.latest`, from the store alone."""
    found = runs_at(f"{config.output.run_dir.rstrip('/')}/{config.name}")
    for url in sorted(found, key=lambda url: _age(url.rpartition("/")[2]), reverse=True):
        with contextlib.suppress(ConfigurationError, DamagedFileError, yaml.YAMLError):
            raw = yaml.safe_load(read_file(url, read_manifest(url), "config.yaml"))
            if parse_config(raw, f"{url}/config.yaml").digest() == config.digest():
                return fetch(url, config.output.local_dir)
    return None


def _age(name: str) -> tuple[str, int]:
    """Sorts names of run directories, <timestamp> or <timestamp>-<number>, oldest first."""
    stamp, _, number = name.partition("-")
    return stamp, int(number) if number.isdigit() else 1


def load_run_config(path: Path) -> RunConfig:
    """The resolved configuration of a run directory.

    Raises:
        ConfigurationError: it is no run directory.
    """
    file = path / "config.yaml"
    if not file.is_file():
        raise ConfigurationError(f"{path}: is not a run directory (it has no config.yaml)")
    raw = read_yaml(file)
    _require_code_elsewhere(raw, path, str(file))
    return parse_config(raw, str(file))


def _require_code_elsewhere(raw: dict[str, Any], path: Path, source: str) -> None:
    """A run directory may come from others: a family in it would be their code, run by looking at their results."""
    family = raw.get("family")
    name = str(family.get("name")) if isinstance(family, dict) else ""
    file = name.rpartition(":")[0]
    if file.endswith(".py") and Path(file).expanduser().resolve().is_relative_to(path.resolve()):
        raise ConfigurationError(
            f"{source}: family.name: {file} lies in the run directory itself; read it, and move it out if you trust it"
        )


def load_summary(path: Path) -> dict[str, Any]:
    """``summary.json`` of a finished run.

    Raises:
        ConfigurationError: the run has none yet.
    """
    file = path / "summary.json"
    if not file.is_file():
        raise ConfigurationError(
            f"{path}: has no summary.json; finish it first: metasrl train RUN_FILE --resume {path}"
        )
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(f"{file}: is not JSON: {error}") from error
    if not isinstance(summary, dict) or "taog" not in summary:
        raise ConfigurationError(f"{file}: is not the summary of a training run")
    return summary


def load_final_state(path: Path, config: RunConfig, say: Callable[[str], None]) -> State:
    """The newest whole checkpoint of a run.

    Raises:
        ConfigurationError: it has none.
    """
    found = CheckpointFolder(path / "checkpoints", config.digest(), config.output.keep_checkpoints).load_state(say)
    if found is None:
        raise ConfigurationError(f"{path}: has no checkpoint yet; train it first")
    return found[0]


def read_rows(path: Path) -> list[Row]:
    """Rows of a ``tasks.csv``, numbers bit for bit as they were written; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    return [{name: _value(name, text) for name, text in row.items()} for row in rows]


def _value(name: str, text: str) -> Value:
    if name in _TEXT_COLUMNS:
        return text
    if text in ("True", "False"):
        return text == "True"
    try:
        return int(text)
    except ValueError:
        return float(text)


def _csv(rows: list[Row]) -> str:
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _differences(first: RunConfig, second: RunConfig) -> list[str]:
    from distributed.settings.keys import flatten

    a, b = (dict(flatten(config.model_dump(mode="json"))) for config in (first, second))
    ignored = ("tracking.", "output.", "evaluation.", "name")
    keys = [key for key in sorted({*a, *b}) if a.get(key) != b.get(key) and not key.startswith(ignored)]
    return [key for key in keys if not key.startswith("cluster.") or key == "cluster.tasks_per_round"]
