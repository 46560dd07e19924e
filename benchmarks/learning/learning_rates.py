"""How well learned rates recover from a wrong initial rate; ``make results`` writes docs/results/learning_rates.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import ray

from benchmarks.learning.kept_rows import Rows
from benchmarks.result_page import header, table, write
from distributed.cluster.calls import Rules
from distributed.cluster.meta_learner import RayLearner
from distributed.cluster.workplace import Workplace, workplace
from distributed.settings.console import Console
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import load_config
from meta.learning.settings import LearningRateSettings
from meta.measuring.intervals import interval
from meta.training.experiment import draw
from meta.training.loop import Position, TrainingPlan, train
from meta.training.records import column

GRID = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SEEDS = tuple(range(300, 306))


def score(config: RunConfig, place: Workplace, rates: LearningRateSettings) -> float:
    """Mean score of the last half of the training tasks under these learning-rate settings."""
    meta = config.meta.model_copy(update={"learning_rates": rates})
    experiment = config.model_copy(update={"meta": meta}).experiment
    drawn = draw(place.pool, experiment)
    plan = TrainingPlan(drawn.train, experiment.tasks_per_round, experiment.within)
    seen = Rows()
    learner = RayLearner(experiment.meta, experiment.dice, experiment.within.num_iterations, Rules(0))
    train(plan, place.pool, learner, [seen], Position(drawn.initial_state(experiment.meta)))
    ray.kill(learner.actor)
    return float(column(seen.rows, "score")[len(seen.rows) // 2 :].mean())


def always(rate: float) -> LearningRateSettings:
    """One rate for all objectives that is not learned."""
    return LearningRateSettings(units="absolute", method="fixed", initial=rate)


def main() -> None:
    """Find the best fixed rate of the grid, then learn rates from a tenth and from ten times of it."""
    base = load_config(Path("deploy/runs/frozen_lake.yaml"), [("tracking.enabled", "false")])
    console = Console()
    recovered: dict[str, list[float]] = {}
    scores: dict[str, list[float]] = {}
    with workplace(base, console.say) as place:
        for seed in SEEDS:
            config = base.model_copy(update={"seed": seed})
            fixed = {rate: score(config, place, always(rate)) for rate in GRID}
            best = min(fixed, key=lambda rate: fixed[rate])
            for name, factor in (("10x too small", 0.1), ("10x too large", 10.0)):
                wrong = best * factor
                start = fixed.get(wrong) or score(config, place, always(wrong))
                settings = base.meta.learning_rates.model_copy(update={"initial": wrong})
                learned = score(config, place, settings)
                recovered.setdefault(name, []).append((start - learned) / (start - fixed[best]))
                scores.setdefault(name, []).append(start)
                scores.setdefault(f"learned from {name}", []).append(learned)
            scores.setdefault("best fixed", []).append(fixed[best])
            console.say(f"seed {seed}: best fixed {best}; " + ", ".join(f"{k} {v[-1]:.4f}" for k, v in scores.items()))
    lines = header("Recovering from a wrong learning rate", "make results")
    lines += [
        "deploy/runs/frozen_lake.yaml (8x8, high similarity) except for the rates; all objectives start from the same "
        f"rate; seeds {list(SEEDS)}. Score: max(gap, 0) / J_0* plus the violation during adaptation over the "
        "limit, mean over the last half of the training tasks (smaller is better). Recovered: the share of the "
        "difference in score between the wrong fixed rate and the best fixed rate that learning the rate recovers; "
        "above 1, the learned rate beats every fixed rate.",
        "",
        *table(["", "score"], [[name, _formatted(values)] for name, values in scores.items()]),
        *table(
            ["start", "recovered, ratio of means (at least 0.8)", "recovered, mean of seeds"],
            [[name, f"{_ratio(scores, name):.3f}", _formatted(values)] for name, values in recovered.items()],
        ),
    ]
    write("learning_rates.md", lines)


def _ratio(scores: dict[str, list[float]], name: str) -> float:
    start, learned, best = (float(np.mean(scores[key])) for key in (name, f"learned from {name}", "best fixed"))
    return (start - learned) / (start - best)


def _formatted(values: list[float]) -> str:
    found = interval(values)
    return f"{found.mean:.4f} [{found.low:.4f}, {found.high:.4f}]"


if __name__ == "__main__":
    main()
