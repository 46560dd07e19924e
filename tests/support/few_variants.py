"""Variants of a test of which a few run every time, and all with the slow tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def few(cases: Iterable[Any], *quick: int) -> list[Any]:
    """``cases`` for ``pytest.mark.parametrize``; all but those at the places ``quick`` are slow."""
    given = list(cases)
    marked = [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow) for case in given]
    for place in quick:
        marked[place] = given[place]
    return marked
