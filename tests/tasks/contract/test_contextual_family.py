"""Families whose tasks carry a context."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

from tasks.contract.context import ContextError, context_space
from tasks.contract.contextual_family import Contexts, ContextualFamily, contexts_of, plain_family
from tasks.contract.family_registry import FamilySpec, make_family
from tasks.contract.task import Task
from tasks.stepping.batch import make_batch
from tasks.stepping.joined import make_mixed_batch

SPEEDS = (0.5, 1.0, 1.9)


def _task(speed: float, split: Any = "train", index: int = 0) -> Task:
    return Task("half_cheetah", split, index, 7, {"target_speed": speed}, (10.0,))


def _spec(*, hidden: bool = False) -> FamilySpec:
    family = make_family("half_cheetah", seed=0, num_tasks=3, parameters={"variant": "velocity", "horizon": 20})
    space, known = context_space(family, [_task(speed) for speed in SPEEDS], limits=False)
    own = {"variant": "velocity", "horizon": 20}
    return FamilySpec("half_cheetah", 0, 3, own, Contexts(space, known, hidden))


def _contextual(*, hidden: bool = False) -> ContextualFamily:
    family = _spec(hidden=hidden).make()
    assert isinstance(family, ContextualFamily)
    return family


def test_observations_are_the_plain_ones_with_the_context_behind() -> None:
    family = _contextual()
    plain, batch = make_batch(family.plain, _task(1.9), 2), make_batch(family, _task(1.9), 2)
    for one in (plain, batch):
        one.reset(np.arange(2), np.array([3, 4]))
    np.testing.assert_array_equal(batch.observations[:, :-1], plain.observations)
    np.testing.assert_allclose(batch.observations[:, -1], (1.9 - np.mean(SPEEDS)) / np.std(SPEEDS), rtol=1e-6)
    actions = np.full((2, 6), 0.3, np.float32)
    for one in (plain, batch):
        one.step(actions)
    np.testing.assert_array_equal(batch.observations[:, :-1], plain.observations)
    np.testing.assert_array_equal(batch.reward, plain.reward)
    np.testing.assert_array_equal(batch.costs, plain.costs)
    assert (batch.reward != 0.0).all()


def test_every_copy_of_a_mixed_batch_carries_its_own_task() -> None:
    family = _contextual()
    batch = make_mixed_batch(family, [_task(speed) for speed in SPEEDS], 2)
    batch.reset(np.arange(6), np.arange(6))
    np.testing.assert_allclose(batch.observations[:, -1], np.repeat(family.contexts.known[:, 0], 2), rtol=1e-6)


def test_a_hidden_context_is_known_in_training_only() -> None:
    family = _contextual(hidden=True)
    assert not family.must_find(_task(1.0))
    assert family.must_find(_task(1.0, "test"))
    with pytest.raises(ContextError, match=r"half_cheetah/test/0: its context is hidden; find it by probing"):
        family.context_of(_task(1.0, "test"))
    found = family.with_context(np.array([0.25]))
    assert found.context_of(_task(1.0, "test")).tolist() == [0.25]
    assert not found.must_find(_task(1.0, "test"))


def test_a_family_with_contexts_keeps_the_familys_own_parts() -> None:
    family = _contextual()
    assert (family.cost_names, family.horizon, family.discount) == (("control_effort",), 20, 0.99)
    assert family.variant == "velocity"
    assert family.parameters("train", 2, 0) == family.plain.parameters("train", 2, 0)
    assert family.model({}) is None
    assert contexts_of(family) is family.contexts
    assert contexts_of(family.plain) is None
    assert plain_family(family) is family.plain
    assert plain_family(family.plain) is family.plain
    with pytest.raises(AttributeError, match="no_such_part"):
        _ = family.no_such_part


def test_contexts_survive_files_pickles_and_copies() -> None:
    spec = _spec(hidden=True)
    assert spec.contexts is not None
    assert Contexts.from_json(json.loads(json.dumps(spec.contexts.to_json()))) == spec.contexts
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert copy.deepcopy(spec.make()).contexts == spec.contexts
    assert _spec() != spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"known": [[0.0, 1.0]]}, r"known contexts must be finite numbers \[T, 1\], got shape \[1, 2\]"),
        ({"known": []}, r"known contexts must be finite numbers"),
        ({"known": [[float("nan")]]}, r"known contexts must be finite numbers"),
    ],
)
def test_damaged_contexts_are_an_error(change: dict[str, Any], message: str) -> None:
    contexts = _spec().contexts
    assert contexts is not None
    with pytest.raises(ValueError, match=message):
        Contexts.from_json({**contexts.to_json(), **change})


@pytest.mark.parametrize("change", [{"mean": [0.0, 1.0]}, {"scale": [float("inf")]}, {"names": []}])
def test_a_damaged_space_is_an_error(change: dict[str, Any]) -> None:
    contexts = _spec().contexts
    assert contexts is not None
    content = contexts.to_json()
    with pytest.raises(ValueError, match="entries needs as many finite numbers"):
        Contexts.from_json({**content, "space": {**content["space"], **change}})
