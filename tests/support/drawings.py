"""Plots of runs in the process of the tests: built, and written as one white dot where no test looks at them.

Matplotlib takes longer to draw the plots of a small run than the run itself.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from meta.reporting.render_matplotlib import Canvas

_DRAW = Canvas.write


@contextmanager
def empty_pictures() -> Iterator[None]:
    """Every plot is written as the same dot."""
    dot = io.BytesIO()
    Figure(figsize=(1.0, 1.0)).savefig(dot, format="png", dpi=1)

    def write(self: Canvas, target: Path | io.BytesIO) -> None:
        del self
        if isinstance(target, Path):
            target.write_bytes(dot.getvalue())
        else:
            target.write(dot.getvalue())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Canvas, "write", write)
        yield


@contextmanager
def real_pictures() -> Iterator[None]:
    """Within :func:`empty_pictures`: draw after all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Canvas, "write", _DRAW)
        yield
