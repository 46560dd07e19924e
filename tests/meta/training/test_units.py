"""With observed units nothing that is learned depends on the units of rewards and costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import yaml

from meta.learning.settings import LearningRateSettings, MetaSettings
from meta.learning.tabular import MetaState
from meta.methods.workbench import Workbench
from meta.offline.dice_settings import DICESettings
from meta.training.evaluation_settings import EvaluationSettings
from meta.training.experiment import Drawn, Experiment, draw, draw_tasks, units_of_returns
from meta.training.loop import Position, train, training_plan
from meta.training.pool import LocalLearner, LocalPool, solve_in_order
from policies.common.results import Start
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.family_registry import FamilySpec
from tests.support.few_variants import few

RUNS = Path(__file__).resolve().parents[3] / "deploy" / "runs"
TOLERANCE = 1e-4
"""The limits come from a programme that is solved to 1e-7 of the largest entry, and learning amplifies that."""
UNITS = [(1000.0, 1.0), (0.001, 1.0), (1.0, 1000.0), (1e-3, 1e-9), (1e6, 1e3)]


def experiment(reward: float, cost: float, units: Any, method: Any = "ftl", evaluation: Any = "exact") -> Experiment:
    return Experiment(
        FamilySpec(
            "tests.support.scaled_lake:ScaledLake",
            3,
            6,
            {"map_size": 4, "similarity": 4, "reward_unit": reward, "cost_unit": cost},
        ),
        2,
        WithinTaskSettings(num_iterations=4, episodes_per_iteration=5, evaluation=evaluation),
        DICESettings(),
        MetaSettings(learning_rates=LearningRateSettings(units=units, method=method, initial=0.5)),
        EvaluationSettings(num_test_tasks=1),
    )


def trained(given: Experiment) -> tuple[Drawn, MetaState, list[Any]]:
    """The learned state and the branches of every task."""
    branches: list[Any] = []

    class Seen:
        def task_finished(self, finished: Any, result: Any) -> None:
            branches.append((result.task.index, result.branches.tolist()))

        def warmed_up(self, state: Any, steps: Any) -> None:
            """Not of interest."""

        def round_finished(self, state: Any, rows: Any) -> None:
            """Not of interest."""

    pool = LocalPool(given.family)
    drawn = draw(pool, given)
    learner = LocalLearner(given.meta, given.dice, given.within.num_iterations)
    state = train(training_plan(given, drawn), pool, learner, [Seen()], Position(drawn.initial_state(given.meta)))
    return drawn, cast("MetaState", state), branches


@pytest.mark.parametrize("method", ["ftl", "ogd"])
@pytest.mark.parametrize(("reward", "cost"), few(UNITS, 0, 3))
def test_every_decision_is_the_same_in_other_units(reward: float, cost: float, method: str) -> None:
    _, plain, decided = trained(experiment(1.0, 1.0, "observed", method))
    _, scaled, again = trained(experiment(reward, cost, "observed", method))
    assert again == decided
    np.testing.assert_allclose(scaled.learning_rates * [reward, cost], plain.learning_rates, rtol=TOLERANCE)
    np.testing.assert_allclose(scaled.initialization, plain.initialization, atol=TOLERANCE)


def test_sampled_tasks_too() -> None:
    _, plain, decided = trained(experiment(1.0, 1.0, "observed", evaluation="sampled"))
    _, scaled, again = trained(experiment(1000.0, 0.001, "observed", evaluation="sampled"))
    assert again == decided
    np.testing.assert_allclose(scaled.initialization, plain.initialization, atol=TOLERANCE)


def test_absolute_rates_depend_on_the_units() -> None:
    """So the test above can fail; units that are observed are in the state and survive a checkpoint."""
    plain, scaled = (trained(experiment(unit, 1.0, "absolute"))[1] for unit in (1.0, 1000.0))
    assert np.abs(plain.initialization - scaled.initialization).max() > 0.01
    assert plain.rate_units is None
    drawn, state, _ = trained(experiment(1000.0, 2.0, "observed"))
    assert state.rate_units is not None
    np.testing.assert_array_equal(state.rate_units, cast("Any", drawn.units))
    assert state.rate_units[1] == pytest.approx(np.mean([task.limits[0] for task in drawn.train[:2]]))
    again = MetaState.from_arrays(state.to_arrays())
    assert again.sha256() == state.sha256()
    np.testing.assert_array_equal(cast("Any", again.rate_units), state.rate_units)


def test_the_unit_of_the_reward_is_what_there_is_to_gain_and_without_a_model_what_is_earned() -> None:
    given = experiment(1000.0, 2.0, "observed")
    pool = LocalPool(given.family)
    drawn = draw(pool, given)
    start = Start(drawn.fresh, np.full(2, 1e-4))
    results = solve_in_order(pool, drawn.train[:2], start, given.within)
    earned = np.mean([result.values[0, 0] for result in results])
    optimum = np.mean([cast("Any", result.reference).values[0] for result in results])
    assert units_of_returns(results, 0.9)[0] == pytest.approx(optimum - earned)
    assert units_of_returns(results, 0.9)[0] == pytest.approx(cast("Any", drawn.units)[0], rel=1e-12)
    blind = [dataclasses.replace(result, reference=None) for result in results]
    assert units_of_returns(blind, 0.9)[0] == pytest.approx(earned)
    network = [dataclasses.replace(result, solution=None) for result in blind]
    per_step = [0.1 * earned, 0.1 * np.mean([task.limits[0] for task in drawn.train[:2]])]
    np.testing.assert_allclose(units_of_returns(network, 0.9), per_step)
    nothing = [dataclasses.replace(one, values=np.zeros_like(one.values)) for one in blind]
    assert units_of_returns(nothing, 0.9)[0] == 1.0


def test_other_units_are_what_a_run_file_without_the_key_has() -> None:
    """The default does not depend on the units; decisions that were published name theirs."""
    assert LearningRateSettings().units == "observed"
    named = [yaml.safe_load(path.read_text()) for path in sorted(RUNS.rglob("*.yaml"))]
    assert {one["meta"]["learning_rates"]["units"] for one in named} == {"absolute"}


def test_a_run_goes_on_with_the_units_that_it_began_with() -> None:
    given = experiment(1000.0, 2.0, "observed")
    drawn = draw_tasks(LocalPool(given.family), given)
    assert drawn.units is None
    state = dataclasses.replace(drawn, units=np.array([3.0, 4.0])).initial_state(given.meta)
    np.testing.assert_array_equal(cast("Any", drawn.continued(state).units), [3.0, 4.0])


def test_the_rates_of_other_methods_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    given = experiment(1000.0, 2.0, "observed")
    pool = LocalPool(given.family)
    drawn = draw(pool, given)
    bench = Workbench(pool, LocalLearner(given.meta, given.dice, 4), given.dice, given, drawn, drawn.train)
    np.testing.assert_allclose(bench.rates(0.5) * cast("Any", drawn.units), [0.5, 0.5])
    np.testing.assert_array_equal(bench.fixed(drawn.fresh, 0.5).learning_rates, bench.rates(0.5))
