"""The share of a comparison's work: never backwards, and complete at the end, for every method of a training run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from meta.judging.held_out import compare_starts
from meta.judging.protocol import judge, tune
from meta.judging.work_done import CountedPool, WorkDone, learning_stage, solving_stage, stages_of
from meta.learning.settings import MetaSettings
from meta.methods.workbench import Workbench
from meta.offline.dice_settings import DICESettings
from meta.training.evaluation_settings import EvaluationSettings, GridPoint
from meta.training.experiment import Experiment, draw, measure_similarity
from meta.training.pool import LocalLearner, LocalPool
from policies.common.results import Start
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.family_registry import FamilySpec


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment(
        FamilySpec("frozen_lake", 1, 8, {"map_size": 4}),
        4,
        WithinTaskSettings(),
        DICESettings(),
        MetaSettings(),
        EvaluationSettings(num_test_tasks=4, grid_tasks=4, rate_grid=(0.1, 1.0), pretrain_iterations=40),
    )


def test_shares_follow_the_expected_work() -> None:
    told: list[tuple[str, float]] = []
    work = WorkDone(lambda what, share: told.append((what, round(share, 3))), [("a", 10.0), ("b", 0.0), ("c", 30.0)])
    assert work.share == 0.0
    work.begin("a")
    work.did(5.0)
    work.did(50.0)  # more than expected: it counts for no more
    work.begin("c")  # b is left out
    work.did(30.0)
    assert told == [("a", 0.0), ("a", 0.125), ("a", 0.25), ("c", 0.25), ("c", 1.0)]
    with pytest.raises(ValueError, match="no stage 'a'"):
        work.begin("a")


@pytest.mark.parametrize("updates", [None, 2])
@pytest.mark.parametrize(
    "methods",
    [
        ("random", "pretrained", "simple_average", "fal", "oracle", "meta_srl"),
        ("fal", "meta_srl", "random", "pretrained"),
    ],
)
def test_every_method_is_counted_as_expected(
    experiment: Experiment, methods: tuple[str, ...], updates: int | None
) -> None:
    """Whether new tasks take as many updates as training tasks, or fewer."""
    experiment = replace(experiment, evaluation=experiment.evaluation.model_copy(update={"num_iterations": updates}))
    pool = LocalPool(experiment.family)
    drawn = draw(pool, experiment)
    learner = LocalLearner(experiment.meta, experiment.dice, experiment.within.num_iterations)
    similar = measure_similarity(pool, experiment, drawn)
    own = Start(drawn.fresh, np.ones(1 + drawn.num_costs))
    told: list[tuple[str, float]] = []
    compare_starts(
        pool, learner, experiment, drawn, methods, own, similar, lambda what, share: told.append((what, share))
    )
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert {what for what, _ in told} == {
        *(learning_stage(name) for name in methods if name != "meta_srl"),
        *(solving_stage(name) for name in methods),
    }
    # each stage fills its own part: the expectation is what the method needs
    bench = Workbench(pool, learner, experiment.dice, experiment, drawn, drawn.for_baselines, similar=similar)
    total, before = sum(work for _, work in stages_of(methods, bench)), 0.0
    for name, work in stages_of(methods, bench):
        before += work
        last = [share for what, share in told if what == name][-1]
        assert last == pytest.approx(before / total), name


def test_a_counted_pool_changes_no_result(experiment: Experiment) -> None:
    pool = LocalPool(experiment.family)
    drawn = draw(pool, experiment)
    start = Start(drawn.fresh, np.ones(1 + drawn.num_costs))
    counted: list[float] = []

    class Count:
        def did(self, work: float) -> None:
            counted.append(work)

    plain, other = (
        [solved.result.values for solved in one.solve(drawn.test, start, experiment.within, collect=False)]
        for one in (pool, CountedPool(pool, Count()))
    )
    np.testing.assert_array_equal(plain, other)
    assert counted == [float(experiment.within.num_iterations)] * len(drawn.test)


@pytest.mark.parametrize("method", ["meta_srl", "fal"])
def test_cells_report_up_to_their_end(experiment: Experiment, method: str) -> None:
    told: list[float] = []
    judge(experiment, method, GridPoint(rate=1.0), report=lambda what, share: told.append(share))
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    told.clear()
    fewer = replace(experiment, evaluation=experiment.evaluation.model_copy(update={"tuning_tasks": 2}))
    tune(fewer, method, report=lambda what, share: told.append(share))
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
