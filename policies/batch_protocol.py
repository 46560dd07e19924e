"""What rollouts need of many copies of one task that are stepped together."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatBatch = NDArray[np.float32]


class TaskBatch(Protocol):
    """Copies of one task; every array is read after :meth:`reset` or :meth:`step` and overwritten by the next call.

    There is no automatic reset: after a step, ``observations`` hold the final observation of episodes that ended, and
    the caller resets those copies.
    """

    @property
    def num_copies(self) -> int:
        """n."""

    @property
    def observation_size(self) -> int:
        """d."""

    @property
    def num_costs(self) -> int:
        """p."""

    @property
    def action_low(self) -> FloatBatch | None:
        """[A], or None for discrete actions."""

    @property
    def action_high(self) -> FloatBatch | None:
        """[A], or None for discrete actions."""

    @property
    def num_actions(self) -> int | None:
        """Number of discrete actions, or None for continuous ones."""

    @property
    def horizon(self) -> int:
        """Steps after which an episode is truncated."""

    @property
    def observations(self) -> FloatBatch:
        """[n, d]."""

    @property
    def reward(self) -> FloatBatch:
        """[n], of the last step."""

    @property
    def costs(self) -> FloatBatch:
        """[n, p], of the last step."""

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """[n], of the last step."""

    @property
    def truncated(self) -> NDArray[np.bool_]:
        """[n], of the last step."""

    def reset(self, copies: NDArray[np.int64], seeds: NDArray[np.uint32]) -> None:
        """Begin new episodes in ``copies`` [k], each from its own seed."""

    def step(self, actions: NDArray[Any]) -> None:
        """Step every copy; ``actions`` [n] int64 or [n, A] float32 within the bounds."""
