"""Colours and markers of methods and objectives, the same in every plot."""

from __future__ import annotations

COLOURS = {
    "random": "#888888",
    "pretrained": "#b279a2",
    "simple_average": "#e0a030",
    "fal": "#4c78a8",
    "meta_srl": "#d62728",
    "oracle": "#2ca02c",
    "reptile": "#17becf",
    "maml_penalty": "#8c564b",
    "multitask": "#bcbd22",
}
"""Colour of each method."""
MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down", "pentagon")
"""Markers by position in :data:`COLOURS`, so that a method is recognisable without its colour."""
OBJECTIVES = ("#d62728", "#4c78a8", "#e0a030", "#2ca02c", "#b279a2", "#17becf", "#8c564b")
"""Colours of the reward (first) and of each cost."""
_OTHER = "#333333"


def method_colour(name: str) -> str:
    """Colour of a method; dark grey for an unknown name."""
    return COLOURS.get(name, _OTHER)


def method_marker(name: str) -> str:
    """Marker of a method, in Plotly's names."""
    return MARKERS[list(COLOURS).index(name) % len(MARKERS)] if name in COLOURS else MARKERS[0]


def objective_colour(objective: int) -> str:
    """Colour of objective 0 (the reward) or of cost 1 to p."""
    return OBJECTIVES[objective % len(OBJECTIVES)]
