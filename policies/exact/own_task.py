"""A task of a family from given parameters and limits, instead of drawn ones, checked before any work."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from policies.exact.drawing import with_fraction, with_given_limits
from tasks.contract.task import Parameters, Split, Task, TaskError, TaskFamily

_STREAM = 13
_LOOKED_AT: tuple[tuple[Split, int], ...] = (("train", 0), ("train", 1), ("test", 0), ("test", 1))
"""Drawn tasks whose parameters show which names and types a family has."""
_KINDS = {
    float: "a number",
    int: "a whole number",
    str: "text",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


class OwnTaskError(TaskError):
    """Given parameters or limits that make no task of a family; ``entry`` says which of the two is wrong."""

    def __init__(self, entry: Literal["parameters", "limits"], message: str) -> None:
        super().__init__(entry, message)
        self.entry = entry
        self.message = message

    def __str__(self) -> str:
        return f"{self.entry}: {self.message}"


def own_task(
    family: TaskFamily,
    name: str,
    parameters: Mapping[str, Any],
    limits: Sequence[float] | None = None,
    *,
    seed: int,
    index: int = 0,
    earlier: Sequence[Task] = (),
) -> Task:
    """The task of ``family`` with these parameters; pure in its arguments.

    Args:
        family: The family.
        name: Its name.
        parameters: All parameters of the task, of the names and types that the family's own draws have.
        limits: One limit for each cost; None: the family's own, as for a drawn task.
        seed: Seed of the run; with the content it determines the seed of the task.
        index: Place of the task in a list of such tasks.
        earlier: The tasks before it in this list; a task that repeats one of them gets a seed of its own.

    Raises:
        OwnTaskError: An entry is missing, unknown, of the wrong type or not finite, the family makes no environment of
            the parameters, or no policy keeps the limits.
    """
    drawn = [json.loads(json.dumps(dict(family.parameters(*where, 0)))) for where in _LOOKED_AT]
    fitted = _fitted_object(dict(parameters), drawn, "", name, family)
    own_check = getattr(family, "check_parameters", None)
    if own_check is not None:
        try:
            own_check(fitted)
        except ValueError as error:
            raise OwnTaskError("parameters", str(error)) from error
    task = Task(name, "own", index, seed, fitted, limits=())
    _require_environment(family, task)
    task = _with_limits(family, task, limits)
    repeated = sum((one.parameters, one.limits) == (task.parameters, task.limits) for one in earlier)
    return dataclasses.replace(task, seed=_seed_of(task, seed, repeated))


def _seed_of(task: Task, seed: int, repeated: int) -> int:
    """The seed of a task by its content, so that it does not depend on the other tasks of a list."""
    content = json.dumps([task.family, dict(task.parameters), task.limits], sort_keys=True)
    number = int.from_bytes(hashlib.sha256(content.encode()).digest(), "big")
    return int(np.random.SeedSequence([seed, _STREAM, number, *([repeated] if repeated else [])]).generate_state(1)[0])


def _fitted_object(
    given: dict[str, Any], examples: Sequence[Parameters], path: str, name: str, family: TaskFamily | None = None
) -> dict[str, Any]:
    """``given`` with the names and types of ``examples``."""
    known = list(dict.fromkeys(key for one in examples for key in one))
    for key in given:
        if key not in known:
            hint = "; it is a setting of the family, not of a task" if hasattr(family, str(key)) else ""
            raise OwnTaskError(
                "parameters", f"tasks of {name} have no parameter {path}{key}, only {', '.join(known)}{hint}"
            )
    missing = [key for key in known if key not in given and all(key in one for one in examples)]
    if missing:
        example = json.dumps({key: examples[0][key] for key in missing})
        raise OwnTaskError(
            "parameters", f"{', '.join(path + key for key in missing)} missing; give a value as in {example}"
        )
    return {
        key: _fitted(value, [one[key] for one in examples if key in one], f"{path}{key}", name)
        for key, value in given.items()
    }


def _fitted(value: Any, examples: Sequence[Any], path: str, name: str) -> Any:
    """``value`` with the type of ``examples``: a whole number becomes a number where those are numbers."""
    value = list(value) if isinstance(value, tuple) else value.item() if isinstance(value, np.generic) else value
    kinds = {type(one) for one in examples}
    if type(value) is int and int not in kinds and float in kinds:
        value = float(value) if abs(value) < 1e300 else math.inf
    if type(value) not in kinds:
        wanted = " or ".join(sorted(_KINDS.get(kind, "null") for kind in kinds))
        raise OwnTaskError("parameters", f"{path} must be {wanted}, as in {examples[0]!r}; got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise OwnTaskError("parameters", f"{path} must be finite, as in {examples[0]!r}; got {value!r}")
    if isinstance(value, dict):
        return _fitted_object(value, [one for one in examples if isinstance(one, dict)], f"{path}.", name)
    if isinstance(value, list):
        return _fitted_list(value, [one for one in examples if isinstance(one, list)], path, name)
    return value


def _fitted_list(given: list[Any], examples: Sequence[list[Any]], path: str, name: str) -> list[Any]:
    lengths = {len(one) for one in examples}
    if len(lengths) == 1 and len(given) not in lengths:
        raise OwnTaskError(
            "parameters", f"{path} must have {len(examples[0])} entries, as in {examples[0]!r}; got {len(given)}"
        )
    entries = [entry for one in examples for entry in one]
    return (
        [_fitted(value, entries, f"{path}[{place}]", name) for place, value in enumerate(given)] if entries else given
    )


def _require_environment(family: TaskFamily, task: Task) -> None:
    """Check that the family makes an environment of the parameters: that is the check that only its own code can do."""
    try:
        batch = getattr(family, "batch", None)
        made: Any = family.make(task.parameters) if batch is None else batch(task.parameters, 1, label=task.label)
        made.close()
        family.model(task.parameters)
    except Exception as error:
        raise OwnTaskError(
            "parameters", f"{task.family} makes no environment of them: {type(error).__name__}: {error}"
        ) from error


def _with_limits(family: TaskFamily, task: Task, limits: Sequence[float] | None) -> Task:
    own = limits is None
    try:
        chosen = family.limits(task.parameters) if limits is None else _checked_limits(family, limits)
        if np.ndim(chosen) == 1:
            return with_given_limits(family, task, tuple(chosen))  # type: ignore[arg-type]
        found = with_fraction(family, task, float(chosen))  # type: ignore[arg-type]
    except OwnTaskError:
        raise
    except TaskError as error:
        raise OwnTaskError("limits", f"{'of the family: ' if own else ''}{error}") from error
    if found is None:
        raise OwnTaskError(
            "parameters",
            f"under them the family's limit fraction gives no limits that bind ({', '.join(family.cost_names)}): "
            "the reward's optimum costs no more than the least, or the limits cannot be kept together; give limits, or "
            "other parameters",
        )
    return found


def _checked_limits(family: TaskFamily, limits: Sequence[float]) -> tuple[float, ...]:
    names = family.cost_names
    if len(limits) != len(names):
        raise OwnTaskError(
            "limits", f"{len(limits)} given for {len(names)} costs ({', '.join(names)}); give one for each"
        )
    for cost, limit in zip(names, limits, strict=True):
        if not (math.isfinite(limit) and limit > 0.0):
            raise OwnTaskError("limits", f"the limit of {cost} must be finite and above 0, got {limit}")
    return tuple(float(limit) for limit in limits)
