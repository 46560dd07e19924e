"""Crash-safe checkpoints: safetensors and JSON files, written to a temporary name and renamed into place."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from distributed.settings.bounded_reading import MOST_ARRAY_BYTES, read_bytes, read_json
from meta.learning.kinds import Item
from meta.learning.online import ITEMS, STATES, State
from meta.training.loop import Finished
from policies.networks.module_network import modules_allowed, require_modules_of

SCHEMA_VERSION = 2
_MOST_DIGITS = 20
Arrays = dict[str, np.ndarray[Any, Any]]
Facts = dict[str, Any]
"""JSON object stored next to the arrays."""
Built = TypeVar("Built")


class DamagedFileError(ValueError):
    """A file is truncated, altered or missing; the message names it and the fault."""


class StorageError(OSError):
    """A file cannot be written; the message names it and the remedy."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


_AGAIN = "and repeat the command (a run continues with --resume)"
_REMEDIES = {
    errno.ENOSPC: f"free some space, {_AGAIN}",
    errno.EDQUOT: f"free some space, {_AGAIN}",
    errno.EROFS: f"make it writable again, {_AGAIN}",
    errno.EACCES: f"make it writable again, {_AGAIN}",
    errno.ENOENT: "its directory was removed or renamed while it was written to",
}


DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Numbers of errors that say that a disk is full or cannot be written to."""


@contextlib.contextmanager
def storing(path: Path, remedy: str | None = None) -> Iterator[None]:
    """Turn a failure to write ``path``, or a file under it, into an error that names the file and the remedy.

    Args:
        path: what is written, named where the failure names no file.
        remedy: what the user should do; None for the one that belongs to the failure.

    Raises:
        StorageError: Writing failed.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(error, str(path), remedy) from error


def storage_error(error: OSError, path: str, remedy: str | None = None) -> StorageError:
    """The same failure with the file, or ``path`` where it names none, and what the user should do."""
    advice = remedy or _REMEDIES.get(error.errno or 0, f"repair the disk, {_AGAIN}")
    return StorageError(error.errno, f"{error.strerror or error}; {advice}", str(error.filename or path))


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the content of ``path`` atomically: after a crash it holds either the old bytes or all of the new ones.

    Raises:
        StorageError: Writing failed, for instance on a full disk; the old content is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with storing(path):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except StorageError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(error.errno, error.strerror, str(path)) from error


def save_arrays(stem: Path, arrays: Arrays, facts: Facts) -> None:
    """Write ``stem.safetensors``, then ``stem.json`` with its checksum, which completes the pair."""
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    write_atomically(stem.with_suffix(".safetensors"), content)
    written = {"schema_version": SCHEMA_VERSION, "sha256": hashlib.sha256(content).hexdigest(), **facts}
    written["facts_sha256"] = _facts_sha256(written)
    write_atomically(stem.with_suffix(".json"), json.dumps(written, indent=1).encode())


def _facts_sha256(facts: Facts) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def load_arrays(stem: Path) -> tuple[Arrays, Facts]:
    """Read a pair that :func:`save_arrays` wrote. Reading executes no code.

    Raises:
        DamagedFileError: A file is missing, truncated, altered, or of another schema version.
    """
    path = stem.with_suffix(".safetensors")
    try:
        facts = read_json(stem.with_suffix(".json"))
        content = read_bytes(path, MOST_ARRAY_BYTES)
    except (OSError, ValueError) as error:
        raise DamagedFileError(f"{stem.with_suffix('.json')}: cannot be read ({error})") from error
    if not isinstance(facts, dict) or facts.get("schema_version") != SCHEMA_VERSION:
        raise DamagedFileError(f"{stem.with_suffix('.json')}: is not of schema version {SCHEMA_VERSION}")
    if facts.pop("facts_sha256", None) != _facts_sha256(facts):
        raise DamagedFileError(f"{stem.with_suffix('.json')}: wrong checksum (truncated or altered)")
    if hashlib.sha256(content).hexdigest() != facts.get("sha256"):
        raise DamagedFileError(f"{path}: its checksum differs from that in {stem.name}.json (truncated or altered)")
    try:
        return load(content), facts
    except SafetensorError as error:
        raise DamagedFileError(f"{path}: is not a safetensors file ({error})") from error


class CheckpointFolder:
    """The folder ``checkpoints/`` of a run: ``round-N`` pairs, and ``finished/task-N`` pairs of the current round."""

    def __init__(self, folder: Path, digest: str, keep: int, within: Mapping[str, Any] | None = None) -> None:
        """``within``: the run's ``within_task`` section, whose modules its policies may be of; None: of none."""
        self._within = within or {}
        self._folder, self._finished = folder, folder / "finished"
        self._digest, self._keep = digest, keep
        with storing(self._finished):
            self._finished.mkdir(parents=True, exist_ok=True)

    def save_state(self, state: State, facts: Facts) -> None:
        """Write the state after a round, then delete old checkpoints and the finished tasks of that round."""
        arrays, values = _split(state.to_arrays())
        number = state.warm_up_rounds + state.num_rounds
        own = {"kind": state.KIND, "values": values, "state_sha256": state.sha256(), "digest": self._digest}
        save_arrays(self._stem(number), arrays, {**own, "round": number, **facts})
        for number in self._rounds()[: -self._keep]:
            _remove(self._stem(number))
        for path in self._finished.glob("task-*.json"):
            _remove(path.with_suffix(""))

    def load_state(self, say: Callable[[str], None], *, begins_again: bool = False) -> tuple[State, Facts] | None:
        """Load the newest intact checkpoint; None without any. Damaged ones are reported to ``say`` and skipped.

        If all are damaged and that of the first round is among them, a run that ``begins_again`` loses only what a few
        rounds took: None too.

        Raises:
            DamagedFileError: Every checkpoint is damaged, or one was made under another configuration.
        """
        rounds = self._rounds()
        for number in reversed(rounds):
            try:
                arrays, facts = load_arrays(self._stem(number))
                if facts.get("digest") == self._digest:
                    return self._state_of(number, arrays, facts), facts
            except DamagedFileError as error:
                say(f"skipping a damaged checkpoint: {error}")
                continue
            raise DamagedFileError(f"{self._stem(number)}.json: was made under another configuration")
        if begins_again and 1 in rounds:
            say(f"{self._folder}: all {len(rounds)} checkpoints are damaged; the run begins again with its first round")
        elif rounds:
            raise DamagedFileError(f"{self._folder}: all {len(rounds)} checkpoints are damaged; start a new run")
        return None

    def _state_of(self, number: int, arrays: Arrays, facts: Facts) -> State:
        """The state in the files of checkpoint ``number``.

        Raises:
            DamagedFileError: They hold none, or one of another round: a file was copied or renamed.
        """
        stem = self._stem(number)
        _built(lambda: require_modules_of(self._within, arrays), stem)
        with modules_allowed(self._within):
            state = _state(arrays, facts, stem)
        found = state.warm_up_rounds + state.num_rounds
        if found != number or facts.get("round", number) != number:
            raise DamagedFileError(f"{stem}.json: holds round {found}, as its content says (copied or renamed)")
        if facts.get("state_sha256", state.sha256()) != state.sha256():
            raise DamagedFileError(f"{stem}.json: its state is not the one that was saved")
        return state

    def save_finished(self, item: Finished) -> None:
        """Save a finished task, so that it survives a crash before the end of its round."""
        contribution = item.contribution
        arrays, values = _split(contribution.to_arrays())
        facts: Facts = {"kind": contribution.KIND, "values": values, "digest": self._digest, "row": item.row}
        facts |= {"round": item.row["round"], "task": contribution.task_index}
        save_arrays(self._finished / f"task-{contribution.task_index:06d}", arrays, facts)

    def load_finished(self, state: State, say: Callable[[str], None]) -> dict[int, Finished]:
        """Finished tasks of the round after ``state`` by index; report damaged ones to ``say`` and skip them."""
        found: dict[int, Finished] = {}
        for path in sorted(self._finished.glob("task-*.json")):
            name = path.stem.removeprefix("task-")
            if not name.isdecimal() or len(name) >= _MOST_DIGITS:
                continue
            try:
                item = self._finished_of(int(name), path.with_suffix(""), state)
            except DamagedFileError as error:
                say(f"finished task {int(name)} will be run again: {error}")
                continue
            if item is not None:
                found[int(name)] = item
        return found

    def _finished_of(self, index: int, stem: Path, state: State) -> Finished | None:
        """The finished task ``index`` in the files ``stem``; None where it is not of the round after ``state``.

        Raises:
            DamagedFileError: They are damaged, or hold another task: a file was copied or renamed.
        """
        arrays, facts = load_arrays(stem)
        row = facts.get("row")
        if not isinstance(row, dict) or not {"task_index", "round"} <= row.keys():
            raise DamagedFileError(f"{stem}.json: has no row of a task")
        if facts.get("digest") != self._digest or row["round"] != state.num_rounds or index < state.num_tasks:
            return None
        _built(lambda: require_modules_of(self._within, arrays), stem)
        with modules_allowed(self._within):
            item = _item(arrays, facts, stem)
        held = {item.task_index, row["task_index"], facts.get("task", index)}
        if held != {index} or facts.get("round", row["round"]) != row["round"]:
            raise DamagedFileError(
                f"{stem}.json: holds task {item.task_index}, as its content says (copied or renamed)"
            )
        return Finished(row, item)

    def _stem(self, number: int) -> Path:
        return self._folder / f"round-{number:06d}"

    def _rounds(self) -> list[int]:
        names = [path.stem.removeprefix("round-") for path in self._folder.glob("round-*.json")]
        return sorted(int(name) for name in names if name.isdecimal() and len(name) < _MOST_DIGITS)


def _built(build: Callable[[], Built], stem: Path) -> Built:
    """Call ``build``, whose constructors reject unknown kinds, fields and shapes.

    Raises:
        DamagedFileError: They reject the content of ``stem``.
    """
    try:
        return build()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{stem}.json: does not match its arrays ({error!r})") from error


def _state(arrays: Arrays, facts: Facts, stem: Path) -> State:
    return _built(lambda: STATES[facts["kind"]].from_arrays(arrays | facts["values"]), stem)


def _item(arrays: Arrays, facts: Facts, stem: Path) -> Item:
    return _built(lambda: ITEMS[facts["kind"]].from_arrays(arrays | facts["values"]), stem)


def _split(parts: Mapping[str, Any]) -> tuple[Arrays, Facts]:
    """Separate arrays, stored as safetensors, from plain values, stored as JSON."""
    arrays = {name: part for name, part in parts.items() if isinstance(part, np.ndarray)}
    return arrays, {name: part for name, part in parts.items() if name not in arrays}


def _remove(stem: Path) -> None:
    stem.with_suffix(".json").unlink(missing_ok=True)
    stem.with_suffix(".safetensors").unlink(missing_ok=True)
