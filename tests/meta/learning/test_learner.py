from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from meta.estimators.closed_form import estimate
from meta.learning.bounds import initialization_loss, worst_case_curvature
from meta.learning.settings import (
    ContextMap,
    ContextSettings,
    InitializationSettings,
    LearningRateSettings,
    MetaSettings,
)
from meta.learning.tabular import Contribution, MetaState, initial_state, no_memory, update
from meta.learning.tabular_contribution import contribution
from meta.learning.updates import project_to_shrunk_simplex
from meta.offline.diagnostics import Diagnostics
from meta.offline.dice_settings import DICESettings
from meta.training.loop import Finished, Position, TrainingPlan, train
from meta.training.pool import LocalLearner, LocalPool
from meta.training.records import Row, column
from policies.common.results import Start, TaskResult
from policies.exact.drawing import draw_task
from policies.exact.solver import ExactModel, occupancy
from policies.solving.solve_task import solve_task
from policies.tabular.crpo import WithinTaskSettings
from policies.tabular.kernel_table import ContextTable, leader, shrink
from policies.tabular.solving import TaskDataset
from policies.tabular.transitions import Transitions
from tasks.contract.context import ContextSpace
from tasks.contract.contextual_family import Contexts
from tasks.contract.family_registry import FamilySpec
from tasks.contract.tabular_model import TabularModel
from tasks.lakes.frozen_lake import FrozenLake
from tests.support.few_variants import few
from tests.support.meta_helpers import random_rows

STATES, ACTIONS, COSTS, ITERATIONS = 5, 3, 2, 7
SOUND = Diagnostics(1.0, 0.5, 0.0, 0.1, 0.0, regularized=False)


def settings(method: str = "ftl", rates: str = "ftl", **changes: dict[str, object]) -> MetaSettings:
    return MetaSettings(
        initialization=InitializationSettings.model_validate({"method": method, **changes.get("initialization", {})}),
        learning_rates=LearningRateSettings.model_validate({"method": rates, **changes.get("learning_rates", {})}),
    )


def contributions(seed: int, count: int, first: int = 0, weight: float = 1.0) -> list[Contribution]:
    rng = np.random.default_rng([seed, first])
    return [
        Contribution(
            task_index=first + index,
            occupancy=rng.dirichlet(np.ones(STATES)),
            policy=random_rows(rng, STATES, ACTIONS),
            loss=float(rng.uniform(0.1, 2.0)),
            curvature=10.0 ** rng.uniform(-2.0, 2.0, size=1 + COSTS),
            weight=weight,
            diagnostics=SOUND,
            failures=(),
        )
        for index in range(count)
    ]


def fresh(chosen: MetaSettings) -> MetaState:
    return initial_state(chosen, STATES, ACTIONS, COSTS)


def after(chosen: MetaSettings, *rounds: list[Contribution]) -> MetaState:
    state = fresh(chosen)
    for batch in rounds:
        state = update(state, batch, chosen, ITERATIONS)
    return state


METHODS = list(itertools.product(("ftl", "ogd", "fal", "fixed"), ("ftl", "ogd", "fixed")))


def test_starts_from_the_uniform_policy_and_the_initial_rates() -> None:
    state = fresh(settings(learning_rates={"initial": (0.5, 0.1, 2.0)}))
    np.testing.assert_array_equal(state.start.initialization, np.full((STATES, ACTIONS), 1.0 / 3.0))
    np.testing.assert_array_equal(state.start.learning_rates, [0.5, 0.1, 2.0])
    with pytest.raises(ValueError, match=r"2 rates given"):
        fresh(settings(learning_rates={"initial": (0.5, 0.1)}))


@pytest.mark.parametrize(("method", "rates"), METHODS)
def test_order_of_arrival_does_not_change_a_bit(method: str, rates: str) -> None:
    chosen = settings(method, rates)
    batch = contributions(0, 4)
    digests = {
        after(chosen, list(order), contributions(0, 2, first=4)).sha256() for order in itertools.permutations(batch)
    }
    assert len(digests) == 1
    if (method, rates) != ("fixed", "fixed"):
        assert digests != {after(chosen, contributions(1, 4), contributions(0, 2, first=4)).sha256()}


@pytest.mark.parametrize(("method", "rates"), METHODS)
def test_state_in_state_out(method: str, rates: str) -> None:
    chosen = settings(method, rates)
    state, batch = after(chosen, contributions(0, 3)), contributions(0, 3, first=3)
    before = state.sha256()
    for array in _arrays(state) + [array for item in batch for array in _arrays(item)]:
        array.flags.writeable = False
    following = update(state, batch, chosen, ITERATIONS)
    assert state.sha256() == before != following.sha256()
    assert (following.num_rounds, following.num_tasks) == (2, 6)
    assert update(state, batch, chosen, ITERATIONS).sha256() == following.sha256()


def _arrays(item: MetaState | Contribution) -> list[np.ndarray]:
    values = (getattr(item, field.name) for field in dataclasses.fields(item))
    return [value for value in values if isinstance(value, np.ndarray)]


@pytest.mark.parametrize(
    "name", [field.name for field in dataclasses.fields(MetaState) if field.name not in ("experts", "memory")]
)
def test_the_digest_sees_every_bit_of_the_state(name: str) -> None:
    plain = after(settings(), contributions(0, 3))
    state = dataclasses.replace(plain, rate_units=np.ones(plain.learning_rates.size))
    assert state.sha256() != plain.sha256()
    value = getattr(state, name)
    changed = value + 1 if isinstance(value, int) else np.nextafter(value, np.inf)
    assert dataclasses.replace(state, **{name: changed}).sha256() != state.sha256()


@pytest.mark.parametrize("method", ["ftl", "ogd", "fal"])
def test_initialization_stays_in_the_shrunk_simplex(method: str) -> None:
    chosen = settings(method, initialization={"shrinkage": 0.3, "step_size": 50.0})
    state = fresh(chosen)
    for first in range(0, 30, 3):
        state = update(state, contributions(1, 3, first), chosen, ITERATIONS)
        np.testing.assert_allclose(state.initialization.sum(axis=1), 1.0, rtol=0.0, atol=1e-13)
        assert state.initialization.min() >= 0.1 - 1e-15


def test_ftl_is_the_shrunk_leader_of_all_tasks_whatever_the_rounds() -> None:
    chosen, everything = settings(), contributions(0, 6)
    policy_sum = np.sum([item.occupancy[:, None] * item.policy for item in everything], axis=0)
    expected = shrink(leader(policy_sum, chosen.initialization.prior_weight), chosen.initialization.shrinkage)
    for size in (1, 2, 6):
        state = after(chosen, *(everything[first : first + size] for first in range(0, 6, size)))
        np.testing.assert_allclose(state.initialization, expected, rtol=1e-14)


def test_fal_is_the_shrunk_plain_average_and_looks_at_no_weights() -> None:
    chosen, everything = settings("fal"), contributions(0, 6)
    everything[2] = dataclasses.replace(everything[2], weight=0.0)
    expected = shrink(np.mean([item.policy for item in everything], axis=0), chosen.initialization.shrinkage)
    state = after(chosen, everything[:2], everything[2:])
    np.testing.assert_allclose(state.initialization, expected, rtol=1e-14)


@pytest.mark.parametrize("method", ["fal", "ftl"])
def test_a_first_round_without_tasks_leaves_the_start(method: str) -> None:
    state = after(settings(method), [])
    np.testing.assert_array_equal(state.initialization, fresh(settings(method)).initialization)
    np.testing.assert_allclose(
        after(settings(method), [], contributions(0, 3)).initialization,
        after(settings(method), contributions(0, 3)).initialization,
    )


@pytest.mark.parametrize(("schedule", "second"), [("static", 0.7 / np.sqrt(2.0)), ("dynamic", 0.7)])
def test_ogd_is_a_projected_gradient_step_a_round_on_the_summed_losses(schedule: str, second: float) -> None:
    chosen = settings("ogd", initialization={"step_size": 0.7, "schedule": schedule, "shrinkage": 0.05})
    expected = np.full((STATES, ACTIONS), 1.0 / ACTIONS)
    batches = contributions(0, 3), contributions(0, 2, first=3)
    for step, batch in zip((0.7, second), batches, strict=True):
        pull = sum(item.occupancy[:, None] * item.policy / expected for item in batch)
        expected = project_to_shrunk_simplex(expected + step * pull, 0.05)
    np.testing.assert_allclose(after(chosen, *batches).initialization, expected, rtol=1e-13)


@pytest.mark.parametrize("method", ["ftl", "ogd"])
def test_initialization_converges_to_the_policy_of_tasks_that_are_all_alike(method: str) -> None:
    chosen = settings(method, initialization={"shrinkage": 0.01})
    item = contributions(2, 1)[0]
    item = dataclasses.replace(item, occupancy=np.full(STATES, 1.0 / STATES), policy=0.9 * item.policy + 0.1 / ACTIONS)
    state = fresh(chosen)
    losses = []
    for index in range(2000):
        losses.append(initialization_loss(item.occupancy, item.policy, state.initialization))
        state = update(state, [dataclasses.replace(item, task_index=index)], chosen, ITERATIONS)
    assert losses[0] > 0.05
    assert losses[-1] < 1e-3


def test_fixed_keeps_the_start_whatever_comes() -> None:
    chosen = settings("fixed", "fixed", learning_rates={"initial": 0.3})
    state = after(chosen, *(contributions(0, 3, first) for first in range(0, 12, 3)))
    np.testing.assert_array_equal(state.initialization, fresh(chosen).initialization)
    np.testing.assert_array_equal(state.learning_rates, fresh(chosen).learning_rates)
    assert (state.num_rounds, state.num_tasks) == (4, 12)


def test_forgetting_weighs_a_round_by_its_age() -> None:
    chosen = settings(initialization={"forgetting": 0.5}, learning_rates={"forgetting": 0.25})
    old, new = contributions(0, 2), contributions(0, 2, first=2)
    state = after(chosen, old, new)

    def summed(batch: list[Contribution]) -> np.ndarray:
        return np.sum([item.occupancy[:, None] * item.policy for item in batch], axis=0)

    np.testing.assert_allclose(state.policy_sum, 0.5 * summed(old) + summed(new), rtol=1e-14)
    loss = 0.25 * sum(item.loss for item in old) + sum(item.loss for item in new)
    curvature = 0.25 * sum(item.curvature for item in old) + sum(item.curvature for item in new)
    np.testing.assert_allclose(state.learning_rates, np.sqrt(loss / (ITERATIONS * curvature)), rtol=1e-4)


def test_a_forgetful_leader_follows_a_change_that_a_faithful_one_averages_away() -> None:
    before, now = contributions(0, 1)[0], contributions(1, 1)[0]
    sequence = [[dataclasses.replace(before if index < 50 else now, task_index=index)] for index in range(60)]
    distance = []
    for forgetting in (1.0, 0.5):
        state = after(settings(initialization={"forgetting": forgetting}), *sequence)
        distance.append(initialization_loss(now.occupancy, now.policy, state.initialization))
    assert distance[1] < 0.1 * distance[0]


@pytest.mark.parametrize("method", ["ftl", "ogd"])
@pytest.mark.parametrize("rates", ["ftl", "ogd"])
def test_a_contribution_of_weight_zero_changes_nothing(method: str, rates: str) -> None:
    chosen = settings(method, rates)
    sound, failed = contributions(0, 3), contributions(0, 2, first=3, weight=0.0)
    failed[0] = dataclasses.replace(failed[0], curvature=np.array([np.nan, 1.0, np.nan]))
    without, with_failed = after(chosen, sound), after(chosen, sound + failed)
    for name in ("initialization", "learning_rates", "policy_sum", "loss_sum", "curvature_sum"):
        np.testing.assert_array_equal(getattr(with_failed, name), getattr(without, name))
    nothing = after(chosen, failed)
    np.testing.assert_array_equal(nothing.policy_sum, 0.0)
    np.testing.assert_array_equal(nothing.learning_rates, fresh(chosen).learning_rates)


@pytest.mark.parametrize("weight", [0.25, 0.5])
def test_a_weight_is_a_share_of_a_task(weight: float) -> None:
    batch = contributions(0, 2)
    part = after(settings(), [batch[0], dataclasses.replace(batch[1], weight=weight)])
    first, both = after(settings(), batch[:1]), after(settings(), batch)
    for name in ("policy_sum", "loss_sum", "curvature_sum"):
        expected = (1.0 - weight) * getattr(first, name) + weight * getattr(both, name)
        np.testing.assert_allclose(getattr(part, name), expected, rtol=1e-13)


def test_negative_occupancies_do_not_push_the_initialization_away() -> None:
    item = contributions(0, 1)[0]
    mass = item.occupancy.copy()
    mass[1] = -0.2
    clipped = np.maximum(mass, 0.0)
    for method in ("ftl", "ogd"):
        states = [after(settings(method), [dataclasses.replace(item, occupancy=nu)]) for nu in (mass, clipped)]
        assert states[0].sha256() == states[1].sha256()


def test_ftl_rates_are_the_closed_form_on_all_tasks() -> None:
    chosen = settings(learning_rates={"regularizer": 1e-12})
    everything = contributions(0, 6)
    loss, curvature = sum(item.loss for item in everything), sum(item.curvature for item in everything)
    state = after(chosen, everything[:2], everything[2:])
    np.testing.assert_allclose(state.learning_rates, np.sqrt(loss / (ITERATIONS * curvature)), rtol=1e-9)


def test_rates_of_an_objective_that_was_never_stepped_on_stay() -> None:
    unmeasured = np.array([1.0, np.nan, 4.0])
    batch = [dataclasses.replace(item, curvature=unmeasured) for item in contributions(0, 3)]
    for rates in ("ftl", "ogd"):
        chosen = settings(rates=rates, learning_rates={"initial": 0.7})
        learned = after(chosen, batch).learning_rates
        assert learned[1] == 0.7
        assert (learned[[0, 2]] != 0.7).all()


def test_rates_of_an_objective_use_only_the_losses_of_tasks_that_stepped_on_it() -> None:
    chosen = settings(learning_rates={"regularizer": 1e-12})
    stepped, other = contributions(0, 2)
    other = dataclasses.replace(other, curvature=np.array([2.0, np.nan, np.nan]))
    learned = after(chosen, [stepped, other]).learning_rates
    np.testing.assert_allclose(learned[1:], np.sqrt(stepped.loss / (ITERATIONS * stepped.curvature[1:])), rtol=1e-9)


@pytest.mark.parametrize(("rates", "rounds"), [("ftl", 1), ("ogd", 200)])
@pytest.mark.parametrize("initial", [1e-3, 1e2])
def test_rates_find_the_best_one_of_identical_tasks(rates: str, rounds: int, initial: float) -> None:
    chosen = settings(rates=rates, learning_rates={"initial": initial, "step_size": 0.5, "schedule": "dynamic"})
    item = contributions(3, 1)[0]
    state = after(chosen, *([dataclasses.replace(item, task_index=index)] for index in range(rounds)))
    np.testing.assert_allclose(state.learning_rates, np.sqrt(item.loss / (ITERATIONS * item.curvature)), rtol=1e-3)


@pytest.mark.parametrize("rates", ["ftl", "ogd"])
def test_rates_are_clipped(rates: str) -> None:
    chosen = settings(rates=rates, learning_rates={"minimum": 0.5, "maximum": 0.6, "initial": 0.55, "step_size": 5.0})
    steep = dataclasses.replace(contributions(0, 1)[0], curvature=np.array([1e9, 1e-9, 1e-9]))
    np.testing.assert_allclose(after(chosen, [steep]).learning_rates, [0.5, 0.6, 0.6], rtol=1e-15)


def test_ogd_on_rates_slows_down_only_with_the_static_schedule() -> None:
    item = dataclasses.replace(contributions(0, 1)[0], curvature=np.full(1 + COSTS, 1e-12))
    sequence = [[dataclasses.replace(item, task_index=index)] for index in range(4)]
    moved = {}
    for schedule in ("static", "dynamic"):
        chosen = settings(rates="ogd", learning_rates={"schedule": schedule, "initial": 1e-3, "step_size": 0.1})
        moved[schedule] = np.log(after(chosen, *sequence).learning_rates / 1e-3)
    np.testing.assert_allclose(moved["dynamic"], 0.4, rtol=1e-4)
    np.testing.assert_allclose(moved["static"], 0.1 * sum(1.0 / np.sqrt(t) for t in range(1, 5)), rtol=1e-4)


def test_ogd_on_rates_takes_the_mean_slope_of_a_round() -> None:
    chosen = settings(rates="ogd", learning_rates={"initial": 0.2, "step_size": 0.3})
    batch = contributions(0, 3)
    alone = [np.log(after(chosen, [item]).learning_rates / 0.2) for item in batch]
    together = np.log(after(chosen, batch).learning_rates / 0.2)
    np.testing.assert_allclose(together, np.mean(alone, axis=0), rtol=1e-12)


@pytest.fixture(scope="module")
def dataset() -> TaskDataset:
    family = FrozenLake(seed=0, map_size=4, horizon=60)
    task = draw_task(family, "frozen_lake", 0, "train", 2)
    start = initial_state(settings(learning_rates={"initial": 0.5}), 16, 4, 1).start
    within = WithinTaskSettings(num_iterations=8, episodes_per_iteration=50)
    _, collected = solve_task(family, task, start, within, collect=True)
    assert collected is not None
    return collected


def test_contribution_holds_the_estimated_occupancy_and_the_loss_on_it(dataset: TaskDataset) -> None:
    dice = DICESettings()
    found = contribution(dataset, dice, settings())
    expected = estimate(dataset.transitions, dataset.policy, dataset.discount, dataset.horizon, dice)
    np.testing.assert_array_equal(found.occupancy, expected.occupancy)
    np.testing.assert_array_equal(found.policy, dataset.policy)
    direct = expected.occupancy @ (dataset.policy * np.log(dataset.policy * 4.0)).sum(axis=1)
    assert found.loss == pytest.approx(direct, rel=1e-9)
    assert (found.task_index, found.weight, found.failures) == (2, 1.0, ())


def test_contribution_measures_the_curvature_of_each_objective(dataset: TaskDataset) -> None:
    found = contribution(dataset, DICESettings(), settings())
    branches = dataset.solution.branches
    assert set(branches.tolist()) == {0, 1}
    for objective in (0, 1):
        steps = dataset.solution.log_normalizers[branches == objective] @ found.occupancy
        assert found.curvature[objective] == pytest.approx(steps.mean() / 0.5**2, rel=1e-12)


def test_contribution_with_the_shared_curvature_averages_over_all_iterations(dataset: TaskDataset) -> None:
    found = contribution(dataset, DICESettings(), settings(learning_rates={"curvature": "measured_shared"}))
    per_iteration = dataset.solution.log_normalizers @ found.occupancy
    for objective in (0, 1):
        own = dataset.solution.branches == objective
        expected = np.where(own, per_iteration, 0.0).mean() / 0.5**2
        assert found.curvature[objective] == pytest.approx(expected, rel=1e-12)


def test_contribution_with_the_worst_case_curvature(dataset: TaskDataset) -> None:
    measured = contribution(dataset, DICESettings(), settings())
    worst = contribution(dataset, DICESettings(), settings(learning_rates={"curvature": "worst_case"}))
    np.testing.assert_array_equal(worst.curvature, worst_case_curvature(1.0, 16, 4, dataset.discount))
    assert worst.loss == measured.loss
    assert (measured.curvature < 1e-3 * worst.curvature).all()


@pytest.mark.parametrize("failed_weight", [0.0, 0.3])
def test_contribution_that_fails_its_diagnostics_gets_the_failed_weight(
    dataset: TaskDataset, failed_weight: float
) -> None:
    dice = DICESettings(max_flow_residual=1e-9, failed_weight=failed_weight)
    found = contribution(dataset, dice, settings())
    assert found.weight == failed_weight
    assert found.failures == ("flow_residual",)


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        ({"learning_rates": {"initial": -0.1}}, "initial"),
        ({"learning_rates": {"intial": 0.1}}, "intial"),
        ({"initialisation": {}}, "initialisation"),
        ({"initialization": {"method": "ftrl"}}, "method"),
    ],
)
def test_settings_refuse(given: dict[str, object], reported: str) -> None:
    with pytest.raises(ValueError, match=reported):
        MetaSettings.model_validate(given)


RATE_GRID = (0.1, 0.3, 1.0, 3.0, 10.0)
SEEDS = range(300, 306)


class Scores:
    """The scores of training tasks in task order (a tracker of the training loop)."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        del finished, result

    def warmed_up(self, state: Any, steps: Any) -> None:
        raise AssertionError("no direct steps were asked for")

    def round_finished(self, state: MetaState, rows: Sequence[Row]) -> None:
        del state
        self.rows += rows


def late_score(seed: int, method: str, rate: float) -> float:
    """Mean score of the later half of 96 lakes: max(gap, 0) / J*_0 + mean violation of the iterates 0..M / limit."""
    pool = LocalPool(FamilySpec("frozen_lake", seed, 96, {"map_size": 8, "similarity": "high"}))
    rates = {"initial": rate, "curvature": "measured_shared"}
    chosen = settings("ftl", method, initialization={"forgetting": 0.8}, learning_rates=rates)
    scores, within = Scores(), WithinTaskSettings(num_iterations=5, evaluation="exact")
    learner = LocalLearner(chosen, DICESettings(), within.num_iterations)
    plan = TrainingPlan(pool.draw("train", range(96)), 4, within)
    train(plan, pool, learner, [scores], Position(initial_state(chosen, 64, 4, 1)))
    return float(column(scores.rows, "score")[48:].mean())


@pytest.mark.slow
def test_learned_rates_recover_from_ten_times_too_small_and_too_large() -> None:
    """At least 80 % of the difference between the wrong rate kept fixed and the best fixed rate; means over seeds."""
    fixed = {rate: np.mean([late_score(seed, "fixed", rate) for seed in SEEDS]) for rate in RATE_GRID}
    best = min(fixed, key=lambda rate: fixed[rate])
    assert best == 1.0
    for wrong in (0.1 * best, 10.0 * best):
        learned = np.mean([late_score(seed, "ftl", wrong) for seed in SEEDS])
        assert fixed[wrong] - learned >= 0.8 * (fixed[wrong] - fixed[best])


@pytest.fixture(scope="module")
def solved() -> tuple[TabularModel, TaskDataset]:
    """A lake solved from a uniform start with small steps, so that all iterates have data where pi_hat goes."""
    family = FrozenLake(seed=0, map_size=4, similarity="high", hole_ends_episode=True)
    task = draw_task(family, "frozen_lake", 0, "train", index=0)
    start = Start(np.full((16, 4), 0.25), np.full(2, 0.05))
    within = WithinTaskSettings(num_iterations=4, episodes_per_iteration=200)
    _, dataset = solve_task(family, task, start, within, collect=True)
    assert isinstance(dataset, TaskDataset)
    return family.model(task.parameters), dataset


@pytest.mark.parametrize(
    ("estimator", "bound"), [("dualdice_tabular", 0.05), ("dualdice_linear", 0.05), ("importance", 0.15)]
)
def test_a_table_may_have_any_estimator(estimator: str, bound: float, solved: tuple[TabularModel, TaskDataset]) -> None:
    """Their nu_hat is the exact occupancy up to noise; with plain weights it is far from it."""
    model, dataset = solved
    exact, live = occupancy(ExactModel(model), dataset.policy), ~model.absorbing
    dice = DICESettings(estimator=estimator, max_negative_share=1.0, max_flow_residual=2.0)
    item = contribution(dataset, dice, MetaSettings())
    plain = contribution(dataset, DICESettings(estimator="none"), MetaSettings())
    error, without = (float(np.abs(one.occupancy - exact)[live].sum()) for one in (item, plain))
    assert error < bound < 0.3 < without
    again = Contribution.from_arrays(item.to_arrays())
    assert again.to_arrays().keys() == item.to_arrays().keys()
    assert again.diagnostics == item.diagnostics


@pytest.mark.parametrize("estimator", ["dualdice_tabular", "importance"])
def test_an_empty_dataset_leaves_a_task_out(estimator: str, solved: tuple[TabularModel, TaskDataset]) -> None:
    dataset = solved[1]
    nothing = Transitions(*(getattr(dataset.transitions, name)[:0] for name in Transitions.__slots__))
    empty = dataclasses.replace(dataset, transitions=nothing)
    item = contribution(empty, DICESettings(estimator=estimator), MetaSettings())
    assert (item.weight, item.failures, item.problem) == (0.0, ("no_estimate",), "the dataset is empty")
    assert np.isfinite(item.loss)
    chosen, others = settings(), contributions(0, 2)
    fine = [
        dataclasses.replace(
            other,
            policy=random_rows(np.random.default_rng(1), 16, 4),
            occupancy=np.full(16, 1 / 16),
            curvature=np.ones(2),
        )
        for other in others
    ]
    state = initial_state(chosen, 16, 4, 1)
    left_out = dataclasses.replace(item, task_index=5)
    expected = update(state, fine, chosen, ITERATIONS)
    found = update(state, [*fine, left_out], chosen, ITERATIONS)
    np.testing.assert_array_equal(found.initialization, expected.initialization)
    np.testing.assert_array_equal(found.learning_rates, expected.learning_rates)


@pytest.mark.parametrize(
    ("changes", "weight", "failures"),
    [
        ({}, 1.0, ()),
        ({"missing_mass": 0.15}, 0.5, ()),
        ({"missing_mass": 0.15, "flow_residual": 0.9}, 0.2, ()),
        ({"missing_mass": 0.3}, 0.1, ("missing_mass",)),
        ({"flow_residual": float("nan")}, 0.1, ("flow_residual",)),
        ({"effective_sample_size": 0.001 / 0.75}, 0.5, ()),
        ({"negative_share": 0.06}, 0.1, ("negative_share",)),
    ],
)
def test_the_step_of_a_task_falls_with_its_poorest_diagnostic(
    changes: dict[str, float], weight: float, failures: tuple[str, ...]
) -> None:
    dice = DICESettings(estimator="dualdice_tabular", failed_weight=0.1)
    found = dataclasses.replace(SOUND, **changes)
    assert found.trust(dice) == pytest.approx(weight)
    assert found.failures(dice) == failures


def with_contexts(batch: list[Contribution], contexts: list[float]) -> list[Contribution]:
    return [dataclasses.replace(item, context=np.array([c])) for item, c in zip(batch, contexts, strict=True)]


KINDS: dict[ContextMap, str] = {"kernel": "bandwidths", "log_linear": "ridges"}


def conditional(kind: ContextMap, widths: tuple[float, ...], **changes: Any) -> MetaSettings:
    """Settings of a map whose ``widths`` are its bandwidths or ridges."""
    contexts = ContextSettings(map=kind, **{KINDS[kind]: widths}, **changes)
    return settings().model_copy(update={"context": "given", "contexts": contexts})


def remembering(chosen: MetaSettings) -> MetaState:
    one = np.ones(1)
    contexts = Contexts(ContextSpace(("c",), 0.0 * one, one, -one, one, limits=False), np.zeros((1, 1)), hidden=False)
    return dataclasses.replace(fresh(chosen), memory=no_memory(chosen, (STATES, ACTIONS), contexts))


def table_at(state: MetaState, context: float) -> np.ndarray:
    assert isinstance(state.start.initialization, ContextTable)
    return state.start.initialization.at(np.array([context]))


@pytest.mark.parametrize("kind", KINDS)
def test_with_an_infinite_bandwidth_or_ridge_alone_every_start_is_the_plain_one(kind: ContextMap) -> None:
    chosen = conditional(kind, (math.inf,))
    state, plain = remembering(chosen), fresh(settings())
    for first in (0, 3, 6):
        batch = with_contexts(contributions(0, 3, first), [0.1, -2.0, 0.7])
        state, plain = update(state, batch, chosen, ITERATIONS), update(plain, batch, settings(), ITERATIONS)
    for context in (0.0, 5.0):
        np.testing.assert_allclose(table_at(state, context), plain.initialization, rtol=1e-12)
    np.testing.assert_array_equal(state.initialization, plain.initialization)
    np.testing.assert_array_equal(state.learning_rates, plain.learning_rates)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_share_by_their_losses_before_the_round(kind: ContextMap) -> None:
    chosen = conditional(kind, (0.3, math.inf), bandwidth_rate=2.0)
    first = with_contexts(contributions(0, 3), [0.0, 1.0, 2.0])
    second = with_contexts(contributions(0, 2, first=3, weight=0.5), [0.1, 1.9])
    before = update(remembering(chosen), first, chosen, ITERATIONS)
    assert before.memory is not None
    np.testing.assert_allclose(before.memory.shares, 0.5)  # before the first round all maps are uniform
    losses = np.zeros(2)
    for item in second:
        assert item.context is not None
        tables = before.memory.tables(item.context)
        losses += [0.5 * initialization_loss(item.occupancy, item.policy, table) for table in tables]
    after_both = update(before, second, chosen, ITERATIONS)
    assert after_both.memory is not None
    raised = np.exp(-2.0 * losses)
    np.testing.assert_allclose(after_both.memory.shares, raised / raised.sum(), rtol=1e-12)
    assert after_both.memory.contexts[:, 0].tolist() == [0.0, 1.0, 2.0, 0.1, 1.9]


@pytest.mark.parametrize("kind", few(KINDS, 0))
def test_the_mixture_of_maps_keeps_its_regret(kind: ContextMap) -> None:
    """log(H) / lambda + lambda T F^2 / 8 to the best map, with F the largest loss of a task."""
    chosen = conditional(kind, (0.01, 0.3, math.inf))
    state, rng = remembering(chosen), np.random.default_rng(1)
    right = {value: random_rows(rng, STATES, ACTIONS) ** 4 for value in (0.0, 1.0)}
    mixed, each, largest = 0.0, np.zeros(3), 0.0
    for index in range(60):
        value = float(index % 2)
        policy = right[value] / right[value].sum(axis=1, keepdims=True)
        (item,) = with_contexts(contributions(2, 1, first=index), [value])
        item = dataclasses.replace(item, policy=policy)
        assert state.memory is not None
        losses = [initialization_loss(item.occupancy, policy, t) for t in state.memory.tables(np.array([value]))]
        largest, each = max(largest, *losses), each + losses
        mixed += initialization_loss(item.occupancy, policy, table_at(state, value))
        state = update(state, [item], chosen, ITERATIONS)
    assert mixed <= each.min() + math.log(3.0) + 60 * largest**2 / 8.0
    assert each.argmin() != 2
    assert state.memory is not None
    assert state.memory.shares[2] < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_without_context_is_an_error_and_a_memory_survives_its_arrays(kind: ContextMap) -> None:
    chosen = conditional(kind, (0.5, math.inf))
    state = update(remembering(chosen), with_contexts(contributions(0, 2), [0.0, 1.0]), chosen, ITERATIONS)
    again = MetaState.from_arrays(state.to_arrays())
    assert again.sha256() == state.sha256() != dataclasses.replace(state, memory=None).sha256()
    with pytest.raises(ValueError, match="task 2: brings no context"):
        update(state, contributions(0, 1, first=2), chosen, ITERATIONS)
