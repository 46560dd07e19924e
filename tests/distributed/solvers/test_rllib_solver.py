"""RLlib's algorithms solve tasks, and every iterate is measured by the episodes that it acts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meta.learning.neural_contribution import neural_contribution
from meta.learning.settings import MetaSettings
from meta.offline.dice_settings import DICESettings
from policies.common.results import Start, TaskResult
from policies.common.safety import Safety, SafetySettings
from policies.networks.distributions import LOG_STD
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import ObservationStatistics, Parameters, PolicyState
from policies.neural.solving import NeuralDataset
from policies.solving.algorithms import kind_of
from policies.solving.solve_task import solve_task
from tasks.contract.context import context_space
from tasks.contract.contextual_family import Contexts, ContextualFamily
from tasks.contract.task import Task, TaskError
from tests.support.point_batch import PointBatch, PointFamily
from tests.support.rllib_classes import Limited

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Overriding environment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
PPO: dict[str, Any] = {
    "name": "rllib:ray.rllib.algorithms.ppo:PPO",
    "costs": "ignored",
    "training": {"minibatch_size": 100, "num_epochs": 5, "lr": 0.003},
}
CRPO: dict[str, Any] = {"name": "rllib:CRPO"}
METHODS = {"crpo": CRPO, "ppo": PPO}
PUSHES = (0.25, 0.5, 0.1)


def own(class_name: str, **changes: Any) -> dict[str, Any]:
    return {**PPO, "name": f"rllib:tests.support.rllib_classes:{class_name}", **changes}


def within(method: dict[str, Any], **changes: Any) -> NeuralSettings:
    """Two iterations of 160 steps on points on a line."""
    given = {
        "num_iterations": 2,
        "steps_per_iteration": 160,
        "num_copies": 4,
        "hidden": [8],
        "critic_hidden": [8],
        "dataset_size": 60,
        "dataset_transitions": 200,
        "trust_region": {"delta_max": 0.05} if method["name"] == "rllib:CRPO" else {},
    }
    return NeuralSettings.model_validate({**given, "method": method, **changes})


def point(family: PointFamily, push: float = 0.25) -> Task:
    limits = family.limits({})
    assert isinstance(limits, tuple)
    return Task("points", "train", 0, 5, {"push": push, "task": "train/0"}, limits)


FAMILY = PointFamily(seed=0, num_tasks=1)


def solved(
    settings: NeuralSettings, family: PointFamily = FAMILY, start: Start | None = None, push: float = 0.25
) -> tuple[TaskResult, NeuralDataset]:
    task = point(family, push)
    if start is None:
        fresh = kind_of(settings).fresh(family, task, settings, 1)
        start = Start(fresh, np.full(1 + len(task.limits), 0.1))
    result, dataset = solve_task(family, task, start, settings, collect=True)
    assert isinstance(dataset, NeuralDataset)
    return result, dataset


def pushing(settings: NeuralSettings, costs: int = 1) -> Start:
    """A start whose mean action is 1 in every state, with hardly any noise; it has seen observations."""
    family = dataclasses.replace(FAMILY, effort_limit=1.0 if costs == 2 else None)
    fresh = kind_of(settings).fresh(family, point(family), settings, 1)
    vector, network = np.zeros_like(fresh.actor.vector), fresh.actor.network
    network.part(vector, LOG_STD)[:] = -5.0
    network.part(vector, "bias_1")[:] = 1.0
    seen = ObservationStatistics(np.zeros(2), np.ones(2), 100.0)
    return Start(PolicyState(Parameters(network, vector), fresh.critic, seen), np.full(1 + costs, 0.1))


def test_every_method_measures_the_start_by_the_same_episodes_in_closed_form(ray_cluster: str) -> None:
    """x_k = x_0 + 0.3 k: the reward's return is sum_k gamma^k x_{k+1}, and cost 1 begins at step 3."""
    family = dataclasses.replace(FAMILY, horizon=8, effort_limit=1.0)
    weights = family.discount ** np.arange(8)
    found = []
    for method in METHODS.values():
        settings = within(method, num_iterations=1)
        result, dataset = solved(settings, family, pushing(settings, 2), push=0.3)
        assert result.values.shape == (2, 3)
        np.testing.assert_allclose(result.values[0, 0], weights @ (0.3 * np.arange(1, 9)), atol=0.05 * weights.sum())
        np.testing.assert_allclose(result.values[0, 1], weights[3:].sum(), rtol=1e-6)
        np.testing.assert_allclose(result.values[0, 2], weights.sum(), rtol=0.02)
        assert result.episodic is not None
        np.testing.assert_allclose(result.episodic[0, 1], 5.0)
        assert result.env_steps == 2 * 160
        assert dataset.observations.shape == (60, 2)
        found.append(result.values[0])
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("name", METHODS)
def test_the_same_task_is_solved_to_the_same_bits(
    ray_cluster: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path))
    settings = within(METHODS[name])
    (first, data), (second, again) = solved(settings), solved(settings)
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.branches, second.branches)
    assert first.output == second.output
    assert isinstance(first.policy, PolicyState)
    assert isinstance(second.policy, PolicyState)
    for key, value in first.policy.to_arrays().items():
        np.testing.assert_array_equal(second.policy.to_arrays()[key], value)
    np.testing.assert_array_equal(data.observations, again.observations)
    assert data.sample is not None
    assert again.sample is not None
    np.testing.assert_array_equal(data.sample.log_probabilities, again.sample.log_probabilities)
    assert list(tmp_path.iterdir()) == [], "RLlib makes a folder for each algorithm"


@pytest.mark.parametrize("seen", [0.0, 50.0])
@pytest.mark.parametrize("name", METHODS)
def test_a_task_with_a_context_is_solved_and_its_context_keeps_its_normalisation(
    ray_cluster: str, name: str, seen: float
) -> None:
    tasks = [
        dataclasses.replace(point(FAMILY), index=index, parameters={"push": push}) for index, push in enumerate(PUSHES)
    ]
    space, known = context_space(FAMILY, tasks, limits=False)
    family, settings = ContextualFamily(FAMILY, Contexts(space, known, hidden=False)), within(METHODS[name])
    fresh = kind_of(settings).fresh(family, tasks[0], settings, 1)
    start = dataclasses.replace(fresh, statistics=dataclasses.replace(fresh.statistics, count=seen))
    result, dataset = solve_task(family, tasks[0], Start(start, np.full(2, 0.1)), settings, collect=True)
    assert isinstance(dataset, NeuralDataset)
    np.testing.assert_array_equal(result.context, known[0])
    np.testing.assert_allclose(dataset.observations[:, 2], known[0, 0], rtol=1e-6)
    assert isinstance(result.policy, PolicyState)
    assert (result.policy.statistics.mean[2], result.policy.statistics.variance[2]) == (0.0, 1.0)
    assert (result.policy.statistics.mean[0] != 0.0) == (seen == 0.0 or name == "crpo")


def test_the_meta_learner_takes_what_a_task_gives(ray_cluster: str) -> None:
    """f_hat is the mean divergence on the data; b is that of the steps that a rate asked for, or not measured."""
    for name, method in METHODS.items():
        result, dataset = solved(within(method))
        item = neural_contribution(dataset, DICESettings(estimator="none"), MetaSettings())
        assert item.policy is result.policy
        assert item.loss > 0.0 or result.output == 0
        assert np.isfinite(dataset.divergences).all() == (name == "crpo")
        taken = set(result.branches.tolist())
        assert [bool(np.isfinite(b)) for b in item.curvature] == [name == "crpo" and i in taken for i in range(2)]
        assert dataset.sample is not None
        assert np.isfinite(dataset.sample.log_probabilities).all()
        assert set(dataset.sample.iterations.tolist()) == {0, 1, 2}
        first_look = 160 if name == "ppo" else 0  # a fresh policy has no statistics of observations
        assert result.env_steps == 3 * 160 + first_look
        assert dataset.statistics.count == 3 * 160


@dataclasses.dataclass(frozen=True)
class FaultyPoints(PointFamily):
    """Points whose costs are not finite after five steps, or missing."""

    missing: bool = False

    def batch(self, parameters: Any, num_copies: int, label: str) -> PointBatch:
        return _FaultyBatch(num_copies, self.horizon, label if self.missing else "")


class _FaultyBatch(PointBatch):
    def __init__(self, num_copies: int, horizon: int, missing: str) -> None:
        super().__init__(num_copies, horizon)
        self._missing = missing

    def step(self, actions: Any) -> None:
        super().step(actions)
        if self.ages[0] > 5:
            self.costs = np.full_like(self.costs, np.nan)
            if self._missing:
                raise TaskError(f"{self._missing}, step 5: no cost")


@pytest.mark.slow
def test_one_keeps_the_limit_and_the_other_earns_more_beyond_it(ray_cluster: str) -> None:
    """Limit 1 on the discounted share of time beyond 1. PPO's output is the best iterate within it all the same."""
    size = {"num_iterations": 25, "steps_per_iteration": 400}
    kept, _ = solved(within(CRPO, **size))
    free, _ = solved(within(PPO, **size))
    assert kept.values[-5:, 1].mean() < 2.0
    assert kept.values[-5:, 0].mean() > kept.values[0, 0] + 3.0
    assert set(kept.branches.tolist()) == {0, 1}
    assert free.values[-1, 0] > kept.values[-5:, 0].mean() + 3.0
    assert free.values[-1, 1] > 3.0
    assert set(free.branches.tolist()) == {0}
    assert free.feasible
    assert free.values[free.output, 1] <= 1.0
    inside = free.values[:, 1] <= 1.0
    assert free.values[free.output, 0] == free.values[inside, 0].max()


@pytest.mark.slow
def test_runners_in_other_processes_sample_for_one_task(ray_cluster: str) -> None:
    for method in METHODS.values():
        settings = within({**method, "num_env_runners": 2})
        (first, _), (second, _) = solved(settings), solved(settings)
        np.testing.assert_array_equal(first.values, second.values)
        assert first.env_steps >= 3 * 160
    with pytest.raises(TaskError, match=r"^points/train/0, step 5: no cost$"):
        solved(within({**CRPO, "num_env_runners": 2}), FaultyPoints(0, 1, missing=True))
    with pytest.raises(
        TaskError, match="num_env_runners: 50 runners and their worker need 51 CPUs, and the cluster has 6"
    ):
        solved(within({**CRPO, "num_env_runners": 50}, num_copies=50, steps_per_iteration=1000))


def test_a_class_that_takes_limits_is_told_those_of_the_task(ray_cluster: str) -> None:
    Limited.told.clear()
    method = own("Limited")
    del method["costs"]
    solved(within(method), dataclasses.replace(FAMILY, limit=0.7))
    assert Limited.told == [[0.7]] * 2


def test_what_cannot_be_used_is_named(ray_cluster: str) -> None:
    settings = within(CRPO)
    start = pushing(settings)
    safe = dataclasses.replace(start, safety=Safety(SafetySettings(confidence=0.9), np.zeros(1)))
    cases: list[tuple[NeuralSettings, PointFamily, Start | None, str]] = [
        (settings, FaultyPoints(0, 1, missing=True), None, "^points/train/0, step 5: no cost$"),
        (within(PPO), FaultyPoints(0, 1, missing=True), None, "^points/train/0, step 5: no cost$"),
        (
            settings,
            FaultyPoints(0, 1),
            None,
            r"^task points/train/0, copy 0 .*, step 5: info.*'cost'\] is not finite: \[nan\]",
        ),
        (
            settings,
            dataclasses.replace(FAMILY, discrete=True),
            start,
            "2 inputs, 1 outputs and 2 critic heads, the task",
        ),
        (within(CRPO, steps_per_iteration=40), FAMILY, None, "10 steps per copy do not hold an episode of 20"),
        (settings, FAMILY, Start(np.ones((2, 2)), np.ones(2)), "needs a neural start, got a table"),
        (settings, FAMILY, safe, "evaluation.safety: the steps of rllib:CRPO cannot be bounded"),
        (within(own("Twice")), FAMILY, None, "Twice must make one update of its runners' episodes in each iteration"),
        (
            within(own("Fails")),
            FAMILY,
            None,
            "points/train/0: rllib:tests.support.rllib_classes:Fails: RuntimeError: no",
        ),
    ]
    for given, family, begin, message in cases:
        with pytest.raises(TaskError, match=message):
            solved(given, family, begin)
