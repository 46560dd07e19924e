"""The meta-learner's share of the wall-clock time of training on HalfCheetah with contexts, with two workers on Ray."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import ray

from benchmarks.result_page import header, table, write
from benchmarks.speed.lakes import Watcher, workplace
from distributed.settings.run_file import load_config
from meta.training.experiment import Experiment, draw
from meta.training.loop import Position, train, training_plan

RUN = Path("deploy/runs/half_cheetah_velocity_context.yaml")
SMALLER = [("meta.warm_up.rounds", "40"), ("family.num_tasks", "16")]
"""Direct and online steps in the proportion of a run of minutes; each takes as long as in the whole run."""
REPEATS = 2


def shares(experiment: Experiment) -> tuple[float, float]:
    """Busy seconds of the meta-learner over wall seconds, of direct steps alone and of online steps alone."""
    with workplace(experiment, 2) as (pool, learner):
        drawn = draw(pool, experiment)
        marks: list[tuple[float, float]] = []

        def mark() -> None:
            marks.append((time.perf_counter(), learner.busy_seconds()))

        mark()
        watcher = Watcher(lambda num_tasks: None, after_direct=mark)
        train(
            training_plan(experiment, drawn), pool, learner, [watcher], Position(drawn.initial_state(experiment.meta))
        )
        mark()
    begin, direct, end = marks[0], marks[-2], marks[-1]
    return _share(begin, direct), _share(direct, end)


def _share(before: tuple[float, float], after: tuple[float, float]) -> float:
    return (after[1] - before[1]) / (after[0] - before[0])


def section() -> list[str]:
    """The table of the page."""
    experiment = load_config(RUN, SMALLER).experiment
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        direct, online = zip(*(shares(experiment) for _ in range(REPEATS)), strict=True)
    finally:
        ray.shutdown()
    rows = [
        (name, *(f"{value:.4f}" for value in (min(part), float(np.median(part)), max(part))))
        for name, part in (("direct steps (warm-up)", direct), ("online steps", online))
    ]
    return [
        f"`{RUN}` with {', '.join(f'{key}={value}' for key, value in SMALLER)}, two workers on Ray; busy seconds of "
        f"the meta-learner over wall seconds, {REPEATS} runs. Target: at most 0.10.",
        "",
        *table(["part", "min", "median", "max"], rows),
    ]


def main() -> None:
    """Write docs/results/learner_share.md."""
    command = "python -m benchmarks.speed.learner_share"
    write("learner_share.md", [*header("The meta-learner's share with contexts", command), *section()])


if __name__ == "__main__":
    main()
