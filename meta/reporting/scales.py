"""Axes by their data: logarithmic where these span decades, with few readable ticks, and equal for equal things."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from meta.reporting.plot_model import Figure, Panel
from tasks.contract.tabular_model import FloatArray

Scale = Literal["linear", "log", "symlog"]
_DECADES = 30.0
"""Ratio of large to small numbers from which an axis is logarithmic."""
_SMALL, _DEEPEST = 10.0, 1e-4
"""Percentile of the numbers that counts as small, and the least share of the largest number that is told apart."""
_MARGIN = 0.05
_FEW, _MANY = 3, 6
"""Decades below which ticks stand at 1, 2 and 5 of each, and from which some decades have none."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From ``low`` to ``high``; logarithmic, or logarithmic beyond ``linear_below`` (``symlog``).

    ``ticks`` with their ``texts`` are empty on a linear axis, where any library finds good ones.
    """

    scale: Scale
    low: float
    high: float
    linear_below: float = 0.0
    ticks: tuple[float, ...] = ()

    @property
    def texts(self) -> list[str]:
        """The ticks as text."""
        return [_text(tick) for tick in self.ticks]

    def places(self, values: npt.ArrayLike) -> FloatArray:
        """Where values lie on the axis, in its own units: equal distances are equal lengths."""
        return _places(np.asarray(values, np.float64), self.scale, self.linear_below)


def axis_for(numbers: FloatArray, scale: Literal["linear", "log", "fitting"], *, from_zero: bool = False) -> Axis:
    """The axis that shows finite ``numbers`` [N] with a small margin.

    Raises:
        ValueError: there is no number, or one that is not positive on a logarithmic axis.
    """
    if not numbers.size:
        raise ValueError("an axis needs at least one number")
    chosen, below = _fitting(numbers) if scale == "fitting" else (scale, 0.0)
    if chosen == "log" and numbers.min() <= 0.0:
        raise ValueError(f"a logarithmic axis cannot show {numbers.min():g}")
    low, high = _padded(numbers, chosen, below)
    if from_zero:
        low, high = (0.0 if numbers.min() >= 0.0 else low), (0.0 if numbers.max() <= 0.0 else high)
    ticks = () if chosen == "linear" else tuple(_ticks(chosen, low, high, below))
    return Axis(chosen, low, high, below, ticks)


def value_axes(figure: Figure) -> list[Axis]:
    """The axis of the values of every panel: y, and x for bars. Panels that show the same thing share one."""
    found: dict[str, Axis] = {}
    for place, panel in enumerate(figure.panels):
        name = panel.alike or str(place)
        if name not in found:
            same = [other for other in figure.panels if other is panel or (panel.alike and other.alike == panel.alike)]
            found[name] = axis_for(_all_numbers(same), panel.scale, from_zero=bool(panel.bars))
    return [found[panel.alike or str(place)] for place, panel in enumerate(figure.panels)]


def x_axis(panel: Panel) -> Axis | None:
    """The x axis of a panel of series if it is not linear."""
    numbers = np.concatenate([series.x for series in panel.series]) if panel.series else np.zeros(0)
    if panel.x_scale == "linear" or not numbers.size:
        return None
    found = axis_for(numbers[np.isfinite(numbers)], panel.x_scale)
    return None if found.scale == "linear" else found


def _all_numbers(panels: Sequence[Panel]) -> FloatArray:
    levels = [level.value for panel in panels for level in panel.levels]
    return np.concatenate([*(panel.numbers() for panel in panels), np.array(levels, np.float64)])


def _fitting(numbers: FloatArray) -> tuple[Scale, float]:
    """The scale, and below which size it is linear. Numbers of rounding errors count as 0."""
    sizes = np.abs(numbers)
    sizes = sizes[sizes > _DEEPEST * sizes.max()]
    small = float(np.percentile(sizes, _SMALL, method="lower")) if sizes.size else 1.0
    if not sizes.size or sizes.max() / small <= _DECADES:
        return "linear", 0.0
    if numbers.min() > 0.0 and sizes.size == numbers.size:
        return "log", 0.0
    return "symlog", float(10.0 ** math.floor(math.log10(small)))


def _places(values: FloatArray, scale: Scale, below: float) -> FloatArray:
    if scale == "linear":
        return values
    if scale == "log":
        return np.log10(values)
    sizes = np.abs(values) / below
    return np.asarray(np.sign(values) * np.where(sizes <= 1.0, sizes, 1.0 + np.log10(np.maximum(sizes, 1.0))))


def _values(places: FloatArray, scale: Scale, below: float) -> FloatArray:
    if scale == "linear":
        return places
    if scale == "log":
        return np.asarray(10.0**places)
    sizes = np.abs(places)
    return np.asarray(np.sign(places) * below * np.where(sizes <= 1.0, sizes, 10.0 ** (sizes - 1.0)))


def _padded(numbers: FloatArray, scale: Scale, below: float) -> tuple[float, float]:
    ends = _places(np.array([numbers.min(), numbers.max()]), scale, below)
    width = float(np.ptp(ends))
    flat = 0.3 if scale == "log" else 0.1 * abs(float(ends[0])) or 1.0
    margin = _MARGIN * width if width > 1e-9 * np.abs(ends).max() else flat
    low, high = _values(ends + np.array([-margin, margin]), scale, below)
    return float(low), float(high)


def _ticks(scale: Scale, low: float, high: float, below: float) -> list[float]:
    """Ticks from ``low`` to ``high``: decades, or 1, 2 and 5 of each where these are few, or three even steps."""
    least, largest = (low, high) if scale == "log" else (below, max(high, -low))
    powers = range(math.floor(math.log10(least) + 1e-9), math.floor(math.log10(largest) + 1e-9) + 1)
    decades = [10.0**power for power in powers if 10.0**power >= least * (1.0 - 1e-9)]
    finer = [factor * 10.0**power for power in powers for factor in (1.0, 2.0, 5.0)]
    chosen = decades[:: math.ceil(len(decades) / _MANY)] if len(decades) >= _FEW else finer
    found = [tick for tick in chosen if least * (1.0 - 1e-9) <= tick <= largest]
    if scale == "symlog":
        found = [*(-tick for tick in reversed(found)), 0.0, *found]
    found = [tick for tick in found if low <= tick <= high]
    return found if len(found) > 1 else [float(tick) for tick in np.geomspace(low, high, 5)[1:4]]


def _text(value: float) -> str:
    """A tick in plain digits, or with a power of ten where these are many."""
    if value == 0.0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:,.12g}" if float(f"{value:.1g}") == value else f"{value:,.3g}"
    mantissa, power = f"{value:.1e}".split("e")
    digits = "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(abs(int(power))))
    factor = "" if float(mantissa) == 1.0 else f"{float(mantissa):g}·"
    return f"{factor}10{'⁻' if int(power) < 0 else ''}{digits}"
