"""Solve one task with a neural policy from a given start, by CRPO or another rule (policies.rules)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.common.branches import choose_output
from policies.common.safety import Guard
from policies.networks.distributions import extra_of
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState, new_policy
from policies.neural.rollouts import NeuralRollouts, NeuralTransitions
from policies.neural.safe_steps import SafeSteps, safe_steps
from policies.neural.update import NonFiniteError, Problem, UpdateReport, estimate_returns, improve
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import TaskError
from tasks.stepping.batch import BatchEnvironment

_CHOICE_STREAM = 23


@dataclass(frozen=True, slots=True)
class NeuralSolution:
    """What CRPO did on one task.

    ``iterates`` are the policies 0..M and ``values`` [M+1, 1+p] the estimates of their J_i (the last row is missing
    where the last iterate was not evaluated; it is then no candidate for the output). ``updates`` [M] report each
    step, ``rollout_seconds`` [M or M+1] the time of each batch. ``output`` is the index of the chosen iterate;
    ``feasible`` is True if any candidate kept every limit within its tolerance; otherwise the output is the one
    with the smallest violation.
    """

    iterates: tuple[PolicyState, ...]
    values: FloatArray
    updates: tuple[UpdateReport, ...]
    rollout_seconds: tuple[float, ...]
    env_steps: int
    output: int
    feasible: bool

    @property
    def policy(self) -> PolicyState:
        """pi_hat."""
        return self.iterates[self.output]

    @property
    def branches(self) -> NDArray[np.int64]:
        """[M], the objective of each step."""
        return np.array([update.branch for update in self.updates], dtype=np.int64)

    @property
    def caps(self) -> dict[str, int]:
        """How many steps each cap shortened (``none``: taken as asked for)."""
        return dict(Counter(update.step.cap for update in self.updates))

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time went: rollout, update, critic."""
        return {
            "rollout": sum(self.rollout_seconds),
            "update": sum(update.update_seconds for update in self.updates),
            "critic": sum(update.critic_seconds for update in self.updates),
        }


def fresh_policy(batch: BatchEnvironment, settings: NeuralSettings, seed: int) -> PolicyState:
    """A new policy of the shape that ``batch`` needs."""
    continuous = batch.num_actions is None
    outputs = batch.num_actions if batch.num_actions is not None else batch.action_low.size  # type: ignore[union-attr]
    return new_policy(
        batch.observation_size,
        outputs,
        batch.num_costs,
        continuous=continuous,
        hidden=settings.hidden,
        critic_hidden=settings.critic_hidden,
        log_std=settings.initial_log_std,
        seed=seed,
        modules=settings.modules,
    )


def solve_neural(
    batch: BatchEnvironment,
    start: PolicyState,
    learning_rates: FloatArray,
    limits: FloatArray,
    settings: NeuralSettings,
    seed: int,
    *,
    discount: float,
    label: str,
    on_batch: Callable[[int, NeuralTransitions], None] = lambda iteration, data: None,
    guard: Guard | None = None,
) -> NeuralSolution:
    """Run CRPO from ``start`` with ``learning_rates`` [1+p] under ``limits`` [p]; pure in its arguments.

    Branches and output are chosen under (1 - ``safety_margin``) d. ``on_batch`` sees the data of every iterate; its
    arrays are overwritten by the next one's (see ``copy``). ``guard`` may shorten every step.

    Raises:
        TaskError: the settings do not fit the task, or a value is not finite (task, iteration and tensor are named).
    """
    limits = (1.0 - settings.safety_margin) * limits
    size = getattr(batch, "context_size", 0)
    problem = Problem(learning_rates, limits, settings.tolerances(limits.size), discount, batch.horizon, size)
    rng = np.random.default_rng([seed, _CHOICE_STREAM])
    safe = safe_steps(guard, batch, settings, (seed, label), discount)
    given = (batch, start, problem, settings, seed, rng)
    iterations = list(iterate_neural(*given, label=label, on_batch=on_batch, safe=safe))
    updates = tuple(iteration.update for iteration in iterations if iteration.update is not None)
    iterates = tuple(iteration.policy for iteration in iterations)
    if not settings.evaluate_last:
        iterates += (iterations[-1].improved,)
    all_values, branches = np.array([i.values for i in iterations]), np.array([u.branch for u in updates], np.int64)
    output, feasible = choose_output(all_values, branches, limits, problem.tolerance, settings.output, rng)
    seconds = tuple(iteration.rollout_seconds for iteration in iterations)
    env_steps = len(iterations) * settings.steps_per_iteration + (0 if guard is None else guard.test_steps)
    return NeuralSolution(iterates, all_values, updates, seconds, env_steps, output, feasible)


@dataclass(frozen=True, slots=True)
class NeuralIteration:
    """One iterate: its estimated J_i [1+p], the update made of it and the policy that came out.

    The last iterate of a solver that evaluates it has no ``update``, and ``improved`` is the iterate itself.
    """

    index: int
    policy: PolicyState
    values: FloatArray
    update: UpdateReport | None
    improved: PolicyState
    rollout_seconds: float


def iterate_neural(
    batch: BatchEnvironment,
    start: PolicyState,
    problem: Problem,
    settings: NeuralSettings,
    seed: int,
    rng: np.random.Generator,
    *,
    label: str,
    on_batch: Callable[[int, NeuralTransitions], None] = lambda iteration, data: None,
    safe: SafeSteps | None = None,
    first: int = 0,
    memory: Any = None,
) -> Iterator[NeuralIteration]:
    """The iterations of :func:`solve_neural` one by one, none of them kept: for runs of any length.

    Iteration ``first`` continues an earlier call to the same bits, where ``start`` is what its last iteration
    ``improved``, ``memory`` that of its update, and ``rng`` in the state in which it was left.

    Raises:
        TaskError: as :func:`solve_neural`.
    """
    rollouts = NeuralRollouts(batch, _steps_per_copy(batch, settings, label), seed, label)
    policy = start
    for index in range(first, settings.num_iterations + settings.evaluate_last):
        began = time.perf_counter()
        data = rollouts.collect(policy, index)
        seconds = time.perf_counter() - began
        on_batch(index, data)
        try:
            if index == settings.num_iterations:
                values = estimate_returns(data, problem, settings)
                yield NeuralIteration(index, policy, values, None, policy, seconds)
                return
            improved, report = improve(policy, data, problem, settings.at(index), rng, memory)
            improved = _with_less_noise(policy, improved, settings, index)
            if safe is not None:
                improved = safe.taken(index, policy, improved, report)
        except NonFiniteError as error:
            raise TaskError(f"task {label}, iteration {index}: {error}") from error
        yield NeuralIteration(index, policy, report.values, report, improved, seconds)
        policy, memory = improved, report.memory


def _with_less_noise(policy: PolicyState, improved: PolicyState, settings: NeuralSettings, index: int) -> PolicyState:
    """What came out of update ``index``, with the noise of its schedule where there is one."""
    noise = settings.noise_after(index, extra_of(policy.actor.network, policy.actor.vector))
    return improved if noise is None else improved.with_noise(noise)


def _steps_per_copy(batch: BatchEnvironment, settings: NeuralSettings, label: str) -> int:
    if batch.num_copies != settings.num_copies:
        raise TaskError(f"task {label}: {batch.num_copies} copies were made, num_copies is {settings.num_copies}")
    require_whole_episodes(settings, batch.horizon, label)
    return settings.steps_per_iteration // settings.num_copies


def require_whole_episodes(settings: NeuralSettings, horizon: int, label: str) -> None:
    """Check that each copy has room for an episode of ``horizon`` steps.

    Raises:
        TaskError: it has not; the message gives settings that would be right.
    """
    steps = settings.steps_per_iteration // settings.num_copies
    if steps < horizon:
        raise TaskError(
            f"task {label}: {steps} steps per copy do not hold an episode of {horizon}; "
            f"set num_copies to at most {max(1, settings.steps_per_iteration // horizon)}, "
            f"or steps_per_iteration to at least {settings.num_copies * horizon}"
        )
