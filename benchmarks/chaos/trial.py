"""The processes and the directory of one cell of ``make chaos``, and the judge of what became of its run."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from benchmarks.chaos.faults import Fault, Scene, is_left
from benchmarks.chaos.nodes import Nodes
from benchmarks.chaos.stores import STORE, Server, tracked

ROOT = Path(__file__).resolve().parent.parent.parent
KEPT = ROOT / "runs" / "chaos"
SECONDS_TO_BE_GONE, LONGEST = 30.0, 400.0
SECONDS_OF_AGENTS, AGENTS = 65.0, ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Two idle agents of Ray wait for the dead control service after SIGKILL to the driver, as long as the failure table of
docs/architecture.md says."""
Result = dict[str, Any]
TOO_BUSY = "since this machine is busy"
"""In the message of a run whose cluster did not start."""
_TRIES = 4


def run_file(folder: Path, pool: str, fault: Fault, address: str | None, uri: str | None) -> Path:
    """Twelve small lakes, or as ``fault`` says; a call that takes ten seconds more than others is given up."""
    path = folder / "run.yaml"
    (folder / "notes").mkdir()
    lakes = {"name": "benchmarks.chaos.chaos_family:ChaosLake", "num_tasks": 12, "map_size": 4, "horizon": 30}
    content = {
        "name": "chaos",
        "family": {**lakes, "folder": str(folder / "notes"), "pause": 0.05, "fails": {}, **fault.family},
        "within_task": {"num_iterations": 2, "episodes_per_iteration": 4, "evaluation": "sampled"},
        "cluster": {"pool": pool, "dashboard": False, "object_store_mb": 80, "task_retries": fault.retries}
        | {"least_patience_seconds": 10.0, "first_patience_seconds": 20.0}
        | ({} if address is None else {"address": address, "unauthenticated": True}),
        "tracking": {"enabled": uri is not None, "uri": uri},
        "evaluation": {"methods": ["meta_srl"], "num_test_tasks": 2},
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


class Trial:
    """The processes and the directory of one cell; with ``fault`` its cluster and tracking server, if any."""

    def __init__(self, folder: Path, mark: str, pool: str, fault: Fault) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder, self.mark = folder, mark
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_"))}
        self._environment = {**kept, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "METASRL_CHAOS": mark}
        self._environment |= {"RAY_worker_niceness": "0"}
        self.nodes = Nodes(fault.cpus, ROOT, folder, self._environment) if fault.cpus else None
        self.server = Server(folder, self._environment) if fault.tracking == "server" else None
        uri = {"off": None, "store": f"sqlite:///{folder / STORE}"}.get(fault.tracking)
        uri = uri if self.server is None else self.server.uri
        address = None if self.nodes is None else self.nodes.address
        self._file = run_file(folder, pool, fault, address, uri)

    def scene(self, driver: psutil.Process, rng: np.random.Generator) -> Scene:
        """What a fault acts on."""
        return Scene(driver, self.run, self.command, rng, self.nodes, self.server)

    def close(self) -> None:
        """End the cluster and the server."""
        if self.nodes is not None:
            self.nodes.close()
        if self.server is not None:
            self.server.kill()

    def words(self, *more: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "distributed.train", str(self._file), *more]

    def command(self, *more: str) -> subprocess.CompletedProcess[str]:
        """Train to the end."""
        given: Any = {"cwd": self.folder, "env": self._environment, "capture_output": True, "text": True}
        done = subprocess.run(self.words(*more), timeout=LONGEST, check=False, **given)
        self._next_messages().write_text(done.stdout + done.stderr)
        return done

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Start to train; messages go to ``messages``."""
        if (self.folder / "messages").is_file():
            (self.folder / "messages").rename(self._next_messages())
        with (self.folder / "messages").open("wb") as messages:
            return subprocess.Popen(
                self.words(*more), cwd=self.folder, env=self._environment, stdout=messages, stderr=messages
            )

    def _next_messages(self) -> Path:
        return self.folder / f"messages-{len(list(self.folder.glob('messages-*')))}"

    @property
    def run(self) -> Path:
        """The run directory."""
        (found,) = self.folder.glob("runs/chaos/*")
        return found

    def left(self) -> list[str]:
        """The processes that outlive the run by more than they may."""
        began = time.monotonic()
        while True:
            names = [one.info["name"] for one in psutil.process_iter(["name"]) if is_left(one, self.mark)]
            seconds = time.monotonic() - began
            late = [name for name in names if seconds > (SECONDS_OF_AGENTS if name in AGENTS else SECONDS_TO_BE_GONE)]
            if late or not names:
                return late
            time.sleep(0.5)

    def end_all(self) -> None:
        """End what is left, so that it disturbs no other cell."""
        for process in psutil.process_iter():
            if is_left(process, self.mark):
                process.kill()


def finished_tasks(trial: Trial) -> int:
    """The training tasks that the run has finished."""
    rounds = sum(max(0, len(path.read_text().splitlines()) - 1) for path in trial.folder.glob("runs/*/*/tasks.csv"))
    return rounds + len(list(trial.folder.glob("runs/*/*/checkpoints/finished/*.json")))


def has_begun(trial: Trial) -> bool:
    """Whether the process that was started last has its cluster."""
    return "Ray: local" in (trial.folder / "messages").read_text(errors="replace")


def under_way(trial: Trial, tasks: int) -> bool:
    """Whether the process that was started last has its cluster, and the run has finished so many tasks."""
    return has_begun(trial) and finished_tasks(trial) >= tasks


def checked(fault: Fault, trial: Trial, codes: Sequence[int], right: Result) -> list[str]:
    """What is wrong with a run that has ended."""
    wrong, final = [], 3 if fault.aside else 0
    if codes[0] not in (*fault.codes, final):
        wrong.append(f"exit code {codes[0]}")
    if codes[-1] != final:
        wrong.append(f"ended in {codes[-1]}")
    summary = trial.run / "summary.json"
    if not summary.is_file():
        return [*wrong, "no summary"]
    found = json.loads(summary.read_text())
    if found["meta_state_sha256"] != right["sha"]:
        wrong.append("another state")
    with (trial.run / "tasks.csv").open(newline="") as file:
        if [row["task_index"] for row in csv.DictReader(file)] != right["tasks"]:
            wrong.append("tasks lost or twice")
    if tuple(path.stem for path in trial.run.glob("quarantine/*.json")) != fault.aside:
        wrong.append("quarantine")
    if fault.tracking != "off" and tracked(trial.folder / STORE) != right["tracked"]:
        wrong.append("another content of the tracking store")
    if "Traceback" in messages_of(trial.folder):
        wrong.append("a traceback")
    return wrong


def messages_of(folder: Path) -> str:
    """What all processes of a cell have said."""
    return "".join(path.read_text(errors="replace") for path in sorted(folder.glob("messages*")))


def until_ray_starts(folder: Path, compute: Callable[[], Result]) -> Result:
    """A cell in ``folder``, again where the machine was too busy for Ray to start: that is no answer to a fault.

    Raises:
        RuntimeError: it was too busy three times.
    """
    for _ in range(_TRIES):
        try:
            found = compute()
        except Exception:
            if TOO_BUSY not in messages_of(folder):
                raise
            continue
        if not found["wrong"] or TOO_BUSY not in messages_of(folder):
            return found
    raise RuntimeError(f"{folder.name}: Ray did not start {_TRIES} times; run fewer cells at once")
