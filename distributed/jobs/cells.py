"""Comparisons divided into cells: one method on one seed of one run file, computed on Ray and stored in a file.

The file's name contains a digest of all settings that determine the result. A stopped comparison therefore resumes, and
comparisons share common cells (docs/decisions/0032-cells.md).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import ray

from distributed.cluster.calls import Calls, Reference, Rules
from distributed.cluster.ray_cluster import as_options, cluster
from distributed.cluster.shared_progress import Reporter, SharedProgress
from distributed.cluster.workplace import rules_of
from distributed.jobs.cell_progress import CellProgress, Show
from distributed.settings.bounded_reading import read_json
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.settings.provenance import commit_of_results
from distributed.settings.run_config import RunConfig
from distributed.storage.checkpoints import write_atomically
from distributed.storage.family_sources import differing, sources_digest, sources_of
from distributed.storage.object_store import is_url
from meta.judging.protocol import CELLS
from meta.judging.work_done import Report
from meta.methods.registry import grid_of
from meta.training.disturbance import Disturbance
from meta.training.evaluation_settings import GridPoint, MethodName

CELL_VERSION = 2
"""Part of every digest; increased when a change of the code changes results under the same settings."""
_DECIDES = ("num_test_tasks", "num_iterations", "safety_margin", "num_segments", "pretrain_iterations")
_DECIDES_TUNING = ("num_iterations", "safety_margin", "pretrain_iterations", "grid_tasks", "tuning_tasks")
_DECIDES_IF_GIVEN = ("steps_per_iteration", "trust_region")
"""Settings that came later; part of a digest only if they are given, so that earlier cells stay valid."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One computation: a ``kind`` of :data:`meta.judging.protocol.CELLS`, a method, and a run file with its seed."""

    kind: str
    config: RunConfig
    method: MethodName | None = None
    point: GridPoint | None = None
    disturbance: Disturbance | None = None

    @property
    def name(self) -> str:
        """Name in messages and files."""
        parts = [self.config.name, self.kind, self.method, self._wrong, str(self.config.seed)]
        return "-".join(part for part in parts if part)

    @property
    def group(self) -> tuple[str, ...]:
        """Cells of a group take similar times."""
        return (self.config.name, self.kind, self.method or "")

    @property
    def _wrong(self) -> str:
        wrong = self.disturbance
        return "" if wrong is None else f"noise{wrong.noise:g}-bias{wrong.bias:g}"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all settings that determine the result."""
        evaluation = self.config.evaluation
        tuning = self.kind == "tune"
        decides = {*(_DECIDES_TUNING if tuning else _DECIDES), *self._given}
        parts: dict[str, Any] = {
            "version": CELL_VERSION,
            "kind": self.kind,
            "run": self.config.digest(),
            "method": self.method,
            "evaluation": evaluation.model_dump(mode="json", include=decides),
            "point": None if self.point is None else self.point.model_dump(mode="json"),
            "disturbance": None if self.disturbance is None else vars_of(self.disturbance),
        }
        if tuning and self.method is not None:
            parts["grid"] = [point.model_dump(mode="json") for point in grid_of(evaluation, self.method)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def _given(self) -> Iterator[str]:
        evaluation = self.config.evaluation
        names = _DECIDES_IF_GIVEN if self.kind == "tune" else (*_DECIDES_IF_GIVEN, "safety", "tasks")
        for name in names:
            if getattr(evaluation, name) != type(evaluation).model_fields[name].default:
                yield name

    def compute(self, report: Report) -> Result:
        """Compute the result in this process; ``report`` is told how far it is."""
        experiment = self.config.experiment
        given = [item for item in (self.method, self.point, self.disturbance) if item is not None]
        return CELLS[self.kind](experiment, *given, report=report)


def vars_of(disturbance: Disturbance) -> dict[str, float]:
    """A disturbance as a JSON object."""
    return {"noise": disturbance.noise, "bias": disturbance.bias, "seed": disturbance.seed}


@functools.cache
def _commit() -> str:
    return commit_of_results()


class CellFolder:
    """Finished cells on disk, one JSON file each."""

    def __init__(self, folder: Path, *, changed_family: bool = False) -> None:
        self.path, self._changed_family = folder, changed_family
        self._sources_of = functools.cache(sources_of)

    def file(self, cell: Cell) -> Path:
        """Path of a cell's file."""
        return self.path / cell.config.name / f"{cell.name}-{cell.digest[:16]}.json"

    def load(self, cell: Cell, say: Callable[[str], None]) -> Result | None:
        """A finished cell, or None; a damaged file is reported to ``say`` and ignored.

        Raises:
            ConfigurationError: Another version of the user's family computed it; with ``changed_family`` it is ignored.
        """
        path = self.file(cell)
        if not path.is_file():
            return None
        try:
            found = read_json(path)
            if found["digest"] == cell.digest and isinstance(found["result"], dict):
                return dict(found) if self._of_this_family(found, path, tuple(cell.config.code.values())) else None
        except ConfigurationError:
            raise
        except (OSError, ValueError, KeyError, TypeError):
            pass
        say(f"{path}: is damaged; the cell is computed again")
        return None

    def _of_this_family(self, found: Result, path: Path, code: tuple[str, ...]) -> bool:
        """Whether the present source of the family computed a cell; an older version of cells does not say."""
        difference = differing(found.get("family", self._sources_of(*code)), self._sources_of(*code))
        if difference and not self._changed_family:
            raise ConfigurationError(
                f"{path}: another source of {' or '.join(code)} computed this cell: {difference}; restore it, or give "
                "--changed-family to compute such cells again"
            )
        return not difference

    def save(self, cell: Cell, result: Result, seconds: float) -> Result:
        """Write a finished cell; return its content."""
        content = {
            "digest": cell.digest,
            "name": cell.name,
            "commit": _commit(),
            "sources": sources_digest(),
            "family": dict(self._sources_of(*cell.config.code.values())),
            "seconds": round(seconds, 3),
            "result": result,
        }
        path = self.file(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content, allow_nan=False).encode())
        return content


def _timed(cell: Cell, report: Report) -> tuple[Result, float]:
    began = time.perf_counter()
    return cell.compute(report), time.perf_counter() - began


_remote: Any = ray.remote(num_cpus=1, max_retries=0)(_timed)


@dataclass(frozen=True)
class _CellJob:
    """A cell as a Ray task; a :class:`distributed.cluster.calls.Job`."""

    cell: Cell
    report: Report
    rules: Rules
    work: float = 1.0

    @property
    def name(self) -> str:
        """Name in messages and dashboards."""
        return self.cell.name

    @property
    def kind(self) -> str:
        """Cells of a group take similar times."""
        return " ".join(self.cell.group)

    def send(self, slot: int) -> Reference:
        """Compute it in a process of its own."""
        del slot
        resources = as_options(self.cell.config.cluster.resources_of_a_worker)
        reference: Reference = _remote.options(name=self.name, **resources).remote(self.cell, self.report)
        return reference

    def lost(self, slot: int, reference: Reference, times: int, error: Exception) -> bool:
        """Compute it again."""
        del slot
        with contextlib.suppress(Exception):
            ray.cancel(reference, force=True)
        lost = self.rules.given_up(self.name, "worker", times, error, "the cell is computed again")
        if lost is not None:
            raise lost from error
        return True

    def failed(self, error: Exception, times: int) -> bool:
        """An error of a cell ends the comparison."""
        del times
        raise error


@dataclass
class CellRunner:
    """Computes the cells that are not on disk, ``num_workers`` at a time on Ray; 0: in this process."""

    folder: CellFolder
    console: Console
    num_workers: int
    rules: Rules
    seconds: dict[tuple[str, ...], list[float]] = field(default_factory=dict)

    def run(self, cells: Sequence[Cell], what: str) -> dict[str, Result]:
        """Contents of the cells' files by digest: ``result``, ``name``, ``commit``, ``sources`` and ``seconds``.

        Raises:
            WorkerLostError: The worker of a cell died too often.
        """
        found: dict[str, Result] = {}
        missing: dict[str, Cell] = {}
        for cell in cells:
            kept = self.folder.load(cell, self.console.say)
            if kept is None:
                missing.setdefault(cell.digest, cell)
            else:
                found[cell.digest] = kept
                self.seconds.setdefault(cell.group, []).append(kept["seconds"])
        with CellProgress(
            self.console, what, list(missing.values()), len(found), self.seconds, self.num_workers
        ) as bar:
            work = self._on_ray if self.num_workers else self._here
            for cell, result, seconds in work(list(missing.values()), bar.running):
                found[cell.digest] = self.folder.save(cell, result, seconds)
                self.seconds.setdefault(cell.group, []).append(seconds)
                bar.finished(cell, seconds)
        return found

    def _here(self, cells: Sequence[Cell], show: Show) -> Iterator[tuple[Cell, Result, float]]:
        for cell in cells:
            yield (cell, *_timed(cell, Reporter(cell.name, lambda name, done: show({name: done}))))

    def _on_ray(self, cells: Sequence[Cell], show: Show) -> Iterator[tuple[Cell, Result, float]]:
        """Compute one cell on each worker; if the worker dies, compute the cell again."""
        shared = SharedProgress()
        jobs = [_CellJob(cell, shared.reporter(cell.name), self.rules) for cell in cells]
        try:
            for found in Calls(jobs, self.num_workers, self.rules).results(shared.watch(show)):
                assert found is not None
                position, (result, seconds) = found
                yield cells[position], result, seconds
        finally:
            shared.end()


@contextlib.contextmanager
def cell_runner(config: RunConfig, console: Console, *, changed_family: bool = False) -> Iterator[CellRunner]:
    """A runner on the cluster of ``config``, with its cells in ``<output.run_dir>/cells``.

    Raises:
        ConfigurationError: ``output.run_dir`` is a URL, or the cluster does not start.
    """
    if is_url(config.output.run_dir):
        raise ConfigurationError("output.run_dir: a comparison keeps its cells on a path (or NFS), not at a URL")
    settings = config.cluster
    folder = CellFolder(Path(config.output.run_dir) / "cells", changed_family=changed_family)
    rules = rules_of(settings.model_copy(update={"first_patience_seconds": math.inf}), console.say)
    if settings.pool == "local":
        yield CellRunner(folder, console, 0, rules)
        return
    with cluster(settings, config.within_task.method.num_cpus) as where:
        console.say(f"Ray: {where}")
        yield CellRunner(folder, console, settings.num_workers, rules)
