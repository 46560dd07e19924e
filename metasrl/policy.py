"""Policies that act in an environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.common.policy import Policy as AnyPolicy
from policies.common.policy_kind import Spaces
from policies.solving.acting import act, within_bounds
from policies.solving.algorithms import kind_of_policy


class Policy:
    """A stochastic policy for the observations and actions of an environment.

    ``spaces`` are those of the tasks that it was learned on; ``seed`` is that of the actions that it draws.
    """

    def __init__(self, policy: AnyPolicy, spaces: Spaces, seed: int = 0) -> None:
        self.policy, self.spaces = policy, spaces
        self._rng = np.random.default_rng(seed)

    def act(self, observation: Any, *, deterministic: bool = False) -> Any:
        """The action at one observation, or the actions [n] (or [n, k]) at n observations.

        Args:
            observation: One state (a whole number) or states [n] for a table; one vector [d] or vectors [n, d] for a
                network. Observations of another shape, such as pictures, are flattened.
            deterministic: The most probable action (of a Gaussian the mean) instead of a random draw. Costs and rewards
                of a run are those of random draws.

        Returns:
            Indices of discrete actions, or vectors within the bounds of the action space.

        Raises:
            ValueError: The observation does not fit the policy, or is not finite.
        """
        rows, single = _rows(observation, self.spaces)
        kind = kind_of_policy(self.policy)
        drawn = kind.most_probable(self.policy, rows) if deterministic else act(self.policy, rows, self._rng)
        actions = within_bounds(drawn, self.spaces)
        if not single:
            return actions
        return int(actions[0]) if self.spaces.actions else actions[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spaces})"


def _rows(observation: Any, spaces: Spaces) -> tuple[NDArray[Any], bool]:
    """``observation`` as a batch, and whether it was a single one."""
    found = np.asarray(observation)
    if spaces.tabular:
        if not np.issubdtype(found.dtype, np.integer) or found.ndim > 1:
            raise ValueError(f"observation: must be a state from 0 to {spaces.observation - 1}, or an array of them")
        if found.size and not ((found >= 0) & (found < spaces.observation)).all():
            raise ValueError(f"observation: states must be from 0 to {spaces.observation - 1}, got {found.tolist()}")
        return np.atleast_1d(found), found.ndim == 0
    single = found.ndim == 1 or (found.size == spaces.observation and found.shape != (1, spaces.observation))
    rows = found.reshape(1, -1) if single else found.reshape(len(found), -1)
    if rows.shape[1] != spaces.observation:
        raise ValueError(
            f"observation: must have the shape [{spaces.observation}], or [n, {spaces.observation}] for several; got "
            f"{list(found.shape)}"
        )
    if not np.isfinite(rows).all():
        raise ValueError("observation: holds a number that is not finite")
    return rows.astype(np.float32), single
