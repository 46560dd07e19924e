"""The meta-learner with every within-task rule: the whole way from a run file to a learned state, twice alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distributed.settings.run_file import load_config
from meta.training.experiment import draw
from meta.training.loop import Position, TrainingPlan, train
from meta.training.pool import LocalLearner, LocalPool
from policies.rules.rule_registry import CRPO_METHOD, RULES

RUNS = Path(__file__).resolve().parents[3] / "deploy" / "runs"
LAKES = {"family.num_tasks": "4", "cluster.tasks_per_round": "2", "within_task.num_iterations": "3"}
WIDER = {"pcrpo": {"within_task.method.below": "0.9", "within_task.method.above": "3.0"}}
"""The steps on lakes leap over the default band, outside of which the rule is CRPO's."""
ROBOT = {
    "family.num_tasks": "2",
    "cluster.tasks_per_round": "2",
    "within_task.num_iterations": "2",
    "within_task.steps_per_iteration": "800",
    "within_task.num_copies": "4",
    "meta.learning_rates.method": "ftl",
}


def _digest(run: str, overrides: dict[str, str]) -> str:
    config = load_config(RUNS / f"{run}.yaml", list(overrides.items()))
    experiment = config.experiment
    pool = LocalPool(experiment.family)
    learner = LocalLearner(experiment.meta, experiment.dice, experiment.within.num_iterations)
    drawn = draw(pool, experiment)
    plan = TrainingPlan(drawn.train, experiment.tasks_per_round, experiment.training_within)
    state = train(plan, pool, learner, [], Position(drawn.initial_state(experiment.meta)))
    assert np.isfinite(state.learning_rates).all()
    assert (state.learning_rates > 0.0).all()
    return state.sha256()


OTHERS = [name for name in RULES if name != CRPO_METHOD.name]


@pytest.mark.parametrize(
    ("method", "evaluation"),
    [
        ("cpo", "exact"),
        *(pytest.param(name, how, marks=pytest.mark.slow) for name in OTHERS for how in ("exact", "sampled")),
    ],
)
def test_tables(method: str, evaluation: str) -> None:
    given = {**LAKES, "within_task.evaluation": evaluation}
    own = {**given, "within_task.method.name": method, **WIDER.get(method, {})}
    assert _digest("frozen_lake", own) == _digest("frozen_lake", own) != _digest("frozen_lake", given)


@pytest.mark.slow
@pytest.mark.parametrize("method", OTHERS)
def test_networks(method: str) -> None:
    own = {**ROBOT, "within_task.method.name": method}
    found = _digest("half_cheetah_velocity", own)
    assert found == _digest("half_cheetah_velocity", own)
