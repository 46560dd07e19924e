from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from tasks.contract.task import Split
from tasks.contract.variation import Similarity, draw_point


def _points(split: Split, count: int, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "dimensions": 2,
        "similarity": "low",
        "sequence": "iid",
        "num_tasks": 100,
        "num_clusters": 2,
    }
    return np.array([draw_point(7, split, index, 0, **(arguments | changes)) for index in range(count)])


@pytest.mark.parametrize("sequence", ["iid", "drifting", "clustered"])
def test_splits_never_share_a_point(sequence: str) -> None:
    arguments = {"sequence": sequence, "similarity": 0.01, "dimensions": 1}
    train, test = (
        {tuple(point) for point in _points(split, 300, **arguments)}
        for split in ("train", "test")  # type: ignore[arg-type]
    )
    assert not train & test
    assert len(test) > 10


def test_draws_are_pure_and_attempts_differ() -> None:
    arguments: dict[str, Any] = {
        "dimensions": 3,
        "similarity": "high",
        "sequence": "iid",
        "num_tasks": 9,
        "num_clusters": 2,
    }
    assert draw_point(1, "train", 4, 0, **arguments) == draw_point(1, "train", 4, 0, **arguments)
    assert draw_point(1, "train", 4, 0, **arguments) != draw_point(1, "train", 4, 1, **arguments)


def test_similarity_is_the_spread() -> None:
    for similarity, spread in (("low", 1.0), ("high", 0.25), (0.5, 0.5)):
        points = np.abs(_points("train", 200, similarity=similarity))
        assert 0.9 * spread < points.max() <= spread


def test_drifting_tasks_move_through_the_range_and_tests_come_where_it_ends() -> None:
    first = _points("train", 100, sequence="drifting")[:, 0]
    assert first[:10].mean() < -0.5
    assert first[-10:].mean() > 0.5
    assert np.corrcoef(first, np.arange(100))[0, 1] > 0.9
    assert _points("test", 20, sequence="drifting")[:, 0].min() >= 0.5


def test_clusters_are_apart() -> None:
    first = _points("train", 100, sequence="clustered")[:, 0]
    assert (np.abs(first) >= 0.5).all()
    assert 20 < (first > 0).sum() < 80


@pytest.mark.parametrize("value", [0.0, -1.0, 1.1])
def test_similarity_out_of_range(value: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        TypeAdapter(Similarity).validate_python(value)
