"""Dotted keys of the settings, for ``--help``, the documentation and experiment tracking."""

from __future__ import annotations

import itertools
import json
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Union, get_args, get_origin

from pydantic import BaseModel

from distributed.settings.run_config import RunConfig


def dotted_fields(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (dotted key, default, description) for every setting of ``model``."""
    for name, field in model.model_fields.items():
        key, sections = f"{prefix}{name}", models_in(field.annotation)
        if sections:
            yield from _merged([list(dotted_fields(section, f"{key}.")) for section in sections])
        else:
            default = "required" if field.is_required() else json.dumps(field.default)
            yield key, default, field.description or ""


def _merged(members: Sequence[Sequence[tuple[str, str, str]]]) -> Iterator[tuple[str, str, str]]:
    """Merge the keys of a union's members; differing defaults and descriptions are joined."""
    found: dict[str, list[tuple[str, str]]] = {}
    for key, default, description in itertools.chain.from_iterable(members):
        found.setdefault(key, []).append((default, description))
    for key, entries in found.items():
        defaults, descriptions = (dict.fromkeys(part) for part in zip(*entries, strict=True))
        yield key, " or ".join(defaults), " | ".join(descriptions)


def models_in(annotation: object) -> list[type[BaseModel]]:
    """The pydantic models in an annotation; several for a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return models_in(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [model for member in get_args(annotation) for model in models_in(member)]
    return []


def flatten(value: object, prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested dictionaries to (dotted key, text) pairs; an empty dictionary counts as a value."""
    if isinstance(value, dict) and value:
        return [item for name, inner in value.items() for item in flatten(inner, f"{prefix}{name}.")]
    return [(prefix.removesuffix("."), value if isinstance(value, str) else json.dumps(value))]
