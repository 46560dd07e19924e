"""Records as flat parts: nothing is lost on the way, and what cannot be kept is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from meta.learning.kinds import LEARNERS
from policies.common.codec import Nested, from_parts, to_parts
from tests.meta.learning.test_neural_learner import contributions, fresh


@dataclass(frozen=True)
class Point:
    x: float
    y: NDArray[Any]

    def to_arrays(self) -> dict[str, Any]:
        return {"x": self.x, "y": self.y}


@dataclass(frozen=True)
class Journey:
    name: str
    stops: tuple[str, ...]
    path: NDArray[Any]
    start: Point | None
    end: Point | None

    NESTED: ClassVar[Mapping[str, Nested]] = {
        "start": Nested(lambda parts: Point(**parts), "start."),
        "end": Nested(lambda parts: Point(**parts)),
    }


def test_a_record_survives_the_round_trip() -> None:
    journey = Journey("north", ("a", "b"), np.arange(3.0), Point(1.0, np.ones(2)), None)
    parts = to_parts(journey)
    assert list(parts) == ["name", "stops", "path", "end", "start.x", "start.y"]
    again = from_parts(Journey, {**parts, "stops": list(parts["stops"])})  # as JSON gives it back
    assert (again.name, again.stops, again.end) == ("north", ("a", "b"), None)
    np.testing.assert_array_equal(again.path, journey.path)
    np.testing.assert_array_equal(again.start.y, np.ones(2))


def test_a_value_that_no_file_can_keep_is_refused_by_its_field() -> None:
    journey = Journey("north", (), np.zeros(1), None, None)
    with pytest.raises(TypeError, match="path holds a Point, which no checkpoint can keep"):
        to_parts(dataclasses.replace(journey, path=Point(0.0, np.zeros(1))))


def test_parts_of_no_field_are_refused() -> None:
    parts = to_parts(Journey("north", (), np.zeros(1), None, None))
    with pytest.raises(TypeError, match="speed"):
        from_parts(Journey, {**parts, "speed": 1.0})


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_field_that_is_added_to_a_state_or_a_contribution_reaches_the_checkpoint(kind: str) -> None:
    """A class with one more field than the product's, made of the product's: its value must come back."""
    learner = LEARNERS[kind]
    for base in (learner.state, learner.item):
        extended: Any = dataclasses.make_dataclass(
            f"Extended{base.__name__}",
            [("added", NDArray[Any], dataclasses.field(default=None))],
            bases=(base,),
            frozen=True,
        )
        values = {field.name: _value(field.name, base) for field in dataclasses.fields(base)}
        record = extended(**values, added=np.array([1.0, 2.0]))
        again = from_parts(extended, to_parts(record))
        np.testing.assert_array_equal(again.added, [1.0, 2.0])
        assert set(to_parts(record)) >= {*(name for name in values if name not in base.NESTED), "added"}


def _value(name: str, base: Any) -> Any:
    """A value for a field: of the nested records the real ones, where they are needed."""
    item = contributions(1, 1)[0]
    real = {"initialization": fresh(), "policy": item.policy, "statistics": item.statistics}
    if name in base.NESTED:
        return real.get(name)
    return np.zeros(2) if name in ("learning_rates", "curvature") else 0
