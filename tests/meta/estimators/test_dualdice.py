from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from meta.estimators.closed_form import Corrections, estimate
from meta.offline.dice_settings import DICESettings
from policies.exact.solver import ExactModel, occupancy
from policies.tabular.empirical import empirical_model
from policies.tabular.transitions import Transitions, concatenate
from tasks.contract.tabular_model import FloatArray, TabularModel
from tests.support.meta_helpers import empirical_occupancy, ending_cmdp, random_rows, sample, sample_mixture
from tests.support.problems import random_cmdp, tabular

SETTINGS = DICESettings()
SIZE = (6, 3)


def a_model(seed: int, discount: float = 0.9) -> TabularModel:
    return random_cmdp(seed, *SIZE, num_costs=1, discount=discount)


def covering(
    seed: int, model: TabularModel, num_episodes: int = 60, horizon: int = 10
) -> tuple[Transitions, FloatArray, np.random.Generator]:
    """Data of three random policies, and a fourth policy to evaluate."""
    rng = np.random.default_rng([seed, 5])
    size = model.num_states, model.num_actions
    data = sample_mixture(model, [random_rows(rng, *size) for _ in range(3)], num_episodes, horizon, rng)
    return data, random_rows(rng, *size), rng


def without_pair(data: Transitions, state: int, action: int) -> Transitions:
    """The data of an agent that never chose ``action`` in ``state``: every episode is cut before it would."""
    chosen = (data.states == state) & (data.actions == action)
    starts = np.flatnonzero(data.episode_starts)
    seen = np.cumsum(chosen)
    before = (seen - chosen)[starts][np.cumsum(data.episode_starts) - 1]
    return select(data, seen == before)


def select(data: Transitions, keep: np.ndarray) -> Transitions:
    return Transitions(*(getattr(data, field.name)[keep] for field in dataclasses.fields(data)))


@dataclasses.dataclass(frozen=True)
class Dense:
    """THEORY section 3 written out: B over visited pairs, d^D, mu_0, and which pairs were visited."""

    bellman: FloatArray
    share: FloatArray
    start: FloatArray
    visited: np.ndarray

    def corrections(self, ridge: float) -> FloatArray:
        """w = B nu with (B' d B + ridge I) nu = (1 - gamma) mu_0."""
        normal = self.bellman.T @ np.diag(self.share) @ self.bellman + ridge * np.eye(self.share.size)
        return np.asarray(self.bellman @ np.linalg.solve(normal, self.start))


def dense_equations(data: Transitions, policy: FloatArray, discount: float, padded: float = 0.0) -> Dense:
    pair = data.states.astype(int) * policy.shape[1] + data.actions
    visited = np.unique(pair)
    counts = np.array([(pair == wanted).sum() for wanted in visited])
    follow = np.zeros((visited.size, visited.size))
    for row, wanted in enumerate(visited):
        here = pair == wanted
        for target in data.next_states[here & ~data.terminated]:
            follow[row] += policy[target, visited % policy.shape[1]] * (visited // policy.shape[1] == target)
    follow /= counts[:, None]
    first = np.array([(data.states[data.episode_starts] == s).mean() for s in range(policy.shape[0])])
    return Dense(
        bellman=np.eye(visited.size) - discount * follow,
        share=counts / (len(data) + padded),
        start=(1.0 - discount) * (first[:, None] * policy).ravel()[visited],
        visited=visited,
    )


def by_pair(estimated: Corrections, data: Transitions, visited: np.ndarray, num_actions: int) -> FloatArray:
    """The correction of each visited pair; all samples of a pair must agree."""
    pair = data.states.astype(int) * num_actions + data.actions
    first = np.array([np.flatnonzero(pair == wanted)[0] for wanted in visited])
    result = estimated.correction[first]
    np.testing.assert_array_equal(estimated.correction, result[np.searchsorted(visited, pair)])
    return result


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_exact_occupancy_of_the_empirical_model(seed: int) -> None:
    model = a_model(seed)
    data, policy, _ = covering(seed, model)
    estimated = estimate(data, policy, model.discount, 10, SETTINGS)
    expected = empirical_occupancy(data, policy, model.discount)
    assert expected.missing == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(estimated.pair_occupancy, expected.pairs, rtol=0.0, atol=1e-10)
    np.testing.assert_allclose(estimated.occupancy, expected.pairs.sum(axis=1), rtol=0.0, atol=1e-10)
    assert not estimated.diagnostics.regularized


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_exact_solver_on_the_empirical_model(seed: int) -> None:
    model = ending_cmdp(seed, 7, 3, 0.9)
    data, policy, _ = covering(seed, model)
    empirical = empirical_model(data, model.num_states, model.num_actions, model.discount)
    extended = np.concatenate([policy, policy[:1]])
    expected = occupancy(empirical.model, extended)[:-1]
    estimated = estimate(data, policy, model.discount, 10, SETTINGS)
    np.testing.assert_allclose(estimated.occupancy, expected, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_correction_is_the_ratio_of_policy_and_data_distributions(seed: int) -> None:
    model = a_model(seed)
    data, policy, _ = covering(seed, model)
    estimated = estimate(data, policy, model.discount, 10, SETTINGS)
    in_data = np.zeros(SIZE)
    np.add.at(in_data, (data.states, data.actions), 1.0 / len(data))
    expected = empirical_occupancy(data, policy, model.discount).pairs
    np.testing.assert_allclose(
        estimated.correction * in_data[data.states, data.actions], expected[data.states, data.actions], atol=1e-10
    )


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_satisfies_the_normal_equations(seed: int, ends: bool) -> None:
    model = ending_cmdp(seed, *SIZE, 0.9) if ends else a_model(seed)
    data, policy, _ = covering(seed, model)
    horizon = 10
    lengths = np.diff(np.append(np.flatnonzero(data.episode_starts), len(data)))
    padded = float((horizon - lengths).sum())
    assert (padded > 0.0) == ends
    dense = dense_equations(data, policy, model.discount, padded)
    correction = by_pair(estimate(data, policy, model.discount, horizon, SETTINGS), data, dense.visited, SIZE[1])
    np.testing.assert_allclose(dense.bellman.T @ (dense.share * correction), dense.start, rtol=0.0, atol=1e-13)
    np.testing.assert_allclose(correction, dense.corrections(ridge=0.0), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("ridge", [1e-8, 1e-4, 1e-2])
def test_satisfies_the_ridge_regularised_normal_equations_where_data_are_missing(ridge: float) -> None:
    model = a_model(0)
    data, policy, _ = covering(0, model)
    data = without_pair(data, 2, 1)
    dense = dense_equations(data, policy, model.discount)
    estimated = estimate(data, policy, model.discount, 10, DICESettings(ridge=ridge))
    correction = by_pair(estimated, data, dense.visited, SIZE[1])
    np.testing.assert_allclose(correction, dense.corrections(ridge), rtol=1e-8, atol=1e-11)
    assert estimated.diagnostics.regularized
    assert np.abs(correction - dense.corrections(0.0)).max() > ridge


def test_ridge_is_not_used_where_the_data_cover_the_policy() -> None:
    model = a_model(0)
    data, policy, _ = covering(0, model)
    plain, ridged = (estimate(data, policy, model.discount, 10, DICESettings(ridge=ridge)) for ridge in (0.0, 1.0))
    np.testing.assert_array_equal(plain.correction, ridged.correction)


def test_does_not_depend_on_how_the_behaviour_was_mixed() -> None:
    """Policies that each visit one action only: no single one covers the target, their mixture does."""
    model = a_model(3)
    rng = np.random.default_rng(0)
    single = [np.tile(np.eye(SIZE[1])[action], (SIZE[0], 1)) for action in range(SIZE[1])]
    policy = random_rows(rng, *SIZE)
    parts = [sample(model, behaviour, 60, 20, rng, i) for i, behaviour in enumerate(single)]
    alone = estimate(parts[0], policy, model.discount, 20, SETTINGS)
    mixed = estimate(concatenate(parts), policy, model.discount, 20, SETTINGS)
    assert alone.diagnostics.missing_mass > 0.3
    expected = empirical_occupancy(concatenate(parts), policy, model.discount)
    np.testing.assert_allclose(mixed.pair_occupancy, expected.pairs, rtol=0.0, atol=1e-10)
    assert mixed.diagnostics.missing_mass == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_end_of_an_episode_absorbs_the_rest_of_its_mass(seed: int) -> None:
    model = ending_cmdp(seed, 7, 3, 0.9)
    data, policy, _ = covering(seed, model)
    estimated = estimate(data, policy, model.discount, 10, SETTINGS)
    expected = empirical_occupancy(data, policy, model.discount)
    assert expected.ended > 0.2
    np.testing.assert_allclose(estimated.pair_occupancy, expected.pairs, rtol=0.0, atol=1e-10)
    assert estimated.pair_occupancy.sum() == pytest.approx(1.0 - expected.ended, abs=1e-12)
    assert not estimated.pair_occupancy[-1].any()


def test_truncation_does_not_end_anything() -> None:
    """Four steps of data, an effective horizon of fifty: the answer is the infinite-horizon occupancy."""
    model, horizon = a_model(1, discount=0.98), 4
    data, policy, _ = covering(1, model, num_episodes=4000, horizon=horizon)
    estimated = estimate(data, policy, model.discount, horizon, SETTINGS)
    truth = occupancy(ExactModel(model), policy)
    chain = np.einsum("sa,sat->st", policy, _kernel(model))
    at_step = [model.initial @ np.linalg.matrix_power(chain, step) for step in range(horizon)]
    weights = model.discount ** np.arange(horizon)
    discounted_away = weights @ np.array(at_step) / weights.sum()
    error, other = (np.abs(found - truth).sum() for found in (estimated.occupancy, discounted_away))
    assert error < 0.02 < 0.1 < other


def _kernel(model: TabularModel) -> FloatArray:
    kernel = np.zeros((model.num_states * model.num_actions, model.num_states))
    kernel[model.pairs, model.next_states] = model.probabilities
    return kernel.reshape(model.num_states, model.num_actions, -1)


@pytest.mark.parametrize("ends", [False, True])
def test_mean_correction_is_one_when_nothing_is_missing(ends: bool) -> None:
    model = ending_cmdp(4, *SIZE, 0.9) if ends else a_model(4)
    data, policy, _ = covering(4, model)
    estimated = estimate(data, policy, model.discount, 10, SETTINGS)
    assert estimated.diagnostics.mean_correction == pytest.approx(1.0, abs=1e-12)
    assert estimated.diagnostics.missing_mass == pytest.approx(0.0, abs=1e-12)
    if not ends:
        assert estimated.correction.mean() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(("state", "action"), [(0, 0), (2, 1), (4, 2)])
def test_missing_mass_is_that_of_the_empirical_model(state: int, action: int, ends: bool) -> None:
    model = ending_cmdp(5, *SIZE, 0.9) if ends else a_model(5)
    data, policy, _ = covering(5, model)
    data = without_pair(data, state, action)
    estimated = estimate(data, policy, model.discount, 10, SETTINGS)
    expected = empirical_occupancy(data, policy, model.discount)
    assert expected.missing > 0.01
    assert estimated.diagnostics.regularized
    assert estimated.diagnostics.missing_mass == pytest.approx(expected.missing, abs=1e-8)
    assert estimated.diagnostics.mean_correction == pytest.approx(1.0 - expected.missing, abs=1e-8)
    np.testing.assert_allclose(estimated.pair_occupancy, expected.pairs, rtol=0.0, atol=1e-8)


def test_a_policy_that_avoids_the_missing_pair_misses_nothing() -> None:
    model = a_model(5)
    data, policy, _ = covering(5, model)
    data = without_pair(data, 2, 1)
    policy[2] = [0.4, 0.0, 0.6]
    diagnostics = estimate(data, policy, model.discount, 10, SETTINGS).diagnostics
    assert not diagnostics.regularized
    assert diagnostics.missing_mass == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("ends", [False, True])
def test_effective_sample_size_is_that_of_the_samples_weights(ends: bool) -> None:
    """Samples in the absorbing state, up to the horizon, count: their weight is the mass that has ended."""
    model = ending_cmdp(6, *SIZE, 0.9) if ends else a_model(6)
    data, policy, _ = covering(6, model)
    estimated = estimate(data, policy, model.discount, 10, SETTINGS)
    total = data.episode_starts.sum() * 10
    waiting = total - len(data)
    expected = empirical_occupancy(data, policy, model.discount)
    weights = np.concatenate([estimated.correction, np.full(waiting, expected.ended * total / max(waiting, 1))])
    assert weights.mean() == pytest.approx(1.0, abs=1e-12)
    direct = weights.sum() ** 2 / (weights**2).sum() / weights.size
    assert 0.1 < direct < 0.99
    assert estimated.diagnostics.effective_sample_size == pytest.approx(direct, rel=1e-10)


def test_effective_sample_size_is_one_on_data_of_the_policy_itself() -> None:
    """One state, so the policy's own data are its occupancy whatever the horizon; counts are set to be exact."""
    policy = np.array([[0.25, 0.75]])
    actions = np.tile([0, 1, 1, 1], 10).astype(np.int32)
    diagnostics = estimate(_one_state_data(actions), policy, 0.9, 4, SETTINGS).diagnostics
    assert diagnostics.effective_sample_size == pytest.approx(1.0, abs=1e-12)


def _one_state_data(actions: np.ndarray) -> Transitions:
    size, zeros = actions.size, np.zeros(actions.size, dtype=np.int32)
    return Transitions(
        states=zeros,
        actions=actions,
        reward=np.zeros(size),
        costs=np.zeros((size, 1)),
        next_states=zeros,
        terminated=np.zeros(size, dtype=np.bool_),
        truncated=np.arange(size) % 4 == 3,
        episodes=(np.arange(size) // 4).astype(np.int32),
        iterations=zeros,
    )


def test_negative_share_counts_samples_with_a_negative_correction() -> None:
    model = a_model(0)
    data, policy, _ = covering(0, model)
    assert estimate(data, policy, model.discount, 10, SETTINGS).diagnostics.negative_share == 0.0
    ridged = estimate(without_pair(data, 2, 1), policy, model.discount, 10, DICESettings(ridge=0.1))
    assert ridged.diagnostics.negative_share == (ridged.correction < 0.0).mean() > 0.0


def test_flow_residual_vanishes_on_much_data_of_one_environment() -> None:
    model = a_model(7)
    residuals = []
    for num_episodes in (100, 10_000):
        data, policy, _ = covering(7, model, num_episodes=num_episodes)
        residuals.append(estimate(data, policy, model.discount, 10, SETTINGS).diagnostics.flow_residual)
    assert residuals[1] < 0.05
    assert 5.0 < residuals[0] / residuals[1] < 20.0


def test_flow_residual_is_large_when_held_out_episodes_contradict_the_estimate() -> None:
    model, other = a_model(7), a_model(8)
    data, policy, rng = covering(7, model, num_episodes=1000)
    elsewhere = sample_mixture(other, [random_rows(rng, *SIZE) for _ in range(3)], 1000, 10, rng)
    held_out = (np.cumsum(data.episode_starts) - 1) % 5 == 4
    mixed = Transitions(
        *(
            np.where(held_out if ours.ndim == 1 else held_out[:, None], theirs, ours)
            for ours, theirs in zip(_columns(data), _columns(elsewhere), strict=True)
        )
    )
    settings = DICESettings(max_flow_residual=0.2)
    right = estimate(data, policy, model.discount, 10, settings).diagnostics
    wrong = estimate(mixed, policy, model.discount, 10, settings).diagnostics
    assert right.flow_residual < 0.1 < 0.4 < wrong.flow_residual
    assert right.failures(settings) == ()
    assert wrong.failures(settings) == ("flow_residual",)


def _columns(data: Transitions) -> list[np.ndarray]:
    return [getattr(data, field.name) for field in dataclasses.fields(data)]


@pytest.mark.parametrize("ends", [False, True])
def test_flow_residual_is_the_violated_flow_on_episodes_that_the_estimate_has_not_seen(ends: bool) -> None:
    """Every fifth episode is held out; sample by sample: w (e(s,a) - gamma E_{a'~pi} e(s',a')) against mu_0."""
    model, horizon = ending_cmdp(9, *SIZE, 0.9) if ends else a_model(9), 10
    data, policy, _ = covering(9, model)
    held_out = (np.cumsum(data.episode_starts) - 1) % 5 == 4
    seen, unseen = select(data, ~held_out), select(data, held_out)
    learned = estimate(seen, policy, model.discount, horizon, SETTINGS)
    corrections = np.zeros(SIZE)
    corrections[seen.states, seen.actions] = learned.correction
    flow, first = np.zeros(SIZE), np.zeros(SIZE[0])
    total = unseen.episode_starts.sum() * horizon
    for index, (state, action, target) in enumerate(
        zip(unseen.states.tolist(), unseen.actions.tolist(), unseen.next_states.tolist(), strict=True)
    ):
        flow[state, action] += corrections[state, action] / total
        if not unseen.terminated[index]:
            flow[target] -= model.discount * corrections[state, action] / total * policy[target]
        if unseen.episode_starts[index]:
            first[state] += 1.0 / unseen.episode_starts.sum()
    expected = np.abs(flow - (1.0 - model.discount) * first[:, None] * policy).sum()
    found = estimate(data, policy, model.discount, horizon, SETTINGS).diagnostics.flow_residual
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_policy_that_the_data_do_not_follow_fails_by_its_missing_mass() -> None:
    model = a_model(7)
    rng = np.random.default_rng(0)
    never_last = np.tile([0.5, 0.5, 0.0], (SIZE[0], 1))
    data = sample(model, never_last, 1000, 10, rng)
    followed = estimate(data, np.tile([0.9, 0.1, 0.0], (SIZE[0], 1)), model.discount, 10, SETTINGS).diagnostics
    strayed = estimate(data, np.tile([0.1, 0.1, 0.8], (SIZE[0], 1)), model.discount, 10, SETTINGS).diagnostics
    assert followed.failures(SETTINGS) == ()
    assert strayed.failures(SETTINGS) == ("missing_mass",)


def test_too_few_episodes_to_hold_any_out_is_a_failure() -> None:
    model = a_model(7)
    data, policy, _ = covering(7, model, num_episodes=1, horizon=200)
    diagnostics = estimate(data, policy, model.discount, 200, SETTINGS).diagnostics
    assert np.isnan(diagnostics.flow_residual)
    assert diagnostics.failures(SETTINGS) == ("flow_residual",)


@pytest.mark.parametrize("ends", [False, True])
def test_error_falls_with_the_square_root_of_the_data(ends: bool) -> None:
    """L1 error against the true occupancy, averaged over seeds: the slope of its logarithm is near -1/2."""
    sizes, repetitions, horizon = np.array([50, 200, 800, 3200]), 24, 10
    errors = np.zeros(sizes.size)
    model = ending_cmdp(11, *SIZE, 0.9) if ends else a_model(11)
    rng = np.random.default_rng(1)
    behaviours, policy = [random_rows(rng, *SIZE) for _ in range(2)], random_rows(rng, *SIZE)
    truth = occupancy(ExactModel(model), policy)[:, None] * policy * ~model.absorbing[:, None]
    for _ in range(repetitions):
        for index, size in enumerate(sizes):
            data = sample_mixture(model, behaviours, int(size), horizon, rng)
            found = estimate(data, policy, model.discount, horizon, SETTINGS).pair_occupancy
            errors[index] += np.abs(found - truth).sum() / repetitions
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -0.6 < slope < -0.4
    assert errors[-1] < 0.03


def test_a_single_looping_state_has_all_the_mass() -> None:
    model = tabular(np.ones((1, 2, 1)), np.zeros((1, 2)), np.zeros((1, 1, 2)), np.ones(1), 0.5)
    rng = np.random.default_rng(0)
    estimated = estimate(sample(model, np.array([[0.5, 0.5]]), 10, 5, rng), np.array([[0.1, 0.9]]), 0.5, 5, SETTINGS)
    np.testing.assert_allclose(estimated.pair_occupancy, [[0.1, 0.9]], rtol=0.0, atol=1e-14)


def test_settings_refuse_unknown_keys_and_a_negative_ridge() -> None:
    with pytest.raises(ValueError, match="rigde"):
        DICESettings.model_validate({"rigde": 1e-6})
    with pytest.raises(ValueError, match="ridge"):
        DICESettings(ridge=-1.0)
