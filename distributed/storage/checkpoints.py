"""Checkpoints that survive a crash at any point: safetensors and JSON, written to a side, then renamed into place."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from meta.learning.online import ITEMS, STATES, State
from meta.training.loop import Finished

SCHEMA_VERSION = 2


class DamagedFileError(ValueError):
    """A file that was cut short or changed; the message names it and what is wrong."""


class StorageError(OSError):
    """A file that could not be written; the message names it and says what to do."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` so that ``path`` holds either the old bytes or all of the new ones, whenever the power goes.

    Raises:
        StorageError: it cannot be written (the disk is full); the old bytes are whole.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(
            error.errno,
            f"{error.strerror or error}; what was there before is whole: free some space (or mend the disk) and go on "
            "with --resume",
            str(path),
        ) from error


def save_arrays(stem: Path, arrays: dict[str, np.ndarray[Any, Any]], facts: dict[str, Any]) -> None:
    """Write ``stem.safetensors`` and then, with its checksum, ``stem.json``: a pair is whole once the JSON is there."""
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    write_atomically(stem.with_suffix(".safetensors"), content)
    told = {"schema_version": SCHEMA_VERSION, "sha256": hashlib.sha256(content).hexdigest(), **facts}
    told["facts_sha256"] = _facts_sha256(told)
    write_atomically(stem.with_suffix(".json"), json.dumps(told, indent=1).encode())


def _facts_sha256(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def load_arrays(stem: Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Read a pair that :func:`save_arrays` wrote; runs no code from it.

    Raises:
        DamagedFileError: a file is missing, cut short, changed, or of another schema.
    """
    path = stem.with_suffix(".safetensors")
    try:
        facts = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise DamagedFileError(f"{stem.with_suffix('.json')}: cannot be read ({error})") from error
    if not isinstance(facts, dict) or facts.get("schema_version") != SCHEMA_VERSION:
        raise DamagedFileError(f"{stem.with_suffix('.json')}: is not of schema version {SCHEMA_VERSION}")
    if facts.pop("facts_sha256", None) != _facts_sha256(facts):
        raise DamagedFileError(f"{stem.with_suffix('.json')}: its checksum is not its own (cut short or changed)")
    if hashlib.sha256(content).hexdigest() != facts.get("sha256"):
        raise DamagedFileError(f"{path}: its checksum is not the one in {stem.name}.json (cut short or changed)")
    try:
        return load(content), facts
    except SafetensorError as error:
        raise DamagedFileError(f"{path}: is not a safetensors file ({error})") from error


class CheckpointFolder:
    """``checkpoints/`` of a run: ``round-N`` pairs, and ``finished/task-N`` pairs of the round under way."""

    def __init__(self, folder: Path, digest: str, keep: int) -> None:
        self._folder, self._finished = folder, folder / "finished"
        self._digest, self._keep = digest, keep
        self._finished.mkdir(parents=True, exist_ok=True)

    def save_state(self, state: State, facts: dict[str, Any]) -> None:
        """Write the state after a round, then drop old checkpoints and the round's finished tasks."""
        arrays, values = _split(state.to_arrays())
        told = {"kind": state.KIND, "values": values, "state_sha256": state.sha256(), "digest": self._digest, **facts}
        save_arrays(self._stem(state.num_rounds), arrays, told)
        for number in self._rounds()[: -self._keep]:
            _remove(self._stem(number))
        for path in self._finished.glob("task-*.json"):
            if int(path.stem.split("-")[1]) < state.num_tasks:
                _remove(path.with_suffix(""))

    def load_state(self, say: Callable[[str], None]) -> tuple[State, dict[str, Any]] | None:
        """The newest whole checkpoint, or None where there is none; damaged ones are told to ``say`` and passed over.

        Raises:
            DamagedFileError: every checkpoint is damaged, or one belongs to another configuration.
        """
        rounds = self._rounds()
        for number in reversed(rounds):
            try:
                arrays, facts = load_arrays(self._stem(number))
            except DamagedFileError as error:
                say(f"damaged checkpoint passed over: {error}")
                continue
            if facts["digest"] != self._digest:
                raise DamagedFileError(f"{self._stem(number)}.json: was made under another configuration")
            return _made(STATES, arrays, facts, self._stem(number)), facts
        if rounds:
            raise DamagedFileError(f"{self._folder}: all {len(rounds)} checkpoints are damaged; start a new run")
        return None

    def save_finished(self, item: Finished) -> None:
        """Keep a task that is finished before its round is."""
        contribution = item.contribution
        arrays, values = _split(contribution.to_arrays())
        facts = {"kind": contribution.KIND, "values": values, "digest": self._digest, "row": item.row}
        save_arrays(self._finished / f"task-{contribution.task_index:06d}", arrays, facts)

    def load_finished(self, state: State, say: Callable[[str], None]) -> dict[int, Finished]:
        """Finished tasks of the round after ``state``; what is damaged or belongs elsewhere is left out and told."""
        found: dict[int, Finished] = {}
        for path in sorted(self._finished.glob("task-*.json")):
            index = int(path.stem.split("-")[1])
            try:
                arrays, facts = load_arrays(path.with_suffix(""))
            except DamagedFileError as error:
                say(f"finished task {index} will be run again: {error}")
                continue
            row = facts["row"]
            if facts["digest"] != self._digest or row["round"] != state.num_rounds or index < state.num_tasks:
                continue
            found[index] = Finished(row, _made(ITEMS, arrays, facts, path.with_suffix("")))
        return found

    def _stem(self, number: int) -> Path:
        return self._folder / f"round-{number:06d}"

    def _rounds(self) -> list[int]:
        return sorted(int(path.stem.split("-")[1]) for path in self._folder.glob("round-*.json"))


def _made(kinds: Mapping[str, Any], arrays: dict[str, Any], facts: dict[str, Any], stem: Path) -> Any:
    """What a checkpoint's parts make, checked by the constructors: nothing but the known kinds, fields and shapes."""
    try:
        return kinds[facts["kind"]].from_arrays(arrays | facts["values"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{stem}.json: does not describe what it holds ({error!r})") from error


def _split(parts: Mapping[str, Any]) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Arrays, which safetensors keeps, and plain values, which JSON keeps."""
    arrays = {name: part for name, part in parts.items() if isinstance(part, np.ndarray)}
    return arrays, {name: part for name, part in parts.items() if name not in arrays}


def _remove(stem: Path) -> None:
    stem.with_suffix(".json").unlink(missing_ok=True)
    stem.with_suffix(".safetensors").unlink(missing_ok=True)
