"""Averages of neural policies: distilled, never averaged as weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from meta.judging.tuned_starts import tuned_start
from meta.learning.neural import neural_update
from meta.learning.settings import MetaSettings, NeuralInitializationSettings
from meta.methods.fal import average_leader, first_leader, follow_leader
from meta.methods.registry import METHODS
from meta.methods.simple_average import average_policy
from meta.methods.workbench import Workbench, mean_score
from meta.offline.dice_settings import DICESettings
from meta.training.evaluation_settings import EvaluationSettings, GridPoint
from meta.training.experiment import Drawn, Experiment
from meta.training.pool import LocalLearner, LocalPool
from policies.exact.drawing import draw_task
from policies.neural.crpo import fresh_policy
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState
from tasks.contract.family_registry import FamilySpec
from tasks.stepping.batch import make_batch
from tests.meta.learning.test_neural_learner import constant, contributions, fresh, of_constant, same_policy

WITHIN = NeuralSettings(num_iterations=3, steps_per_iteration=400, num_copies=10, hidden=(8,), critic_hidden=(8,))
META = MetaSettings(neural=NeuralInitializationSettings(steps=20, minibatch=64))


@pytest.fixture(scope="module")
def bench() -> Iterator[Workbench]:
    spec = FamilySpec("tests.support.point_batch:PointFamily", 0, 8, {})
    pool, family = LocalPool(spec), spec.make()
    task = draw_task(family, spec.name, 0, "train", 0)
    batch = make_batch(family, task, 1)
    evaluation = EvaluationSettings(grid_tasks=4, rate_grid=(0.01, 0.1))
    experiment = Experiment(spec, 4, WITHIN, DICESettings(), META, evaluation)
    drawn = Drawn(pool.draw("train", range(8)), (), fresh_policy(batch, WITHIN, 0), 1, spec)
    learner = LocalLearner(META, DICESettings(), WITHIN.num_iterations)
    yield Workbench(pool, learner, DICESettings(), experiment, drawn, drawn.train)
    batch.close()


def test_the_average_of_gaussians_has_the_mean_of_their_means_and_not_of_their_deviations() -> None:
    means, log_std = np.array([[1.0, -2.0], [3.0, 0.5]]), np.array([[-0.5, 0.2], [0.1, -1.0]])
    items = [of_constant(constant(*pair), t, 30) for t, pair in enumerate(zip(means, log_std, strict=True))]
    settings = NeuralInitializationSettings(steps=1500, step_size=0.01, minibatch=60)
    found = average_policy(constant(np.zeros(2), np.zeros(2)), items, settings, num_rounds=2).actor.arrays()
    variance = np.mean(np.exp(2.0 * log_std) + (means - means.mean(axis=0)) ** 2, axis=0)
    np.testing.assert_allclose(found["bias_0"], means.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(np.exp(2.0 * found["log_std"]), variance, rtol=1e-2)


def test_the_average_does_not_depend_on_the_order() -> None:
    items = contributions(1, 4)
    first, second = (average_policy(fresh(), batch, META.neural, 1) for batch in (items, items[::-1]))
    assert same_policy(first, second)
    assert not same_policy(first, average_policy(fresh(), items[:3], META.neural, 1))


def test_following_the_leader_is_the_meta_update_with_every_task_alike_and_a_fixed_rate() -> None:
    items = contributions(2, 3)
    settings = average_leader(META)
    state = first_leader(fresh(), META, np.full(2, 0.3))
    found = follow_leader(state, items, META, 5)
    assert found.sha256() == neural_update(state, items, settings, 5).sha256()
    np.testing.assert_array_equal(found.learning_rates, 0.3)
    assert (settings.neural.method, settings.neural.forgetting) == ("ftl", 1.0)


def test_the_leader_keeps_rates_beyond_the_bounds_of_absolute_ones() -> None:
    rates = np.array([1e-8, 1e6])  # as in observed units of large rewards and small costs
    found = follow_leader(first_leader(fresh(), META, rates), contributions(2, 3), META, 5)
    np.testing.assert_array_equal(found.learning_rates, rates)


def test_a_method_without_a_form_for_the_kind_of_policy_is_refused(bench: Workbench) -> None:
    with pytest.raises(ValueError, match="oracle has no form for policies of the kind neural"):
        METHODS["oracle"].learn(bench, GridPoint(rate=0.1))


@pytest.mark.parametrize("name", ["simple_average", "fal"])
def test_averages_of_neural_policies_start_better_than_a_fresh_network(bench: Workbench, name: str) -> None:
    """At once, without any update: the mean score (less is better) of the first iterates on the training tasks."""
    start = tuned_start(METHODS[name], bench)
    assert isinstance(start.initialization, PolicyState)
    assert start.learning_rates[0] in bench.experiment.evaluation.rate_grid
    once = WITHIN.model_copy(update={"num_iterations": 1, "output": "last", "evaluate_last": False})
    rewards = {
        name: np.mean([result.values[0, 0] for result in bench.solve(bench.tasks, chosen, once)])
        for name, chosen in (("average", start), ("fresh", bench.fixed(bench.drawn.fresh, 0.1)))
    }
    assert rewards["average"] > rewards["fresh"] + 0.5


def test_the_rate_of_the_leader_is_chosen_on_the_later_half_of_the_grid_tasks(bench: Workbench) -> None:
    start = tuned_start(METHODS["fal"], replace(bench, experiment=replace(bench.experiment, tasks_per_round=2)))
    scores = {}
    for rate in bench.experiment.evaluation.rate_grid:
        state = first_leader(fresh_of(bench), META, bench.rates(rate))
        for begin in (0, 2):
            results, items = bench.estimate(bench.grid_tasks[begin : begin + 2], state.start)
            state = follow_leader(state, items, META, WITHIN.num_iterations)
        scores[rate] = mean_score(results)
    assert start.learning_rates[0] == min(scores, key=lambda rate: scores[rate])


def fresh_of(bench: Workbench) -> PolicyState:
    assert isinstance(bench.drawn.fresh, PolicyState)
    return bench.drawn.fresh
