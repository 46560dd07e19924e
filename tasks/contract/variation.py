"""Draw the tasks of a continuous family: points of the cube [-1, 1]^k, by similarity, sequence and split."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from tasks.contract.task import Parameters, Split


def _check_similarity(value: str | float) -> str | float:
    """Raise ValueError for a number outside (0, 1]."""
    if not isinstance(value, str) and not 0.0 < value <= 1.0:
        raise ValueError("similarity as a number is the spread of the tasks and must lie in (0, 1]")
    return value


Similarity = Annotated[Literal["high", "low"] | float, AfterValidator(_check_similarity)]
"""Spread of the tasks; as the type of a family's field, it is checked."""
Sequence = Literal["iid", "drifting", "clustered"]

SPREAD = {"high": 0.25, "low": 1.0}
"""Half-width of the part of the cube that tasks are drawn from."""
_LOCAL = 0.25
"""Spread around a moving or clustered centre, as a share of the spread of an iid family."""
_TEST_SHARE = 3
"""One point in this many belongs to the test split, by a hash of the point."""
_DIGITS = 4


def draw_point(
    seed: int,
    split: Split,
    index: int,
    attempt: int,
    *,
    dimensions: int,
    similarity: Similarity,
    sequence: Sequence,
    num_tasks: int,
    num_clusters: int,
) -> tuple[float, ...]:
    """The point [k] of task ``index``, rounded to four digits. Every point belongs to one split; they share none.

    With spread s, iid draws uniformly from [-s, s]^k. The other sequences draw within s / 4 of a centre. drifting moves
    the centre along a line from one corner region of [-s, s]^k to the opposite one over the training sequence; test
    tasks use the end of the line. clustered draws one of ``num_clusters`` centres, evenly spaced on that line.
    """
    spread = SPREAD[similarity] if isinstance(similarity, str) else similarity
    rng = np.random.default_rng([seed, ("train", "test").index(split), index, attempt])
    centre, width = np.zeros(dimensions), spread
    if sequence != "iid":
        width = _LOCAL * spread
        last = max(num_tasks - 1, 1)
        along = 1.0 if split == "test" else min(index / last, 1.0)
        if sequence == "clustered":
            along = float(rng.integers(num_clusters)) / (num_clusters - 1)
        centre = (2.0 * along - 1.0) * (spread - width) * _corner(seed, dimensions)
    while True:
        point = tuple(round(float(value), _DIGITS) + 0.0 for value in centre + rng.uniform(-width, width, dimensions))
        if _split_of(seed, point) == split:
            return point


def require_positive(parameters: Parameters) -> None:
    """Check that all numbers of ``parameters``, also those in lists, are above 0.

    Raises:
        ValueError: one is not; the message names it.
    """
    for name, value in parameters.items():
        for place, number in enumerate(value if isinstance(value, list) else [value]):
            if not number > 0.0:
                where = f"{name}[{place}]" if isinstance(value, list) else name
                raise ValueError(f"{where} must be above 0, got {number}")


def _corner(seed: int, dimensions: int) -> NDArray[np.float64]:
    """The corner of the cube where the line of centres ends; its first coordinate is positive."""
    signs = np.random.default_rng([seed, 2]).choice([-1.0, 1.0], size=dimensions)
    signs[0] = 1.0
    return signs


def _split_of(seed: int, point: tuple[float, ...]) -> Split:
    digest = hashlib.sha256(f"{seed}:{point}".encode()).digest()
    return "test" if digest[0] % _TEST_SHARE == 0 else "train"
