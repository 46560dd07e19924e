"""Methods are told apart by colour and by marker, also by people who are colour-blind, on white and on dark."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import numpy as np
import pytest

from meta.methods.registry import METHODS
from meta.methods.workbench import Marker
from meta.reporting.render_matplotlib import _MARKERS
from meta.reporting.styles import method_style, numbered, styles_of

Array = np.ndarray[Any, Any]
SEEN: dict[str, Array] = {
    "all colours": np.eye(3),
    "no red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no blue": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
"""Linear RGB as it is seen: Machado, Oliveira and Fernandes 2009, severity 1."""
_LEAST_DIFFERENCE = 20.0
"""Between two colours in CIELAB; about 2 is just noticeable side by side."""
_LEAST_CONTRAST = 2.2


def linear(colour: str) -> Array:
    parts = np.array([int(colour[at : at + 2], 16) / 255.0 for at in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def cielab(rgb: Array) -> Array:
    """CIELAB (D65) of linear RGB."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    relative = np.array(to_xyz) @ np.clip(rgb, 0.0, 1.0) / np.array([0.95047, 1.0, 1.08883])
    x, y, z = np.where(relative > 0.008856, np.cbrt(relative), 7.787 * relative + 16.0 / 116.0)
    return np.array([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)])


def luminance(colour: str) -> float:
    return float(np.array([0.2126, 0.7152, 0.0722]) @ linear(colour))


def test_cielab_of_known_colours() -> None:
    assert cielab(linear("#ffffff")) == pytest.approx([100.0, 0.0, 0.0], abs=0.1)
    assert cielab(linear("#ff0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.1)


@pytest.mark.parametrize("eyes", SEEN)
def test_no_two_methods_look_alike(eyes: str) -> None:
    seen = {name: cielab(SEEN[eyes] @ linear(method_style(name).colour)) for name in METHODS}
    apart = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(seen, 2)}
    closest = min(apart, key=lambda pair: float(apart[pair]))
    assert apart[closest] > _LEAST_DIFFERENCE, closest


def test_every_colour_stands_out_from_white_and_from_the_dark_page() -> None:
    dark = luminance("#17191c")
    for style in [*(method_style(name) for name in METHODS), *(numbered(place) for place in range(9))]:
        own = luminance(style.colour)
        assert min(1.05 / (own + 0.05), (own + 0.05) / (dark + 0.05)) > _LEAST_CONTRAST, style


def test_every_method_has_its_own_colour_and_its_own_marker() -> None:
    styles = [method_style(name) for name in METHODS]
    assert len({style.colour for style in styles}) == len(METHODS)
    assert len({style.marker for style in styles}) == len(METHODS)


def test_a_variant_of_a_method_keeps_its_colour() -> None:
    plain, none = method_style("meta_srl, context"), method_style("meta_srl, none")
    assert plain == method_style("meta_srl")
    assert (none.colour, none.marker) == (plain.colour, "hexagram")
    assert method_style("nobody").colour not in {method_style(name).colour for name in METHODS}


def test_thirty_things_have_thirty_styles() -> None:
    names = [str(number) for number in range(30)]
    assert len(set(styles_of(names).values())) == 30
    assert styles_of(names[:3])["2"] == numbered(2)


def test_both_libraries_know_every_marker() -> None:
    assert set(_MARKERS) == set(get_args(Marker))
    assert len(set(_MARKERS.values())) == len(_MARKERS)
