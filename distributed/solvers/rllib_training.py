"""The iterations of an RLlib algorithm on a task: each batch that it learns from measures the iterate that acts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from distributed.rllib.crpo_algorithm import CRPOConfig
from distributed.rllib.crpo_module import CRPOModule
from distributed.rllib.crpo_runner import sampled_copies
from distributed.rllib.episode_batches import transitions_of
from distributed.solvers.task_environment import SOURCE, TaskSource, fault_of
from distributed.solvers.task_runner import steps_of_copy
from policies.common.branches import REWARD_BRANCH
from policies.networks.distributions import distribution_of
from policies.neural.policy_state import PolicyState
from policies.neural.rollouts import NeuralTransitions
from policies.neural.update import require_finite
from tasks.contract.contextual_family import context_size
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import TaskError

_FIRST_LOOK = 2**20
"""The iteration number behind the random numbers of the batch that gives a fresh policy its statistics."""
See = Callable[[int, NeuralTransitions], FloatArray]
"""What is done with the data of an iterate: J [1+p] of it."""


@dataclass(slots=True)
class Trained:
    """``iterates`` 0..M and their ``values``; of each step its branch, and its divergence asked for and taken, ``kl``.

    ``divergences`` are NaN where an algorithm asks for none, since no learning rate decides its steps.
    """

    iterates: list[PolicyState] = field(default_factory=list)
    values: list[FloatArray] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    env_steps: int = 0


class Training:
    """Trains ``algorithm`` from ``start`` and hands the transitions of every iterate to ``see``.

    The algorithm must make one update in each iteration, of the episodes that its runners have just sampled.
    """

    def __init__(self, algorithm: Algorithm, start: PolicyState, num_costs: int, label: str, see: See) -> None:
        self._algorithm: Any = algorithm
        self._config: Any = algorithm.config
        self._num_costs, self._label, self._see = num_costs, label, see
        self._of_crpo = isinstance(self._config, CRPOConfig)
        self._batch: NeuralTransitions | None = None
        self._trained = Trained()
        learners: Any = self._algorithm.learner_group
        self._learn, learners.update = learners.update, self._update
        self._begin(start)

    def run(self, num_iterations: int, on_iteration: Callable[[int], None], *, evaluate_last: bool) -> Trained:
        """M iterations; with ``evaluate_last`` one more batch measures the last iterate.

        Raises:
            TaskError: the algorithm does not learn as described, or a number is not finite.
        """
        for index in range(num_iterations):
            on_iteration(index)
            self._deploy()
            self._trained.iterates.append(self._module.policy)
            self._batch = None
            learned = self._algorithm.train()["learners"].get(DEFAULT_MODULE_ID, {})
            if self._batch is None:
                raise TaskError(f"task {self._label}, iteration {index}: {self._name} made no update of episodes")
            self._trained.values.append(self._see(index, self._batch))
            self._trained.branches.append(int(learned["branch"]) if self._of_crpo else REWARD_BRANCH)
            self._trained.divergences.append(float(learned["requested_kl"]) if self._of_crpo else np.nan)
            policy = self._module.policy
            require_finite(actor=policy.actor.vector, critic=policy.critic.vector)
            self._trained.kl.append(_mean_kl(self._trained.iterates[-1], policy, self._batch))
        self._trained.iterates.append(self._module.policy)
        if evaluate_last:
            on_iteration(num_iterations)
            self._deploy()
            self._trained.values.append(self._see(num_iterations, self._sampled(num_iterations)))
        return self._trained

    @property
    def _name(self) -> str:
        return type(self._algorithm).__name__

    @property
    def _module(self) -> CRPOModule:
        module: CRPOModule = self._algorithm.learner_group._learner.module[DEFAULT_MODULE_ID]
        return module

    def _begin(self, start: PolicyState) -> None:
        """Give learner and runners the start; a fresh one gets statistics where the algorithm makes none."""
        self._set(start)
        if start.statistics.count == 0.0 and not self._of_crpo:
            data = self._sampled(_FIRST_LOOK)
            source: TaskSource = self._config.env_config[SOURCE]
            seen = start.statistics.merged(data.flat(data.observations), context_size(source.family))
            self._set(dataclasses.replace(start, statistics=seen))

    def _set(self, policy: PolicyState) -> None:
        with torch.no_grad():
            self._module.policy = policy
        self._deploy()

    def _deploy(self) -> None:
        """Wait until every runner acts by the learner's policy; RLlib's own sending may leave one out that is slow."""
        place = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"
        content = self._algorithm.learner_group.get_state(components=[place], inference_only=True)[COMPONENT_LEARNER]
        state = {key: content[key] for key in (COMPONENT_RL_MODULE, WEIGHTS_SEQ_NO)}
        group = self._algorithm.env_runner_group
        group.foreach_env_runner(
            functools.partial(_take, state=state), local_env_runner=group.num_remote_workers() <= 0
        )

    def _sampled(self, iteration: int) -> NeuralTransitions:
        """A batch of the iterate that learner and runners have."""
        group, seed = self._algorithm.env_runner_group, int(self._config.seed)
        act = functools.partial(sampled_copies, steps=steps_of_copy(self._config), seed=seed, iteration=iteration)
        sampled = group.foreach_env_runner(act, local_env_runner=group.num_remote_workers() <= 0)
        return self._read([piece for pieces, _ in sampled for piece in pieces])

    def _update(self, **given: Any) -> Any:
        """What the algorithm calls to learn: the learner's update, of episodes that are read before it."""
        if not given.get("episodes") or self._batch is not None:
            raise TaskError(
                f"task {self._label}: within_task.method.name: {self._name} must make one update of its runners' "
                "episodes in each iteration, as PPO does; it updates from something else, or more than once"
            )
        self._batch = self._read(given["episodes"])
        return self._learn(**given)

    def _read(self, pieces: Any) -> NeuralTransitions:
        self._trained.env_steps += sum(map(len, pieces))
        try:
            return transitions_of(pieces, steps_of_copy(self._config), self._num_costs, f"task {self._label}")
        except ValueError as error:
            fault = fault_of(info for piece in pieces for info in piece.get_infos())
            raise TaskError(fault or str(error)) from error


def _take(runner: Any, state: dict[str, Any]) -> None:
    runner.set_state(state)


def _mean_kl(first: PolicyState, second: PolicyState, data: NeuralTransitions) -> float:
    """The mean KL(first || second) over the observations of ``data``."""
    rows = data.flat(data.observations)
    (outputs, extra), (others, other_extra) = first.act(rows), second.act(rows)
    return float(np.mean(distribution_of(first.actor.network).kl(outputs, extra, others, other_extra)))
