"""Read and check the values that a user's environment returns from ``reset`` and ``step``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tasks.contract.task import TaskError
from tasks.contract.timeout import told

Where = Callable[[], str]
"""Returns the task and the step for an error message; called only when there is one."""
FIVE = "(observation, reward, terminated, truncated, info)"
SIX = "(observation, reward, cost, terminated, truncated, info)"
_BOOLEAN = (bool, np.bool_)
Boolean = bool | np.bool_


_SIGNED = 2**31
"""The first seed that a simulator with signed 32-bit seeds refuses."""


def raised(call: str, error: BaseException, seed: int | None = None) -> str:
    """What ``call`` (reset, step) of a user's environment raised; ``seed`` is what reset was given."""
    what = f"{call} {told(error)}"
    if seed is None or seed < _SIGNED:
        return what
    return (
        f"{what} (seed {seed}: seeds are whole numbers in 0..{2**32 - 1}; a simulator with signed 32-bit seeds can "
        f"take seed % 2**31)"
    )


def step_values(result: Any, where: Where) -> tuple[Any, Any, Boolean, Boolean, dict[str, Any]]:
    """A step's ``result`` as Gymnasium's five values; the cost of a six-value step becomes ``info["cost"]``.

    Raises:
        TaskError: the number of values is wrong, an end is not a boolean, or info is not a dictionary.
    """
    if isinstance(result, tuple) and len(result) == 5:
        observation, reward, terminated, truncated, info = result
    elif isinstance(result, tuple) and len(result) == 6:
        observation, reward, cost, terminated, truncated, info = result
        info = {**info, "cost": cost} if isinstance(info, dict) else info
    else:
        raise TaskError(f"{where()}: step must return {FIVE}, or {SIX}, got {_described(result)}")
    if not (isinstance(terminated, _BOOLEAN) and isinstance(truncated, _BOOLEAN) and isinstance(info, dict)):
        raise TaskError(
            f"{where()}: step must return {FIVE} with ends that are True or False and a dictionary, got "
            f"terminated {terminated!r}, truncated {truncated!r}, info {info!r}"
        )
    return observation, reward, terminated, truncated, info


def first_observation(result: Any, where: Where) -> Any:
    """The observation that ``reset`` returned.

    Raises:
        TaskError: ``reset`` did not return (observation, info).
    """
    if not isinstance(result, tuple) or len(result) != 2:
        raise TaskError(f"{where()}: reset must return (observation, info), got {_described(result)}")
    return result[0]


def number(value: Any, name: str, where: Where) -> float:
    """A reward or a cost as a finite number; an array of one number is one, a text is not.

    Raises:
        TaskError: ``value`` is not a finite number.
    """
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        result = float(value.item() if isinstance(value, np.ndarray) else value)
    except (TypeError, ValueError):
        raise TaskError(f"{where()}: {name} must be a number, got {value!r}") from None
    if not math.isfinite(result):
        raise TaskError(f"{where()}: {name} is {result}; it must be finite")
    return result


def costs(info: dict[str, Any], num_costs: int, where: Where) -> list[float]:
    """The p finite numbers >= 0 of ``info["cost"]``, which may be a plain number if p = 1.

    Raises:
        TaskError: the cost is missing, has another length, is not finite, or is negative.
    """
    if "cost" not in info:
        raise TaskError(f'{where()}: step reports no info["cost"]; it must hold {num_costs} number(s)')
    given = info["cost"]
    values = _entries(given)
    if len(values) != num_costs:
        raise TaskError(f'{where()}: info["cost"] must hold {num_costs} number(s), got {given!r}')
    found = [number(value, 'info["cost"]', where) + 0.0 for value in values]  # no negative zeros
    if min(found) < 0.0:
        raise TaskError(f'{where()}: info["cost"] is {given!r}; a cost must be at least 0')
    return found


def _entries(given: Any) -> list[Any]:
    """The entries of a number, or of what is like a vector; none of anything else.

    NumPy takes three times as long to find that a list of plain numbers is one, and this is asked in every step.
    """
    if type(given) is float:
        return [given]
    if type(given) in (list, tuple) and all(type(entry) is float for entry in given):
        return list(given)
    return list(np.ravel(given)) if np.ndim(given) <= 1 else []


def space_stays(now: object, first: object, where: Where) -> None:
    """Raise TaskError if an environment's space has changed."""
    if now is not first and now != first:
        raise TaskError(f"{where()}: the space was {first} and has become {now}; spaces must stay")


def _described(result: Any) -> str:
    return f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
