"""``make chaos``: seeded faults in real runs on Ray; writes docs/results/chaos.md. Goes on where it was stopped.

Each fault is a cell, a file in ``runs/chaos`` named by fault, seed and digest of the code. A cell trains twelve
lakes as a process of its own, does one fault at a random moment, resumes where the run ended, and checks: exit codes,
the state that the undisturbed run leads to, each task once in tasks.csv, the quarantine, and that no process is left.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from benchmarks.chaos.faults import FAULTS, Fault, Scene, is_left
from benchmarks.chaos.nodes import Nodes
from benchmarks.chaos.stores import STORE, Server, tracked
from benchmarks.result_page import header, table, write
from distributed.storage.checkpoints import write_atomically

ROOT = Path(__file__).resolve().parent.parent.parent
KEPT = ROOT / "runs" / "chaos"
SECONDS_TO_BE_GONE, LONGEST = 30.0, 400.0
Result = dict[str, Any]


def code_digest() -> str:
    """Digest of all code that a cell runs."""
    digest = hashlib.sha256()
    for room in ("tasks", "policies", "meta", "distributed", "benchmarks/chaos"):
        for path in sorted((ROOT / room).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def run_file(folder: Path, pool: str, family: Mapping[str, Any], address: str | None, uri: str | None) -> Path:
    """Twelve small lakes; a call that takes ten seconds more than others is given up."""
    path = folder / "run.yaml"
    (folder / "notes").mkdir()
    lakes = {"name": "benchmarks.chaos.chaos_family:ChaosLake", "num_tasks": 12, "map_size": 4, "horizon": 30}
    content = {
        "name": "chaos",
        "family": {**lakes, "folder": str(folder / "notes"), "pause": 0.05, "fails": {}, **family},
        "within_task": {"num_iterations": 2, "episodes_per_iteration": 4, "evaluation": "sampled"},
        "cluster": {"pool": pool, "dashboard": False, "object_store_mb": 80, "task_retries": 2}
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
        self._file = run_file(folder, pool, fault.family, address, uri)

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
        return subprocess.run(self.words(*more), timeout=LONGEST, check=False, **given)

    def start(self) -> subprocess.Popen[bytes]:
        """Start to train; messages go to ``messages``."""
        with (self.folder / "messages").open("wb") as messages:
            return subprocess.Popen(
                self.words(), cwd=self.folder, env=self._environment, stdout=messages, stderr=messages
            )

    @property
    def run(self) -> Path:
        """The run directory."""
        (found,) = self.folder.glob("runs/chaos/*")
        return found

    def left(self) -> list[str]:
        """The processes that outlive the run by more than they may."""
        deadline = time.monotonic() + SECONDS_TO_BE_GONE
        while True:
            found = [process for process in psutil.process_iter() if is_left(process, self.mark)]
            if not found or time.monotonic() > deadline:
                return [process.name() for process in found]
            time.sleep(0.5)

    def end_all(self) -> None:
        """End what is left, so that it disturbs no other cell."""
        for process in psutil.process_iter():
            if is_left(process, self.mark):
                process.kill()


def disturbed(fault: Fault, trial: Trial, rng: np.random.Generator) -> tuple[int, str]:
    """Run with the fault; its exit code, and what was done."""
    process, done = trial.start(), "the family's own"
    if fault.act is not None:
        wanted = int(rng.integers(0, 11))
        while process.poll() is None and len(list(trial.folder.glob("notes/*"))) == 0 and not _under_way(trial, wanted):
            time.sleep(0.05)
        time.sleep(float(rng.uniform(0.0, 0.4)))
        if process.poll() is None:
            done = fault.act(trial.scene(psutil.Process(process.pid), rng))
    return process.wait(LONGEST), done


def _under_way(trial: Trial, tasks: int) -> bool:
    """Whether so many tasks are finished."""
    rounds = sum(max(0, len(path.read_text().splitlines()) - 1) for path in trial.folder.glob("runs/*/*/tasks.csv"))
    in_round = len(list(trial.folder.glob("runs/*/*/checkpoints/finished/*.json")))
    messages = trial.folder / "messages"
    return "Ray: local" in messages.read_text(errors="replace") and rounds + in_round >= tasks


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
    if "Traceback" in (trial.folder / "messages").read_text(errors="replace"):
        wrong.append("a traceback")
    return wrong


def cell(name: str, seed: int, undisturbed: Result) -> Result:
    """Do one fault and check what the run made of it."""
    fault = FAULTS[name]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    trial = Trial(KEPT / f"now-{os.getpid()}", f"{name}-{seed}-{os.getpid()}", "ray", fault)
    began = time.monotonic()
    try:
        code, done = disturbed(fault, trial, rng)
        codes = [code]
        if code not in (0, 3):
            trial.close()
            left = trial.left()
            if fault.damage is not None:
                done += f", {fault.damage(trial.scene(psutil.Process(), rng))}"
            codes.append(trial.command("--resume", str(trial.run), "--cluster.address", "null").returncode)
        seconds = time.monotonic() - began
        trial.close()
        wrong = checked(fault, trial, codes, undisturbed["without" if fault.aside else "whole"])
        left = trial.left() + (left if len(codes) > 1 else [])
    finally:
        trial.end_all()
    wrong += [f"left: {', '.join(sorted(set(left)))}"] if left else []
    wrong += [done] if done.isupper() else []
    return {"fault": name, "seed": seed, "done": done, "codes": codes, "seconds": seconds, "wrong": wrong}


def reference() -> Result:
    """What undisturbed runs lead to, in one process, and how long one takes on Ray."""
    found: Result = {}
    ways = (("whole", Fault(tracking="store")), ("without", Fault(family={"fails": {"train-5": "raise"}})))
    for key, fault in ways:
        trial = Trial(KEPT / "reference", f"reference-{os.getpid()}", "local", fault)
        trial.command()
        with (trial.run / "tasks.csv").open(newline="") as file:
            tasks = [row["task_index"] for row in csv.DictReader(file)]
        found[key] = {"sha": json.loads((trial.run / "summary.json").read_text())["meta_state_sha256"], "tasks": tasks}
        if fault.tracking != "off":
            found[key]["tracked"] = tracked(trial.folder / STORE)
    trial, began = Trial(KEPT / "reference", f"reference-{os.getpid()}", "ray", Fault()), time.monotonic()
    assert trial.command().returncode == 0
    return {**found, "seconds": time.monotonic() - began}


def page(cells: Sequence[Result], seconds: float, command: str) -> list[str]:
    """The page: one line for each kind of fault."""
    rows = []
    for name in FAULTS:
        of_kind = [one for one in cells if one["fault"] == name]
        if of_kind:
            lost = np.array([one["seconds"] - seconds for one in of_kind])
            codes = sorted({" then ".join(map(str, one["codes"])) for one in of_kind})
            wrong = sorted({reason for one in of_kind for reason in one["wrong"]})
            spread = f"{np.median(lost):.0f} [{lost.min():.0f}, {lost.max():.0f}]"
            rows.append((name, len(of_kind), ", ".join(codes), spread, "; ".join(wrong) or "–"))
    bad = sum(bool(one["wrong"]) for one in cells)
    return [
        *header("Chaos: seeded faults in runs on Ray", command),
        f"{len(cells)} faults, each in a run of twelve lakes at a random moment; {bad} of them were not handled as "
        "documented. Every run must end in the state of the undisturbed one (where a task is set aside, in that of a "
        f"run without it), with each task once, and leave no process after {SECONDS_TO_BE_GONE:.0f} s. An undisturbed "
        f"run took {seconds:.0f} s here, most of it to start Ray; time lost includes the second start of a resume, and "
        "10 to 20 s of patience with a stopped process.",
        "",
        *table(("fault", "times", "exit codes", "seconds lost: median [least, most]", "wrong"), rows),
    ]


def main() -> None:
    """Do the faults that are not on disk yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8, help="times that each fault is done")
    parser.add_argument("--only", nargs="*", help="faults to do; all by default")
    given = parser.parse_args()
    folder = KEPT / code_digest()
    folder.mkdir(parents=True, exist_ok=True)
    cells: list[Result] = []

    def kept(name: str, compute: Any) -> Result:
        file = folder / f"{name}.json"
        if not file.is_file():
            write_atomically(file, json.dumps(compute()).encode())
        return dict(json.loads(file.read_text()))

    undisturbed = kept("reference", reference)
    for seed in range(given.seeds):
        for name in given.only or FAULTS:
            stem = f"{name.replace(' ', '_').replace(':', '')}-{seed}"
            cells.append(kept(stem, lambda name=name, seed=seed: cell(name, seed, undisturbed)))
            last = cells[-1]
            print(f"{seed} {name}: {last['codes']} {last['seconds']:.0f} s {last['wrong'] or 'ok'}", flush=True)
    if not given.only:
        write("chaos.md", page(cells, undisturbed["seconds"], f"make chaos SEEDS={given.seeds}"))
    sys.exit(any(one["wrong"] for one in cells))


if __name__ == "__main__":
    main()
