"""Speed of training against raw physics, with one worker and two; writes docs/results/training_speed.md in minutes."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.result_page import header, table, write
from benchmarks.speed.training_worker import CONTEXT, COPIES, HORIZON, NAVIGATION

STEPS = COPIES * HORIZON
_ROBOTS = {"half_cheetah": 12, CONTEXT: 12, "hopper": 6, "walker2d": 5, "ant": 3, "humanoid": 2}
TASKS = {**_ROBOTS, "acrobot": 20, NAVIGATION: 5}
"""Iterations of each run with one worker and with two, chosen to take about two seconds."""

Clock = dict[str, float]
Round = dict[str, Clock]


class WorkerProcess:
    """A process of :mod:`benchmarks.speed.training_worker`; several can compute at the same time."""

    def __init__(self, name: str) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.speed.training_worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parent.parent.parent,
            env={**os.environ, **threads},
        )
        self.answer()

    def send(self, command: str) -> None:
        """Begin a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the answer to the last command."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with exit code {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """End the process and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(name: str, iterations: int, rounds: int) -> tuple[list[Round], list[tuple[Clock, list[Clock]]]]:
    """Rounds of parts and pairs (one worker alone, then two at the same time), interleaved."""
    workers = [WorkerProcess(name), WorkerProcess(name)]
    parts: list[Round] = []
    pairs = []
    try:
        for _ in range(rounds):
            parts.append(_ask(workers[0], "round"))
            alone = _ask(workers[0], f"train {iterations}")
            for worker in workers:
                worker.send(f"train {iterations}")
            pairs.append((alone, [worker.answer() for worker in workers]))
    finally:
        for worker in workers:
            worker.close()
    return parts, pairs


def _ask(worker: WorkerProcess, command: str) -> Any:
    worker.send(command)
    return worker.answer()


def speed_row(name: str, parts: Sequence[Round]) -> list[str]:
    """Steps per CPU second, then ratios to raw by CPU and by wall clock."""
    rates = {key: STEPS / statistics.median(part[key]["cpu"] for part in parts) for key in parts[0] if key != "critic"}
    training = STEPS / statistics.median(_training(part, "cpu") for part in parts)
    cells = [name, _count(rates.get("raw")), _count(rates["sampling"]), _count(training)]
    if "raw" not in parts[0]:
        return [*cells, "", "", ""]
    by_cpu = [_spread([part["raw"]["cpu"] / part["sampling"]["cpu"] for part in parts])]
    for clock in ("cpu", "wall"):
        by_cpu.append(_spread([part["raw"][clock] / _training(part, clock) for part in parts]))
    return [*cells, *by_cpu]


def profile_row(name: str, parts: Sequence[Round]) -> list[str]:
    """Percent of a training iteration's CPU seconds by part; the critic's share of the update is by wall clock."""
    shares: list[list[float]] = []
    for part in parts:
        whole = _training(part, "cpu")
        raw, batch = part.get("raw", {"cpu": 0.0})["cpu"], part["batch"]["cpu"]
        critic = part["update"]["cpu"] * min(1.0, part["critic"]["wall"] / part["update"]["wall"])
        pieces = [raw, batch - raw, part["sampling"]["cpu"] - batch, part["update"]["cpu"] - critic, critic]
        shares.append([100.0 * piece / whole for piece in pieces])
    cells = [f"{statistics.median(column):.0f}" for column in zip(*shares, strict=True)]
    if "raw" not in parts[0]:
        cells[0] = ""
    whole_time = statistics.median(1000.0 * _training(part, "cpu") for part in parts)
    return [name, f"{whole_time:.0f}", *cells]


def scaling_row(name: str, pairs: Sequence[tuple[Clock, list[Clock]]]) -> list[str]:
    """Steps per second of two workers against one, and the peak memory of each."""
    by_wall = [sum(alone["wall"] / clock["wall"] for clock in both) for alone, both in pairs]
    by_cpu = [sum(alone["cpu"] / clock["cpu"] for clock in both) for alone, both in pairs]
    waited = statistics.median(clock["wall"] / clock["cpu"] for _, both in pairs for clock in both)
    peak = [max(both[index]["peak_mb"] for _, both in pairs) for index in (0, 1)]
    one = statistics.median(alone["steps"] / alone["wall"] for alone, _ in pairs)
    return [name, f"{one:,.0f}", _spread(by_wall), _spread(by_cpu), f"{waited:.2f}", f"{peak[0]:.0f}, {peak[1]:.0f}"]


def _training(part: Round, clock: str) -> float:
    return part["sampling"][clock] + part["update"][clock]


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


Found = dict[str, tuple[list[Round], list[tuple[Clock, list[Clock]]]]]
"""The rounds of parts and the pairs of :func:`measure`, by task."""


def page(found: Found, rounds: int) -> list[str]:
    """The lines of docs/results/training_speed.md."""
    ratios = ["sampling / raw, CPU", "training / raw, CPU", "training / raw, wall"]
    return [
        *header("Speed of training", "python -m benchmarks.speed.training_speed"),
        f"Neural CRPO on the variant speed_limit (acrobot: its two costs; {CONTEXT}: the variant velocity, with the "
        f"target speed as a context in the observations), {STEPS:,} steps an iteration in {COPIES} "
        f"copies, episodes of at most {HORIZON} steps, two layers of 64 units for actor and critic, default settings, "
        f"one thread. Medians of {rounds} interleaved rounds, with their range. raw: only the physics of the episodes "
        "that the policy sampled in that round (`mj_step`, one copy after the other). training: sampling and the "
        "complete update.",
        "",
        *table(
            ["task", "raw, steps per CPU s", "sampling", "training", *ratios],
            [speed_row(name, parts) for name, (parts, _) in found.items()],
        ),
        "Targets: training / raw at least 0.5 on half_cheetah, also with a context, sampling / raw at least 0.75. "
        "Acrobot needs no physics engine.",
        "",
        *profile_section(found),
        *scaling_section(found),
    ]


def profile_section(found: Found) -> list[str]:
    """Where the CPU time of an iteration goes."""
    return [
        "## Where a second goes",
        "",
        "Percent of the CPU time of an iteration. environment: observations, reward, cost, ends and checks. policy: "
        "the policy's calls, noise, storing and checks. step: estimates, advantages, natural gradient and line search.",
        "",
        *table(
            ["task", "CPU ms an iteration", "physics", "environment", "policy", "step", "critic fit"],
            [profile_row(name, parts) for name, (parts, _) in found.items()],
        ),
        "Acrobot's physics counts as environment. Environment and policy are differences between two successive "
        "measurements, so a small share can be negative.",
        "",
    ]


def scaling_section(found: Found) -> list[str]:
    """One worker against two."""
    return [
        "## One worker and two",
        "",
        "Two processes that train at the same time, against one that trained alone just before. The wall-clock ratio "
        "depends on what else the machine does: the column `wall / CPU` shows wall seconds per CPU second of the two "
        "(1.00: each had a core to itself). The ratio by CPU seconds shows what they cost each other in caches and "
        "memory.",
        "",
        *table(
            ["task", "one, steps per s", "two / one, wall", "two / one, CPU", "wall / CPU", "peak memory of each, MB"],
            [scaling_row(name, pairs) for name, (_, pairs) in found.items()],
        ),
        "Target: two / one at least 1.8 on half_cheetah. Peak memory is the maximum resident memory of the process, "
        "including Python, NumPy, SciPy, Gymnasium and MuJoCo.",
    ]


def main() -> None:
    """Measure every task; write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found = {name: measure(name, iterations, rounds) for name, iterations in TASKS.items()}
    write("training_speed.md", page(found, rounds))


if __name__ == "__main__":
    main()
