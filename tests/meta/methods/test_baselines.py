from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from meta.judging.held_out import compare_starts, hold_out
from meta.judging.tuned_starts import starts_of, tuned_start
from meta.judging.work_done import CountedPool
from meta.learning.settings import LearningRateSettings, MetaSettings
from meta.methods.registry import METHODS
from meta.methods.workbench import Learned, Workbench, mean_score
from meta.offline.dice_settings import DICESettings
from meta.training.evaluation_settings import EvaluationSettings, GridPoint
from meta.training.experiment import Drawn, Experiment, draw, measure_similarity
from meta.training.pool import LocalLearner, LocalPool
from policies.common.results import Start
from policies.tabular.crpo import WithinTaskSettings
from policies.tabular.kernel_table import shrink
from tasks.contract.family_registry import FamilySpec
from tasks.contract.tabular_model import FloatArray

EXPERIMENT = Experiment(
    FamilySpec("frozen_lake", 1, 8, {"map_size": 4}),
    4,
    WithinTaskSettings(),
    DICESettings(),
    MetaSettings(learning_rates=LearningRateSettings(units="absolute")),
    EvaluationSettings(num_test_tasks=4, grid_tasks=4, rate_grid=(0.1, 1.0), pretrain_iterations=40),
)
LEARNER = LocalLearner(MetaSettings(), DICESettings(), 5)


@pytest.fixture(scope="module")
def pool() -> LocalPool:
    return LocalPool(EXPERIMENT.family)


@pytest.fixture(scope="module")
def drawn(pool: LocalPool) -> Drawn:
    return draw(pool, EXPERIMENT)


@pytest.fixture(scope="module")
def bench(pool: LocalPool, drawn: Drawn) -> Workbench:
    return Workbench(pool, LEARNER, EXPERIMENT.dice, EXPERIMENT, drawn, drawn.train)


def test_random_is_uniform_with_the_better_rate_of_the_grid(bench: Workbench) -> None:
    scores = {
        rate: mean_score(bench.solve(bench.grid_tasks, bench.fixed(bench.drawn.fresh, rate))) for rate in (0.1, 1.0)
    }
    assert scores[0.1] != scores[1.0]
    start = bench.random
    np.testing.assert_array_equal(start.initialization, 0.25)
    np.testing.assert_array_equal(start.learning_rates, min(scores, key=lambda rate: scores[rate]))


def test_a_grid_of_one_rate_is_not_tried(pool: LocalPool, drawn: Drawn) -> None:
    """Nothing is solved where there is nothing to choose; the same start comes out."""
    solved: list[float] = []

    class Count:
        def did(self, work: float) -> None:
            solved.append(work)

    one = replace(EXPERIMENT, evaluation=EXPERIMENT.evaluation.model_copy(update={"rate_grid": (1.0,)}))
    counted = CountedPool(pool, Count())
    bench = Workbench(counted, LEARNER, one.dice, one, drawn, drawn.train)
    assert bench.random.learning_rates.tolist() == [1.0, 1.0]
    assert solved == []
    starts_of(("fal",), bench, bench.random)
    assert len(solved) == len(drawn.train), "fal learns once from every training task"


def test_a_start_gets_the_rate_that_is_best_for_as_many_updates_as_a_new_task_takes(
    pool: LocalPool, drawn: Drawn
) -> None:
    """15 updates ask for a smaller rate than one; baselines learn at the one and are judged at the other."""
    evaluation = EXPERIMENT.evaluation.model_copy(update={"num_iterations": 1, "rate_grid": (0.3, 3.0, 30.0)})
    within = WithinTaskSettings(num_iterations=15)
    deep = replace(EXPERIMENT, within=within, evaluation=evaluation)
    bench = Workbench(pool, LEARNER, deep.dice, deep, drawn, drawn.train)

    def best(updates: int) -> float:
        settings = within.model_copy(update={"num_iterations": updates})
        return min(
            evaluation.rate_grid,
            key=lambda rate: mean_score(bench.solve(bench.grid_tasks, bench.fixed(drawn.fresh, rate), settings)),
        )

    assert (bench.training_rate, float(bench.random.learning_rates[0])) == (best(15), best(1))
    assert best(15) != best(1)


def test_baselines_learn_at_a_rate_of_the_grid_also_in_observed_units(pool: LocalPool) -> None:
    """A rate in units is turned into absolute numbers once, not twice."""
    meta = MetaSettings(learning_rates=LearningRateSettings(units="observed"))
    observed = replace(EXPERIMENT, meta=meta)
    drawn = draw(pool, observed)
    bench = Workbench(pool, LEARNER, observed.dice, observed, drawn, drawn.train)
    assert drawn.units is not None
    assert bench.training_rate in EXPERIMENT.evaluation.rate_grid
    rates: list[FloatArray] = []

    def learn(given: Workbench, point: GridPoint) -> Learned:
        rates.append(given.start(drawn.fresh, point).learning_rates)
        return given.learned(drawn.fresh, point)

    tuned_start(replace(METHODS["simple_average"], forms={"tabular": learn}), bench)
    np.testing.assert_array_equal(rates, [bench.rates(bench.training_rate)])


def test_simple_average_averages_the_policies_of_all_training_tasks(bench: Workbench, drawn: Drawn) -> None:
    policies = [result.policy for result in bench.solve(drawn.train, bench.random)]
    np.testing.assert_allclose(
        tuned_start(METHODS["simple_average"], bench).initialization, shrink(np.mean(policies, axis=0), 0.01)
    )


def test_fal_follows_the_average_of_the_policies_so_far(bench: Workbench, drawn: Drawn) -> None:
    start = tuned_start(METHODS["fal"], bench)
    rate = float(start.learning_rates[0])
    first = bench.solve(drawn.train[:4], bench.fixed(bench.drawn.fresh, rate))
    average = shrink(np.mean([result.policy for result in first], axis=0), 0.01)
    second = bench.solve(drawn.train[4:], bench.fixed(average, rate))
    expected = np.mean([result.policy for result in [*first, *second]], axis=0)
    np.testing.assert_allclose(start.initialization, shrink(expected, 0.01))


def test_oracle_starts_from_the_minimiser_of_the_task_similarity(
    pool: LocalPool, drawn: Drawn, bench: Workbench
) -> None:
    similar = measure_similarity(pool, EXPERIMENT, drawn)
    assert similar is not None
    meta_srl = Start(bench.drawn.fresh, np.ones(2))
    starts = starts_of(("oracle", "meta_srl"), replace(bench, similar=similar), meta_srl)
    (oracle,) = starts["oracle"].starts
    np.testing.assert_allclose(oracle.initialization, shrink(similar.comparator, 0.01))
    assert starts["meta_srl"] is meta_srl


def test_the_oracle_is_left_out_where_there_is_no_model(bench: Workbench) -> None:
    without = replace(
        bench,
        experiment=replace(
            EXPERIMENT,
            family=FamilySpec(
                "tests.support.user_families:CourierFamily", 1, 8, {"with_model": False, "limit": [5.0, 5.0]}
            ),
        ),
    )
    assert list(starts_of(("oracle", "random"), without, bench.random)) == ["random"]


def test_every_method_is_judged_on_the_same_held_out_tasks(pool: LocalPool, drawn: Drawn, bench: Workbench) -> None:
    similar = measure_similarity(pool, EXPERIMENT, drawn)
    methods = ("random", "pretrained", "simple_average", "fal", "meta_srl", "oracle")
    found = compare_starts(pool, LEARNER, EXPERIMENT, drawn, methods, bench.random, similar)
    assert list(found) == list(methods)
    assert found["meta_srl"].gap == found["random"].gap, "the same start must give the same result"
    assert all(entry.gap.n == 4 and entry.reward_curve.shape == (6,) for entry in found.values())
    assert found["pretrained"].gap.mean < found["random"].gap.mean
    assert found["oracle"].gap.mean < found["random"].gap.mean


def test_held_out_numbers_are_means_over_the_tasks(pool: LocalPool, drawn: Drawn, bench: Workbench) -> None:
    held_out = hold_out(pool, drawn.test, bench.random, EXPERIMENT.within)
    results = bench.solve(drawn.test, bench.random)
    np.testing.assert_allclose(held_out.reward_curve, np.mean([result.values[:, 0] for result in results], axis=0))
    np.testing.assert_allclose(held_out.cost_curve, np.mean([result.values[:, 1:] for result in results], axis=0))
    gaps = [r.reference.values[0] - r.values[r.output, 0] for r in results if r.reference is not None]
    assert held_out.gap.mean == pytest.approx(np.mean(gaps))


def test_training_and_held_out_maps_are_disjoint(drawn: Drawn) -> None:
    maps = {split: {tuple(task.parameters["desc"]) for task in getattr(drawn, split)} for split in ("train", "test")}
    assert not maps["train"] & maps["test"]
