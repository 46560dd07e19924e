"""A run's directory: ``config.yaml``, ``summary.json``, ``tasks.csv``, ``plots/``, ``checkpoints/``, ``tracking/``."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from distributed.settings.admission import admitted
from distributed.settings.bounded_reading import RefusedFileError, json_text, read_json
from distributed.settings.errors import ConfigurationError
from distributed.settings.keys import flatten
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import RawSettings, read_yaml, validated
from distributed.storage.checkpoints import CheckpointFolder, DamagedFileError, write_atomically
from distributed.storage.csv_tables import csv_text, learned_rows, table_digest
from distributed.storage.family_sources import require_same_sources, write_sources
from distributed.storage.object_store import is_url
from distributed.storage.owner import Owner, own
from distributed.storage.quarantine_folder import quarantine_of, remember
from distributed.storage.run_places import age_of, latest_in_store, local_parent
from meta.learning.online import State
from meta.reporting.summary import RunSummary, SummaryError, parse_summary
from meta.training.loop import Finished, Position
from meta.training.quarantine import Quarantine
from meta.training.records import Row
from meta.training.warm_up import rounds_of
from policies.common.results import TaskResult
from tasks.contract.memory import return_freed_memory

_WARM_UP_SECONDS = 20.0
"""Least time between two checkpoints of the warm-up, whose rounds may be very short."""
_TABLE_DIGEST = "tasks_csv_sha256"
HELD_OUT = "held_out.csv"
"""The table of the held-out tasks in a run's directory."""


class RunDirectory:
    """Writes a run to disk while it trains; a :class:`meta.training.loop.Tracker`.

    ``rows`` are the rows of ``tasks.csv`` so far.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path = path.absolute()  # an environment may change the working directory
        self._checkpoints = _checkpoints(path, config)
        self._began = time.monotonic()
        self._earlier_seconds = 0.0
        self._warm_up_rounds, self._saved = rounds_of(config.meta), 0.0
        self.quarantine = Quarantine()
        self._owner: Owner | None = None
        self.rows: list[Row] = []

    @staticmethod
    def create(config: RunConfig) -> RunDirectory:
        """Create ``<run_dir>/<name>/<timestamp>``.

        Raises:
            ConfigurationError: The directory cannot be written to.
        """
        parent = local_parent(config)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        for suffix in ("", *(f"-{number}" for number in range(2, 100))):
            path = parent / f"{stamp}{suffix}"
            try:
                path.mkdir(parents=True)
                write_atomically(path / "config.yaml", config.to_yaml().encode())
                write_sources(path, config.code)
                return RunDirectory(path, config)
            except FileExistsError:
                if not parent.is_dir():
                    break
            except OSError as error:
                raise ConfigurationError(f"output.run_dir: {path} cannot be written: {error.strerror}") from error
        raise ConfigurationError(f"output.run_dir: {parent} is not a directory that can hold runs")

    @staticmethod
    def open(path: Path, config: RunConfig, *, changed_family: bool = False) -> RunDirectory:
        """Open an earlier run to resume it under ``config``; ``changed_family``: its family's source may differ.

        Raises:
            ConfigurationError: It is not a run directory, or its settings or its family lead to another result.
        """
        earlier = stored_config(path)
        if earlier.digest() != config.digest():
            raise ConfigurationError(
                f"--resume {path}: its config.yaml leads to another result than the run file; differing keys: "
                f"{', '.join(_differences(earlier, config))}"
            )
        require_same_sources(path, config.code, changed=changed_family)
        return RunDirectory(path, config)

    @staticmethod
    def latest(config: RunConfig) -> Path | None:
        """Find the newest run under ``output.run_dir`` with the name and the digest of ``config``; None without one.

        Skips directories that are not runs or whose configuration cannot be read.
        """
        if is_url(config.output.run_dir):
            return latest_in_store(config)
        parent = local_parent(config).absolute()
        runs = sorted(parent.glob("*/config.yaml"), key=lambda file: age_of(file.parent.name), reverse=True)
        for file in runs:
            with contextlib.suppress(ConfigurationError):
                if stored_config(file.parent).digest() == config.digest():
                    return file.parent
        return None

    def own(self, say: Callable[[str], None]) -> None:
        """Become its owner until :meth:`release`: no other driver writes here meanwhile.

        Raises:
            ConfigurationError: Another driver that is running owns it.
        """
        self._owner = own(self.path, say)

    def release(self) -> None:
        """Leave the directory to other drivers."""
        if self._owner is not None:
            self._owner.release()

    def _require_own(self) -> None:
        if self._owner is not None:
            self._owner.require()

    def open_quarantine(self, config: RunConfig, say: Callable[[str], None]) -> Quarantine:
        """The run's quarantine, with the tasks that were set aside before a resume.

        Raises:
            DamagedFileError: A file of it is damaged.
            SetAsideError: Too many tasks are set aside.
        """
        self.quarantine = quarantine_of(self.path, config, say)
        self.quarantine.require_few()
        return self.quarantine

    def position(self, initial: Callable[[], State], say: Callable[[str], None]) -> Position:
        """Load the position of the run (at ``initial()`` for a new one), and the rows of finished tasks into ``rows``.

        Raises:
            DamagedFileError: No checkpoint is intact, ``tasks.csv`` lacks rows, or ``quarantine/`` a task.
        """
        found = self._checkpoints.load_state(say, begins_again=True)
        state, facts = (initial(), {}) if found is None else found
        seconds = facts.get("wall_seconds", 0.0)
        self._earlier_seconds = float(seconds) if isinstance(seconds, int | float) else 0.0
        table = self.path / "tasks.csv"
        remember(self.path, facts.get("set_aside", []))
        learned = self._learned(state.num_tasks)
        self.rows = learned_rows(table, learned, facts.get(_TABLE_DIGEST))
        write_atomically(table, csv_text(self.rows).encode())
        return Position(state, self._checkpoints.load_finished(state, say))

    def discard_if_untouched(self) -> None:
        """Delete the directory, and parents left empty, if no task is finished yet."""
        if any((self.path / "checkpoints").glob("round-*.json")) or (self.path / "tasks.csv").exists():
            return
        shutil.rmtree(self.path)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()
            self.path.parent.parent.rmdir()

    @property
    def wall_seconds(self) -> float:
        """Wall-clock seconds of this run, including those before a resume."""
        return self._earlier_seconds + time.monotonic() - self._began

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """Save the task, so that it survives a crash before the end of its round."""
        del result
        self._require_own()
        self._checkpoints.save_finished(finished)

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """Write the table with the new rows, then the checkpoint that confirms them."""
        self._require_own()
        self.rows += rows
        text = csv_text(self.rows)
        write_atomically(self.path / "tasks.csv", text.encode())
        learned = self._learned(state.num_tasks)
        left_out = sorted(set(range(learned[-1] + 1)) - set(learned))
        facts = {"wall_seconds": self.wall_seconds, "set_aside": left_out, _TABLE_DIGEST: table_digest(text)}
        self._checkpoints.save_state(state, facts)
        return_freed_memory()

    def _learned(self, count: int) -> list[int]:
        """The indices of the first ``count`` training tasks that are not set aside."""
        aside = {entry.index for entry in self.quarantine if not entry.held_out}
        return [index for index in range(count + len(aside)) if index not in aside][:count]

    def warmed_up(self, state: State) -> None:
        """Write a checkpoint of the warm-up, at most one in :data:`_WARM_UP_SECONDS`, and one of its last round."""
        now = time.monotonic()
        if state.warm_up_rounds < self._warm_up_rounds and now - self._saved < _WARM_UP_SECONDS:
            return
        self._saved = now
        self._require_own()
        self._checkpoints.save_state(state, {"wall_seconds": self.wall_seconds})

    @staticmethod
    def newest_checkpoint(path: Path) -> Path:
        """The JSON file of the newest checkpoint in the run directory ``path``."""
        return sorted((path / "checkpoints").glob("round-*.json"))[-1]

    def tracked_as(self) -> str | None:
        """MLflow's id of this run; None if it was not tracked."""
        file = self.path / "tracking" / "sent.json"
        if not file.is_file():
            return None
        try:
            found = read_json(file)["memory"].get("run_id")
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            raise DamagedFileError(f"{file}: does not say what was sent ({error!r})") from error
        return None if found is None else str(found)

    def write_held_out(self, rows: list[Row]) -> None:
        """Write ``held_out.csv``."""
        self._require_own()
        write_atomically(self.path / HELD_OUT, csv_text(rows).encode())

    def write_summary(self, summary: RunSummary) -> None:
        """Write ``summary.json``."""
        write_atomically(self.path / "summary.json", summary.to_json().encode())


def stored_config(path: Path) -> RunConfig:
    """The resolved settings of a run directory, to show or to compare: no code of their family runs.

    Raises:
        ConfigurationError: It is not a run directory, or its settings are invalid.
    """
    return validated(_stored(path), str(path / "config.yaml"))


def load_run_config(path: Path, family: str | None = None, method: str | None = None) -> RunConfig:
    """The resolved settings of a run directory, of whose family tasks can be made.

    Args:
        path: The run directory.
        family: The family that the user names; a built-in one needs no naming.
        method: The method of ``within_task.method`` that the user names, likewise.

    Raises:
        ConfigurationError: It is not a run directory, or :func:`distributed.settings.admission.admitted` refuses it.
    """
    return admitted(_stored(path), str(path / "config.yaml"), family, path, method)


def _stored(path: Path) -> RawSettings:
    file = path / "config.yaml"
    if not file.is_file():
        raise ConfigurationError(f"{path}: is not a run directory (it has no config.yaml)")
    return read_yaml(file)


def load_summary(path: Path) -> RunSummary:
    """``summary.json`` of a finished run.

    Raises:
        ConfigurationError: The run has none yet, or the file is not a summary; the message names file and key.
    """
    file = path / "summary.json"
    if not file.is_file():
        raise ConfigurationError(
            f"{path}: has no summary.json; finish it first: metasrl train RUN_FILE --resume {path}"
        )
    try:
        return parse_summary(json_text(file))
    except (OSError, RefusedFileError) as error:
        raise ConfigurationError(str(error)) from error
    except SummaryError as error:
        raise ConfigurationError(f"{file}: {error}") from error


def load_final_state(path: Path, config: RunConfig, say: Callable[[str], None]) -> State:
    """The state in the newest intact checkpoint of a run.

    Raises:
        ConfigurationError: The run has no checkpoint.
        DamagedFileError: Every checkpoint is damaged.
    """
    found = _checkpoints(path, config).load_state(say)
    if found is None:
        raise ConfigurationError(f"{path}: has no checkpoint yet; train it first")
    return found[0]


def _checkpoints(path: Path, config: RunConfig) -> CheckpointFolder:
    within = config.within_task.model_dump(mode="json")
    return CheckpointFolder(path / "checkpoints", config.digest(), config.output.keep_checkpoints, within)


def _differences(first: RunConfig, second: RunConfig) -> list[str]:
    a, b = (dict(flatten(config.model_dump(mode="json"))) for config in (first, second))
    ignored = ("tracking.", "output.", "evaluation.", "name")
    keys = [key for key in sorted({*a, *b}) if a.get(key) != b.get(key) and not key.startswith(ignored)]
    return [key for key in keys if not key.startswith("cluster.") or key == "cluster.tasks_per_round"]
