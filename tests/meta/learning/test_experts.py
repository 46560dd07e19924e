"""The mixture of step sizes against a naive reference, its regret bounds, and drifts that change their speed."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest

from meta.learning.experts import Experts, alike, average, heaviest, next_weights, step_size_grid
from meta.learning.settings import InitializationSettings, LearningRateSettings, MetaSettings
from meta.learning.tabular import Contribution, MetaState, initial_state, loss_of, update
from meta.learning.updates import project_to_shrunk_simplex
from policies.tabular.kernel_table import shrink
from tasks.contract.tabular_model import FloatArray
from tests.meta.learning.test_learner import SOUND, contributions
from tests.support.few_variants import few

ACTIONS, SHRINKAGE, COUNT, MIDDLE = 4, 0.05, 7, 0.02


def mixed(middle: float = MIDDLE, switching: float = 0.01, schedule: str = "mixture") -> MetaSettings:
    return MetaSettings(
        initialization=InitializationSettings.model_validate(
            {
                "method": "ogd",
                "schedule": schedule,
                "step_size": middle,
                "num_experts": COUNT,
                "switching": switching,
                "shrinkage": SHRINKAGE,
            }
        ),
        learning_rates=LearningRateSettings(method="fixed"),
    )


def of_policy(index: int, policy: FloatArray) -> Contribution:
    """A task of one state whose solved policy is ``policy`` [A]."""
    return Contribution(index, np.ones(1), policy[None], 0.0, np.ones(2), 1.0, SOUND, ())


def losses_over(policies: FloatArray, chosen: MetaSettings) -> tuple[FloatArray, MetaState]:
    """f_hat of the start before each of the tasks [T], and the state after them."""
    state, losses = initial_state(chosen, 1, ACTIONS, 1), []
    for index, policy in enumerate(policies):
        item = of_policy(index, policy)
        losses.append(loss_of(item, state.initialization))
        state = update(state, [item], chosen, 5)
    return np.array(losses), state


def drifting(seed: int, rounds: int = 600, phase: int = 150) -> tuple[FloatArray, FloatArray]:
    """Solved policies [T, A] and their comparators: a still one under noise, then one that jumps every 12 rounds."""
    rng = np.random.default_rng(seed)
    policies, comparators = [], []
    comparator = np.full(ACTIONS, 1.0 / ACTIONS)
    for time in range(rounds):
        still = time // phase % 2 == 0
        if still and time % phase == 0:
            comparator = shrink(rng.dirichlet(np.ones(ACTIONS)), SHRINKAGE)
        if not still and time % 12 == 0:
            comparator = shrink(np.eye(ACTIONS)[rng.integers(ACTIONS)], 0.1)
        comparators.append(comparator)
        policies.append(shrink(np.eye(ACTIONS)[rng.choice(ACTIONS, p=comparator)], 0.02) if still else comparator)
    return np.array(policies), np.array(comparators)


@functools.cache
def losses_of_each_expert(seed: int) -> tuple[float, ...]:
    """What each step size of the grid loses alone over :func:`drifting`."""
    policies, _ = drifting(seed)
    sizes = step_size_grid(MIDDLE, COUNT)
    return tuple(float(losses_over(policies, mixed(middle=size, schedule="dynamic"))[0].sum()) for size in sizes)


def test_the_grid_doubles_about_its_middle() -> None:
    np.testing.assert_allclose(step_size_grid(3.0, 5), [0.75, 1.5, 3.0, 6.0, 12.0], rtol=1e-15)
    np.testing.assert_allclose(step_size_grid(3.0, 2), [3.0 / math.sqrt(2.0), 3.0 * math.sqrt(2.0)], rtol=1e-15)


@pytest.mark.parametrize("switching", [1e-9, 0.01, 0.5])
@pytest.mark.parametrize("mass", [0.5, 1.0, 4.0])
def test_weights_are_those_of_the_sum_over_all_paths_of_experts(mass: float, switching: float) -> None:
    """Herbster, Warmuth 1998: fixed share is Bayes over sequences of experts that switch with a set chance."""
    rng = np.random.default_rng(0)
    losses = rng.uniform(0.0, 3.0, size=(4, 3))
    weights = np.full(3, 1.0 / 3.0)
    for row in losses:
        weights = next_weights(weights, row, mass, switching)
    stay, move = 1.0 - switching + switching / 3.0, switching / 3.0
    paths = np.zeros(3)
    for path in np.ndindex(3, 3, 3, 3, 3):  # the expert of each of four rounds, and of the one that comes
        chance = 1.0 / 3.0
        for before, after in itertools.pairwise(path):
            chance *= stay if before == after else move
        paths[path[-1]] += chance * math.exp(-sum(losses[time, path[time]] for time in range(4)) / mass)
    np.testing.assert_allclose(weights, paths / paths.sum(), rtol=1e-12)


def test_weights_do_not_overflow_and_a_round_that_counts_nothing_changes_none() -> None:
    weights = np.array([0.2, 0.3, 0.5])
    found = next_weights(weights, np.array([1e9, 0.0, -1e9]), 1.0, 0.03)
    np.testing.assert_allclose(found, [0.01, 0.01, 0.98], rtol=1e-12)
    assert next_weights(weights, np.zeros(3), 0.0, 0.5) is weights


def test_the_heaviest_expert_of_equals_is_the_middle_one() -> None:
    experts = alike(np.zeros(2), 5)
    assert heaviest(experts) == 2
    assert heaviest(dataclasses.replace(experts, weights=np.array([0.3, 0.1, 0.1, 0.2, 0.3]))) == 0
    np.testing.assert_array_equal(average(Experts(np.eye(2), np.array([0.25, 0.75]))), [0.25, 0.75])


def test_the_update_is_that_of_a_naive_reference() -> None:
    """Every expert descends alone from its own point; weights and the point that is played, written out in loops."""
    chosen, state = mixed(middle=0.3), initial_state(mixed(), 5, 3, 2)
    sizes = [0.3 * 2.0**power for power in range(-3, 4)]
    points = [np.full((5, 3), 1.0 / 3.0) for _ in sizes]
    weights = [1.0 / COUNT] * COUNT
    for first in range(0, 24, 3):
        batch = contributions(2, 3, first, weight=0.5)
        state = update(state, batch[::-1], chosen, 7)
        losses = [
            sum(
                0.5 * item.occupancy[s] * item.policy[s, a] * math.log(item.policy[s, a] / point[s, a])
                for item in batch
                for s in range(5)
                for a in range(3)
            )
            for point in points
        ]
        raised = [weight * math.exp(-loss / 1.5) for weight, loss in zip(weights, losses, strict=True)]
        weights = [0.99 * value / sum(raised) + 0.01 / COUNT for value in raised]
        for number, size in enumerate(sizes):
            gradient = -sum(0.5 * item.occupancy[:, None] * item.policy / points[number] for item in batch)
            points[number] = project_to_shrunk_simplex(points[number] - size * gradient, SHRINKAGE)
        played = sum(weight * point for weight, point in zip(weights, points, strict=True))
        np.testing.assert_allclose(state.initialization, played, rtol=1e-10)
    assert state.experts is not None
    np.testing.assert_allclose(state.experts.weights, weights, rtol=1e-10)
    assert np.ptp(weights) > 0.05, "the experts have come apart"


def test_each_expert_is_plain_gradient_descent_with_its_step_size() -> None:
    policies = drifting(0, 30)[0]
    state = losses_over(policies, mixed())[1]
    assert state.experts is not None
    for point, size in zip(state.experts.points, step_size_grid(MIDDLE, COUNT), strict=True):
        alone = losses_over(policies, mixed(middle=float(size), schedule="dynamic"))[1]
        np.testing.assert_array_equal(point, alone.initialization)


@pytest.mark.parametrize("seed", few(range(5), 0))
def test_a_drift_that_changes_its_speed_is_followed_better_than_by_any_step_size_of_the_grid(seed: int) -> None:
    policies, comparators = drifting(seed)
    least = sum(
        loss_of(of_policy(index, policy), comparator[None])
        for index, (policy, comparator) in enumerate(zip(policies, comparators, strict=True))
    )
    regret = losses_over(policies, mixed())[0].sum() - least
    assert 0.0 < regret < 0.8 * (min(losses_of_each_expert(seed)) - least)


@pytest.mark.parametrize("switching", few([0.001, 0.01, 0.1], 1))
@pytest.mark.parametrize("seed", few(range(3), 0))
def test_the_regret_bounds_hold(seed: int, switching: float) -> None:
    """Against each expert alone: mass (ln N + (T - 1) ln(1 / (1 - switching))). Against a moving comparator: that and
    the dynamic regret of an expert's gradient descent, D^2 / (2 beta) + D P / beta + beta G^2 T / 2 (Zinkevich 2003).
    """
    policies, comparators = drifting(seed)
    rounds = len(policies)
    total = losses_over(policies, mixed(switching=switching))[0].sum()
    sharing = math.log(COUNT) + (rounds - 1) * math.log(1.0 / (1.0 - switching))
    diameter = math.sqrt(2.0) * (1.0 - SHRINKAGE)
    path = float(np.linalg.norm(np.diff(comparators, axis=0), axis=1).sum())
    least = sum(loss_of(of_policy(i, p), u[None]) for i, (p, u) in enumerate(zip(policies, comparators, strict=True)))
    slope = max(float(np.linalg.norm(policy)) for policy in policies) * ACTIONS / SHRINKAGE
    bounds = []
    for size, alone in zip(step_size_grid(MIDDLE, COUNT), losses_of_each_expert(seed), strict=True):
        assert total - alone <= sharing + 1e-9
        bounds.append(diameter**2 / (2.0 * size) + diameter * path / size + size * slope**2 * rounds / 2.0)
        assert alone - least <= bounds[-1] + 1e-9
    assert total - least <= min(bounds) + sharing


def test_experts_survive_a_checkpoint_and_count_in_the_digest() -> None:
    chosen = mixed()
    state = losses_over(drifting(0, 20)[0], chosen)[1]
    again = MetaState.from_arrays(state.to_arrays())
    assert again.sha256() == state.sha256()
    item = of_policy(20, np.full(ACTIONS, 0.25))
    assert update(again, [item], chosen, 5).sha256() == update(state, [item], chosen, 5).sha256()
    assert state.experts is not None
    for name in ("points", "weights"):
        nudged = np.nextafter(getattr(state.experts, name), np.inf)
        changed = dataclasses.replace(state, experts=dataclasses.replace(state.experts, **{name: nudged}))
        assert changed.sha256() != state.sha256()


def test_a_task_of_no_weight_is_as_if_it_had_not_been_there() -> None:
    chosen, (policy, other) = mixed(), drifting(0, 160)[0][[0, 159]]
    state = losses_over(drifting(0, 20)[0], chosen)[1]
    silent = dataclasses.replace(of_policy(21, other), weight=0.0)
    one, both = (
        update(state, items, chosen, 5) for items in ([of_policy(20, policy)], [of_policy(20, policy), silent])
    )
    np.testing.assert_array_equal(one.initialization, both.initialization)
