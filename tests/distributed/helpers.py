"""Small run files, the command line as a process or in this one, and the undisturbed result to compare with."""

from __future__ import annotations

import copy
import functools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from distributed.cli.main import main
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import parse_config
from distributed.storage.run_directory import RunDirectory
from meta.learning.online import State
from meta.training.experiment import draw, draw_tasks, observed
from meta.training.loop import Position, Tracker, TrainingPlan, train
from meta.training.pool import Learner, LocalLearner, LocalPool, Pool

ROOT = Path(__file__).parent.parent.parent
METASRL = Path(sys.executable).with_name("metasrl")
NOTED = "tests.distributed.families:NotedLake"
COURIER = "tests.support.user_families:CourierFamily"
Raw = dict[str, Any]

TINY: Raw = {
    "name": "tiny",
    "seed": 3,
    "family": {"name": "frozen_lake", "num_tasks": 8, "map_size": 4, "horizon": 30},
    "within_task": {"num_iterations": 2, "episodes_per_iteration": 3, "num_copies": 1},
    "cluster": {"pool": "local", "num_workers": 2, "tasks_per_round": 4, "dashboard": False, "object_store_mb": 80},
    "tracking": {"enabled": False},
    "check_family": False,  # the families of the tests note what is run; the check would run them too
    "evaluation": {
        "methods": ["random", "meta_srl"],
        "num_test_tasks": 2,
        "rate_grid": [1.0],
        "grid_tasks": 2,
        "pretrain_iterations": 5,
    },
}

POINTS = "tests.distributed.families:NotedPoints"
TINY_NEURAL: Raw = {
    **TINY,
    "name": "tiny_neural",
    "family": {"name": POINTS, "num_tasks": 8},
    "within_task": {
        "algorithm": "neural_crpo",
        "num_iterations": 2,
        "steps_per_iteration": 80,
        "num_copies": 4,
        "hidden": [6],
        "critic_hidden": [6],
        "dataset_size": 40,
    },
    "dice": {"failed_weight": 1.0},  # so few episodes make poor estimates
    "meta": {"neural": {"steps": 5}, "learning_rates": {"initial": 0.3, "units": "absolute"}},
}


def tiny(**changes: Any) -> Raw:
    """The run file of eight small tasks; ``within_task={"num_copies": 3}`` changes one key of a section."""
    return changed(TINY, changes)


def tiny_neural(**changes: Any) -> Raw:
    """The run file of eight small tasks with a neural policy: points on a line that episodes of 20 steps move."""
    return changed(TINY_NEURAL, changes)


def changed(raw: Raw, changes: Raw) -> Raw:
    """A run file's content with some keys of its sections changed."""
    raw = copy.deepcopy(raw)
    for section, value in changes.items():
        raw[section] = {**raw.get(section, {}), **value} if isinstance(value, dict) else value
    return raw


def noted(folder: Path, **changes: Any) -> Raw:
    """The same tasks in a family that notes in ``folder`` what is run."""
    folder.mkdir(parents=True, exist_ok=True)
    family = {"name": NOTED, "folder": str(folder), **changes.pop("family", {})}
    return tiny(family=family, **changes)


def courier(**family: Any) -> Raw:
    """The user's family with two costs."""
    raw = tiny(meta={"learning_rates": {"initial": 1.0, "units": "absolute"}})
    return {**raw, "family": {"name": COURIER, "num_tasks": 4, **family}}


def parsed(raw: Raw) -> RunConfig:
    """A checked configuration."""
    return parse_config(raw, "test")


def run_file(folder: Path, raw: Raw, name: str = "run.yaml") -> Path:
    """Write a run file."""
    path = folder / name
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def local(config: RunConfig) -> tuple[LocalPool, LocalLearner]:
    """Pool and learner of this process."""
    experiment = config.experiment
    learner = LocalLearner(experiment.meta, experiment.dice, experiment.within.num_iterations)
    return LocalPool(experiment.family), learner


def learn(
    config: RunConfig, pool: Pool, learner: Learner, directory: RunDirectory | None = None, *more: Tracker
) -> tuple[State, RunDirectory]:
    """Draw and train, nothing else, into a run directory (a new one by default)."""
    directory = RunDirectory.create(config) if directory is None else directory
    experiment = config.experiment
    drawn = draw_tasks(pool, experiment)
    position = directory.position(
        lambda: observed(pool, experiment, drawn).initial_state(experiment.meta), lambda message: None
    )
    plan = TrainingPlan(drawn.train, experiment.tasks_per_round, experiment.within)
    return train(plan, pool, learner, [directory, *more], position), directory


def sha_of(config: RunConfig) -> str:
    """Digest of the state that undisturbed training in this process leads to."""
    pool, learner = local(config)
    experiment = config.experiment
    drawn = draw(pool, experiment)
    plan = TrainingPlan(drawn.train, experiment.tasks_per_round, experiment.within)
    return train(plan, pool, learner, [], Position(drawn.initial_state(experiment.meta))).sha256()


@functools.cache
def undisturbed_sha(evaluation: str = "exact", seed: int = 3) -> str:
    """What the tiny tasks must give, whatever happens on the way."""
    return sha_of(parsed(tiny(seed=seed, within_task={"evaluation": evaluation})))


@functools.cache
def undisturbed_neural_sha(seed: int = 3) -> str:
    """What the tiny tasks with a neural policy must give."""
    return sha_of(parsed(tiny_neural(seed=seed)))


def exit_code(*arguments: str | Path) -> int:
    """Run the command line in this process."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def environment(**more: str) -> dict[str, str]:
    """Environment of a command that is run as a process; test modules are importable in it.

    Its Ray workers do not stand back behind the other tests, as they would at Ray's default niceness.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0", **more}


def command(arguments: Sequence[str | Path], cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run ``metasrl`` to its end."""
    words = [str(METASRL), *(str(argument) for argument in arguments)]
    return subprocess.run(
        words, cwd=cwd, env=environment(**environ), capture_output=True, text=True, timeout=400, check=False
    )


@contextmanager
def started(arguments: Sequence[str | Path], cwd: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """``metasrl`` as a process of its own; its messages go to ``cwd/stderr``. Killed on leaving if it still runs."""
    words = [str(METASRL), *(str(argument) for argument in arguments)]
    with (cwd / "stderr").open("wb") as messages:
        process = subprocess.Popen(words, cwd=cwd, env=environment(**environ), stdout=messages, stderr=messages)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def wait_until(condition: Callable[[], Any], seconds: float = 180.0, process: Any = None) -> None:
    """Wait for a condition; fail when it does not come true, or when the process that should bring it about ends."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        assert process is None or process.poll() is None or condition(), "the process ended before"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def only_run(folder: Path) -> Path:
    """The one run directory below ``folder``/runs; a process that was killed at once may leave an empty one."""
    (path,) = (path for path in (folder / "runs").glob("*/*") if any(path.iterdir()))
    return path


def finished(folder: Path, raw: Raw, *more: str) -> Path:
    """Train a run file in ``folder``, without drawing its plots; its run directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("distributed.jobs.training_job.save_figures", lambda *arguments: [])
        assert exit_code("train", run_file(folder, raw), *more) == 0
    return only_run(folder)


def summary_of(run_dir: Path) -> Raw:
    """``summary.json``."""
    return dict(json.loads((run_dir / "summary.json").read_text(encoding="utf-8")))


def finished_tasks(folder: Path) -> set[int]:
    """Tasks of the round under way that are finished on disk, in the one run below ``folder``."""
    return {int(path.stem.split("-")[1]) for path in folder.glob("runs/*/*/checkpoints/finished/task-*.json")}


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
