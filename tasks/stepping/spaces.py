"""Spaces that can be solved, and the observations that belong to them: one wording for training and for checking."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

_WIDEST = 1e30
"""Bounds of actions further apart than this overflow in float32 when they are scaled; nobody means such a range."""
_MOST_ENTRIES = 10**8
"""Entries of the largest table of probabilities, 800 MB."""


def space_fault(observations: Any, actions: Any) -> str | None:
    """Why an environment with these spaces cannot be solved; None where it can."""
    if isinstance(observations, gymnasium.spaces.Box):
        if not int(np.prod(observations.shape)):
            return f"the observation space holds no number, got {observations}"
        return action_fault(actions)
    if not isinstance(observations, gymnasium.spaces.Discrete):
        return (
            f"the observation space must be Discrete (a table is learned) or a Box (a network is), got {observations}"
        )
    return table_fault(observations, actions)


def table_fault(observations: Any, actions: Any) -> str | None:
    """Why a table cannot be learned over these spaces; None where it can."""
    for name, space in (("observation", observations), ("action", actions)):
        if not isinstance(space, gymnasium.spaces.Discrete) or space.start != 0:
            return f"with discrete observations the {name} space must be Discrete(n) starting at 0, got {space}"
    if int(observations.n) * int(actions.n) > _MOST_ENTRIES:
        return (
            f"a table over {observations.n} states and {actions.n} actions is too large (at most {_MOST_ENTRIES:,} "
            "entries); observe a Box, so that a network is learned"
        )
    return None


def action_fault(space: Any) -> str | None:
    """Why actions of ``space`` cannot be stepped; None where they can."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return None
    if not isinstance(space, gymnasium.spaces.Box) or space.dtype is None or space.dtype.kind != "f":
        return f"the action space must be Discrete or a Box of reals, got {space}"
    if not int(np.prod(space.shape)):
        return f"the action space holds no number, got {space}"
    low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
    finite = np.isfinite(low) & np.isfinite(high)
    wide = np.flatnonzero(finite & (0.5 * high - 0.5 * low > 0.5 * _WIDEST))
    if wide.size:
        place = int(wide[0])
        return (
            f"action[{place}] lies in [{low[place]:g}, {high[place]:g}], which is too wide to scale actions to (at "
            f"most {_WIDEST:g}); give -np.inf and np.inf where there are no bounds"
        )
    return None


def float32_bounds(space: gymnasium.spaces.Box) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The flat bounds of a Box as float32; those beyond its range are infinite."""
    with np.errstate(over="ignore"):
        return space.low.astype(np.float32).ravel(), space.high.astype(np.float32).ravel()


def form_fault(observation: Any, space: gymnasium.spaces.Box) -> str | None:
    """What is wrong with the type or the shape of an observation of a Box; None where nothing is."""
    if isinstance(observation, np.ndarray):
        if observation.dtype == space.dtype and observation.shape == space.shape:
            return None
        got = f"{observation.dtype} of shape {list(observation.shape)}"
    else:
        got = type(observation).__name__
    return f"the observation must be {space.dtype} of shape {list(space.shape)} as its space defines, got {got}"


def value_fault(space: gymnasium.spaces.Box, flat: NDArray[np.float32]) -> str | None:
    """The first of an observation's numbers ``flat``, as float32, that lies outside of ``space``; None without one."""
    low, high = float32_bounds(space)
    outside = np.flatnonzero(~(np.isfinite(flat) & (flat >= low) & (flat <= high)))
    if not outside.size:
        return None
    part = int(outside[0])
    place = ", ".join(str(int(index)) for index in np.unravel_index(part, space.shape or (1,)))
    return (
        f"observation[{place}] is {flat[part]}, not a number in [{low[part]}, {high[part]}]; fix the observation or "
        "widen the space"
    )


def state_fault(observation: Any, num_states: int) -> str | None:
    """Why ``observation`` is not a state of a table; None where it is one."""
    if type(observation) is int and 0 <= observation < num_states:
        return None
    array = observation if isinstance(observation, np.ndarray | np.integer) else np.asarray(observation)
    if array.shape == () and array.dtype.kind in "iu" and 0 <= int(array) < num_states:
        return None
    return f"the observation {observation!r} is not a state in 0..{num_states - 1}"


def observation_fault(observation: Any, space: Any) -> str | None:
    """What keeps ``observation`` from being one of ``space``; None where it is one."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return state_fault(observation, int(space.n))
    fault = form_fault(observation, space)
    if fault is not None:
        return fault
    with np.errstate(over="ignore"):
        return value_fault(space, observation.astype(np.float32).ravel())
