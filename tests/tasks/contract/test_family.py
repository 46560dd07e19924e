from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pydantic
import pytest

from tasks.contract.family import Family
from tasks.contract.family_registry import family_class
from tasks.contract.task import TaskError, TaskFamily


class Slopes(Family):
    """Mountain cars on slopes of different gravity."""

    cost_names = ("fuel", "noise")
    cost_limits: tuple[float, ...] = (3.0, 2.0)
    steepest: float = 2.0

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"gravity": rng.uniform(1.0, self.steepest), "bumps": rng.integers(0, 9, 3), "name": "slope"}

    def make(self, parameters: Any) -> gymnasium.Env[Any, Any]:
        raise NotImplementedError


class Coins(Slopes):
    """Draws one of two tasks."""

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"side": int(rng.integers(2))}


class Gadgets(Slopes):
    """Draws what is not plain."""

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"gadget": object()}


def test_it_is_a_family_with_plain_parameters_that_depend_on_seed_split_index_and_attempt() -> None:
    family = Slopes(seed=3, num_tasks=5)
    assert isinstance(family, TaskFamily)
    drawn = family.parameters("train", 4, 0)
    assert json.loads(json.dumps(drawn)) == drawn == Slopes(seed=3).parameters("train", 4, 0)
    assert type(drawn["gravity"]) is float
    assert type(drawn["bumps"]) is list
    others = [
        Slopes(seed=4).parameters("train", 4, 0),
        *(family.parameters(*where) for where in (("test", 4, 0), ("train", 5, 0), ("train", 4, 1))),
    ]
    assert all(other["gravity"] != drawn["gravity"] for other in others)
    assert (family.model(drawn), family.limits(drawn)) == (None, (3.0, 2.0))
    assert (family.horizon, family.discount) == (200, 0.99)


def test_its_attributes_are_parameters_of_the_run_file() -> None:
    family = Slopes(seed=0, horizon=50, discount=0.9, cost_limits=(1.0, 4.0), steepest=1.5)
    assert (family.horizon, family.discount, family.limits({})) == (50, 0.9, (1.0, 4.0))
    assert max(family.parameters("train", index, 0)["gravity"] for index in range(50)) <= 1.5
    for wrong in ({"horizon": 0}, {"discount": 1.0}, {"speed": 3}):
        with pytest.raises(pydantic.ValidationError):
            Slopes(seed=0, **wrong)  # type: ignore[arg-type]


def test_the_splits_share_no_task_and_a_third_is_for_tests() -> None:
    """Also where few tasks can be drawn."""

    class Dice(Coins):
        def draw(self, rng: np.random.Generator) -> dict[str, Any]:
            return {"side": int(rng.integers(300))}

    family = Dice(seed=1)
    train, test = ({family.parameters(split, index, 0)["side"] for index in range(3000)} for split in ("train", "test"))
    assert train.isdisjoint(test)
    assert len(train) + len(test) > 290
    assert 0.2 < len(test) / 300 < 0.47


def test_too_few_tasks_for_both_splits_are_reported() -> None:
    reported = []
    for seed in range(12):
        for split in ("train", "test"):
            try:
                Coins(seed=seed).parameters(split, 0, 0)  # type: ignore[arg-type]
            except TaskError as error:
                reported.append(str(error))
    assert reported
    assert all("draws none belongs to the" in message and message.startswith("Coins/") for message in reported)


def test_parameters_that_are_not_plain_are_reported() -> None:
    with pytest.raises(TaskError, match=r"Gadgets/train/2: parameter gadget must be plain \(text, numbers, lists\)"):
        Gadgets(seed=0).parameters("train", 2, 0)


def test_missing_parts_are_reported() -> None:
    class NoDraw(Family):
        cost_names = ("fuel",)
        cost_limits: tuple[float, ...] = (1.0,)

    with pytest.raises(TypeError, match="abstract method"):
        NoDraw(seed=0)  # type: ignore[abstract]


def test_the_import_names_of_the_first_releases_stay(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from tasks.model import TabularModel\nfrom tasks.own import Family\n\n\n"
        "class Mine(Family):\n    cost_names = ('effort',)\n    horizon: int = 3\n    cost_limits: tuple = (1.0,)\n\n"
        "    def draw(self, rng):\n        return {}\n\n"
        "    def make(self, parameters):\n        return TabularModel\n"
    )
    assert issubclass(family_class(f"{file}:Mine"), Family)
