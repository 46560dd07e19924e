"""Dataclasses as flat dictionaries of arrays and plain values, so that no field can be left out of a file by mistake.

A checkpoint keeps arrays in safetensors and plain values in JSON. :func:`to_parts` goes through *all* fields of a
dataclass; a field whose value is neither an array, nor plain, nor declared as nested is an error, not a silent loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, slots=True)
class Nested:
    """A field that is itself a record: the names of its parts, and how it is made from them.

    ``prefix``: its parts are kept one by one under this prefix; empty keeps the record as one plain dictionary. A value
    of None has no parts under a prefix, and is null without one.
    """

    make: Callable[[Mapping[str, Any]], Any]
    prefix: str = ""


class Record:
    """A dataclass that a checkpoint keeps; it declares its nested fields."""

    __slots__ = ()
    NESTED: ClassVar[Mapping[str, Nested]] = {}

    def to_arrays(self) -> dict[str, Any]:
        """Everything by name, as a checkpoint keeps it: arrays and plain values."""
        return to_parts(self)

    @classmethod
    def from_arrays(cls, parts: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_arrays`."""
        made: Self = from_parts(cls, parts)
        return made


def to_parts(record: Any) -> dict[str, Any]:
    """Every field of ``record`` by name: arrays, plain values, and the parts of nested records under their prefix.

    Raises:
        TypeError: a field holds a value that no file can keep.
    """
    nested: Mapping[str, Nested] = record.NESTED
    plain: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value, own = getattr(record, field.name), nested.get(field.name)
        if own is None:
            plain[field.name] = _plain(value, field.name)
        elif own.prefix and value is not None:
            parts |= {f"{own.prefix}{name}": part for name, part in _parts_of(value).items()}
        elif not own.prefix:
            plain[field.name] = None if value is None else dataclasses.asdict(value)
    return plain | parts


def from_parts(kind: type[Any], parts: Mapping[str, Any]) -> Any:
    """The inverse of :func:`to_parts` for the dataclass ``kind``.

    Raises:
        TypeError: a part is missing, or belongs to no field.
    """
    nested: Mapping[str, Nested] = kind.NESTED
    prefixes = {own.prefix: name for name, own in nested.items() if own.prefix}
    grouped: dict[str, dict[str, Any]] = {name: {} for name in prefixes.values()}
    made: dict[str, Any] = {}
    for name, part in parts.items():
        prefix = next((one for one in prefixes if name.startswith(one)), None)
        if prefix is not None:
            grouped[prefixes[prefix]][name.removeprefix(prefix)] = part
        elif name in nested:
            made[name] = None if part is None else nested[name].make(part)
        else:
            made[name] = tuple(part) if isinstance(part, list) else part
    for name, own in grouped.items():
        made[name] = nested[name].make(own) if own else None
    return kind(**made)


def _parts_of(value: Any) -> dict[str, Any]:
    return dict(value.to_arrays()) if hasattr(value, "to_arrays") else dataclasses.asdict(value)


def _plain(value: Any, name: str) -> Any:
    kept = isinstance(value, (np.ndarray, *PLAIN)) or (
        isinstance(value, tuple) and all(isinstance(part, PLAIN) for part in value)
    )
    if not kept:
        raise TypeError(f"{name} holds a {type(value).__name__}, which no checkpoint can keep; declare it as nested")
    return value
