"""The exact model of a small constrained MDP, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_PROBABILITY_TOLERANCE = 1e-9


class ModelError(ValueError):
    """An exact model is not a constrained MDP: wrong probabilities, shapes or numbers."""


@dataclass(frozen=True, slots=True)
class TabularModel:
    """A finite constrained MDP, its transitions stored as sparse triples.

    Triple k: the state-action pair ``pairs[k] = state * num_actions + action`` leads to ``next_states[k]`` with
    probability ``probabilities[k]``.

    Shapes: ``pairs``, ``next_states``, ``probabilities`` [K]; ``reward`` [S, A] and ``costs`` [p, S, A] are expected
    one-step values; ``initial`` [S] is rho; ``absorbing`` [S] marks states in which an episode has ended.
    """

    pairs: IntArray
    next_states: IntArray
    probabilities: FloatArray
    reward: FloatArray
    costs: FloatArray
    initial: FloatArray
    absorbing: NDArray[np.bool_]
    discount: float

    def __post_init__(self) -> None:
        states, actions = self.reward.shape
        if self.costs.ndim != 3 or self.costs.shape[1:] != (states, actions):
            raise ModelError(f"costs must have shape [p, {states}, {actions}], got {self.costs.shape}")
        initial = self.initial
        if (
            initial.shape != (states,)
            or not (initial >= 0.0).all()
            or abs(initial.sum() - 1.0) > _PROBABILITY_TOLERANCE
        ):
            raise ModelError(f"initial must be a distribution over {states} states")
        if not 0.0 < self.discount < 1.0:
            raise ModelError(f"discount must lie strictly between 0 and 1, got {self.discount}")
        for name, most in (("pairs", states * actions), ("next_states", states)):
            numbers = getattr(self, name)
            if numbers.shape != self.probabilities.shape or not ((numbers >= 0) & (numbers < most)).all():
                raise ModelError(f"{name} must hold one number in 0..{most - 1} per probability")
        if (self.probabilities < 0.0).any():
            raise ModelError("probabilities must not be negative")
        mass = np.bincount(self.pairs, weights=self.probabilities, minlength=states * actions)
        wrong = np.flatnonzero(np.abs(mass - 1.0) > _PROBABILITY_TOLERANCE)
        if wrong.size:
            state, action = divmod(int(wrong[0]), actions)
            raise ModelError(f"probabilities of state {state}, action {action} sum to {mass[wrong[0]]}, not 1")
        self._check_absorbing()
        for name in ("reward", "costs", "probabilities"):
            if not np.isfinite(getattr(self, name)).all():
                raise ModelError(f"{name} holds a value that is not finite")

    def _check_absorbing(self) -> None:
        """Absorbing states get the uniform policy, so their rewards and costs must not depend on the action."""
        spread = np.ptp(self.objectives, axis=2).max(axis=0)
        wrong = np.flatnonzero(self.absorbing & (spread > 0.0))
        if wrong.size:
            raise ModelError(
                f"state {wrong[0]} is absorbing, but its rewards or costs differ by action, by {spread[wrong[0]]:g}; "
                "make them equal, or do not declare it absorbing"
            )
        states = self.pairs // self.num_actions
        leaving = np.flatnonzero(self.absorbing[states] & (self.next_states != states) & (self.probabilities > 0.0))
        if leaving.size:
            state, successor = states[leaving[0]], self.next_states[leaving[0]]
            raise ModelError(f"state {state} is absorbing, but leads to state {successor}; it must stay where it is")

    @property
    def num_states(self) -> int:
        """S."""
        return int(self.reward.shape[0])

    @property
    def num_actions(self) -> int:
        """A."""
        return int(self.reward.shape[1])

    @property
    def num_costs(self) -> int:
        """p."""
        return int(self.costs.shape[0])

    @property
    def objectives(self) -> FloatArray:
        """Reward and costs stacked, shape [1 + p, S, A], in the order of ``values``."""
        return np.concatenate([self.reward[None], self.costs])


Table = dict[int, dict[int, list[tuple[float, int, float, bool]]]]
"""Gymnasium's transition table: (probability, next state, reward, terminated) by state and action."""


def model_from_gymnasium(
    table: Table, initial: FloatArray, cost_of_transition: Any, discount: float, num_costs: int
) -> TabularModel:
    """Convert the table ``env.unwrapped.P`` of a toy-text environment into a :class:`TabularModel`.

    ``cost_of_transition(state, next_state)`` returns the [p] costs of one transition. A state that a transition with
    ``terminated`` enters is absorbing: it loops to itself without reward or cost.
    """
    states, actions = len(table), len(table[0])
    entries: dict[tuple[int, int], float] = {}
    reward = np.zeros((states, actions))
    costs = np.zeros((num_costs, states, actions))
    absorbing = _absorbing_states(table)
    for state, by_action in table.items():
        for action, outcomes in by_action.items():
            pair = state * actions + action
            if absorbing[state]:
                entries[pair, state] = 1.0
                continue
            for probability, next_state, step_reward, _ in outcomes:
                entries[pair, int(next_state)] = entries.get((pair, int(next_state)), 0.0) + probability
                reward[state, action] += probability * step_reward
                costs[:, state, action] += probability * cost_of_transition(state, int(next_state))
    pairs, next_states = (np.array(column, dtype=np.int64) for column in zip(*entries, strict=True))
    return TabularModel(
        pairs=pairs,
        next_states=next_states,
        probabilities=np.fromiter(entries.values(), dtype=np.float64, count=len(entries)),
        reward=reward,
        costs=costs,
        initial=np.asarray(initial, dtype=np.float64),
        absorbing=absorbing,
        discount=discount,
    )


def _absorbing_states(table: Table) -> NDArray[np.bool_]:
    """The states [S] that a terminating transition enters."""
    absorbing = np.zeros(len(table), dtype=np.bool_)
    for by_action in table.values():
        for outcomes in by_action.values():
            for probability, next_state, _, terminated in outcomes:
                if terminated and probability > 0.0:
                    absorbing[next_state] = True
    return absorbing
