"""Do two initialisations help where tasks come in two groups? The run file of the clustered lakes, on a few seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distributed.settings.run_file import load_config
from meta.judging.held_out import HeldOut, hold_out
from meta.learning.groups import GroupedState, is_whole
from meta.training.experiment import draw
from meta.training.loop import Position, TrainingPlan, train
from meta.training.pool import LocalLearner, LocalPool

RUN_FILE = Path(__file__).resolve().parent.parent / "deploy" / "runs" / "frozen_lake_clustered.yaml"


def _held_out(seed: int, count: int) -> HeldOut:
    options = {"seed": seed, "meta.num_initializations": count, "tracking.enabled": "false"}
    config = load_config(RUN_FILE, [(key, str(value)) for key, value in options.items()])
    experiment = config.experiment
    pool = LocalPool(experiment.family)
    drawn = draw(pool, experiment)
    learner = LocalLearner(experiment.meta, experiment.dice, experiment.within.num_iterations)
    plan = TrainingPlan(drawn.train, experiment.tasks_per_round, experiment.within)
    state = train(plan, pool, learner, [], Position(drawn.initial_state(experiment.meta)))
    assert not isinstance(state, GroupedState) or not is_whole(state)
    return hold_out(pool, drawn.test, state.start, experiment.held_out_within)


@pytest.mark.slow
def test_two_starts_break_fewer_limits_than_one() -> None:
    """Four seeds, 20 held-out lakes each: the violation during adaptation at least halves, the gap stays small."""
    one, two = ([_held_out(seed, count) for seed in range(400, 404)] for count in (1, 2))
    violations = [np.mean([item.violation_during.mean for item in found]) for found in (one, two)]
    assert violations[1] < 0.5 * violations[0]
    assert np.mean([item.gap.mean for item in two]) < 0.1
    assert all(min(item.starts_used) > 0 for item in two), "held-out lakes come from both groups"
