"""Speed and memory of FrozenLake runs, as ratios: ``make bench`` writes docs/results/speed.md."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import ray
from scipy import sparse
from threadpoolctl import threadpool_limits

from benchmarks.result_page import header, table, write
from distributed.cluster.calls import Rules
from distributed.cluster.meta_learner import RayLearner
from distributed.cluster.ray_pool import RayPool
from meta.learning.online import State
from meta.learning.settings import MetaSettings
from meta.offline.dice_settings import DICESettings
from meta.training.evaluation_settings import EvaluationSettings
from meta.training.experiment import Experiment, draw
from meta.training.loop import Finished, Position, TrainingPlan, train
from meta.training.pool import LocalPool
from meta.training.records import Row
from policies.common.results import TaskResult
from policies.exact.solver import ExactModel, bellman_matrix, evaluate, policy_transitions
from policies.tabular.crpo import WithinTaskSettings
from policies.tabular.rollouts import TabularRollouts
from tasks.contract.family_registry import FamilySpec
from tasks.contract.tabular_model import FloatArray, TabularModel

REPEATS = 3


def experiment(num_tasks: int, tasks_per_round: int, within: WithinTaskSettings, **family: object) -> Experiment:
    """A frozen_lake experiment with the other settings of its run file."""
    spec = FamilySpec("frozen_lake", 0, num_tasks, dict(family))
    return Experiment(
        spec, tasks_per_round, within, DICESettings(), MetaSettings(), EvaluationSettings(num_test_tasks=1)
    )


class Watcher:
    """A tracker that calls a function with the number of finished tasks after each round, and one after direct ones."""

    def __init__(self, after_round: Callable[[int], None], after_direct: Callable[[], None] = lambda: None) -> None:
        self._after_round, self._after_direct = after_round, after_direct

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """Ignore single tasks."""

    def warmed_up(self, state: object, steps: object) -> None:
        """Call the other function."""
        self._after_direct()

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """Call the function."""
        self._after_round(state.num_tasks)


@contextmanager
def workplace(setting: Experiment, num_workers: int) -> Iterator[tuple[RayPool, RayLearner]]:
    """A pool and a learner on the running cluster; leaving the context ends their actors."""
    learner = RayLearner(setting.meta, setting.dice, setting.within.num_iterations, Rules(0))
    pool = RayPool(setting.family, num_workers, Rules(0), start_timeout_seconds=60.0)
    try:
        yield pool, learner
    finally:
        for actor in [*pool.workers, learner.actor]:
            ray.kill(actor)


def scaling() -> list[str]:
    """Tasks per second with 1 and 2 workers, interleaved, and the meta-learner's busy share with 2."""
    setting = experiment(48, 16, WithinTaskSettings(episodes_per_iteration=80))
    rates: dict[int, list[float]] = {1: [], 2: []}
    shares = []
    for _ in range(REPEATS):
        for workers in (1, 2):
            with workplace(setting, workers) as (pool, learner):
                drawn = draw(pool, setting)
                state = drawn.initial_state(setting.meta)
                plan = TrainingPlan(drawn.train, setting.tasks_per_round, setting.within)
                began = time.perf_counter()
                train(plan, pool, learner, [], Position(state))
                seconds = time.perf_counter() - began
                rates[workers].append(len(drawn.train) / seconds)
                if workers == 2:
                    shares.append(learner.busy_seconds() / seconds)
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    rows = [[f"tasks/s, {workers} worker(s)", *_spread(values, 2)] for workers, values in rates.items()] + [
        ["2 workers / 1 worker, pair by pair (at least 1.8)", *_spread(ratios, 3)],
        ["meta-learner's busy share with 2 workers (at most 0.05)", *_spread(shares, 4)],
    ]
    return [
        "## Parallel tasks in a setting that the solver dominates",
        "",
        f"{setting.family.num_tasks} tasks of frozen_lake 8x8, 80 episodes an iteration, 5 iterations, rounds of "
        f"{setting.tasks_per_round}, including DualDICE and meta-updates; {REPEATS} interleaved repeats.",
        "",
        *table(["", "min", "median", "max"], rows),
    ]


def exact_evaluation() -> list[str]:
    """Exact evaluation of a 32x32 lake against plain dense linear algebra."""
    spec = FamilySpec("frozen_lake", 0, 1, {"map_size": 32, "discount": 0.99})
    family = spec.make()
    tabular = family.model(family.parameters("train", 0, 0))
    assert tabular is not None
    model = ExactModel(tabular)
    policy = np.random.default_rng(0).dirichlet(np.ones(4), size=tabular.num_states)
    with threadpool_limits(1):
        difference = np.abs(evaluate(model, policy).action_values - dense_action_values(tabular, policy)).max()
        ours = [_timed(lambda: evaluate(model, policy)) for _ in range(21)]
        dense = [_timed(lambda: dense_action_values(tabular, policy)) for _ in range(21)]
    rows = [
        ["sparse (ours), ms", *_spread([1000 * value for value in ours], 2)],
        ["dense, ms", *_spread([1000 * value for value in dense], 2)],
        ["dense / sparse", *_spread([d / s for d, s in zip(dense, ours, strict=True)], 1)],
    ]
    return [
        "## Exact evaluation of a 32x32 lake (1,024 states, reward and one cost)",
        "",
        f"V and Q of both objectives, one thread; the two results differ by at most {difference:.1e}.",
        "",
        *table(["", "min", "median", "max"], rows),
    ]


def small_matrices() -> list[str]:
    """I - gamma P^pi of an 8x8 lake from dense products, against sparse ones."""
    family = FamilySpec("frozen_lake", 0, 1, {}).make()
    tabular = family.model(family.parameters("train", 0, 0))
    assert tabular is not None
    model = ExactModel(tabular)
    policy = np.random.default_rng(0).dirichlet(np.ones(4), size=tabular.num_states)

    def sparse_products() -> FloatArray:
        mixed = tabular.discount * policy_transitions(model, policy)
        return np.asarray((sparse.identity(tabular.num_states, format="csr") - mixed).toarray())

    with threadpool_limits(1):
        difference = np.abs(bellman_matrix(model, policy) - sparse_products()).max()
        ours = [_timed(lambda: bellman_matrix(model, policy)) for _ in range(201)]
        theirs = [_timed(sparse_products) for _ in range(201)]
        whole = [_timed(lambda: evaluate(model, policy)) for _ in range(201)]
    rows = [
        ["dense products (ours), ms", *_spread([1000 * value for value in ours], 3)],
        ["sparse products, ms", *_spread([1000 * value for value in theirs], 3)],
        ["sparse / dense", *_spread([s / d for s, d in zip(theirs, ours, strict=True)], 1)],
        ["the whole evaluation (ours), ms", *_spread([1000 * value for value in whole], 3)],
    ]
    return [
        "## The Bellman matrix of an 8x8 lake (64 states)",
        "",
        f"I - gamma P of a policy, one thread; the two results differ by at most {difference:.1e}.",
        "",
        *table(["", "min", "median", "max"], rows),
    ]


def dense_action_values(model: TabularModel, policy: FloatArray) -> FloatArray:
    """The textbook method, a dense transition tensor and ``numpy.linalg.solve``: Q [1+p, S, A]."""
    states, actions = model.reward.shape
    transitions = np.zeros((states * actions, states))
    transitions[model.pairs, model.next_states] = model.probabilities
    by_state = np.einsum("sa,sat->st", policy, transitions.reshape(states, actions, states))
    objectives = model.objectives
    values = np.linalg.solve(np.eye(states) - model.discount * by_state, np.einsum("sa,isa->si", policy, objectives))
    successor = (transitions @ values).T.reshape(objectives.shape)
    return np.asarray(objectives + model.discount * successor)


def rollout_speed() -> list[str]:
    """Batched rollouts against Gymnasium's own step with random actions."""
    family = FamilySpec("frozen_lake", 0, 1, {}).make()
    (task,) = LocalPool(FamilySpec("frozen_lake", 0, 1, {})).draw("train", [0])
    uniform = np.full((64, 4), 0.25)
    env = gymnasium.make("FrozenLake-v1", map_name="8x8", disable_env_checker=True)
    rollouts = TabularRollouts(family, task, 10)
    ours, plain = [], []
    for repeat in range(REPEATS):
        began = time.perf_counter()
        count = len(rollouts.collect(uniform, repeat, 50))
        ours.append(count / (time.perf_counter() - began))
        actions = np.random.default_rng(repeat).integers(4, size=count).tolist()
        env.reset(seed=repeat)
        began = time.perf_counter()
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        plain.append(count / (time.perf_counter() - began))
    rows = [
        ["rollouts with policy, costs and arrays, steps/s", *_spread(ours, 0)],
        ["Gymnasium's step with random actions, steps/s", *_spread(plain, 0)],
        ["ours / Gymnasium's", *_spread([a / b for a, b in zip(ours, plain, strict=True)], 2)],
    ]
    return ["## Rollouts of frozen_lake 8x8, one process", "", *table(["", "min", "median", "max"], rows)]


def memory() -> list[str]:
    """Resident memory of every process over 1,000 small tasks."""
    setting = experiment(1000, 10, WithinTaskSettings(num_iterations=3, episodes_per_iteration=4), map_size=4)
    samples: dict[str, dict[int, float]] = {}
    with workplace(setting, 2) as (pool, learner):
        drawn = draw(pool, setting)
        pids: dict[str, Any] = {f"worker {i}": ray.get(worker.pid.remote()) for i, worker in enumerate(pool.workers)}
        pids |= {"meta-learner": ray.get(learner.actor.pid.remote()), "driver": "self"}

        def sample(num_tasks: int) -> None:
            if num_tasks in (100, 500, 1000):
                for name, pid in pids.items():
                    samples.setdefault(name, {})[num_tasks] = _resident(pid)
                used = _object_store(ray.cluster_resources) - _object_store(ray.available_resources)
                samples.setdefault("object store in use", {})[num_tasks] = used / 2**20

        plan = TrainingPlan(drawn.train, setting.tasks_per_round, setting.within)
        train(plan, pool, learner, [Watcher(sample)], Position(drawn.initial_state(setting.meta)))
    rows = [
        [name, *(f"{at[count]:.0f}" for count in (100, 500, 1000)), f"{at[1000] / max(at[100], 1e-9):.3f}"]
        for name, at in samples.items()
    ]
    return [
        "## Memory over 1,000 tasks (resident MiB after 100, 500 and 1,000 tasks)",
        "",
        *table(["", "100", "500", "1,000", "1,000 / 100"], rows),
    ]


def _object_store(resources: Callable[[], dict[str, float]]) -> float:
    """Bytes of the object store in one of Ray's two reports of resources."""
    return resources().get("object_store_memory", 0.0)


def _resident(pid: object) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no VmRSS for process {pid}")


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _spread(values: list[float], digits: int) -> list[str]:
    return [f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values))]


def main() -> None:
    """Measure everything and write the page."""
    lines = header("Speed and memory", "make bench")
    lines += exact_evaluation() + small_matrices() + rollout_speed()
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=256 * 2**20,
        logging_level=logging.WARNING,
    )
    try:
        lines += scaling() + memory()
    finally:
        ray.shutdown()
    write("speed.md", lines)


if __name__ == "__main__":
    main()
