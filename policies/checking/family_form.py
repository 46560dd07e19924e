"""Checks of a family that need no environment: its numbers, its parameters, how it draws, its limits, its tasks."""

from __future__ import annotations

import json
import pickle  # noqa: TID251 - bytes of our own making, never a file
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from policies.exact.drawing import draw_task
from tasks.contract.task import NEEDS_MODEL, Split, Task, TaskFamily, fraction_fault, limits_fault, numbers_fault

Verdict = Literal["ok", "warning", "wrong", "skipped"]
LOOKED_AT: tuple[tuple[Split, int], ...] = (("train", 0), ("train", 1), ("test", 0))
"""Split and index of the tasks that are checked."""
_SPLITS: tuple[Split, Split] = ("train", "test")
_TAIL = 0.2
"""A horizon that cuts off more than this share of the discounted steps gets a warning."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a check: ``finding`` describes it and, if something is wrong, what would be right."""

    name: str
    verdict: Verdict
    finding: str


@dataclass(frozen=True, slots=True)
class Form:
    """A family and a second one made the same way."""

    name: str
    family: TaskFamily
    again: TaskFamily
    seed: int


def ok(name: str, finding: str) -> Check:
    """Nothing to mend."""
    return Check(name, "ok", finding)


def wrong(name: str, finding: str) -> Check:
    """The contract is broken."""
    return Check(name, "wrong", finding)


def warning(name: str, finding: str) -> Check:
    """Allowed, but perhaps not intended."""
    return Check(name, "warning", finding)


def check_numbers(form: Form) -> Check:
    """Names of the costs, discount and horizon are valid."""
    name, family = "numbers", form.family
    fault = numbers_fault(family)
    if fault is not None:
        return wrong(name, fault)
    names, discount, horizon = family.cost_names, family.discount, family.horizon
    finding = f"costs {', '.join(names)}; discount {discount:g}; horizon {horizon}"
    tail = float(discount) ** int(horizon)
    if tail > _TAIL:
        return warning(
            name,
            f"{finding}: the horizon cuts off {tail:.0%} of the discounted steps; lengthen it or lower the discount",
        )
    return ok(name, finding)


def check_parameters(form: Form) -> Check:
    """Parameters are plain: they survive JSON unchanged."""
    name = "parameters"
    for split in _SPLITS:
        drawn = form.family.parameters(split, 0, 0)
        try:
            copied = json.loads(json.dumps(drawn))
        except (TypeError, ValueError) as error:
            return wrong(
                name,
                f"parameters must be plain (text, numbers, lists; no NumPy numbers or arrays): {error}; got {drawn}",
            )
        if not isinstance(copied, dict) or not isinstance(drawn, dict):
            return wrong(name, f"parameters must be a dictionary, got {drawn!r}")
        if copied != _lists(drawn):
            return wrong(name, f"parameters must be plain: {drawn} comes back from JSON as {copied}")
    return ok(name, f"plain, for instance {_short(form.family.parameters('train', 0, 0))}")


def check_drawing(form: Form) -> Check:
    """Drawing is pure: it repeats, also in a second family, and differs between indices and splits."""
    name, places = "drawing", [(split, index) for split in _SPLITS for index in range(8)]
    first = {place: _key(form.family.parameters(*place, 0)) for place in places}
    for place in reversed(places):
        for family, whose in ((form.family, "the second time"), (form.again, "in a second family of the same seed")):
            if _key(family.parameters(*place, 0)) != first[place]:
                return wrong(
                    name,
                    f"the parameters of task {'/'.join(map(str, place))} differ {whose}; draw from a generator "
                    "made of the family's seed, split, index and attempt, and from nothing else",
                )
    if len({first["train", index] for index in range(8)}) == 1:
        return wrong(name, "tasks 0 to 7 of the training split are all alike; the draw must use the index")
    shared = {first["train", index] for index in range(8)} & {first["test", index] for index in range(8)}
    if shared:
        return warning(
            name, f"training and held-out tasks share {_short(json.loads(min(shared)))}; held-out tasks should be new"
        )
    return ok(name, "the same each time, and different between tasks")


def check_limits(form: Form) -> Check:
    """Limits are p numbers, finite and not negative, or one fraction where there is a model."""
    name, names = "limits", form.family.cost_names
    parameters = form.family.parameters("train", 0, 0)
    limits = form.family.limits(parameters)
    if np.ndim(limits) == 0:
        fraction = float(limits)  # type: ignore[arg-type]
        fault = fraction_fault(fraction) or (NEEDS_MODEL if form.family.model(parameters) is None else None)
        if fault is not None:
            return wrong(name, fault)
        return ok(name, f"at {fraction:.0%} of the way from the least reachable cost to that of the reward's optimum")
    given = tuple(limits)  # type: ignore[arg-type]
    fault = limits_fault(given, names)
    if fault is not None:
        return wrong(name, fault)
    findings = [f"{one} at most {limit:g}" for one, limit in zip(names, given, strict=True)]
    return ok(name, f"{', '.join(findings)} (expected discounted sum of an episode)")


def check_tasks(form: Form) -> tuple[Check, tuple[Task, ...]]:
    """Tasks can be drawn and pickle by value; a policy can keep their limits, as far as a model shows."""
    tasks = tuple(draw_task(form.family, form.name, form.seed, split, index) for split, index in LOOKED_AT)
    for task in tasks:
        if pickle.loads(pickle.dumps(task)) != task:  # noqa: S301 - our own bytes
            return wrong("tasks", f"{task.label} is not the same after pickling; keep its parameters plain"), ()
    size = max(len(pickle.dumps(task)) for task in tasks)
    return ok("tasks", f"{len(tasks)} drawn; {size} bytes when they are sent to workers"), tasks


FORM_CHECKS: tuple[Callable[[Form], Check], ...] = (check_numbers, check_parameters, check_drawing, check_limits)
"""In this order; once one is wrong, the following ones are skipped."""


def _lists(value: Any) -> Any:
    """``value`` with its tuples as lists, as JSON gives them back."""
    if isinstance(value, dict):
        return {key: _lists(one) for key, one in value.items()}
    return [_lists(one) for one in value] if isinstance(value, list | tuple) else value


def _key(parameters: Any) -> str:
    return json.dumps(parameters, sort_keys=True)


def _short(parameters: Any) -> str:
    text = json.dumps(parameters)
    return text if len(text) <= 80 else f"{text[:77]}..."
