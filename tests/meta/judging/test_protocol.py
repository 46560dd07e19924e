"""The protocol: equal budgets, choices by the stated score on training tasks, bounds that hold, the same bits again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from meta.judging.protocol import choose, describe, drawn_tasks, judge, point_scores, tune
from meta.judging.task_numbers import Numbers, bound_checks
from meta.learning.settings import LearningRateSettings, MetaSettings
from meta.methods.meta_srl import with_point
from meta.methods.registry import METHODS, grid_of
from meta.offline.dice_settings import DICESettings
from meta.training.evaluation_settings import EvaluationSettings, GridPoint, MethodName
from meta.training.experiment import Experiment
from meta.training.pool import solve_in_order
from policies.common.results import Start
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.family_registry import FamilySpec

EXPERIMENT = Experiment(
    FamilySpec("frozen_lake", 1, 8, {"map_size": 4}),
    4,
    WithinTaskSettings(num_iterations=3, episodes_per_iteration=5, num_copies=5),
    DICESettings(),
    MetaSettings(learning_rates=LearningRateSettings(units="absolute")),
    EvaluationSettings(num_test_tasks=3, grid_tasks=4, tuning_tasks=2, rate_grid=(0.1, 1.0), pretrain_iterations=None),
)


def fitting(method: MethodName) -> GridPoint:
    return grid_of(EXPERIMENT.evaluation, method)[-1]


@pytest.fixture(scope="module")
def judged() -> dict[str, Numbers]:
    return {method: judge(EXPERIMENT, method, fitting(method)) for method in METHODS}


def test_every_method_spends_the_same_iterations_on_the_same_held_out_tasks(judged: dict[str, Numbers]) -> None:
    spent = {method: cell["updates"] for method, cell in judged.items()}
    assert spent.pop("random") == spent.pop("oracle") == 0
    assert set(spent.values()) == {8 * 3}, spent
    optima = {
        method: (np.array(cell["test"]["gap"]) + np.array(cell["test"]["reward"])).tolist()
        for method, cell in judged.items()
    }
    for found in optima.values():
        np.testing.assert_allclose(found, optima["random"], atol=1e-9)
    assert judged["random"]["learning_rates"] == [1.0, 1.0]


def test_the_same_cell_gives_the_same_numbers(judged: dict[str, Numbers]) -> None:
    for method in ("meta_srl", "multitask"):
        again = judge(EXPERIMENT, method, fitting(method))
        assert {**again, "cost": 0} == {**judged[method], "cost": 0}


def test_every_bound_holds_and_is_counted(judged: dict[str, Numbers]) -> None:
    for method, cell in judged.items():
        assert cell["bounds"]["checked"] == cell["bounds"]["held"] >= 3, method
        assert cell["bounds"]["excess"] < 0.0
    assert len(judged["meta_srl"]["bounds"]["tightness"]) == 8 + 3


def test_a_bound_that_does_not_hold_is_counted() -> None:
    """With another comparison policy's occupancy the inequality is not true any more."""
    pool, drawn = drawn_tasks(EXPERIMENT)
    results = solve_in_order(pool, drawn.test, Start(drawn.fresh, np.full(2, 1.0)), EXPERIMENT.within)
    assert bound_checks(results, EXPERIMENT.within)["held"] == bound_checks(results, EXPERIMENT.within)["checked"]
    wrong = []
    for result in results:
        assert result.reference is not None
        better = dataclasses.replace(result.reference, values=result.reference.values + 10.0)
        wrong.append(dataclasses.replace(result, reference=better))
    found = bound_checks(wrong, EXPERIMENT.within)
    assert found["held"] < found["checked"]
    assert found["excess"] > 0.0


def test_a_grid_is_tried_on_training_tasks_of_its_own(judged: dict[str, Numbers]) -> None:
    found = tune(EXPERIMENT, "simple_average")
    assert [item["point"] for item in found["tried"]] == [{"rate": 0.1}, {"rate": 1.0}]
    assert found["updates"] == 2 * 4 * 3
    drawn = drawn_tasks(EXPERIMENT, 6)[1]
    tasks = {tuple(task.parameters["desc"]) for task in drawn.train}
    assert len(drawn.train) == 6
    assert not tasks & {tuple(task.parameters["desc"]) for task in drawn.test}


def test_the_point_of_least_score_is_chosen() -> None:
    def cell(*tried: tuple[float | None, float, float]) -> Numbers:
        return {
            "tried": [
                {
                    "point": {"rate": 1.0 + k},
                    "relative_gap": g,
                    "reward": r,
                    "reward_start": -10.0,
                    "relative_violation_during": v,
                }
                for k, (g, r, v) in enumerate(tried)
            ]
        }

    exact = [cell((0.2, 0.0, 0.1), (-0.5, 0.0, 0.2)), cell((0.2, 0.0, 0.1), (0.1, 0.0, 0.3))]
    assert point_scores(exact, exact) == pytest.approx([0.3, 0.3]), "a gap below 0 counts as none"
    assert choose(exact, exact).rate == 1.0, "ties go to the earlier one"
    sampled = [cell((None, -5.0, 0.6), (None, -2.0, 0.1))]
    assert point_scores(sampled, sampled) == pytest.approx([-0.5 + 0.6, -0.8 + 0.1])
    assert choose(sampled, sampled).rate == 2.0


def test_a_grid_point_changes_what_it_names() -> None:
    meta = with_point(MetaSettings(), GridPoint(rate=0.5, step=0.25, forgetting=0.9), "neural")
    assert (meta.neural.step_size, meta.neural.forgetting) == (0.25, 0.9)
    assert meta.learning_rates.initial == 0.5
    assert meta.initialization == MetaSettings().initialization
    assert with_point(MetaSettings(), GridPoint(), "initialization") == MetaSettings()


def test_a_margin_is_kept_on_training_tasks_alone() -> None:
    bare, careful = (judge(EXPERIMENT, "meta_srl", GridPoint(margin=margin)) for margin in (0.0, 0.6))
    assert np.mean(careful["training"]["violation_during"]) < np.mean(bare["training"]["violation_during"])
    assert careful["bounds"]["checked"] == careful["bounds"]["held"]

    def held_out(margin: float) -> Numbers:
        update = {"safety_margin": margin, "num_iterations": 12}
        evaluation = EXPERIMENT.evaluation.model_copy(update=update)
        return judge(dataclasses.replace(EXPERIMENT, evaluation=evaluation), "meta_srl", GridPoint(margin=0.0))

    without, kept = held_out(0.0), held_out(0.6)
    assert kept["training"] == without["training"]
    assert np.max(kept["curves"]["relative_costs"][-1]) < np.max(without["curves"]["relative_costs"][-1]) - 0.2


def test_a_description_holds_what_no_method_decides() -> None:
    found = describe(EXPERIMENT)
    assert (found["num_train"], found["num_test"]) == (8, 3)
    assert found["similarity"]["task_similarity"] > 0.0
