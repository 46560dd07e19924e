"""What a sweep varies: ``--vary KEY=KIND(ARGUMENTS)``, checked against the run file before any trial is run."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import RunConfig
from distributed.settings.keys import dotted_fields
from distributed.settings.run_file import parse_config

SECTIONS = ("meta.", "dice.", "within_task.")
"""What may be varied: how a start is learned. The tasks themselves must stay what they are."""
KINDS = ("uniform", "loguniform", "int", "choice")
_FORM = re.compile(r"^(?P<key>[\w.]+)=(?P<kind>\w+)\((?P<arguments>.*)\)$")


@dataclass(frozen=True)
class Varied:
    """A setting with what it may be: ``bounds`` (low, high) of a range, or the ``choices``."""

    key: str
    kind: str
    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that a run file must take if it is to take all: both bounds, or every choice."""
        return self.values

    def __str__(self) -> str:
        return f"{self.key}={self.kind}({', '.join(yaml.safe_dump(v).split(chr(10))[0] for v in self.values)})"


def parse_space(texts: Sequence[str], config: RunConfig) -> tuple[Varied, ...]:
    """The settings to vary, each of which ``config`` takes at its ends.

    Raises:
        ConfigurationError: names the text, what is wrong, and the form it should have.
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
        for value in item.ends:
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
    known = [name for name, _, _ in dotted_fields() if name.startswith(SECTIONS)]
    if key not in known:
        near = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
        raise ConfigurationError(
            f"--vary: {key} is no setting of {', '.join(name.rstrip('.') for name in SECTIONS)}"
            + (f"; did you mean {' or '.join(near)}?" if near else " (docs/configuration.md lists them)")
        )
    try:
        values = tuple(yaml.safe_load(f"[{found['arguments']}]"))
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--vary: {text!r}: {found['arguments']!r} is no list of values") from error
    values = tuple(_number(value) for value in values)
    if kind == "choice":
        if len(values) < 2:
            raise ConfigurationError(f"--vary: {text!r} needs at least two choices")
        return Varied(key, kind, values)
    whole = kind == "int"
    if len(values) != 2 or not all(isinstance(v, int if whole else int | float) and math.isfinite(v) for v in values):
        raise ConfigurationError(f"--vary: {text!r} needs a lower and an upper bound, {'whole ' * whole}numbers both")
    if not values[0] < values[1] or (kind == "loguniform" and values[0] <= 0.0):
        raise ConfigurationError(
            f"--vary: {text!r}: the lower bound must be below the upper one, and above 0 for a log"
        )
    return Varied(key, kind, values)


def _number(value: Any) -> Any:
    """YAML 1.1 takes 1e-4 for a text; people do not."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def with_values(raw: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A run file's content with other values of dotted keys."""
    changed = copy.deepcopy(raw)
    for key, value in values.items():
        *sections, last = key.split(".")
        node = changed
        for section in sections:
            node = node[section]
        node[last] = value
    return changed
