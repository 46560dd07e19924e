from __future__ import annotations

import dataclasses
import weakref
from typing import Any

import numpy as np
import pydantic
import pytest

from policies.networks.distributions import extra_of
from policies.networks.mlp import Array
from policies.neural.crpo import NeuralSolution, fresh_policy, iterate_neural, solve_neural
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import ObservationStatistics, Parameters
from policies.neural.rollouts import NeuralTransitions
from policies.neural.update import Problem, estimate_returns, room_of_satisfied
from policies.steps.natural_gradient import TrustRegionSettings
from tasks.contract.task import TaskError
from tasks.stepping.context_batch import ContextBatch
from tests.support.point_batch import PointBatch

SETTINGS = NeuralSettings(
    num_iterations=4,
    steps_per_iteration=200,
    num_copies=5,
    hidden=(8, 8),
    critic_hidden=(8, 8),
    returns="episodic",
    trust_region=TrustRegionSettings(delta_max=0.05),
)


def _solve(
    limits: tuple[float, ...] = (1.0,), alpha: float = 0.1, seed: int = 0, discrete: bool = False, **settings: Any
) -> NeuralSolution:
    chosen = SETTINGS.model_copy(update=settings)
    batch = PointBatch(chosen.num_copies, num_costs=len(limits), discrete=discrete)
    start = fresh_policy(batch, chosen, 0)
    rates = np.full(1 + len(limits), alpha)
    return solve_neural(batch, start, rates, np.array(limits), chosen, seed, discount=0.95, label="point/0")


@pytest.mark.parametrize("discrete", [True, False])
def test_it_learns_the_reward_and_keeps_the_limit(discrete: bool) -> None:
    """The best of limit 1 is about 18 a episode (the way to x = 1 takes four steps); a random policy earns about 0."""
    solution = _solve(discrete=discrete, num_iterations=40, steps_per_iteration=1000, num_copies=10)
    assert solution.feasible
    reward, cost = solution.values[solution.output]
    assert reward > 13.0
    assert cost <= 1.0
    assert solution.values[-15:, 0].mean() > 12.5
    assert solution.values[-15:, 1].mean() < 2.0
    assert set(solution.branches.tolist()) == {0, 1}


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    """The benchmark of meta-learning takes the curve of ten updates from the run of fifty."""
    short, long = _solve(num_iterations=3), _solve(num_iterations=6)
    np.testing.assert_array_equal(short.values, long.values[:4])
    shrinking = TrustRegionSettings(delta_max=0.05, delta_last=0.01)
    assert not np.array_equal(_solve(num_iterations=3, trust_region=shrinking).values[:3], short.values[:3])


def test_two_constraints_are_both_kept() -> None:
    """Effort a^2 is limited too: reaching x = 1 needs little of it, noise most."""
    solution = _solve((1.0, 6.0), num_iterations=40, steps_per_iteration=1000, num_copies=10, initial_log_std=0.0)
    assert solution.feasible
    assert solution.values[0, 2] > 6.0
    reward, *costs = solution.values[solution.output]
    assert reward > 8.0
    assert (np.array(costs) <= [1.0, 6.0]).all()
    assert 2 in solution.branches


@pytest.mark.parametrize("seen", [0.0, 50.0])
def test_a_context_keeps_its_normalisation_while_a_task_is_solved(seen: float) -> None:
    """It is the same in all of a task's batches: with statistics of its own a start would no longer know it."""
    context = np.tile([1.5, -0.5], (5, 1))
    start = fresh_policy(ContextBatch(PointBatch(5), context), SETTINGS, 0)
    size = start.statistics.mean.size
    start = dataclasses.replace(start, statistics=dataclasses.replace(start.statistics, count=seen))
    solution = solve_neural(
        ContextBatch(PointBatch(5), context),
        start,
        np.full(2, 0.1),
        np.ones(1),
        SETTINGS,
        0,
        discount=0.95,
        label="point/0",
    )
    last = solution.iterates[-1].statistics
    np.testing.assert_array_equal(last.mean[size - 2 :], 0.0)
    np.testing.assert_array_equal(last.variance[size - 2 :], 1.0)
    assert (last.variance[: size - 2] != 1.0).all()
    np.testing.assert_array_equal(last.normalize(np.ones((1, size)))[0, size - 2 :], 1.0)


def test_a_policy_stays_the_same_function_where_its_statistics_change_if_it_has_contexts_or_shall_keep_it() -> None:
    """Steps of hardly any length, as a start of little noise takes them: what is left is what the statistics do."""
    still = SETTINGS.model_copy(update={"trust_region": TrustRegionSettings(delta_max=1e-20)})
    keeping = still.model_copy(update={"keep_function": True})
    contextual = ContextBatch(PointBatch(5), np.ones((5, 1)))
    changes = []
    for batch, settings in ((PointBatch(5), still), (contextual, still), (PointBatch(5), keeping)):
        start = fresh_policy(batch, settings, 0)
        start = dataclasses.replace(start, statistics=dataclasses.replace(start.statistics, count=50.0))
        solution = solve_neural(batch, start, np.full(2, 0.1), np.ones(1), settings, 0, discount=0.95, label="point/0")
        observations = np.random.default_rng(0).normal(size=(50, start.statistics.mean.size)).astype(np.float32)
        before, after = (policy.act(observations)[0] for policy in (start, solution.iterates[-1]))
        assert (solution.iterates[-1].statistics.mean[:2] != 0.0).all()
        changes.append(np.abs(after - before).max() / np.abs(before).max())
    assert max(changes[1:]) < 1e-4 < 1e-2 < changes[0]


def test_functions_are_not_kept_where_statistics_stay() -> None:
    with pytest.raises(pydantic.ValidationError, match="keep_function: has no effect where update_statistics is false"):
        NeuralSettings(update_statistics=False, keep_function=True)


@pytest.mark.parametrize("evaluate_last", [True, False])
def test_solving_one_by_one_equals_solving_all_at_once(evaluate_last: bool) -> None:
    whole = _solve(seed=3, evaluate_last=evaluate_last)
    settings = SETTINGS.model_copy(update={"evaluate_last": evaluate_last})
    batch, problem = PointBatch(5), Problem(np.full(2, 0.1), np.ones(1), np.zeros(1), 0.95, 20)
    start, rng = fresh_policy(batch, settings, 0), np.random.default_rng([3, 23])
    iterations = list(iterate_neural(batch, start, problem, settings, 3, rng, label="point/0"))
    assert len(iterations) == len(whole.values) == 4 + evaluate_last
    np.testing.assert_array_equal([iteration.values for iteration in iterations], whole.values)
    for iteration, following in zip(iterations, whole.iterates[1:], strict=False):
        np.testing.assert_array_equal(iteration.improved.actor.vector, following.actor.vector)
        np.testing.assert_array_equal(iteration.improved.critic.vector, following.critic.vector)
    assert (iterations[-1].update is None) == evaluate_last
    assert len(whole.iterates) == 5


def test_a_fresh_critic_is_first_fitted_to_returns_whether_or_not_the_statistics_are_fresh() -> None:
    batch, problem = PointBatch(5), Problem(np.full(2, 0.1), np.ones(1), np.zeros(1), 0.95, 20)
    start = fresh_policy(batch, SETTINGS, 0)
    seen = dataclasses.replace(start, statistics=ObservationStatistics(np.zeros(2), np.ones(2), 1.0))
    explained = []
    for policy in (start, seen, dataclasses.replace(seen, critic=_touched(seen.critic))):
        iterations = iterate_neural(batch, policy, problem, SETTINGS, 0, np.random.default_rng(0), label="point/0")
        report = next(iter(iterations)).update
        assert report is not None
        explained.append(report.predicted_variance[0])
    fresh, fitted, touched = explained
    assert min(fresh, fitted) > 0.2
    assert touched < 0.1, "a critic that was fitted before is taken as it is"


def _touched(critic: Parameters) -> Parameters:
    """The same critic in other units: not fresh any more, and still of no use."""
    vector = critic.vector.copy()
    critic.network.part(vector, "target_scale")[:] = 1.001
    return dataclasses.replace(critic, vector=vector)


def test_the_trust_region_shrinks_linearly_from_the_first_step_to_the_last() -> None:
    region = TrustRegionSettings(delta_max=0.04, delta_last=0.01)
    assert [region.at(i, 4).delta_max for i in range(4)] == pytest.approx([0.04, 0.03, 0.02, 0.01])
    assert region.at(0, 1).delta_max == 0.04
    steps = [update.step for update in _solve(alpha=100.0, trust_region=region).updates]
    for step, most in zip(steps, [0.04, 0.03, 0.02, 0.01], strict=True):
        assert step.cap == "trust_region"
        assert 0.6 * most < step.kl <= most


def test_the_noise_goes_in_equal_steps_to_its_last_value() -> None:
    """Whatever the gradient says of it; the first step changes nothing else."""
    learned, shrinking = _solve(initial_log_std=-1.0), _solve(initial_log_std=-1.0, final_log_std=-3.0)
    noise = [extra_of(one.actor.network, one.actor.vector).tolist() for one in shrinking.iterates]
    assert noise == [[pytest.approx(value)] for value in (-1.0, -1.5, -2.0, -2.5, -3.0)]
    one, other = (found.iterates[1].with_noise(0.0).to_arrays() for found in (learned, shrinking))
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])
    assert extra_of(learned.iterates[4].actor.network, learned.iterates[4].actor.vector) > -1.5


def test_noise_that_is_lowered_at_the_end_is_learned_until_then() -> None:
    learned = _solve(initial_log_std=-1.0)
    late = _solve(initial_log_std=-1.0, final_log_std=-3.0, final_noise_share=0.5)
    np.testing.assert_array_equal(learned.iterates[2].actor.vector, late.iterates[2].actor.vector)
    before, between, last = (extra_of(one.actor.network, one.actor.vector)[0] for one in late.iterates[2:])
    assert between == pytest.approx((before - 3.0) / 2.0)
    assert last == pytest.approx(-3.0)
    short = _solve(final_log_std=-3.0, final_noise_share=0.01)  # of four updates: the last one all the same
    assert extra_of(short.iterates[4].actor.network, short.iterates[4].actor.vector)[0] == pytest.approx(-3.0)
    with pytest.raises(pydantic.ValidationError, match="final_noise_share: has no effect where final_log_std is null"):
        NeuralSettings(final_noise_share=0.5)


def test_a_schedule_of_noise_goes_on_where_it_was() -> None:
    settings = SETTINGS.model_copy(update={"final_log_std": -3.0})
    problem = Problem(np.full(2, 0.1), np.ones(1), np.zeros(1), 0.95, 20)
    start, rng = fresh_policy(PointBatch(5), settings, 0), np.random.default_rng(0)
    given = (problem, settings, 0, rng)
    first = next(iterate_neural(PointBatch(5), start, *given, label="point/0"))
    second = next(iterate_neural(PointBatch(5), first.improved, *given, label="point/0", first=1))
    noise = [extra_of(one.actor.network, one.actor.vector)[0] for one in (start, first.improved, second.improved)]
    assert noise == pytest.approx([-0.5, -1.125, -1.75])


def test_iterations_are_not_kept() -> None:
    """Runs of any length: once the caller lets go of an iteration, its policy is gone."""
    settings = SETTINGS.model_copy(update={"num_iterations": 12})
    batch, problem = PointBatch(5), Problem(np.full(2, 0.1), np.ones(1), np.zeros(1), 0.95, 20)
    start, rng = fresh_policy(batch, settings, 0), np.random.default_rng(0)
    seen: list[weakref.ref[Any]] = []
    alive = []
    for iteration in iterate_neural(batch, start, problem, settings, 0, rng, label="point/0"):
        seen.append(weakref.ref(iteration.improved.actor.vector))
        alive.append(sum(found() is not None for found in seen))
    assert max(alive) <= 3


def test_the_same_seed_gives_the_same_bits() -> None:
    first, again, other = _solve(seed=1), _solve(seed=1), _solve(seed=2)
    for one, two in zip(first.iterates, again.iterates, strict=True):
        for name, value in one.to_arrays().items():
            np.testing.assert_array_equal(value, two.to_arrays()[name])
    np.testing.assert_array_equal(first.values, again.values)
    assert not np.array_equal(first.iterates[-1].actor.vector, other.iterates[-1].actor.vector)


def test_the_start_is_not_changed_and_a_limit_never_reached_only_climbs() -> None:
    solution = _solve((1000.0,))
    assert solution.branches.tolist() == [0, 0, 0, 0]
    assert solution.iterates[0].statistics.count == 0.0
    assert solution.iterates[1].statistics.count == 200.0
    assert solution.iterates[4].statistics.count == 800.0
    assert len(solution.iterates) == len(solution.values) == 5
    assert solution.env_steps == 1000
    assert sum(solution.caps.values()) == 4


def test_every_step_goes_the_way_of_its_branch() -> None:
    solution = _solve((0.2,), num_iterations=12, initial_log_std=0.3)
    assert set(solution.branches.tolist()) == {0, 1}
    for update in solution.updates:
        assert update.branch == update.step.branch
        assert (update.values[1] > 0.2) == (update.branch == 1)
        assert np.sign(update.step.rate) == (1.0 if update.branch == 0 else -1.0)
        assert float(update.step.surrogate[update.branch]) * update.step.rate > 0.0
        assert update.step.kl <= 0.05


def test_small_rates_are_taken_as_asked_for() -> None:
    solution = _solve(alpha=1e-4)
    assert solution.caps == {"none": 4}
    assert all(update.step.scale == 1.0 for update in solution.updates)


@pytest.mark.parametrize("rule", ["best", "uniform", "last"])
def test_output_rules(rule: str) -> None:
    solution = _solve((1000.0,), output=rule, evaluate_last=False)
    assert len(solution.values) == 4
    assert len(solution.iterates) == 5
    assert solution.feasible
    expected = {"best": int(np.argmax(solution.values[:, 0])), "last": 3}
    assert solution.output == expected.get(rule, solution.output)
    assert 0 <= solution.output < 4


def test_an_impossible_limit_is_reported() -> None:
    solution = _solve((1.0, 0.0))
    assert not solution.feasible
    assert solution.output == int(np.argmin(solution.values[:, 2]))


class BrokenReward(PointBatch):
    """Rewards so large that the advantages overflow."""

    def step(self, actions: Array) -> None:
        super().step(actions)
        self.reward = np.full_like(self.reward, 3e38)


def test_a_value_that_is_not_finite_names_task_iteration_and_tensor() -> None:
    batch = BrokenReward(5)
    start = fresh_policy(batch, SETTINGS, 0)
    with (
        np.errstate(all="ignore"),
        pytest.raises(TaskError, match=r"task point/0, iteration 0: \w+ not finite"),
    ):
        solve_neural(batch, start, np.ones(2), np.ones(1), SETTINGS, 0, discount=0.95, label="point/0")
    policy = fresh_policy(PointBatch(5), SETTINGS, 0)
    policy.actor.vector[3] = np.nan
    with pytest.raises(TaskError, match="iteration 0, step 0, copy 0: actions not finite"):
        solve_neural(PointBatch(5), policy, np.ones(2), np.ones(1), SETTINGS, 0, discount=0.95, label="point/0")


def test_settings_that_do_not_fit_are_refused_with_what_would_be_right() -> None:
    with pytest.raises(pydantic.ValidationError, match="200 is not a multiple of num_copies 7"):
        NeuralSettings(steps_per_iteration=200, num_copies=7)
    with pytest.raises(TaskError, match=r"10 steps per copy do not hold an episode of 20; set num_copies to at most 5"):
        _solve(steps_per_iteration=100, num_copies=10)
    with pytest.raises(ValueError, match=r"2 numbers given for 1 cost"):
        _solve(tolerance=(0.1, 0.2))


def _transitions(signals: Array, ended: Any) -> NeuralTransitions:
    shape = signals.shape[:2]
    empty = np.zeros((*shape, 1), np.float32)
    return NeuralTransitions(
        empty,
        empty,
        signals,
        np.zeros(shape, np.bool_),
        ended,
        np.zeros((0, 2), np.int64),
        np.zeros((0, 1), np.float32),
    )


def test_returns_and_room_in_both_senses() -> None:
    signals = np.ones((8, 2, 2), dtype=np.float32)
    ended = np.zeros((8, 2), dtype=np.bool_)
    ended[3::4] = True
    data = _transitions(signals, ended)
    problem = Problem(np.ones(2), np.array([5.0]), np.array([1.0]), 0.5, 4)
    assert estimate_returns(data, problem, SETTINGS).tolist() == [4.0, 4.0]
    discounted = SETTINGS.model_copy(update={"returns": "discounted", "return_estimate": "complete"})
    values = estimate_returns(data, problem, discounted)
    assert values.tolist() == [1.875, 1.875]
    assert room_of_satisfied(data, np.array([4.0, 4.0]), problem, SETTINGS).room == (0.5,)
    assert room_of_satisfied(data, values, problem, discounted).room == pytest.approx(((6.0 - 1.875) / 2.0,))
    violated = dataclasses.replace(problem, limits=np.array([1.0]))
    assert room_of_satisfied(data, np.array([4.0, 4.0]), violated, SETTINGS).columns == ()
    with pytest.raises(ValueError, match="no episode was completed"):
        estimate_returns(_transitions(signals, np.zeros_like(ended)), problem, discounted)
