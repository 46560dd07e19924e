from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.common.results import Solution
from policies.exact.drawing import draw_task
from policies.exact.softmax import logits_of
from policies.exact.solver import ExactModel, OptimalPolicy, optimal_policy
from policies.tabular.crpo import ExactEvaluator, WithinTaskSettings, solve
from policies.tabular.transitions import Transitions, concatenate
from tasks.contract.tabular_model import FloatArray, TabularModel
from tasks.lakes.frozen_lake import FrozenLake
from tests.support.problems import PROBLEMS, dense_transitions, interior_limits, random_cmdp, tabular, uniform_policy


@dataclass(frozen=True)
class ExactTask:
    """A model with limits and their optimum."""

    name: str
    model: ExactModel
    limits: FloatArray
    optimum: OptimalPolicy

    def __str__(self) -> str:
        return self.name


def exact_task(name: str, model: TabularModel, limits: FloatArray) -> ExactTask:
    return ExactTask(name, ExactModel(model), limits, optimal_policy(ExactModel(model), limits))


def random_task(seed: int, num_costs: int, fraction: float = 0.3) -> ExactTask:
    model = random_cmdp(seed, num_states=6, num_actions=3, num_costs=num_costs, discount=0.9)
    return exact_task(f"random-{seed}-{num_costs}", model, interior_limits(model, fraction))


def lake_task(seed: int, map_size: int, similarity: str, *, hole_ends_episode: bool = False) -> ExactTask:
    family = FrozenLake(seed=seed, map_size=map_size, similarity=similarity, hole_ends_episode=hole_ends_episode)
    task = draw_task(family, "frozen_lake", seed, "train", index=0)
    name = f"lake-{seed}-{map_size}-{similarity}{'-ends' if hole_ends_episode else ''}"
    return exact_task(name, family.model(task.parameters), np.array(task.limits))


def exact_tasks() -> list[ExactTask]:
    """Known answers, random models with one to three costs, and frozen lakes."""
    known = [exact_task(problem.name, problem.model, problem.limits) for problem in PROBLEMS]
    drawn = [random_task(seed, num_costs) for seed in range(3) for num_costs in (1, 2, 3)]
    lakes = [lake_task(seed, size, similarity) for seed in range(2) for size, similarity in ((4, "high"), (8, "low"))]
    return [*known, *drawn, *lakes, lake_task(0, 8, "high", hole_ends_episode=True)]


def run_crpo(
    task: ExactTask,
    rates: FloatArray,
    *,
    num_iterations: int = 12,
    tolerance: float | tuple[float, ...] = 0.0,
    choice: str = "largest",
    start: FloatArray | None = None,
    limits: FloatArray | None = None,
) -> Solution:
    settings = WithinTaskSettings(num_iterations=num_iterations, tolerance=tolerance, constraint_choice=choice)
    model = task.model.tabular
    start = uniform_policy(model) if start is None else start
    limits = task.limits if limits is None else limits
    rng = np.random.default_rng(0)
    return solve(ExactEvaluator(task.model), logits_of(start), rates, limits, settings, model.discount, rng)


def ending_cmdp(seed: int, num_states: int, num_actions: int, discount: float) -> TabularModel:
    """A random model whose last state ends the episode; it never starts there."""
    model = random_cmdp(seed, num_states, num_actions, 1, discount)
    kernel = dense_transitions(model)
    kernel[-1] = np.eye(num_states)[-1]
    initial = np.append(model.initial[:-1] / model.initial[:-1].sum(), 0.0)
    reward, costs = model.reward.copy(), model.costs.copy()
    reward[-1], costs[:, -1] = 0.0, 0.0
    ending = tabular(kernel, reward, costs, initial, discount)
    return dataclasses.replace(ending, absorbing=np.arange(num_states) == num_states - 1)


def random_rows(rng: np.random.Generator, num_states: int, num_actions: int) -> FloatArray:
    return rng.dirichlet(np.ones(num_actions), size=num_states)


def sample(
    model: TabularModel,
    policy: FloatArray,
    num_episodes: int,
    horizon: int,
    rng: np.random.Generator,
    iteration: int = 0,
) -> Transitions:
    """Episodes of ``policy``, all stepped together; entering an absorbing state terminates, the horizon truncates."""
    kernel = np.cumsum(dense_transitions(model), axis=-1)
    chosen = np.cumsum(policy, axis=-1)
    shape = num_episodes, horizon
    states, actions, next_states = (np.zeros(shape, dtype=np.int32) for _ in range(3))
    alive = np.zeros(shape, dtype=np.bool_)
    here = rng.choice(model.num_states, size=num_episodes, p=model.initial)
    for step in range(horizon):
        alive[:, step] = ~model.absorbing[here]
        action = _pick(chosen[here], rng)
        states[:, step], actions[:, step] = here, action
        here = np.where(alive[:, step], _pick(kernel[here, action], rng), here)
        next_states[:, step] = here
    last = alive & ~np.concatenate([alive[:, 1:], np.zeros((num_episodes, 1), dtype=np.bool_)], axis=1)
    ended = last & model.absorbing[next_states]
    episodes = np.broadcast_to(np.arange(num_episodes, dtype=np.int32)[:, None], shape)
    count = int(alive.sum())
    return Transitions(
        states=states[alive],
        actions=actions[alive],
        reward=model.reward[states[alive], actions[alive]],
        costs=model.costs[:, states[alive], actions[alive]].T,
        next_states=next_states[alive],
        terminated=ended[alive],
        truncated=(last & ~ended)[alive],
        episodes=episodes[alive],
        iterations=np.full(count, iteration, dtype=np.int32),
    )


def sample_mixture(
    model: TabularModel, policies: list[FloatArray], num_episodes: int, horizon: int, rng: np.random.Generator
) -> Transitions:
    """``num_episodes`` episodes of each of several policies."""
    return concatenate([sample(model, policy, num_episodes, horizon, rng, i) for i, policy in enumerate(policies)])


def _pick(cumulative: FloatArray, rng: np.random.Generator) -> NDArray[np.int64]:
    draws = rng.random(cumulative.shape[0]) * cumulative[:, -1]
    return (draws[:, None] >= cumulative).sum(axis=1)


@dataclass(frozen=True)
class EmpiricalOccupancy:
    """``pairs`` [S, A], and the mass that has ended and that has reached a pair without data."""

    pairs: FloatArray
    ended: float
    missing: float


def empirical_occupancy(data: Transitions, policy: FloatArray, discount: float) -> EmpiricalOccupancy:
    """The empirical model of the data, counted one by one and solved as a dense chain over S A pairs and two sinks."""
    states, actions = policy.shape
    pairs, ended, missing = states * actions, states * actions, states * actions + 1
    counts = np.zeros((pairs, states + 1))
    for state, action, target, stop in zip(
        data.states.tolist(), data.actions.tolist(), data.next_states.tolist(), data.terminated.tolist(), strict=True
    ):
        counts[state * actions + action, states if stop else target] += 1.0
    seen = counts.sum(axis=1) > 0.0
    first = np.zeros(pairs + 2)
    for state in data.states[data.episode_starts].tolist():
        first[state * actions : (state + 1) * actions] += policy[state] / data.episode_starts.sum()
    chain = np.zeros((pairs + 2, pairs + 2))
    chain[ended, ended] = chain[missing, missing] = 1.0
    for pair in np.flatnonzero(seen):
        frequencies = counts[pair] / counts[pair].sum()
        chain[pair, :pairs] = (frequencies[:states, None] * policy).ravel()
        chain[pair, ended] = frequencies[states]
    unseen = np.flatnonzero(~seen)
    chain[:, missing] += chain[:, unseen].sum(axis=1)
    first[missing] += first[unseen].sum()
    chain[:, unseen], first[unseen] = 0.0, 0.0
    mass = np.linalg.solve(np.eye(pairs + 2) - discount * chain.T, (1.0 - discount) * first)
    return EmpiricalOccupancy(mass[:pairs].reshape(states, actions), float(mass[ended]), float(mass[missing]))
