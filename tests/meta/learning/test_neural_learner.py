"""The meta-learner of neural policies against closed forms, and what must not change its result."""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from meta.estimators.estimation import estimate_corrections
from meta.learning.distillation import Targets, distill, joined
from meta.learning.neural import (
    NeuralContribution,
    NeuralMetaState,
    Observed,
    initial_neural_state,
    neural_update,
    policy_divergence,
    task_targets,
)
from meta.learning.neural_contribution import neural_contribution, systematic_draw
from meta.learning.online import contribute, first_state, step
from meta.learning.settings import LearningRateSettings, MetaSettings, NeuralInitializationSettings
from meta.offline.dice_settings import DICESettings
from meta.offline.target_policy import NeuralTarget
from policies.common.context_regression import no_moments
from policies.common.results import Start
from policies.common.transition_sample import TransitionSample
from policies.neural.policy_state import ObservationStatistics, PolicyState, new_policy, no_observations
from policies.neural.solving import NeuralDataset
from tasks.contract.tabular_model import FloatArray

SIZE, OUTPUTS, COSTS, ITERATIONS = 3, 2, 1, 7


def settings(method: str = "ogd", rates: str = "ftl", **changes: dict[str, Any]) -> MetaSettings:
    return MetaSettings(
        neural=NeuralInitializationSettings.model_validate(
            {"method": method, "steps": 10, **changes.get("neural", {})}
        ),
        learning_rates=LearningRateSettings.model_validate({"method": rates, **changes.get("learning_rates", {})}),
    )


def fresh(continuous: bool = True, seed: int = 0) -> PolicyState:
    return new_policy(SIZE, OUTPUTS, COSTS, continuous=continuous, hidden=(6,), critic_hidden=(5,), seed=seed)


def rows_of(seed: int, count: int = 40) -> np.ndarray:
    rng = np.random.default_rng([seed, 9])
    return (rng.normal(size=SIZE) + rng.normal(size=(count, SIZE))).astype(np.float32)


def learned(seed: int, continuous: bool = True) -> PolicyState:
    """A policy with other weights than a fresh one, that has seen the observations of ``seed``."""
    policy, rng = fresh(continuous), np.random.default_rng([seed, 8])
    for parameters in (policy.actor, policy.critic):
        parameters.vector[:] += 0.3 * rng.normal(size=parameters.vector.size)
    return dataclasses.replace(policy, statistics=no_observations(SIZE).merged(rows_of(seed)))


def contributions(seed: int, count: int, first: int = 0, continuous: bool = True) -> list[NeuralContribution]:
    rng = np.random.default_rng([seed, first])
    return [
        NeuralContribution(
            task_index=index,
            observations=rows_of(index),
            statistics=no_observations(SIZE).merged(rows_of(index)),
            policy=learned(100 * seed + index, continuous),
            loss=float(rng.uniform(0.1, 2.0)),
            curvature=10.0 ** rng.uniform(-2.0, 2.0, size=1 + COSTS),
        )
        for index in range(first, first + count)
    ]


def after(chosen: MetaSettings, *rounds: list[NeuralContribution], start: PolicyState | None = None) -> NeuralMetaState:
    state = initial_neural_state(chosen, fresh() if start is None else start)
    for batch in rounds:
        state = neural_update(state, batch, chosen, ITERATIONS)
    return state


def same_policy(first: PolicyState, second: PolicyState) -> bool:
    ours, theirs = first.to_arrays(), second.to_arrays()
    return all(np.array_equal(value, theirs[name]) for name, value in ours.items())


# Divergences


def test_divergence_of_gaussians_is_the_closed_form_with_each_policys_own_statistics() -> None:
    first, second, rows = learned(1), learned(2), rows_of(3)
    means, deviations = [], []
    for policy in (first, second):
        outputs, log_std = policy.act(rows)
        means.append(outputs.astype(np.float64))
        deviations.append(np.exp(log_std.astype(np.float64)))
    (m, n), (s, t) = means, deviations
    expected = (np.log(t / s) + (s**2 + (m - n) ** 2) / (2.0 * t**2) - 0.5).sum(axis=1)
    np.testing.assert_allclose(policy_divergence(first, second, rows), expected, rtol=1e-4)
    np.testing.assert_allclose(policy_divergence(first, first, rows), 0.0, atol=1e-5)
    assert expected.min() > 0.01


def test_divergence_of_categoricals_is_the_closed_form() -> None:
    first, second, rows = learned(1, continuous=False), learned(2, continuous=False), rows_of(3)
    logs = [log_softmax(policy.act(rows)[0].astype(np.float64), axis=1) for policy in (first, second)]
    expected = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1)
    found = policy_divergence(first, second, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert found.dtype == np.float64


# Distillation: constant observations leave only the bias and the deviations to learn


def constant(means: FloatArray, log_std: FloatArray | None, mean: float = 5.0) -> PolicyState:
    """A linear policy that has only seen ``mean``, where its outputs are ``means``."""
    size = len(means)
    policy = new_policy(1, size, COSTS, continuous=log_std is not None, hidden=(), critic_hidden=(), dtype=np.float64)
    policy.actor.network.part(policy.actor.vector, "bias_0")[:] = means
    if log_std is not None:
        policy.actor.network.part(policy.actor.vector, "log_std")[:] = log_std
    return dataclasses.replace(policy, statistics=ObservationStatistics(np.full(1, mean), np.ones(1), 9.0))


def of_constant(policy: PolicyState, index: int, count: int, weight: float = 1.0) -> NeuralContribution:
    rows = np.full((count, 1), policy.statistics.mean[0], dtype=np.float32)
    return NeuralContribution(index, rows, policy.statistics, policy, 1.0, np.ones(1 + COSTS), weight)


def together(items: list[NeuralContribution]) -> Targets:
    return joined([task_targets(item) for item in items])


LONG = NeuralInitializationSettings(steps=3000, step_size=0.01, minibatch=1000)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.25)])
def test_distilling_gaussians_finds_the_minimiser_of_the_summed_divergence(weights: tuple[float, float]) -> None:
    """The mean of the means and the mean of (variance + squared distance), however many rows a task has."""
    means = np.array([[1.0, -2.0], [3.0, 0.5]])
    log_std = np.array([[-0.5, 0.2], [0.1, -1.0]])
    items = [
        of_constant(constant(*pair), t, (4, 30)[t], weights[t])
        for t, pair in enumerate(zip(means, log_std, strict=True))
    ]
    found = distill(constant(np.zeros(2), np.zeros(2)), together(items), LONG, 0).arrays()
    share = np.array(weights) / sum(weights)
    mean = share @ means
    variance = share @ (np.exp(2.0 * log_std) + (means - mean) ** 2)
    np.testing.assert_allclose(found["bias_0"], mean, atol=1e-4)
    np.testing.assert_allclose(np.exp(2.0 * found["log_std"]), variance, rtol=1e-4)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.2, 0.8)])
def test_distilling_categoricals_finds_the_average_of_the_probabilities(weights: tuple[float, float]) -> None:
    logits = np.array([[2.0, 0.0, -1.0], [-1.0, 0.5, 1.5]])
    items = [of_constant(constant(row, None), t, (30, 4)[t], weights[t]) for t, row in enumerate(logits)]
    found = distill(constant(np.zeros(3), None), together(items), LONG, 0).arrays()
    expected = np.array(weights) @ softmax(logits, axis=1) / sum(weights)
    np.testing.assert_allclose(softmax(found["bias_0"]), expected, atol=1e-5)


def test_minibatches_lead_to_the_same_place() -> None:
    chosen = LONG.model_copy(update={"minibatch": 8, "step_size": 3e-3})
    means, log_std = np.array([[1.0], [3.0]]), np.array([[-0.5], [0.1]])
    items = [of_constant(constant(*pair), t, (4, 30)[t]) for t, pair in enumerate(zip(means, log_std, strict=True))]
    found = distill(constant(np.zeros(1), np.zeros(1)), together(items), chosen, 0).arrays()
    np.testing.assert_allclose(found["bias_0"], 2.0, atol=0.15)


@pytest.mark.parametrize(("schedule", "share"), [("dynamic", 1.0), ("static", 0.5)])
def test_one_step_has_the_length_of_its_schedule(schedule: str, share: float) -> None:
    """Adam's first step is beta in every coordinate with a gradient, here in the fourth round."""
    chosen = NeuralInitializationSettings(steps=1, step_size=0.02, schedule=schedule)
    start = constant(np.zeros(2), np.zeros(2))
    items = [of_constant(constant(np.array([3.0, -1.0]), np.zeros(2)), 0, 5)]
    moved = distill(start, together(items), chosen, 3).arrays()["bias_0"]
    np.testing.assert_allclose(moved, [0.02 * share, -0.02 * share], rtol=1e-6)


def test_ftl_that_remembers_everything_steps_as_on_all_tasks_at_once() -> None:
    """Two rounds of two tasks, then the same Adam steps as on the joined rows of all four."""
    chosen = settings("ftl", neural={"reservoir": 1000})
    first, second = contributions(1, 2), contributions(2, 2, first=2)
    after_first = neural_update(initial_neural_state(chosen, fresh()), first, chosen, ITERATIONS)
    found = neural_update(after_first, second, chosen, ITERATIONS).initialization
    statistics = found.statistics
    start = after_first.initialization.with_statistics(statistics)
    expected = distill(start, together([*first, *second]), chosen.neural, 1).vector
    np.testing.assert_allclose(found.actor.vector, expected, atol=1e-6)
    newest = distill(start, together(second), chosen.neural, 1).vector
    assert np.abs(found.actor.vector - newest).max() > 1e-4


# The update


@pytest.mark.parametrize("continuous", [True, False])
def test_order_of_arrival_does_not_change_a_bit(continuous: bool) -> None:
    batch, second = contributions(0, 3, 0, continuous), contributions(0, 2, 3, continuous)
    start = fresh(continuous)
    digests = {
        after(settings(), list(order), second[::turn], start=start).sha256()
        for order in itertools.permutations(batch)
        for turn in (1, -1)
    }
    assert len(digests) == 1
    assert digests != {after(settings(), contributions(1, 3, 0, continuous), second, start=start).sha256()}


@pytest.mark.parametrize("rates", ["ftl", "ogd"])
@pytest.mark.parametrize("minibatch", [16, 512])
def test_a_task_of_weight_zero_changes_nothing(minibatch: int, rates: str) -> None:
    chosen = settings(rates=rates, neural={"minibatch": minibatch})
    sound, failed = contributions(0, 3), contributions(0, 2, 3)
    failed = [dataclasses.replace(item, weight=0.0) for item in failed]
    failed[0] = dataclasses.replace(failed[0], curvature=np.array([np.nan, 1.0]))
    without, with_failed = after(chosen, sound), after(chosen, sound + failed)
    assert same_policy(with_failed.initialization, without.initialization)
    for name in ("learning_rates", "loss_sum", "curvature_sum"):
        np.testing.assert_array_equal(getattr(with_failed, name), getattr(without, name))
    assert with_failed.num_tasks == 5
    nothing = after(chosen, failed)
    assert same_policy(nothing.initialization, fresh())
    np.testing.assert_array_equal(nothing.learning_rates, 1.0)


def test_state_in_state_out() -> None:
    chosen = settings()
    state, batch = after(chosen, contributions(0, 2)), contributions(0, 2, 2)
    before = state.sha256()
    for policy in (state.initialization, *(item.policy for item in batch)):
        for array in (policy.actor.vector, policy.critic.vector, policy.statistics.mean, policy.statistics.variance):
            array.flags.writeable = False
    for array in (state.learning_rates, state.loss_sum, *(item.observations for item in batch)):
        array.flags.writeable = False
    following = neural_update(state, batch, chosen, ITERATIONS)
    assert state.sha256() == before != following.sha256()
    assert (following.num_rounds, following.num_tasks) == (2, 4)
    assert neural_update(state, batch, chosen, ITERATIONS).sha256() == following.sha256()


def test_statistics_are_those_of_all_observations_of_all_tasks() -> None:
    state = after(settings(), contributions(0, 2), contributions(0, 3, 2))
    rows = np.concatenate([rows_of(index) for index in range(5)]).astype(np.float64)
    found = state.initialization.statistics
    assert found.count == len(rows)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, rows.var(axis=0), rtol=1e-12)


def test_the_start_comes_nearer_to_the_policies_of_its_tasks() -> None:
    batch = contributions(0, 3)
    chosen = settings(neural={"steps": 200, "step_size": 1e-2})
    distances = [
        np.mean([policy_divergence(item.policy, start, item.observations).mean() for item in batch])
        for start in (fresh(), after(chosen, batch).initialization)
    ]
    assert distances[1] < 0.5 * distances[0]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_critic_moves_by_its_share(share: float) -> None:
    """With one task: values as before or those of the task's critic, whatever the statistics have become."""
    chosen, (item,), rows = settings(neural={"critic_share": share}), contributions(0, 1), rows_of(7)
    begun = learned(50)
    found = after(chosen, [item], start=begun).initialization
    expected = item.policy if share else begun
    np.testing.assert_allclose(found.values(rows), expected.values(rows), atol=2e-5)
    assert np.abs(item.policy.values(rows) - begun.values(rows)).max() > 0.1


def test_the_critic_moves_half_way_to_the_weighted_mean_of_the_tasks_critics() -> None:
    first, second = contributions(0, 2)
    begun = dataclasses.replace(learned(50), statistics=first.statistics)
    items = [dataclasses.replace(item, statistics=no_observations(SIZE)) for item in (first, second)]
    items = [
        dataclasses.replace(item, policy=dataclasses.replace(item.policy, statistics=begun.statistics), weight=weight)
        for item, weight in zip(items, (1.0, 0.5), strict=True)
    ]
    found = after(settings(neural={"critic_share": 0.5}), items, start=begun).initialization.critic.vector
    one, two = (item.policy.critic.vector for item in items)
    np.testing.assert_allclose(found, 0.5 * begun.critic.vector + (one + 0.5 * two) / 3.0, atol=1e-6)


def test_fixed_changes_no_policy() -> None:
    state = after(settings("fixed", "fixed"), contributions(0, 3), contributions(0, 2, 3))
    assert same_policy(state.initialization, fresh())
    assert state.initialization.statistics.count == 0.0
    np.testing.assert_array_equal(state.learning_rates, 1.0)
    assert (state.num_rounds, state.num_tasks) == (2, 5)
    rates = after(settings("fixed", "ftl"), contributions(0, 3))
    assert same_policy(rates.initialization, fresh())
    assert (rates.learning_rates != 1.0).all()


def test_rates_of_ftl_are_the_closed_form_on_all_tasks() -> None:
    everything = contributions(0, 5)
    everything[1] = dataclasses.replace(everything[1], curvature=np.array([2.0, np.nan]))
    chosen = settings(learning_rates={"regularizer": 1e-12})
    found = after(chosen, everything[:2], everything[2:]).learning_rates
    stepped = [everything[0], *everything[2:]]
    for objective, items in ((0, everything), (1, stepped)):
        loss = sum(item.loss for item in items)
        curvature = sum(item.curvature[objective] for item in items)
        assert found[objective] == pytest.approx(np.sqrt(loss / (ITERATIONS * curvature)), rel=1e-9)


# What a task brings


PLAIN = DICESettings(estimator="none")


def dataset(
    rates: tuple[float, ...],
    branches: tuple[int, ...],
    divergences: tuple[float, ...],
    sample: TransitionSample | None = None,
) -> NeuralDataset:
    rows = rows_of(4)
    return NeuralDataset(
        task_index=6,
        observations=rows,
        statistics=no_observations(SIZE).merged(rows),
        policy=learned(1),
        start=Start(learned(2), np.array(rates)),
        branches=np.array(branches),
        divergences=np.array(divergences),
        sample=sample,
        discount=0.9,
        horizon=20,
    )


def test_a_contribution_has_the_mean_divergence_of_the_start_and_the_curvature_of_each_objective() -> None:
    data = dataset((0.5, 0.1, 2.0), (0, 1, 0, 0), (0.3, 0.02, 0.6, 0.9))
    found = neural_contribution(data, PLAIN, settings())
    start = data.start.initialization
    assert isinstance(start, PolicyState)
    assert found.loss == pytest.approx(policy_divergence(data.policy, start, data.observations).mean(), rel=1e-12)
    np.testing.assert_allclose(found.curvature, [0.6 / 0.25, 0.02 / 0.01, np.nan], rtol=1e-12)
    assert (found.task_index, found.weight, found.diagnostics, found.failures) == (6, 1.0, None, ())
    assert found.statistics is data.statistics


def path(seed: int = 0, num_episodes: int = 10) -> TransitionSample:
    """Whole episodes of 20 steps of a random walk that the actions drive, with actions of ``learned(2)``."""
    rng, behaviour = np.random.default_rng(seed), NeuralTarget(learned(2))
    state = rng.normal(size=(num_episodes, SIZE)).astype(np.float32)
    observations, actions, following = [], [], []
    for _ in range(20):
        action = behaviour.sample(state, rng)
        observations.append(state)
        actions.append(action)
        push = action.reshape(num_episodes, -1).mean(axis=1, keepdims=True)
        state = (0.8 * state + 0.3 * push + 0.3 * rng.normal(size=state.shape)).astype(np.float32)
        following.append(state)
    flat = [np.stack(part, axis=1).reshape(num_episodes * 20, *part[0].shape[1:]) for part in (observations, actions)]
    after_them = np.stack(following, axis=1).reshape(-1, SIZE)
    ages = np.tile(np.arange(20), num_episodes).astype(np.int32)
    episodes = np.repeat(np.arange(num_episodes), 20).astype(np.int32)
    return TransitionSample(
        flat[0],
        flat[1],
        after_them,
        np.zeros(ages.size, np.bool_),
        ages == 19,
        (episodes % 2).astype(np.int32),
        episodes,
        ages,
        behaviour.log_probabilities(flat[0], flat[1]),
    )


@pytest.mark.parametrize("estimator", ["dualdice_linear", "importance"])
def test_a_contribution_weighs_its_samples_by_their_corrections(estimator: str) -> None:
    dice = DICESettings(estimator=estimator, max_flow_residual=2.0, min_effective_sample_size=1e-6)
    data = dataset((0.5, 0.1), (0, 1), (0.3, 0.02), path(num_episodes=40))
    assert data.sample is not None
    found, again = (neural_contribution(data, dice, settings()) for _ in range(2))
    estimate = estimate_corrections(data.sample, NeuralTarget(data.policy), 0.9, 20, dice, data.task_index)
    share = np.maximum(estimate.mass, 0.0) / np.maximum(estimate.mass, 0.0).sum()
    start = data.start.initialization
    assert isinstance(start, PolicyState)
    divergence = policy_divergence(data.policy, start, data.sample.observations)
    assert found.loss == again.loss == pytest.approx(estimate.mass.sum() * (share @ divergence), rel=1e-9)
    assert found.diagnostics == estimate.diagnostics
    assert len(found.observations) == len(data.observations)
    assert {row.tobytes() for row in found.observations} <= {row.tobytes() for row in data.sample.observations}
    assert found.weight == estimate.diagnostics.trust(dice) > 0.0


def test_rows_are_drawn_in_proportion_to_their_share() -> None:
    shares = np.random.default_rng(0).dirichlet(np.full(50, 0.3))
    drawn = np.bincount(systematic_draw(shares, 1000), minlength=50)
    assert drawn.sum() == 1000
    np.testing.assert_allclose(drawn, 1000 * shares, atol=1.0)
    np.testing.assert_array_equal(systematic_draw(np.full(7, 1 / 7), 7), np.arange(7))


def _changed(**changes: Any) -> TransitionSample:
    return dataclasses.replace(path(), **changes)


@pytest.mark.parametrize(
    ("sample", "problem"),
    [
        (None, "no transitions were kept; within_task.dataset_transitions must be above 0"),
        (path().rows(np.arange(0)), "the dataset is empty"),
        (path().rows(np.arange(200) != 45), "episode 2 is incomplete: transition 45 has age 6, expected 5"),
        (_changed(observations=np.full((200, SIZE), np.nan, np.float32)), "observations of transition 0 is not finite"),
        (_changed(log_probabilities=np.full(200, np.inf)), "log_probabilities of transition 0 is not finite"),
    ],
    ids=["nothing kept", "empty", "cut", "not a number", "infinite"],
)
def test_bad_data_leave_a_task_out_and_report_why(sample: TransitionSample | None, problem: str) -> None:
    data = dataset((0.5, 0.1), (0, 1), (0.3, 0.02), sample)
    found = neural_contribution(data, DICESettings(estimator="importance"), settings())
    assert found.weight == 0.0
    assert found.failures == ("no_estimate",)
    assert found.diagnostics is None
    assert re.fullmatch(problem, found.problem)
    state = initial_neural_state(settings(), fresh())
    assert neural_update(state, [found], settings(), ITERATIONS).start.initialization is state.initialization
    kept = NeuralContribution.from_arrays(found.to_arrays())
    assert (kept.problem, kept.failures, kept.weight) == (found.problem, found.failures, 0.0)


def test_the_shared_curvature_counts_an_objectives_share_of_all_steps() -> None:
    data = dataset((0.5, 0.1, 2.0), (0, 1, 0, 0), (0.3, 0.02, 0.6, 0.9))
    found = neural_contribution(data, PLAIN, settings(learning_rates={"curvature": "measured_shared"}))
    np.testing.assert_allclose(found.curvature, [2.4 * 0.75, 2.0 * 0.25, np.nan], rtol=1e-12)


# As a checkpoint keeps them


@pytest.mark.parametrize("continuous", [True, False])
def test_a_state_comes_back_from_its_arrays_bit_for_bit(continuous: bool) -> None:
    state = after(settings(), contributions(0, 2, 0, continuous), start=fresh(continuous))
    parts = dict(sorted(state.to_arrays().items(), reverse=True))
    again = NeuralMetaState.from_arrays(
        {name: np.array(part) if np.ndim(part) else part for name, part in parts.items()}
    )
    assert again.sha256() == state.sha256()
    batch = contributions(0, 2, 2, continuous)
    assert neural_update(again, batch, settings(), ITERATIONS).sha256() == (
        neural_update(state, batch, settings(), ITERATIONS).sha256()
    )


def test_the_digest_sees_every_number_of_the_state() -> None:
    batch = after(settings(), contributions(0, 2))
    observed = Observed(np.ones((4, 2)), no_moments(4, 3, 2), 0.7)
    state = dataclasses.replace(batch, latents=np.ones((4, 2)), observed=observed, warm_up_rounds=1)
    parts = {name: part for name, part in state.to_arrays().items() if part is not None}
    for name, part in parts.items():
        changed = np.array(part)
        place = (0,) * changed.ndim
        changed[place] = changed[place] + 1 if changed.dtype.kind == "i" else np.nextafter(changed[place], np.inf)
        other = NeuralMetaState.from_arrays({**parts, name: changed if changed.ndim else changed.item()})
        assert other.sha256() != state.sha256(), name


@pytest.mark.parametrize("continuous", [True, False])
def test_a_contribution_comes_back_from_its_arrays_and_gives_the_same_state(continuous: bool) -> None:
    batch = contributions(0, 2, 0, continuous)
    batch[0] = dataclasses.replace(batch[0], curvature=np.array([np.nan, 0.1 + 0.2]), weight=0.7)
    again = [NeuralContribution.from_arrays(dict(reversed(item.to_arrays().items()))) for item in batch]
    for ours, theirs in zip(again, batch, strict=True):
        assert ours.to_arrays().keys() == theirs.to_arrays().keys()
        for name, part in theirs.to_arrays().items():
            np.testing.assert_array_equal(ours.to_arrays()[name], part)
    start = fresh(continuous)
    assert after(settings(), again, start=start).sha256() == after(settings(), batch, start=start).sha256()


# One interface for both kinds


def test_the_interface_of_both_kinds_goes_to_the_neural_functions() -> None:
    chosen, data = settings(), dataset((0.5, 0.1), (0, 1), (0.3, 0.02))
    state = first_state(chosen, fresh(), COSTS)
    assert isinstance(state, NeuralMetaState)
    assert state.sha256() == initial_neural_state(chosen, fresh()).sha256()
    item = contribute(data, DICESettings(), chosen)
    assert isinstance(item, NeuralContribution)
    expected = neural_update(state, [neural_contribution(data, DICESettings(), chosen)], chosen, ITERATIONS)
    assert step(state, [item], chosen, ITERATIONS).sha256() == expected.sha256()


def test_the_wrong_number_of_first_rates_is_reported() -> None:
    with pytest.raises(ValueError, match=r"3 rates given; 1 \+ 1 are needed"):
        initial_neural_state(settings(learning_rates={"initial": (1.0, 1.0, 1.0)}), fresh())


# A mixture of step sizes


def mixture(**changes: Any) -> MetaSettings:
    return settings(neural={"schedule": "mixture", "num_experts": 3, **changes})


def test_each_neural_expert_is_the_learner_of_its_step_size_alone_and_the_heaviest_is_played() -> None:
    rounds = [contributions(0, 2, first) for first in (0, 2, 4)]
    state = after(mixture(step_size=0.04, switching=0.1), *rounds)
    assert state.experts is not None
    weights, alone = np.full(3, 1.0 / 3.0), []
    for size in (0.02, 0.04, 0.08):
        alone.append([after(settings(neural={"step_size": size}), *rounds[:count]) for count in range(4)])
    for count, batch in enumerate(rounds):
        losses = [
            sum(float(policy_divergence(i.policy, states[count].initialization, i.observations).mean()) for i in batch)
            for states in alone
        ]
        raised = weights * np.exp(-np.array(losses) / 2.0)
        weights = 0.9 * raised / raised.sum() + 0.1 / 3.0
    np.testing.assert_allclose(state.experts.weights, weights, rtol=1e-6)
    assert np.ptp(weights) > 0.01
    for point, states in zip(state.experts.points, alone, strict=True):
        np.testing.assert_array_equal(point, states[-1].initialization.actor.vector)
    assert same_policy(state.initialization, alone[int(np.argmax(weights))][-1].initialization)


@pytest.mark.parametrize("method", ["ogd", "ftl"])
def test_a_neural_mixture_survives_a_checkpoint(method: str) -> None:
    chosen = settings(method, neural={"schedule": "mixture", "num_experts": 3})
    state = after(chosen, contributions(0, 2), contributions(0, 2, 2))
    again = NeuralMetaState.from_arrays(state.to_arrays())
    assert again.sha256() == state.sha256()
    batch = contributions(0, 2, 4)
    following = [neural_update(one, batch, chosen, ITERATIONS).sha256() for one in (again, state)]
    assert following[0] == following[1]
    assert state.experts is not None
    nudged = dataclasses.replace(state.experts, weights=np.nextafter(state.experts.weights, 1.0))
    assert dataclasses.replace(state, experts=nudged).sha256() != state.sha256()


def test_a_neural_mixture_follows_a_drift_better_than_a_small_step_and_a_still_target_no_worse() -> None:
    """Means that jump every round against a mean that stays: the loss of the start of each round."""

    def total(chosen: MetaSettings, means: list[float]) -> float:
        state, lost = initial_neural_state(chosen, constant(np.zeros(1), np.zeros(1))), 0.0
        for index, mean in enumerate(means):
            target = constant(np.array([mean]), np.zeros(1))
            item = of_constant(target, index, 20)
            lost += float(policy_divergence(target, state.initialization, item.observations).mean())
            state = neural_update(state, [item], chosen, ITERATIONS)
        return lost

    small, large = 0.002, 0.05
    jumps = [2.0 * (index // 3 % 2) for index in range(30)]
    noise = np.random.default_rng(0).normal(size=30).tolist()
    many = mixture(step_size=0.01, num_experts=7)
    for means in (jumps, noise):
        losses = [total(settings(neural={"step_size": size}), means) for size in (small, large)]
        assert total(many, means) < 1.15 * min(losses)
        assert max(losses) > 1.3 * min(losses)


# Parts that are left unlearned


def only(*parts: str) -> MetaSettings:
    return settings(neural={"learned": parts, "critic_share": 1.0})


def function(policy: PolicyState, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return policy.act(rows)[0], policy.values(rows)


def test_all_parts_learned_is_the_default_and_a_share_of_nothing_leaves_the_critic() -> None:
    rounds = [contributions(0, 3), contributions(0, 3, 3)]
    default = after(settings(neural={"critic_share": 1.0}), *rounds)
    assert same_policy(after(only("actor", "critic", "statistics"), *rounds).initialization, default.initialization)
    unmoved = after(settings(neural={"critic_share": 0.0}), *rounds)
    assert same_policy(after(only("actor", "statistics"), *rounds).initialization, unmoved.initialization)


@pytest.mark.parametrize("part", ["actor", "critic"])
def test_a_part_that_is_not_learned_keeps_its_function(part: str) -> None:
    """The other one moves. The start has seen data: a fresh one keeps its weights under its first statistics."""
    other = "critic" if part == "actor" else "actor"
    start, rows = learned(77), rows_of(3)
    found = after(only(other, "statistics"), contributions(0, 3), contributions(0, 3, 3), start=start).initialization
    before, now = (function(policy, rows)[part == "critic"] for policy in (start, found))
    np.testing.assert_allclose(now, before, atol=2e-4)
    moved, still = (function(policy, rows)[part != "critic"] for policy in (start, found))
    assert np.abs(moved - still).max() > 0.05
    assert found.statistics.count > start.statistics.count


def test_statistics_that_are_not_learned_have_almost_no_weight_and_the_actor_learns_under_them() -> None:
    rounds = [contributions(0, 3), contributions(0, 3, 3)]
    found = after(only("actor", "critic"), *rounds).initialization
    np.testing.assert_array_equal(found.statistics.mean, 0.0)
    np.testing.assert_array_equal(found.statistics.variance, 1.0)
    assert found.statistics.count == 1.0
    item = contributions(0, 1, 6)[0]
    seen = found.with_statistics(found.statistics.merged(item.observations))
    np.testing.assert_allclose(seen.act(item.observations)[0], found.act(item.observations)[0], atol=1e-4)
    fitted = after(only("actor", "critic"), *([contributions(0, 1)] * 40)).initialization
    target = contributions(0, 1)[0]
    start = float(policy_divergence(target.policy, fresh(), target.observations).mean())
    assert float(policy_divergence(target.policy, fitted, target.observations).mean()) < 0.3 * start
