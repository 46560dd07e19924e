"""A short probing run that checks whether some policy reaches the limits of a task, and whether they bind."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from policies.checking.family_form import Check, ok, warning
from policies.checking.recording import random_actions
from policies.common.policy import Policy
from policies.common.results import Start
from policies.exact.solver import ExactModel, cost_range
from policies.neural.neural_settings import NeuralSettings
from policies.solving.algorithms import WithinTask, kind_of
from policies.solving.solve_task import solve_task
from policies.tabular.crpo import WithinTaskSettings
from policies.tabular.rollouts import TabularRollouts
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskFamily
from tasks.stepping.batch import BatchEnvironment, make_batch

_NAME = "probe"
_NO_LIMIT = 1e12
_COPIES, _FEWEST = 20, 4
"""Copies of the environment, and the least number that is still informative."""
_CHUNK, _MOST, _GREEDY = 2, 20, 6
"""CRPO iterations: per chunk, at most towards the limits, and on the reward alone."""
_STEPS = 1000
"""Fewest steps of an iteration of a neural policy."""
_SEED = 31


@dataclass(frozen=True, slots=True)
class Probe:
    """Expected discounted costs [p] that were seen, in episodes of the environment.

    ``random`` are those of random actions, with standard ``errors``; ``nearest`` those of the iterate nearest to the
    limits in ``iterations`` of CRPO, and ``reached`` whether it keeps them all; ``greedy`` those after iterations on
    the reward alone, None if the time was up before.
    """

    random: FloatArray
    errors: FloatArray
    nearest: FloatArray
    iterations: int
    reached: bool
    greedy: FloatArray | None


def check_probe(family: TaskFamily, task: Task, seconds: float, step_seconds: float) -> Check:
    """Report whether the limits of ``task`` are reachable and bind, in about ``seconds``.

    ``step_seconds`` is the duration of a step in one environment.
    """
    limits, model = np.array(task.limits), family.model(task.parameters)
    if model is not None:
        interval = cost_range(ExactModel(model))
        return told_by_model(family.cost_names, limits, interval.least, interval.unconstrained)
    each = (
        max(family.horizon, _STEPS / _COPIES) * step_seconds * (_CHUNK + 1) * 3
    )  # seconds for a copy, if there is one chunk of each kind
    copies = int(min(_COPIES, seconds / max(each, 1e-9)))
    if copies < _FEWEST:
        needed = _FEWEST * each
        return Check(_NAME, "skipped", f"not enough time: the check needs about {needed:.0f} s (--seconds)")
    return told_by_probe(family.cost_names, limits, probe(family, task, copies, time.monotonic() + seconds))


def told_by_model(names: tuple[str, ...], limits: FloatArray, least: FloatArray, greedy: FloatArray) -> Check:
    """The exact answer: limits [p] with the ``least`` reachable costs and those of the reward's optimum."""
    rows = zip(names, limits, _tidy(least, greedy), _tidy(greedy, greedy), strict=True)
    findings = [f"{one}: limit {d:.4g}, least {a:.4g}, reward's optimum {b:.4g}" for one, d, a, b in rows]
    findings.append("by the exact model, some policy keeps them all")
    loose = [one for one, limit, cost in zip(names, limits, greedy, strict=True) if cost <= limit]
    if len(loose) == len(names):
        return warning(_NAME, f"{'; '.join(findings)}; no limit binds: the reward's optimum keeps them all")
    return ok(_NAME, "; ".join(findings))


def _tidy(values: FloatArray, scale: FloatArray) -> FloatArray:
    """``values`` [p] with 0 where they are rounding errors of numbers as large as ``scale`` [p]."""
    return np.where(np.abs(values) > 1e-12 * np.abs(scale), values, 0.0)


def told_by_probe(names: tuple[str, ...], limits: FloatArray, found: Probe) -> Check:
    """A probe in words."""
    findings, nearest = [], _tidy(found.nearest, found.random)
    for i, name in enumerate(names):
        parts = [f"random actions {found.random[i]:.4g} ± {found.errors[i]:.2g}"]
        parts.append(f"after {found.iterations} iterations of CRPO {nearest[i]:.4g}")
        if found.greedy is not None:
            parts.append(f"after {_GREEDY} on the reward alone {found.greedy[i]:.4g}")
        findings.append(f"{name}: {', '.join(parts)}; limit {limits[i]:.4g}")
    if not found.reached:
        findings.append("the limits were NOT reached; they may be out of reach, or need more time (--seconds)")
        return warning(_NAME, "; ".join(findings))
    findings.append("reachable")
    most = found.random if found.greedy is None else np.maximum(found.random, found.greedy)
    loose = [name for name, limit, cost in zip(names, limits, most, strict=True) if cost <= limit]
    if loose and found.greedy is None:
        findings.append(f"no time to see whether the limit binds for {', '.join(loose)} (--seconds)")
    elif loose:
        findings.append(
            f"the limit did not bind in this probe for {', '.join(loose)}: a smaller one would constrain the policy"
        )
        return warning(_NAME, "; ".join(findings))
    return ok(_NAME, "; ".join(findings))


def probe(family: TaskFamily, task: Task, copies: int, deadline: float) -> Probe:
    """Run random actions, CRPO until it keeps the limits, and CRPO on the reward alone, until ``deadline``.

    Learning rates are in units of what random actions earn and pay in a step, so the units of rewards and costs do not
    matter.
    """
    table = is_table(family, task)
    signals, random = (_uniform_costs if table else _random_costs)(family, task, copies)
    rates = 1.0 / np.where(signals > 0.0, signals, 1.0)
    settings: WithinTask = NeuralSettings(
        num_iterations=_CHUNK,
        num_copies=copies,
        steps_per_iteration=copies * max(family.horizon, math.ceil(_STEPS / copies)),
    )
    if table:
        settings = WithinTaskSettings(
            num_iterations=_CHUNK, evaluation="sampled", episodes_per_iteration=2 * copies, num_copies=copies
        )
    fresh = kind_of(settings).fresh(family, task, settings, _SEED)
    policy, nearest, iterations, reached = fresh, random.mean(axis=0), 0, False
    half = time.monotonic() + 0.6 * (deadline - time.monotonic())
    while not reached and iterations < _MOST and (iterations == 0 or time.monotonic() < half):
        policy, nearest, reached = _further(family, task, Start(policy, rates), settings, iterations)
        iterations += _CHUNK
    policy, greedy, done = fresh, None, 0
    unlimited = dataclasses.replace(task, limits=(_NO_LIMIT,) * len(task.limits))
    while done < _GREEDY and time.monotonic() < deadline:
        policy, greedy, _ = _further(family, unlimited, Start(policy, rates), settings, done)
        done += _CHUNK
    errors = random.std(axis=0, ddof=1) / np.sqrt(len(random))
    return Probe(random.mean(axis=0), errors, nearest, iterations, reached, greedy if done == _GREEDY else None)


def is_table(family: TaskFamily, task: Task) -> bool:
    """Whether the task has discrete observations, so that its policy is a table."""
    env = family.make(task.parameters)
    try:
        return isinstance(env.observation_space, gymnasium.spaces.Discrete)
    finally:
        env.close()  # type: ignore[no-untyped-call]


def discounted(costs: FloatArray, discount: float) -> FloatArray:
    """sum_t gamma^t c_t along the first axis of ``costs`` [T, ...]."""
    return np.asarray(np.tensordot(discount ** np.arange(len(costs)), costs, axes=1))


def _further(
    family: TaskFamily, task: Task, start: Start, settings: WithinTask, done: int
) -> tuple[Policy, FloatArray, bool]:
    """The policy after another chunk of CRPO, its costs [p], and whether it keeps the limits."""
    task = dataclasses.replace(task, seed=task.seed + done)
    result, _ = solve_task(family, task, start, settings, collect=False)
    return result.policy, result.values[result.output, 1:], result.feasible


def _uniform_costs(family: TaskFamily, task: Task, episodes: int) -> tuple[FloatArray, FloatArray]:
    """As :func:`_random_costs`, of uniformly random actions in a table."""
    rollouts = TabularRollouts(family, task, episodes)
    try:
        uniform = np.full((rollouts.num_states, rollouts.num_actions), 1.0 / rollouts.num_actions)
        data = rollouts.collect(uniform, _SEED, episodes)
    finally:
        rollouts.close()
    costs = [discounted(data.costs[data.episodes == episode], family.discount) for episode in range(episodes)]
    signals = np.column_stack([data.reward, data.costs])
    return np.sqrt(np.mean(signals**2, axis=0)), np.array(costs)


def _actions_of(batch: BatchEnvironment) -> gymnasium.Space[Any]:
    if batch.num_actions is not None:
        return gymnasium.spaces.Discrete(batch.num_actions)
    assert batch.action_low is not None
    assert batch.action_high is not None
    return gymnasium.spaces.Box(batch.action_low, batch.action_high)


def _random_costs(family: TaskFamily, task: Task, episodes: int) -> tuple[FloatArray, FloatArray]:
    """Of actions spread over the action space: the root mean square of reward and costs in a step [1+p], and the
    discounted costs of each episode [episodes, p].
    """
    batch = make_batch(family, task, episodes)
    try:
        space = _actions_of(batch)
        rng, running = np.random.default_rng([task.seed, _SEED]), np.ones(episodes, np.bool_)
        batch.reset(np.arange(episodes), np.arange(episodes))
        total, weight = np.zeros((episodes, batch.num_costs)), 1.0
        squares, count = np.zeros(1 + batch.num_costs), 0
        for _ in range(batch.horizon):
            batch.step(random_actions(space, episodes, rng))
            total += weight * batch.costs * running[:, None]
            weight *= family.discount
            squares += (np.column_stack([batch.reward, batch.costs])[running] ** 2).sum(axis=0)
            count += int(running.sum())
            ended = batch.terminated | batch.truncated
            running &= ~ended
            if not running.any():
                break
            over = np.flatnonzero(ended)  # a copy must not be stepped after its end
            if over.size:
                batch.reset(over, over)
        return np.sqrt(squares / count), total
    finally:
        batch.close()
