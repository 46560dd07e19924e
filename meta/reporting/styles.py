"""The one table of colours and markers: a method looks the same in every plot, and no two methods share either.

The colours keep apart under the three kinds of colour blindness, and stand out from white and from the dark page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meta.methods.registry import METHODS
from meta.methods.workbench import Marker


@dataclass(frozen=True, slots=True)
class Style:
    """A colour (``#rrggbb``), and a marker by Plotly's name."""

    colour: str
    marker: Marker


INK, QUIET = "#000000", "#aaaaaa"
"""Colours of limits and reference levels, and of single tasks behind their mean."""
_TABLE: tuple[Style, ...] = (
    Style("#d62728", "circle"),
    Style("#7788ff", "square"),
    Style("#ee8800", "triangle-up"),
    Style("#00bb66", "diamond"),
    Style("#6633bb", "triangle-down"),
    Style("#cc88cc", "cross"),
    Style("#226655", "star"),
    Style("#aa0088", "x"),
    Style("#999999", "pentagon"),
)
"""Styles of what is no method, by position: objectives, algorithms, estimators, seeds."""
_UNKNOWN = Style("#333333", "hexagram")
_VARIANTS: dict[str, Marker] = {
    "none": "hexagram",
    "learned": "triangle-left",
    "inferred": "triangle-right",
    "context hidden": "diamond",
    "narrow": "pentagon",
    "context, narrow": "pentagon",
    "no direct steps": "square",
}
"""Markers of a method's variants (``meta_srl, none``), which keep its colour; any other variant keeps both."""


def method_style(name: str) -> Style:
    """The style of a method or of a variant of it (``method, variant``); dark grey for an unknown name."""
    base, _, variant = name.partition(", ")
    if base not in METHODS:
        return _UNKNOWN
    method = METHODS[base]
    return Style(method.colour, _VARIANTS.get(variant, method.marker))


def numbered(place: int) -> Style:
    """The style of thing number ``place`` of a list: from the tenth on, colours come again with other markers."""
    row, column = divmod(place, len(_TABLE))
    return Style(_TABLE[column].colour, _TABLE[(column + row) % len(_TABLE)].marker)


def styles_of(names: Sequence[str]) -> dict[str, Style]:
    """The styles of a list of things that are no methods, by name. Give the same list to every figure."""
    return {name: numbered(place) for place, name in enumerate(names)}
