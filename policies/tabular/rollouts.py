"""Many episodes at once from the real environment, into flat arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from policies.tabular.transitions import BoolArray, IndexArray, Transitions
from tasks.contract import returned
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.contract.timeout import Again, failure, step_seconds, time_limit
from tasks.stepping.copies import Copies
from tasks.stepping.spaces import state_fault, table_fault

_Running = tuple[Any, int]
"""An environment and the number of the episode that runs in it."""


@dataclass(frozen=True, slots=True)
class _Episodes:
    """Data of E episodes of at most H steps, [E, H, ...]; so far the first ``lengths`` [E] steps of each are filled."""

    states: IndexArray
    next_states: IndexArray
    actions: IndexArray
    reward: FloatArray
    costs: FloatArray
    terminated: BoolArray
    uniforms: FloatArray
    lengths: NDArray[np.int64]

    @staticmethod
    def empty(num_episodes: int, horizon: int, num_costs: int) -> _Episodes:
        """Room for the episodes, nothing filled in."""
        shape = (num_episodes, horizon)
        states, next_states, actions = (np.zeros(shape, dtype=np.int32) for _ in range(3))
        return _Episodes(
            states,
            next_states,
            actions,
            reward=np.zeros(shape),
            costs=np.zeros((*shape, num_costs)),
            terminated=np.zeros(shape, dtype=np.bool_),
            uniforms=np.empty(shape),
            lengths=np.zeros(num_episodes, dtype=np.int64),
        )

    def transitions(self, iteration: int) -> Transitions:
        """The steps that were taken, episode after episode."""
        time = np.arange(self.states.shape[1])
        taken, last = time < self.lengths[:, None], time == self.lengths[:, None] - 1
        return Transitions(
            states=self.states[taken],
            actions=self.actions[taken],
            reward=self.reward[taken],
            costs=self.costs[taken],
            next_states=self.next_states[taken],
            terminated=self.terminated[taken],
            truncated=(last & ~self.terminated)[taken],
            episodes=np.repeat(np.arange(len(self.lengths), dtype=np.int32), self.lengths),
            iterations=np.full(int(self.lengths.sum()), iteration, dtype=np.int32),
        )


class TabularRollouts:
    """Copies of one task's environment, stepped together with one batched policy call per time step.

    An episode's random numbers depend on (task seed, iteration, episode) alone: the same bits come out whatever the
    number of copies. Environments need discrete observations and actions. A step of all copies that takes longer than
    the family's ``step_seconds`` is an error.
    """

    def __init__(self, family: TaskFamily, task: Task, num_copies: int) -> None:
        self._seconds = step_seconds(family)
        self._at = (0, 0, 0, "reset")
        self._task = task
        self._horizon = family.horizon
        self._cost_names = family.cost_names
        self._copies = Copies(lambda: family.make(task.parameters), num_copies, f"task {task.label}", _fault)
        self._envs = self._copies.envs
        self._spaces = (self._envs[0].observation_space, self._envs[0].action_space)
        self.num_states, self.num_actions = _size_of(self._spaces[0]), _size_of(self._spaces[1])

    def close(self) -> None:
        """Close every copy."""
        self._copies.close()

    def collect(self, policy: FloatArray, iteration: int, num_episodes: int) -> Transitions:
        """Run ``num_episodes`` episodes of ``policy`` [S, A] and return their transitions.

        Each copy takes the next episode when it has finished one, so every episode is run to its own end and short
        ones are not over-represented.

        Raises:
            TaskError: the environment raises, hangs, or breaks its contract; names the task and the step.
        """
        try:
            with time_limit(self._seconds, lambda: f"{self._here()}: {self._at[3]}") as again:
                return self._collect(policy, iteration, num_episodes, again)
        except TaskError as error:
            error.step = self._at[2]
            raise

    def _collect(self, policy: FloatArray, iteration: int, num_episodes: int, again: Again) -> Transitions:
        cumulative = np.cumsum(policy, axis=1)[:, :-1]
        seen = _Episodes.empty(num_episodes, self._horizon, len(self._cost_names))
        running: list[_Running] = []
        waiting = iter(range(num_episodes))
        for env in self._envs:
            again()
            self._begin(env, waiting, iteration, seen, running)
        while running:
            again()
            episodes = np.array([episode for _, episode in running])
            times = seen.lengths[episodes]
            here = seen.states[episodes, times]
            chosen = (seen.uniforms[episodes, times, None] >= cumulative[here]).sum(axis=1)
            seen.actions[episodes, times] = chosen
            running = self._step(running, times.tolist(), chosen.tolist(), iteration, waiting, seen)
        self._check(seen.reward, seen.costs, iteration)
        return seen.transitions(iteration)

    def _step(
        self,
        running: list[_Running],
        times: list[int],
        actions: list[int],
        iteration: int,
        waiting: Iterator[int],
        seen: _Episodes,
    ) -> list[_Running]:
        """Step every running copy once; returns the copies that run on, including those with new episodes."""
        still: list[_Running] = []
        for (env, episode), time, action in zip(running, times, actions, strict=True):
            self._at = (iteration, episode, time, "step")
            try:
                result = env.step(action)
            except BaseException as error:
                raise failure(error, self._here(), returned.raised("step", error)) from error
            observation, gain, ended, cut, info = returned.step_values(result, self._here)
            observation = self._state_of(observation)
            seen.next_states[episode, time] = observation
            seen.reward[episode, time] = self._reward_of(gain)
            seen.costs[episode, time] = self._costs_of(info)
            seen.terminated[episode, time] = ended
            seen.lengths[episode] = time + 1
            if ended or cut or time + 1 == self._horizon:
                self._begin(env, waiting, iteration, seen, still)
            else:
                seen.states[episode, time + 1] = observation
                still.append((env, episode))
        return still

    def _begin(
        self,
        env: gymnasium.Env[Any, Any],
        waiting: Iterator[int],
        iteration: int,
        seen: _Episodes,
        running: list[_Running],
    ) -> None:
        """Reset ``env`` for the next waiting episode, if there is one, and let it run."""
        episode = next(waiting, None)
        if episode is None:
            return
        sequence = np.random.SeedSequence([self._task.seed, iteration, episode])
        self._at = (iteration, episode, 0, "reset")
        seed = int(sequence.generate_state(1)[0])
        try:
            result = env.reset(seed=seed)
        except BaseException as error:
            raise failure(error, self._here(), returned.raised("reset", error, seed)) from error
        returned.space_stays(env.observation_space, self._spaces[0], self._here)
        returned.space_stays(env.action_space, self._spaces[1], self._here)
        observation = returned.first_observation(result, self._here)
        seen.uniforms[episode] = np.random.default_rng(sequence).random(self._horizon)
        seen.states[episode, 0] = self._state_of(observation)
        running.append((env, episode))

    def _state_of(self, observation: Any) -> int:
        fault = state_fault(observation, self.num_states)
        if fault is not None:
            raise TaskError(f"{self._here()}: {fault}")
        return int(observation)

    def _reward_of(self, gain: Any) -> float:
        return gain if type(gain) is float else returned.number(gain, "the reward", self._here)

    def _costs_of(self, info: dict[str, Any]) -> Any:
        cost = info.get("cost")
        if type(cost) is float and len(self._cost_names) == 1:
            return cost
        try:
            return returned.costs(info, len(self._cost_names), self._here)
        except TaskError as error:
            raise TaskError(f"{error} ({', '.join(self._cost_names)})") from error

    def _check(self, reward: FloatArray, cost: FloatArray, iteration: int) -> None:
        """Plain numbers are checked together."""
        for where in (~np.isfinite(reward), ~(np.isfinite(cost) & (cost >= 0.0)).all(axis=-1)):
            if where.any():
                episode, time = (int(i) for i in np.argwhere(where)[0])
                self._at = (iteration, episode, time, "step")
                returned.number(reward[episode, time], "the reward", self._here)
                self._costs_of({"cost": cost[episode, time].tolist()})

    def _here(self) -> str:
        return self._where(*self._at[:3])

    def _where(self, iteration: int, episode: int, time: int) -> str:
        return f"task {self._task.label}, iteration {iteration}, episode {episode}, step {time}"


def discrete_shape(family: TaskFamily, task: Task) -> tuple[int, int]:
    """(S, A) of the environment of ``task``."""
    rollouts = TabularRollouts(family, task, num_copies=1)
    rollouts.close()
    return rollouts.num_states, rollouts.num_actions


def _fault(observations: Any, actions: Any) -> str | None:
    fault = table_fault(observations, actions)
    if fault is not None and isinstance(observations, gymnasium.spaces.Box):
        return f"{fault}; within_task.algorithm neural_crpo learns a network"
    return fault


def _size_of(space: gymnasium.Space[Any]) -> int:
    assert isinstance(space, gymnasium.spaces.Discrete)
    return int(space.n)
