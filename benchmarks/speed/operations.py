"""The cost of submission, tracking and reporting; writes docs/results/operations.md in ten minutes on two cores."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.result_page import header, table, write
from tests.support.servers import BIN, ROOT, Head, NotInstalledError, postgres, ray_head

LAKES = ROOT / "deploy" / "runs" / "frozen_lake.yaml"
ROBOTS = ROOT / "deploy" / "runs" / "half_cheetah_velocity.yaml"
COMMON = (
    *("--cluster.dashboard", "false", "--evaluation.methods", "[meta_srl]", "--evaluation.num_test_tasks", "4"),
    *("--cluster.num_workers", "2"),
)


@dataclass(frozen=True)
class Cost:
    """One run: ``wall`` seconds of `train`, CPU seconds of the tracking thread, seconds the run waited for it."""

    tasks: int
    wall: float
    sender_cpu: float
    waited: float
    unsent: int

    @property
    def share(self) -> float:
        """Share of the wall-clock time in which the run waited for tracking."""
        return self.waited / self.wall

    @property
    def cpu_share(self) -> float:
        """CPU time of the tracking thread as a share of both cores' time."""
        return self.sender_cpu / (2.0 * self.wall)


def child(file: str, words: Sequence[str]) -> Cost:
    """Train in this process and time the tracking; :func:`tracked` starts it."""
    from distributed.cli.main import main
    from distributed.tracking.mlflow_sender import MLflowSender
    from distributed.tracking.outbox import Outbox

    clocks = {"cpu": 0.0, "waited": 0.0, "unsent": 0}
    send, append, close = MLflowSender.send, Outbox.append, Outbox.close

    def timed_send(self: Any, event: Any, memory: Any, *, again: bool) -> None:
        began = time.thread_time()
        try:
            send(self, event, memory, again=again)
        finally:
            clocks["cpu"] += time.thread_time() - began

    def timed_append(self: Any, event: Any) -> None:
        began = time.perf_counter()
        append(self, event)
        clocks["waited"] += time.perf_counter() - began

    def timed_close(self: Any, timeout_seconds: float) -> int:
        began = time.perf_counter()
        clocks["unsent"] = close(self, timeout_seconds)
        clocks["waited"] += time.perf_counter() - began
        return int(clocks["unsent"])

    MLflowSender.send, Outbox.append, Outbox.close = timed_send, timed_append, timed_close  # type: ignore[method-assign]
    began = time.perf_counter()
    try:
        main(["train", file, *words])
    except SystemExit as end:
        if end.code not in (0, None):
            raise
    wall = time.perf_counter() - began
    (summary,) = Path().glob("runs/*/*/summary.json")
    tasks = json.loads(summary.read_text(encoding="utf-8"))["num_tasks"]
    return Cost(tasks, wall, clocks["cpu"], clocks["waited"], int(clocks["unsent"]))


def tracked(file: Path, words: Sequence[str], folder: Path, uri: str | None = None) -> Cost:
    """Run in a separate process, in ``folder``."""
    folder.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"} | (
        {} if uri is None else {"MLFLOW_TRACKING_URI": uri}
    )
    command = [sys.executable, "-m", "benchmarks.speed.operations", "--child", str(file), *COMMON, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    cost = Cost(**json.loads(done.stdout.splitlines()[-1]))
    print(f"{folder.name}: {cost}", flush=True)
    return cost


Tracked = tuple[str, str, Cost]
"""Family, store, and the cost of the run."""


def tracked_runs(folder: Path, lakes: int, robots: int) -> list[Tracked]:
    """Runs of short tasks (lakes) and of robots with each store; PostgreSQL is left out if it is not installed."""
    nested, patient = "a nested run for each task", ("--tracking.flush_timeout_seconds", "600")
    plain = tracked(LAKES, [*_size(lakes), *patient], folder / "lakes-0")
    flat = tracked(LAKES, [*_size(lakes // 5), *patient, "--tracking.task_runs", "false"], folder / "lakes-1")
    robot = tracked(ROBOTS, [*_size(robots), *patient], folder / "robots-0")
    runs = [
        ("frozen_lake", f"SQLite, {nested}", plain),
        ("frozen_lake", "SQLite, no nested runs", flat),
        ("half_cheetah", f"SQLite, {nested}", robot),
    ]
    try:
        with postgres() as uri:
            cost = tracked(LAKES, [*_size(lakes // 5), *patient], folder / "lakes-p", uri)
            runs.append(("frozen_lake", f"PostgreSQL, {nested}", cost))
            cost = tracked(ROBOTS, [*_size(robots), *patient], folder / "robots-1", uri)
            runs.append(("half_cheetah", f"PostgreSQL, {nested}", cost))
    except NotInstalledError as error:
        print(error)
    return runs


def tracking_lines(runs: Sequence[Tracked]) -> list[str]:
    """The section on tracking."""
    rows = [
        [
            family,
            store,
            cost.tasks,
            f"{cost.wall:.1f}",
            f"{1000 * cost.sender_cpu / cost.tasks:.1f}",
            f"{100 * cost.cpu_share:.2f} %",
            f"{100 * cost.share:.2f} %",
        ]
        for family, store, cost in runs
    ]
    columns = ["tasks of", "store", "tasks", "wall (s)", "CPU of tracking, ms a task", "share of both cores"]
    return [
        "## Tracking",
        "",
        "One thread of the driver sends the events. The run waits for tracking only to write events to disk, and at "
        "its end until everything is sent. Bound: 1 % of the wall-clock time at 1,000 tasks.",
        "",
        *table([*columns, "share of time waited"], rows),
    ]


def _size(tasks: int) -> tuple[str, str]:
    return "--family.num_tasks", str(tasks)


def report_lines(run: Path) -> list[str]:
    """The section on the time and size of the report of a run with many tasks."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "distributed.cli", "report", str(run)],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        seconds.append(time.perf_counter() - began)
    size = (run / "report.html").stat().st_size
    tasks = json.loads((run / "summary.json").read_text(encoding="utf-8"))["num_tasks"]
    return [
        "## Report",
        "",
        *table(
            ["tasks", "`metasrl report`, complete command (s, median of 3)", "bound", "report.html (MB)", "bound"],
            [[tasks, f"{statistics.median(seconds):.1f}", "10", f"{size / 1e6:.2f}", "5"]],
        ),
    ]


def submission_lines(folder: Path, rounds: int) -> list[str]:
    """The section on the same run file directly and through the Jobs API, interleaved on the same head."""
    found: dict[str, list[float]] = {"directly": [], "submitted": []}
    words = [str(LAKES), "--family.num_tasks", "48", "--evaluation.num_test_tasks", "4", "--tracking.enabled", "false"]
    with ray_head("t" * 32) as head:
        for number in range(rounds):
            for name, seconds in found.items():
                seconds.append(_timed(name, head, [*words, "--output.run_dir", str(folder / f"{name}-{number}")]))
                print(f"{name}: {seconds[-1]:.1f} s", flush=True)
    direct, submitted = (statistics.median(seconds) for seconds in found.values())
    return [
        "## Submission",
        "",
        f"48 lakes on a running head, medians of {rounds} interleaved rounds; submitting packs and uploads the "
        "checkout.",
        "",
        *table(
            ["`metasrl train` on the cluster (s)", "`metasrl submit` (s)", "difference (s)", "ratio"],
            [[f"{direct:.1f}", f"{submitted:.1f}", f"{submitted - direct:.1f}", f"{submitted / direct:.2f}"]],
        ),
    ]


def _timed(name: str, head: Head, words: Sequence[str]) -> float:
    here = ["train", *words, "--cluster.address", head.address]
    there = ["submit", *words, "--address", head.dashboard]
    command = [str(BIN / "python"), "-m", "distributed.cli", *(here if name == "directly" else there)]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=head.environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return time.perf_counter() - began


def main() -> None:
    """Measure and write the page; ``--quick`` only checks that the benchmark runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run for a minute and write no page")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(vars(child(given.child[0], given.child[1:]))))
        return
    folder = Path(tempfile.mkdtemp(prefix="metasrl-operations-"))
    try:
        lines = tracking_lines(tracked_runs(folder, *((24, 4) if given.quick else (1000, 16))))
        (run,) = (folder / "lakes-0").glob("runs/*/*")
        lines += report_lines(run)
        lines += submission_lines(folder, 1 if given.quick else 2)
        if not given.quick:
            write("operations.md", [*header("Cost of operations", "python -m benchmarks.speed.operations"), *lines])
        else:
            print("\n".join(lines))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
