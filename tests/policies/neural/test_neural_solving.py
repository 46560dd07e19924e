"""What is kept of a task that was solved with a neural policy, and what must not depend on keeping it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from policies.common.policy import table_of
from policies.common.results import Start, TaskResult
from policies.exact.drawing import draw_task
from policies.networks.distributions import distribution_of
from policies.neural.crpo import fresh_policy
from policies.neural.neural_settings import NeuralSettings
from policies.neural.solving import NeuralDataset
from policies.solving.solve_task import solve_task
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.task import Parameters, Task, TaskError
from tests.support.point_batch import PointBatch, PointFamily

SETTINGS = NeuralSettings(
    num_iterations=4, steps_per_iteration=100, num_copies=5, hidden=(8,), critic_hidden=(8,), dataset_size=60
)
FAMILY = PointFamily(0, 4)


class _Watched(PointBatch):
    """Notes every observation that an action was chosen from."""

    def step(self, actions: NDArray[Any]) -> None:
        WATCHED.append(self.observations.copy())
        super().step(actions)


class WatchedFamily(PointFamily):
    def batch(self, parameters: Parameters, num_copies: int, label: str) -> PointBatch:
        return _Watched(num_copies, self.horizon, push=parameters["push"])


WATCHED: list[NDArray[np.float32]] = []


def seen(settings: NeuralSettings) -> list[NDArray[np.float32]]:
    """The observations of each iterate, in order, [T * n, d]."""
    steps = settings.steps_per_iteration // settings.num_copies
    return [np.concatenate(WATCHED[first : first + steps]) for first in range(0, len(WATCHED), steps)]


def task_of(family: PointFamily, limit: float | None = None) -> Task:
    task = draw_task(family, "point", 0, "train", 0)
    return task if limit is None else dataclasses.replace(task, limits=(limit,))


def start(rate: float = 0.1, discrete: bool = False) -> Start:
    return Start(fresh_policy(PointBatch(1, discrete=discrete), SETTINGS, 0), np.full(2, rate))


def solved(
    limit: float = 1.0, rate: float = 0.1, collect: bool = True, discrete: bool = False, **changes: Any
) -> tuple[TaskResult, NeuralDataset | None]:
    family = dataclasses.replace(FAMILY, discrete=discrete)
    settings = SETTINGS.model_copy(update=changes)
    result, data = solve_task(family, task_of(family, limit), start(rate, discrete), settings, collect=collect)
    assert data is None or isinstance(data, NeuralDataset)
    return result, data


@pytest.fixture
def watched() -> WatchedFamily:
    WATCHED.clear()
    return WatchedFamily(0, 4)


@pytest.mark.parametrize("size", [60, 58, 7, 3, 5000])
@pytest.mark.parametrize("evaluate_last", [True, False])
def test_observations_are_rows_that_were_seen_and_come_evenly_from_all_iterates(
    watched: WatchedFamily, size: int, evaluate_last: bool
) -> None:
    settings = SETTINGS.model_copy(update={"dataset_size": size, "evaluate_last": evaluate_last})
    _, data = solve_task(watched, task_of(watched), start(), settings, collect=True)
    assert isinstance(data, NeuralDataset)
    batches = seen(settings)
    assert len(batches) == 4 + evaluate_last
    found = [{row.tobytes() for row in data.observations} & {row.tobytes() for row in batch} for batch in batches]
    counts = [len(rows) for rows in found]
    assert len(data.observations) == sum(counts) == min(size, 100 * len(batches)), "no row twice, none from elsewhere"
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("size", [60, 3])
def test_statistics_are_those_of_every_observation(watched: WatchedFamily, size: int) -> None:
    settings = SETTINGS.model_copy(update={"dataset_size": size})
    _, data = solve_task(watched, task_of(watched), start(), settings, collect=True)
    assert isinstance(data, NeuralDataset)
    rows = np.concatenate(seen(settings)).astype(np.float64)
    assert data.statistics.count == len(rows) == 500
    np.testing.assert_allclose(data.statistics.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(data.statistics.variance, rows.var(axis=0), rtol=1e-12)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize(("wanted", "copies"), [(1, 1), (300, 3), (10**6, 5)])
def test_a_sample_is_complete_paths_of_some_copies_under_every_iterate(
    wanted: int, copies: int, discrete: bool
) -> None:
    _, data = solved(collect=True, discrete=discrete, dataset_transitions=wanted)
    assert data is not None
    rows = data.sample
    assert rows is not None
    np.testing.assert_array_equal(np.bincount(rows.iterations), np.full(5, copies * 20))
    starts = np.flatnonzero(rows.ages == 0)
    ended = rows.terminated | rows.truncated
    np.testing.assert_array_equal(starts[1:], np.flatnonzero(ended)[:-1] + 1)
    assert ended[-1]
    np.testing.assert_array_equal(np.diff(rows.ages)[~ended[:-1]], 1)
    np.testing.assert_array_equal(rows.episodes, np.cumsum(rows.ages == 0) - 1)
    going_on = np.flatnonzero(~ended[:-1])
    np.testing.assert_array_equal(rows.next_observations[going_on], rows.observations[going_on + 1])
    assert (rows.next_observations[ended] != rows.observations[ended]).any(axis=1).all()
    first = rows.iterations == 0
    outputs, extra = start(0.1, discrete).initialization.act(rows.observations[first])
    distribution = distribution_of(start(0.1, discrete).initialization.actor.network)
    expected = distribution.log_probability(outputs, extra, rows.actions[first])
    np.testing.assert_allclose(rows.log_probabilities[first], expected, atol=1e-5)
    assert np.isfinite(rows.log_probabilities).all()


def test_no_sample_is_kept_where_none_is_wanted() -> None:
    data = solved(collect=True, dataset_transitions=0)[1]
    assert data is not None
    assert data.sample is None


@pytest.mark.parametrize("discrete", [True, False])
def test_results_do_not_depend_on_what_is_collected(discrete: bool) -> None:
    bare, nothing = solved(collect=False, discrete=discrete)
    full, data = solved(collect=True, discrete=discrete, dataset_size=17, dataset_transitions=200)
    assert nothing is None
    assert data is not None
    for name in ("values", "branches", "episodic"):
        np.testing.assert_array_equal(getattr(bare, name), getattr(full, name))
    assert (bare.output, bare.feasible, bare.env_steps) == (full.output, full.feasible, full.env_steps)
    for name, value in full.policy.to_arrays().items():
        np.testing.assert_array_equal(value, bare.policy.to_arrays()[name])
        np.testing.assert_array_equal(value, data.policy.to_arrays()[name])
    numbers = [name for name in full.facts if not name.endswith("seconds")]
    assert {"capped_steps", "refused_steps", "mean_kl", "critic_explained_variance"} == set(numbers)
    assert {name: bare.facts[name] for name in numbers} == {name: full.facts[name] for name in numbers}


def test_divergences_are_those_that_the_steps_asked_for() -> None:
    """Without caps, half the squared length of a step in the Fisher metric: four times as much for twice the rate."""
    first, second = (solved(1000.0, rate=rate)[1] for rate in (1e-3, 2e-3))
    assert first is not None
    assert second is not None
    assert second.divergences[0] == pytest.approx(4.0 * first.divergences[0], rel=1e-5)
    assert first.divergences.shape == first.branches.shape == (4,)
    assert (first.divergences > 0.0).all()
    capped, data = solved(1000.0, rate=30.0)
    assert data is not None
    assert capped.facts["capped_steps"] == 4
    assert (data.divergences > 1.5 * SETTINGS.trust_region.delta_max).all(), "before the cap"
    assert capped.facts["mean_kl"] <= SETTINGS.trust_region.delta_max


def test_episodic_sums_are_not_discounted() -> None:
    """Every episode is cut after 20 steps here; its plain sum is compared with values at a discount of 1."""
    result, _ = solved()
    plain, _ = solved(1.0, returns="episodic")
    assert result.episodic is not None
    np.testing.assert_allclose(result.episodic[0], plain.values[0], rtol=1e-5)
    assert result.episodic.shape == result.values.shape == (5, 2)


def test_a_safety_margin_moves_the_branch() -> None:
    (cost,) = solved(1000.0)[0].values[0, 1:]
    assert cost > 0.05
    limit = cost / 0.95
    assert solved(limit)[0].branches[0] == 0
    assert solved(limit, safety_margin=0.04)[0].branches[0] == 0
    assert solved(limit, safety_margin=0.06)[0].branches[0] == 1
    assert solved(limit, safety_margin=0.06, tolerance=0.02 * limit)[0].branches[0] == 0


def test_a_safety_margin_moves_the_output() -> None:
    """Steps of nearly no length: the iterates differ in the noise of their batches only, which the margin keeps."""
    values = solved(1000.0, rate=1e-9)[0].values
    best = int(np.argmax(values[:, 0]))
    limit = 1.02 * values[best, 1]
    bare, kept = (solved(limit, rate=1e-9, safety_margin=margin)[0] for margin in (0.0, 0.1))
    np.testing.assert_allclose(bare.values, values, rtol=1e-4)
    np.testing.assert_allclose(kept.values, values, rtol=1e-4)
    assert (bare.output, bare.feasible) == (best, True)
    allowed = np.flatnonzero(values[:, 1] <= 0.9 * limit)
    assert allowed.size
    assert kept.output == allowed[np.argmax(values[allowed, 0])] != best
    assert kept.feasible
    none = solved(0.9 * values[:, 1].min(), rate=1e-9)[0]
    assert (none.output, none.feasible) == (int(np.argmin(values[:, 1])), False)


def test_a_table_is_not_a_start_for_a_network_nor_the_reverse() -> None:
    table = Start(np.full((2, 3), 1.0 / 3.0), np.ones(2))
    with pytest.raises(TaskError, match="task point/train/0: neural_crpo needs a neural start, got a table"):
        solve_task(FAMILY, task_of(FAMILY), table, SETTINGS, collect=True)
    with pytest.raises(TaskError, match=r"task point/train/0: crpo needs a table of probabilities .* neural policy"):
        solve_task(FAMILY, task_of(FAMILY), start(), WithinTaskSettings(evaluation="sampled"), collect=True)
    with pytest.raises(TypeError, match="is not a table of probabilities"):
        table_of(start().initialization)


@pytest.mark.parametrize("count", [1, 3])
def test_a_wrong_number_of_rates_is_reported(count: int) -> None:
    given = dataclasses.replace(start(), learning_rates=np.ones(count))
    message = rf"task point/train/0: {count} learning rates for 1 \+ 1 objectives"
    with pytest.raises(TaskError, match=message):
        solve_task(FAMILY, task_of(FAMILY), given, SETTINGS, collect=False)


def test_a_policy_of_another_shape_is_reported() -> None:
    with pytest.raises(TaskError, match="task point/train/0: the policy has 2 inputs, 3 outputs and 2 critic heads"):
        solve_task(FAMILY, task_of(FAMILY), start(discrete=True), SETTINGS, collect=False)


def test_every_iterate_is_announced() -> None:
    announced = list[int]()
    solve_task(FAMILY, task_of(FAMILY), start(), SETTINGS, collect=False, on_iteration=announced.append)
    assert announced == [0, 1, 2, 3, 4]
