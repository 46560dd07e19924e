"""Generate the tables of docs/configuration.md: ``python -m distributed.settings.configuration_page``.

The page is written by hand except for the lines between ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from distributed.settings.keys import models_in
from distributed.settings.run_config import (
    ClusterSettings,
    FamilySettings,
    OutputSettings,
    RunConfig,
    TrackingSettings,
)
from meta.learning.settings import MetaSettings
from meta.methods.registry import METHODS
from meta.offline.dice_settings import DICESettings
from meta.training.evaluation_settings import EvaluationSettings
from policies.neural.neural_settings import NeuralSettings
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.family_registry import family_class

PAGE = Path("docs/configuration.md")
_MARKED = re.compile(r"(<!-- table: (?P<name>[\w. ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
TABLE_HEAD = ("| key | default | allowed | meaning |", "|---|---|---|---|")
_NAMES = {int: ("whole number", "whole numbers"), float: ("number", "numbers"), str: ("text", "texts")}
_EXTRA = {
    "within_task.steps_per_iteration": "a multiple of `num_copies`",
    "evaluation.steps_per_iteration": "a multiple of `within_task.num_copies`",
    "evaluation.tuning_seeds": "none of `seeds`",
}
"""Constraints between fields, which the annotations do not express."""
_IN_TRAINING = ", ".join(f"`{name}`" for name, method in METHODS.items() if method.in_training)
_REPLACED = {
    "evaluation.grids": "by method, a list of points with the keys below, as many for every method named",
    "evaluation.tasks": "list of parameters, or of `parameters` with `limits`, not empty, or `null`",
    "evaluation.methods": f"list of {_IN_TRAINING} or `null`",
}
"""Allowed values that need their own description."""
_REQUIRED = {(NeuralSettings, "algorithm")}
"""Fields whose default applies only once another value is chosen: for the user they are required."""


def tables() -> dict[str, list[str]]:
    """The lines of every table by name."""
    built = {
        "top level": _rows(RunConfig, "", nested=False),
        "family": _rows(FamilySettings, "family."),
        "frozen_lake": _rows(family_class("frozen_lake"), "family.", omitted=("seed", "num_tasks")),
        "crpo": _rows(WithinTaskSettings, "within_task."),
        "neural_crpo": _rows(NeuralSettings, "within_task.", nested=False),
        "dice": _rows(DICESettings, "dice."),
        "cluster": _rows(ClusterSettings, "cluster."),
        "tracking": _rows(TrackingSettings, "tracking."),
        "evaluation": _rows(EvaluationSettings, "evaluation."),
        "output": _rows(OutputSettings, "output."),
    }
    named = {name: [*TABLE_HEAD, *rows] for name, rows in built.items()}
    for prefix, model in (("within_task.", NeuralSettings), ("meta.", MetaSettings)):
        for name, field in model.model_fields.items():
            for section in models_in(field.annotation):
                named[f"{prefix}{name}"] = [*TABLE_HEAD, *_rows(section, f"{prefix}{name}.")]
    groups = named.pop("meta.groups")[len(TABLE_HEAD) :]
    named["meta"] = [*TABLE_HEAD, *_rows(MetaSettings, "meta.", nested=False), *groups]
    return named


def setting_rows(word: str) -> list[str]:
    """The rows of all settings with ``word`` in their key or meaning, whatever the case; a line each.

    A key that differs between the within-task algorithms has a row for each.
    """
    return [row for row in dict.fromkeys(_rows(RunConfig, "")) if word.lower() in row.lower()]


def rendered(page: str) -> str:
    """``page`` with every marked table replaced.

    Raises:
        KeyError: A marker names no table.
    """
    built = tables()
    return _MARKED.sub(lambda found: found[1] + "\n".join(built[found["name"]]) + "\n" + found[3], page)


def _rows(model: type[BaseModel], prefix: str, *, nested: bool = True, omitted: Sequence[str] = ()) -> Iterator[str]:
    """One line for each field that is not ``omitted``, and for those of sections if ``nested``."""
    for name, field in model.model_fields.items():
        key, sections = f"{prefix}{name}", models_in(field.annotation)
        if name in omitted:
            continue
        if not sections:
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            yield f"| `{key}` | {_default(model, name, field)} | {_allowed(key, field)} | {meaning} |"
        elif nested:
            for section in sections:
                yield from _rows(section, f"{key}.")


def _default(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    if field.is_required() or (model, name) in _REQUIRED:
        return "required"
    text = json.dumps(field.default)
    return f"`{text.strip(chr(34)) if isinstance(field.default, str) else text}`"


def _allowed(key: str, field: FieldInfo) -> str:
    if key in _REPLACED:
        return _REPLACED[key]
    parts = [describe(field.annotation, field.metadata), *([_EXTRA[key]] if key in _EXTRA else [])]
    return ", ".join(parts)


def describe(annotation: object, metadata: Sequence[object] = (), *, many: bool = False) -> str:
    """The values that an annotation allows, in words.

    Args:
        annotation: The type of a field.
        metadata: Its constraints.
        many: Use the plural.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [constraint for item in arguments[1:] for constraint in getattr(item, "metadata", [item])]
        return describe(arguments[0], [*metadata, *inner], many=many)
    if origin in (Union, types.UnionType):
        members = [describe(item, metadata, many=many) for item in arguments if item is not type(None)]
        return " or ".join([*members, *(["`null`"] if type(None) in arguments else [])])
    if origin is Literal:
        return ", ".join(f"`{item}`" for item in arguments)
    if origin in (tuple, list):
        return ", ".join([f"list of {describe(arguments[0], many=True)}", *_bounds(metadata)])
    if origin is dict:
        return "mapping of names to values"
    if annotation is bool:
        return "`true`, `false`"
    assert isinstance(annotation, type), annotation
    return ", ".join([_NAMES[annotation][many], *_bounds(metadata)])


def _bounds(metadata: Sequence[object]) -> Iterator[str]:
    for constraint in metadata:
        if isinstance(constraint, Gt):
            yield f"above {constraint.gt:g}"
        elif isinstance(constraint, Ge):
            yield f"at least {constraint.ge:g}"
        elif isinstance(constraint, Lt):
            yield f"below {constraint.lt:g}"
        elif isinstance(constraint, Le):
            yield f"at most {constraint.le:g}"
        elif isinstance(constraint, MinLen):
            yield "not empty"


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
