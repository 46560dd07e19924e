"""The search space of a sweep: ``--vary KEY=KIND(ARGUMENTS)``, validated before any trial runs."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from distributed.settings.bounded_reading import parse_yaml
from distributed.settings.errors import ConfigurationError
from distributed.settings.keys import dotted_fields
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import RawSettings, parse_config

SECTIONS = ("meta.", "dice.", "within_task.")
"""Sections that a sweep may vary: how a start is learned, but not the tasks."""
KINDS = ("uniform", "loguniform", "int", "choice")
_FORM = re.compile(r"^(?P<key>[\w.]+)=(?P<kind>\w+)\((?P<arguments>.*)\)$")


@dataclass(frozen=True)
class Varied:
    """A varied setting. ``values`` are the bounds (low, high) of a range, or the choices."""

    key: str
    kind: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.key}={self.kind}({', '.join(yaml.safe_dump(v).split(chr(10))[0] for v in self.values)})"


def parse_space(texts: Sequence[str], config: RunConfig) -> tuple[Varied, ...]:
    """Parse the settings to vary, and check that ``config`` accepts their bounds or choices.

    Raises:
        ConfigurationError: The message names the text, the fault, and the expected form.
    """
    if not texts:
        raise ConfigurationError(
            "--vary: give at least one setting, for instance --vary 'meta.initialization.step_size=loguniform(0.3, 10)'"
        )
    space = tuple(_parse(text) for text in texts)
    doubled = {item.key for item in space if sum(other.key == item.key for other in space) > 1}
    if doubled:
        raise ConfigurationError(f"--vary: {', '.join(sorted(doubled))} given twice")
    raw = config.model_dump(mode="json")
    for item in space:
        for value in item.values:
            parse_config(with_values(raw, {item.key: value}), f"--vary {item}")
    return space


def _parse(text: str) -> Varied:
    found = _FORM.match(text.strip())
    if found is None or found["kind"] not in KINDS:
        raise ConfigurationError(
            f"--vary: {text!r} must be KEY=KIND(...), with KIND one of uniform(low, high), loguniform(low, high), "
            "int(low, high), choice(a, b, ...)"
        )
    key, kind = found["key"], found["kind"]
    _require_known(key)
    try:
        values = tuple(_number(value) for value in parse_yaml(f"[{found['arguments']}]"))
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--vary: {text!r}: {found['arguments']!r} is not a list of values") from error
    if kind == "choice":
        if len(values) < 2:
            raise ConfigurationError(f"--vary: {text!r} needs at least two choices")
        return Varied(key, kind, values)
    allowed, names = (int, "integers") if kind == "int" else (int | float, "numbers")
    if len(values) != 2 or not all(isinstance(v, allowed) and math.isfinite(v) for v in values):
        raise ConfigurationError(f"--vary: {text!r} needs a lower and an upper bound, both {names}")
    if not values[0] < values[1] or (kind == "loguniform" and values[0] <= 0.0):
        raise ConfigurationError(
            f"--vary: {text!r}: the lower bound must be below the upper one, and above 0 for a log"
        )
    return Varied(key, kind, values)


def _require_known(key: str) -> None:
    """Raise ConfigurationError unless ``key`` is a setting that may be varied."""
    known = [name for name, _, _ in dotted_fields() if name.startswith(SECTIONS)]
    if key in known:
        return
    near = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    raise ConfigurationError(
        f"--vary: {key} is not a setting of {', '.join(name.rstrip('.') for name in SECTIONS)}"
        + (f"; did you mean {' or '.join(near)}?" if near else " (docs/configuration.md lists them)")
    )


def _number(value: Any) -> Any:
    """Convert text such as 1e-4, which YAML 1.1 does not read as a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def with_values(raw: Mapping[str, Any], values: Mapping[str, Any]) -> RawSettings:
    """A copy of a run file's content with other values for dotted keys."""
    changed = copy.deepcopy(dict(raw))
    for key, value in values.items():
        *sections, last = key.split(".")
        node = changed
        for section in sections:
            node = node[section]
        node[last] = value
    return changed


def short(value: object) -> str:
    """A value as short text."""
    return f"{value:.4g}" if isinstance(value, float) else yaml.safe_dump(value).split("\n")[0]
