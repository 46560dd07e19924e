from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policies.neural.advantages import (
    complete_returns,
    episode_ages,
    explained_variance,
    generalized_advantages,
    life_table_returns,
)

T, N, H = 40, 3, 2
GAMMA = 0.9


def _batch(seed: int, end: float = 0.15) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    ended = rng.random((T, N)) < end
    terminated = ended & (rng.random((T, N)) < 0.5)
    return {
        "signals": rng.normal(size=(T, N, H)),
        "values": rng.normal(size=(T, N, H)),
        "final_values": rng.normal(size=(T, N, H)),
        "terminated": terminated,
        "truncated": ended & ~terminated,
    }


def _slow(batch: dict[str, Any], trace: Any) -> Any:
    """Every advantage from its own sum over the rest of its episode."""
    result = np.zeros((T, N, H))
    for copy in range(N):
        for head in range(H):
            for start in range(T):
                factor = 1.0
                for time in range(start, T):
                    if batch["terminated"][time, copy]:
                        following = 0.0
                    elif batch["truncated"][time, copy] or time == T - 1:
                        following = batch["final_values"][time, copy, head]
                    else:
                        following = batch["values"][time + 1, copy, head]
                    delta = batch["signals"][time, copy, head] + GAMMA * following - batch["values"][time, copy, head]
                    result[start, copy, head] += factor * delta
                    factor *= GAMMA * trace[head]
                    if batch["terminated"][time, copy] or batch["truncated"][time, copy]:
                        break
    return result


@pytest.mark.parametrize("trace", [(0.0, 1.0), (0.95, 0.5)])
def test_advantages_match_a_loop_over_every_step(trace: tuple[float, float]) -> None:
    batch = _batch(0)
    assert batch["terminated"].any()
    assert batch["truncated"].any()
    before = {name: value.copy() for name, value in batch.items()}
    result = generalized_advantages(**batch, discount=GAMMA, trace=np.array(trace))
    np.testing.assert_allclose(result, _slow(batch, trace), rtol=1e-12, atol=1e-12)
    for name, value in batch.items():
        np.testing.assert_array_equal(value, before[name])


def test_lambda_one_gives_returns_and_lambda_zero_one_step_errors() -> None:
    batch = _batch(1, end=0.0)
    powers = GAMMA ** np.arange(T)
    returns = np.tensordot(powers, batch["signals"], axes=1) + GAMMA**T * batch["final_values"][-1]
    ones = generalized_advantages(**batch, discount=GAMMA, trace=np.ones(H))
    np.testing.assert_allclose(ones[0] + batch["values"][0], returns, rtol=1e-12)
    zeros = generalized_advantages(**batch, discount=GAMMA, trace=np.zeros(H))
    expected = batch["signals"][:-1] + GAMMA * batch["values"][1:] - batch["values"][:-1]
    np.testing.assert_allclose(zeros[:-1], expected, rtol=1e-12)


def test_constant_signals_and_the_true_values_give_no_advantage() -> None:
    ended = np.zeros((T, N), dtype=np.bool_)
    truth = np.full((T, N, H), 1.0 / (1.0 - GAMMA))
    result = generalized_advantages(np.ones((T, N, H)), truth, truth, ended, ended, GAMMA, np.array([0.95, 1.0]))
    np.testing.assert_allclose(result, 0.0, atol=1e-12)


def test_truncated_episodes_bootstrap_and_terminated_ones_do_not() -> None:
    ended = np.zeros((2, 1), dtype=np.bool_)
    ended[0] = True
    alive = np.zeros_like(ended)
    signals, values = np.ones((2, 1, 1)), np.zeros((2, 1, 1))
    final = np.full((2, 1, 1), 10.0)
    arguments = {"signals": signals, "values": values, "final_values": final, "discount": 0.5, "trace": np.ones(1)}
    cut = generalized_advantages(**arguments, terminated=alive, truncated=ended)
    assert cut[:, 0, 0].tolist() == [6.0, 6.0]
    over = generalized_advantages(**arguments, terminated=ended, truncated=alive)
    assert over[:, 0, 0].tolist() == [1.0, 6.0]
    both = generalized_advantages(**arguments, terminated=ended, truncated=ended)
    assert both[:, 0, 0].tolist() == [1.0, 6.0]


def test_single_precision_stays_single() -> None:
    batch = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in _batch(2).items()}
    assert generalized_advantages(**batch, discount=GAMMA, trace=np.ones(H)).dtype == np.float32


def test_ages_count_from_the_start_of_each_episode() -> None:
    ended = np.array([[0, 1], [1, 0], [0, 0], [0, 1], [0, 0]], dtype=np.bool_)
    assert episode_ages(ended).T.tolist() == [[0, 1, 0, 1, 2], [0, 0, 1, 2, 0]]


def test_returns_of_complete_episodes() -> None:
    ended = np.array([[0, 1], [1, 0], [0, 0]], dtype=np.bool_)
    signals = np.arange(6, dtype=np.float64).reshape(3, 2, 1)
    assert complete_returns(signals, ended, 0.5)[:, 0].tolist() == [0.0 + 0.5 * 2.0, 1.0]
    assert complete_returns(signals, np.zeros_like(ended), 0.5).shape == (0, 1)


def test_life_table_equals_the_mean_over_episodes_of_one_length() -> None:
    rng = np.random.default_rng(3)
    signals, ended = rng.normal(size=(20, 4, 2)), np.zeros((20, 4), dtype=np.bool_)
    ended[4::5] = True
    expected = complete_returns(signals, ended, GAMMA).mean(axis=0)
    np.testing.assert_allclose(life_table_returns(signals, ended, GAMMA, 5), expected, rtol=1e-12)
    with pytest.raises(ValueError, match="do not hold an episode of 21"):
        life_table_returns(signals, ended, GAMMA, 21)


def test_life_table_is_unbiased_where_complete_episodes_are_not() -> None:
    """Half of the episodes last 1 step, half 10; signal 1 a step: J = 5.5. Batches hold 10 steps a copy."""
    rng = np.random.default_rng(4)
    copies, steps = 20_000, 10
    ended = np.zeros((steps, copies), dtype=np.bool_)
    for copy in range(copies):
        time = 0
        while time < steps:
            time += 1 if rng.random() < 0.5 else 10
            if time <= steps:
                ended[time - 1, copy] = True
    signals = np.ones((steps, copies, 1))
    assert life_table_returns(signals, ended, 1.0, 10)[0] == pytest.approx(5.5, abs=0.15)
    assert complete_returns(signals, ended, 1.0).mean() < 4.5


def test_explained_variance() -> None:
    targets = np.array([[1.0, 2.0], [3.0, 2.0]])
    np.testing.assert_allclose(explained_variance(targets, targets), [1.0, 0.0])
    np.testing.assert_allclose(explained_variance(np.zeros((2, 2)), targets), [0.0, 0.0])


@pytest.mark.parametrize("copies", [1, 2, 5, 20])
def test_life_table_has_no_bias_where_early_ends_and_costs_go_together(copies: int) -> None:
    """Half of the episodes cost 1 and end at once, the others cost nothing for 10 steps: J = 1/2.

    Without a correction the mean is 0.31 with one copy, and 0.46 with five.
    """
    rng, found = np.random.default_rng(0), []
    for _ in range(1200 // copies + 300):
        signals, ended = np.zeros((20, copies, 1), np.float32), np.zeros((20, copies), np.bool_)
        for copy in range(copies):
            time = 0
            while time < 20:
                costs = rng.random() < 0.5
                signals[time, copy] = costs
                time += 1 if costs else 10
                if time <= 20:
                    ended[time - 1, copy] = True
        found.append(life_table_returns(signals, ended, 1.0, 10)[0])
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(0.5, abs=4.0 * error + 0.02 / copies)


def test_episodes_of_one_length_get_no_correction() -> None:
    """Their numbers of episodes do not depend on chance: the plain mean, to the last bit, with one copy and more."""
    rng = np.random.default_rng(1)
    signals, ended = rng.normal(size=(20, 3, 2)).astype(np.float32), np.zeros((20, 3), np.bool_)
    ended[4::5] = True
    weights = 0.9 ** np.arange(5)
    for copies in (slice(0, 1), slice(0, 3)):
        plain = np.tensordot(weights, signals[:, copies].astype(np.float64).reshape(4, 5, -1, 2), axes=(0, 1))
        found = life_table_returns(signals[:, copies], ended[:, copies], 0.9, 5)
        np.testing.assert_allclose(found, plain.mean(axis=(0, 1)), rtol=1e-12)
