"""The one registry of methods: every file of this folder that defines ``METHOD`` is one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

import meta.methods
from meta.learning.kinds import learning_of
from meta.methods.workbench import Learned, Method, Workbench
from meta.training.evaluation_settings import EvaluationSettings, GridPoint, MethodName
from policies.solving.algorithms import WithinTask

OURS: MethodName = "meta_srl"
"""The method that this library is about."""


def find_methods() -> dict[MethodName, Method]:
    """Every ``METHOD`` of this folder by name, in the order of tables.

    Raises:
        ValueError: two files define a method of the same name.
    """
    found: list[Method] = []
    for module in pkgutil.iter_modules(meta.methods.__path__):
        if module.name != "registry":
            method = getattr(importlib.import_module(f"meta.methods.{module.name}"), "METHOD", None)
            found += [] if method is None else [method]
    names = [method.name for method in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"meta/methods: two files define the method {twice[0]!r}; names must differ")
    return {method.name: method for method in sorted(found, key=lambda method: (method.place, method.name))}


METHODS: dict[MethodName, Method] = find_methods()
"""Every method by name, in the order of tables."""


def method_named(name: MethodName) -> Method:
    """The method ``name``.

    Raises:
        ValueError: there is none.
    """
    if name not in METHODS:
        raise ValueError(f"method {name!r}: must be one of {_names(METHODS)}")
    return METHODS[name]


def learn(name: MethodName, point: GridPoint, bench: Workbench) -> Learned:
    """The start that method ``name`` learns with the hyper-parameters of ``point``."""
    return method_named(name).learn(bench, point)


def grid_of(evaluation: EvaluationSettings, name: MethodName) -> tuple[GridPoint, ...]:
    """The points that ``compare`` tries for a method: its own grid, else one for each rate of ``rate_grid``.

    meta_srl learns its rates: without a grid of its own it has one point, the run file's settings.
    """
    method, learns_rates = method_named(name), name == OURS
    if name in evaluation.grids:
        defaults = dict(method.defaults) | ({} if learns_rates else {"rate": evaluation.rate_grid[0]})
        return tuple(GridPoint(**(defaults | point.model_dump(exclude_none=True))) for point in evaluation.grids[name])
    if learns_rates:
        return (GridPoint(),)
    return tuple(GridPoint(rate=rate, **method.defaults) for rate in evaluation.rate_grid)


def compared_methods(evaluation: EvaluationSettings, within: WithinTask, *, has_model: bool) -> tuple[MethodName, ...]:
    """The methods of ``compare``.

    Raises:
        ValueError: one that was asked for has no form here.
    """
    kind = learning_of(within).name
    exact = has_model and within.evaluation == "exact"
    allowed = [
        method.name
        for method in METHODS.values()
        if kind in method.forms
        and (has_model or not method.needs_model)
        and (exact or kind not in method.exact_forms)
        and not _needs_rule(method, within)
    ]
    for name in evaluation.compared or ():
        if name not in allowed:
            raise ValueError(f"evaluation.compared: {name} has no form here; allowed: {', '.join(allowed)}")
    return evaluation.compared or tuple(allowed)


def chosen_methods(evaluation: EvaluationSettings, within: WithinTask) -> tuple[MethodName, ...]:
    """The methods that ``train`` evaluates.

    Raises:
        ValueError: one of them has no form for the within-task algorithm.
    """
    kind = learning_of(within).name
    if evaluation.methods is None:
        return tuple(method.name for method in _defaults(kind))
    allowed = [
        method.name
        for method in METHODS.values()
        if method.in_training and kind in method.forms and not _needs_rule(method, within)
    ]
    for name in evaluation.methods:
        if name not in allowed:
            raise ValueError(
                f"evaluation.methods: {name} has no form for within_task.algorithm {within.algorithm}"
                f"{f' with method {within.method.name}' if within.method.outside else ''}; "
                f"allowed: {', '.join(allowed)}"
            )
    return evaluation.methods


def _needs_rule(method: Method, within: WithinTask) -> bool:
    """Whether ``method`` takes steps by a rule of its own, which a solver of whole tasks does not have."""
    return within.method.outside and learning_of(within).name in method.steps_by_rule


def _defaults(kind: str) -> list[Method]:
    """What ``train`` compares by default; meta_srl comes last, where the eye rests."""
    found = [method for method in METHODS.values() if kind in method.default_for]
    return sorted(found, key=lambda method: method.name == OURS)


def require_known_methods(evaluation: EvaluationSettings, within: WithinTask) -> None:
    """Check every name of a method in ``evaluation``, and that its grids name only what has an effect.

    Raises:
        ValueError: names the key, what was given and what is allowed.
    """
    for key in ("methods", "compared"):
        for place, name in enumerate(getattr(evaluation, key) or ()):
            if name not in METHODS:
                raise ValueError(f"evaluation.{key}.{place}: must be one of {_names(METHODS)}; given: {name!r}")
    for name, grid in evaluation.grids.items():
        if name not in METHODS:
            raise ValueError(f"evaluation.grids.{name}: must be one of {_names(METHODS)}")
        used = METHODS[name].uses
        for point in grid:
            unused = [key for key in point.model_dump(exclude_none=True) if key not in used]
            if unused:
                raise ValueError(
                    f"evaluation.grids.{name}: {unused[0]} has no effect there; {name} has {', '.join(used)}"
                )
    chosen_methods(evaluation, within)


def _names(methods: Mapping[MethodName, Method]) -> str:
    return ", ".join(repr(name) for name in methods)
