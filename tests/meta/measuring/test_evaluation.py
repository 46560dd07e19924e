from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import softmax

from meta.learning.bounds import initialization_loss
from meta.learning.settings import MetaSettings
from meta.learning.tabular_contribution import contribution
from meta.measuring.intervals import Interval, failure_signature, interval, ratio_interval
from meta.measuring.measures import gap_bound, inexactness, measure
from meta.measuring.similarity import ContextMaps, similarity
from meta.offline.dice_settings import DICESettings
from policies.common.branches import REWARD_BRANCH
from policies.common.results import Start, TaskResult
from policies.exact.drawing import draw_task
from policies.exact.solver import OptimalPolicy
from policies.rules.rule_registry import CRPO_METHOD, RULES, MethodSettings
from policies.solving.solve_task import solve_task
from policies.tabular.crpo import WithinTaskSettings
from policies.tabular.kernel_table import KernelTable
from policies.tabular.log_linear_table import all_effects, no_tasks
from policies.tabular.solving import TaskDataset
from tasks.contract.family_registry import FamilySpec
from tasks.contract.tabular_model import FloatArray

STATES, ACTIONS = 2, 3


def _references(seed: int, count: int, states: int = STATES, actions: int = ACTIONS) -> list[OptimalPolicy]:
    rng = np.random.default_rng(seed)
    return [
        OptimalPolicy(
            policy=rng.dirichlet(np.ones(actions), size=states),
            occupancy=rng.dirichlet(np.ones(states)),
            values=np.zeros(2),
        )
        for _ in range(count)
    ]


def _mean_loss(references: Sequence[OptimalPolicy], policy: FloatArray) -> float:
    return float(np.mean([initialization_loss(item.occupancy, item.policy, policy) for item in references]))


@pytest.mark.parametrize("seed", range(5))
def test_task_similarity_is_the_brute_force_minimum(seed: int) -> None:
    references = _references(seed, 6)
    found = similarity(references, num_segments=1, num_tasks=6)

    def loss(logits: FloatArray) -> float:
        return _mean_loss(references, softmax(logits.reshape(2, 3), axis=1))

    brute_force = minimize(loss, np.zeros(6), tol=1e-12)
    assert found.task_similarity == pytest.approx(brute_force.fun, abs=1e-8)
    assert found.task_similarity == pytest.approx(_mean_loss(references, found.comparator), abs=1e-12)


def test_task_similarity_by_grid_search() -> None:
    references = _references(11, 4, states=1, actions=2)
    grid = np.linspace(1e-6, 1 - 1e-6, 200_001)
    losses = [
        item.policy[0, 0] * np.log(item.policy[0, 0] / grid)
        + item.policy[0, 1] * np.log(item.policy[0, 1] / (1 - grid))
        for item in references
    ]
    found = similarity(references, num_segments=1, num_tasks=4)
    assert found.task_similarity == pytest.approx(np.mean(losses, axis=0).min(), abs=1e-9)


def test_equal_tasks_have_no_distance() -> None:
    found = similarity(_references(0, 1) * 5, num_segments=5, num_tasks=5)
    assert found.task_similarity == pytest.approx(0.0, abs=1e-12)
    assert found.task_relatedness == pytest.approx(0.0, abs=1e-12)
    assert found.path_length == pytest.approx(0.0, abs=1e-12)


def test_deterministic_policies_are_handled_without_infinities() -> None:
    one, two = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    references = [OptimalPolicy(policy, np.ones(1), np.zeros(2)) for policy in (one, two)]
    assert similarity(references, 1, 2).task_similarity == pytest.approx(math.log(2.0))
    split = similarity(references, 2, 2)
    assert split.task_relatedness == pytest.approx(0.0, abs=1e-12)
    assert split.path_length == pytest.approx(2.0)


def test_task_relatedness_is_the_mean_over_segments_of_their_own_similarity() -> None:
    references = _references(3, 9)
    whole = similarity(references, num_segments=3, num_tasks=9)
    parts = [similarity(references[begin : begin + 3], 1, 3).task_similarity for begin in (0, 3, 6)]
    assert whole.task_relatedness == pytest.approx(np.mean(parts), abs=1e-12)
    assert whole.task_relatedness <= whole.task_similarity


def _maps(contexts: list[float], bandwidths: list[float]) -> ContextMaps:
    """Kernel averages."""
    widths = np.array(bandwidths)
    shares, memory = np.full(widths.size, 1.0 / widths.size), (np.zeros((0, 1)), np.zeros((0, STATES, ACTIONS)))
    return ContextMaps(np.array(contexts)[:, None], KernelTable(*memory, widths, shares, 0.01, 1e-3, "differing"))


def _log_linear_maps(contexts: list[float], ridges: list[float]) -> ContextMaps:
    effects = all_effects(STATES, ACTIONS, 1, None)
    table = no_tasks(effects, np.ones(1), np.array(ridges), (STATES, ACTIONS), 0.01, 1e-3)
    return ContextMaps(np.array(contexts)[:, None], table)


def test_a_constant_comparator_is_one_of_the_maps_from_contexts() -> None:
    references, contexts = _references(5, 6), [0.0, 1.0, 0.0, 2.0, 1.0, 2.0]
    constant = similarity(references, 1, 6, _maps(contexts, [math.inf]))
    assert constant.conditional_similarity == pytest.approx(constant.task_similarity, rel=1e-12)
    wider = similarity(references, 1, 6, _maps(contexts, [0.5, math.inf]))
    widest = similarity(references, 1, 6, _maps(contexts, [0.01, 0.5, math.inf]))
    assert wider.conditional_similarity is not None
    assert widest.conditional_similarity is not None
    assert widest.conditional_similarity <= wider.conditional_similarity <= constant.task_similarity
    assert similarity(references, 1, 6).conditional_similarity is None


def test_log_linear_maps_hold_the_constant_comparator_too() -> None:
    references, contexts = _references(5, 6), [0.0, 1.0, 0.0, 2.0, 1.0, 2.0]
    constant = similarity(references, 1, 6, _log_linear_maps(contexts, [math.inf]))
    assert constant.conditional_similarity == pytest.approx(constant.task_similarity, rel=1e-12)
    wider = similarity(references, 1, 6, _log_linear_maps(contexts, [0.1, math.inf]))
    widest = similarity(references, 1, 6, _log_linear_maps(contexts, [1e-6, 0.1, math.inf]))
    assert wider.conditional_similarity is not None
    assert widest.conditional_similarity is not None
    assert widest.conditional_similarity < wider.conditional_similarity < constant.task_similarity


def test_what_contexts_explain_is_the_distance_between_the_means_of_their_tasks() -> None:
    """sum_t KL(pi_t || phi_bar) = sum_t KL(pi_t || phi_{c_t}) + sum_t KL(phi_{c_t} || phi_bar), weighted by nu_t."""
    references, contexts = _references(6, 8), [0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 0.0]
    found = similarity(references, 1, 8, _maps(contexts, [1e-3]))
    between = 0.0
    for value in set(contexts):
        own = [reference for reference, context in zip(references, contexts, strict=True) if context == value]
        weighted = np.sum([one.occupancy[:, None] * one.policy for one in own], axis=0)
        mean = weighted / weighted.sum(axis=1, keepdims=True)
        for one in own:
            between += float(one.occupancy @ (mean * np.log(mean / found.comparator)).sum(axis=1))
    assert found.conditional_similarity is not None
    assert found.task_similarity == pytest.approx(found.conditional_similarity + between / 8, rel=1e-10)
    assert between > 0.01


def _solved(
    rates: float, seed: int = 0, margin: float = 0.0, method: MethodSettings = CRPO_METHOD
) -> tuple[TaskResult, TaskDataset]:
    spec = FamilySpec("frozen_lake", seed, 4, {"map_size": 4})
    task = draw_task(spec.make(), spec.name, seed, "train", 0)
    start = Start(np.full((16, 4), 0.25), np.full(2, rates))
    settings = WithinTaskSettings(num_iterations=6, safety_margin=margin, method=method)
    result, dataset = solve_task(spec.make(), task, start, settings, collect=True)
    assert dataset is not None
    return result, dataset


def test_inexactness_parts_add_up_and_match_their_definitions() -> None:
    result, dataset = _solved(1.0)
    item = contribution(dataset, DICESettings(), MetaSettings())
    phi = dataset.start.initialization
    split = inexactness(result, item, phi)
    assert split is not None
    assert result.reference is not None
    exact = initialization_loss(result.reference.occupancy, result.reference.policy, phi)
    assert split.total == pytest.approx(item.loss - exact, abs=1e-12)
    assert split.occupancy_shift + split.estimation + split.suboptimality == pytest.approx(split.total, abs=1e-12)
    assert split.estimation == pytest.approx(
        initialization_loss(item.occupancy - result.occupancy, item.policy, phi), abs=1e-12
    )
    assert abs(split.suboptimality) > 1e-3, "CRPO stopped early on purpose: part C must show"


@pytest.mark.parametrize(("rate", "margin"), [(1.0, 0.0), (3.0, 0.0), (10.0, 0.0), (3.0, 0.2), (10.0, 0.2)])
def test_gap_bound_holds_for_the_mean_gap_over_the_reward_steps(rate: float, margin: float) -> None:
    result, _ = _solved(rate, margin=margin)
    assert result.reference is not None
    on_reward = np.flatnonzero(result.branches == REWARD_BRANCH)
    assert on_reward.size > 0
    gaps = result.reference.values[0] - result.values[on_reward, 0]
    assert gaps.mean() <= gap_bound(result) + 1e-12


@pytest.mark.parametrize("method", [name for name in RULES if name != CRPO_METHOD.name])
@pytest.mark.parametrize(("rate", "seed"), [(1.0, 0), (3.0, 0), (1.0, 1), (10.0, 2)])
def test_gap_bound_holds_for_every_rule(method: str, rate: float, seed: int) -> None:
    """The bound is on the mean gap weighted by the reward's coefficients."""
    result, _ = _solved(rate, seed, method=MethodSettings(name=method))
    assert result.reference is not None
    assert result.solution is not None
    mixed = result.solution.mixed
    weights = np.where(result.branches == REWARD_BRANCH, result.solution.steps, 0.0) if mixed is None else mixed[:, 0]
    if not weights.sum() > 0.0:
        assert math.isnan(gap_bound(result))
        return
    gaps = result.reference.values[0] - result.values[:-1, 0]
    assert weights @ gaps / weights.sum() <= gap_bound(result) + 1e-9


def test_measures_from_the_definition() -> None:
    result, _ = _solved(1.0)
    assert result.reference is not None
    limit = result.task.limits[0]
    found = measure(result)
    excess = [max(0.0, cost - limit) for cost in result.values[:, 1]]
    assert found.violation_during[0] == pytest.approx(sum(excess) / 7)
    assert found.violation[0] == pytest.approx(excess[result.output])
    assert found.gap == pytest.approx(result.reference.values[0] - result.values[result.output, 0])
    relative = max(found.gap, 0.0) / result.reference.values[0]
    assert found.score == pytest.approx(relative + found.violation_during[0] / limit)


def test_interval_is_students_t() -> None:
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764451051977987 * math.sqrt(2.5 / 5.0)
    assert found.mean == 3.0
    assert (found.low, found.high) == pytest.approx((3.0 - half, 3.0 + half))
    assert interval([2.0]).as_json() == {"mean": 2.0, "ci95": [None, None], "n": 1}
    assert Interval(math.nan, math.nan, math.nan, 0).as_json()["mean"] is None


def test_the_interval_has_its_nominal_coverage_of_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    intervals = [interval(rng.normal(1.0, 2.0, size=10)) for _ in range(2000)]
    covered = np.mean([item.low <= 1.0 <= item.high for item in intervals])
    assert covered == pytest.approx(0.95, abs=5 * math.sqrt(0.95 * 0.05 / 2000))


def test_ratio_interval_finds_a_known_ratio_and_is_paired() -> None:
    rng = np.random.default_rng(1)
    bottom = rng.uniform(1.0, 3.0, size=30)
    exact = ratio_interval(0.25 * bottom, bottom)
    assert (exact.mean, exact.low, exact.high) == pytest.approx((0.25, 0.25, 0.25))
    noisy = ratio_interval(0.25 * bottom + rng.normal(0.0, 0.05, size=30), bottom)
    assert noisy.low < 0.25 < noisy.high < 0.3


def test_failure_signature_distinguishes_learning_from_none_and_from_getting_worse() -> None:
    rng = np.random.default_rng(2)
    noise = 0.01 * rng.random(48)
    learned = failure_signature(np.where(np.arange(48) < 8, 1.0, 0.1) + noise, first_round=8)
    flat = failure_signature(0.5 + noise, first_round=8)
    rising = failure_signature(np.linspace(0.0, 1.0, 48) + noise, first_round=8)
    assert learned is not None
    assert flat is not None
    assert rising is not None
    assert (learned.improved, learned.rising) == (True, False)
    assert not flat.improved
    assert (rising.improved, rising.rising) == (False, True)
    assert failure_signature(noise[:7], first_round=2) is None
    assert failure_signature(np.full(48, np.nan), first_round=2) is None
    assert failure_signature(np.zeros(48), first_round=2) is None, "nothing can be below 0"
