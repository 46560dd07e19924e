"""The meta-learner's share of the wall-clock time of training on HalfCheetah with contexts, with two workers on Ray."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import ray

from benchmarks.result_page import header, table, write
from benchmarks.speed.lakes import workplace
from distributed.settings.run_file import load_config
from meta.training.experiment import draw
from meta.training.loop import Position, train, training_plan

RUN = Path("deploy/runs/half_cheetah_velocity_context.yaml")
SMALLER = [("meta.warm_up.rounds", "40"), ("family.num_tasks", "16")]
"""Direct and online steps in the proportion of a run of minutes; each takes as long as in the whole run."""
REPEATS = 2


def shares() -> tuple[list[float], list[float]]:
    """Busy seconds of the meta-learner over wall seconds, of direct steps alone and of online steps alone."""
    config = load_config(RUN, SMALLER)
    experiment = config.experiment
    found: tuple[list[float], list[float]] = [], []
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for _ in range(REPEATS):
            with workplace(experiment, 2) as (pool, learner):
                drawn = draw(pool, experiment)
                marks = [(time.perf_counter(), 0.0)]

                class Seen:
                    def task_finished(self, finished: object, result: object) -> None:
                        """Not of interest."""

                    def warmed_up(self, state: object, steps: object) -> None:
                        """The last of these is the end of the direct steps."""
                        self.direct = time.perf_counter(), learner.busy_seconds()

                    def round_finished(self, state: object, rows: object) -> None:
                        """Not of interest."""

                seen = Seen()
                plan = training_plan(experiment, drawn)
                train(plan, pool, learner, [seen], Position(drawn.initial_state(experiment.meta)))
                marks += [seen.direct, (time.perf_counter(), learner.busy_seconds())]
                for part, (before, after) in zip(found, itertools.pairwise(marks), strict=True):
                    part.append((after[1] - before[1]) / (after[0] - before[0]))
    finally:
        ray.shutdown()
    return found


def section() -> list[str]:
    """The table of the page."""
    direct, online = shares()
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
