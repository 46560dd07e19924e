"""Numbers as text: four decimals, and significant digits where those would show nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.contract.task import Parameters

_DECIMALS, _SIGNIFICANT = 4, 3
_NOISE = 1e-13
"""Where all numbers are smaller than this, they are rounding errors of 0."""


def digits(value: float, scale: float | None = None, *, decimals: int = _DECIMALS, sign: str = "") -> str:
    """``value`` with ``decimals``, or with three significant digits where that shows too little.

    Args:
        value: the number.
        scale: the largest size among the numbers that it is shown with, which decides; None: its own.
        decimals: of numbers that are not small.
        sign: of a format specification: "+" also marks positive numbers.
    """
    size = abs(value) if scale is None else scale
    if not _NOISE < size < 10.0 ** (1 - decimals):
        return f"{value:{sign}.{decimals}f}"
    place = _SIGNIFICANT - 1 - math.floor(math.log10(size))
    found = round(value, place)
    return f"{found:{sign}.{_SIGNIFICANT}g}" if found else "0"


def interval_text(
    mean: float,
    low: float | None,
    high: float | None,
    scale: float | None = None,
    *,
    decimals: int = _DECIMALS,
    sign: str = "",
) -> str:
    """``mean [low, high]``, or the mean alone; ``scale`` as for :func:`digits` (None: that of the mean)."""
    size = abs(mean) if scale is None else scale
    parts = [digits(part, size, decimals=decimals, sign=sign) for part in (mean, low, high) if part is not None]
    return parts[0] if len(parts) == 1 else f"{parts[0]} [{parts[1]}, {parts[2]}]"


def scale_of(values: Any) -> float:
    """The largest size of the finite numbers of an array."""
    found = np.abs(np.asarray(values, np.float64))
    return float(found[np.isfinite(found)].max(initial=0.0))


def rounded(values: Sequence[Any] | Any, decimals: int = _DECIMALS) -> str:
    """Numbers as a list (or lists of them), as short as :func:`digits` says, without trailing zeros."""
    if np.ndim(values) > 1:
        return f"[{', '.join(rounded(part, decimals) for part in values)}]"
    return f"[{', '.join(_trimmed(digits(float(value), decimals=decimals)) for value in values)}]"


def _trimmed(text: str) -> str:
    if "e" in text or "." not in text:
        return text
    short = text.rstrip("0")
    return f"{short}0" if short.endswith(".") else short


def parameters_text(parameters: Parameters, longest: int = 90) -> str:
    """A task's parameters on one line, such as ``target_speed 1.69, mass 0.8``; rows of a map have a slash between.

    Cut after ``longest`` characters.
    """
    text = ", ".join(f"{name} {_value(value)}" for name, value in parameters.items())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        rows = all(isinstance(one, str) for one in value)
        return "/".join(value) if rows else f"[{', '.join(map(_value, value))}]"
    return parameters_text(value) if isinstance(value, dict) else str(value)
