from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policies.exact.drawing import draw_task
from tasks.contract.family_registry import make_family
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.mujoco.mujoco_batch import MujocoBatch
from tasks.stepping.batch import make_batch
from tasks.stepping.joined import JoinedBatch, make_mixed_batch

EACH = 2


def _tasks(variant: str) -> tuple[TaskFamily, list[Task]]:
    family = make_family("hopper", seed=0, num_tasks=3, parameters={"variant": variant})
    return family, [draw_task(family, "hopper", 0, "train", index) for index in range(3)]


@pytest.mark.parametrize("variant", ["velocity", "speed_limit", "body"])
def test_a_mixed_batch_steps_every_task_as_its_own_batch_does(variant: str) -> None:
    family, tasks = _tasks(variant)
    mixed: Any = make_mixed_batch(family, tasks, EACH)
    assert isinstance(mixed, JoinedBatch if variant == "body" else MujocoBatch)
    own = [make_batch(family, task, EACH) for task in tasks]
    seeds, rng = np.arange(6) + 11, np.random.default_rng(0)
    mixed.reset(np.arange(6), seeds)
    for place, batch in enumerate(own):
        batch.reset(np.arange(EACH), seeds[EACH * place : EACH * (place + 1)])
    for _ in range(40):
        actions = rng.uniform(mixed.action_low, mixed.action_high, (6, mixed.action_low.size)).astype(np.float32)
        mixed.step(actions)
        for place, batch in enumerate(own):
            part = slice(EACH * place, EACH * (place + 1))
            batch.step(actions[part])
            for name in ("observations", "reward", "costs", "terminated", "truncated"):
                np.testing.assert_array_equal(getattr(mixed, name)[part], getattr(batch, name), err_msg=name)
        ended = np.flatnonzero(mixed.terminated | mixed.truncated)
        if ended.size:
            again = ended + 100
            mixed.reset(ended, again)
            for place, batch in enumerate(own):
                inside = (ended // EACH) == place
                if inside.any():
                    batch.reset(ended[inside] - EACH * place, again[inside])
    mixed.close()


def test_batches_that_do_not_fit_are_refused() -> None:
    hopper, tasks = _tasks("velocity")
    other = make_family("half_cheetah", seed=0, num_tasks=1, parameters={"variant": "velocity"})
    task = draw_task(other, "half_cheetah", 0, "train", 0)
    with pytest.raises(TaskError, match="cannot be joined"):
        JoinedBatch([make_batch(hopper, tasks[0], 1), make_batch(other, task, 1)])
