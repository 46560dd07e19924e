"""The evidence for checking a family: its environments are made, and episodes of random actions recorded."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from policies.checking.family_form import Check, ok, warning, wrong
from policies.checking.recording import Bounds, Companion, Recording, record
from policies.networks.kronecker import WIDEST
from tasks.contract import returned
from tasks.contract.task import Task, TaskFamily
from tasks.stepping.copies import Copies
from tasks.stepping.spaces import space_fault

_SEEDS = 1, 2**32 - 3
"""Of the recordings; seeds in training are any whole numbers of 32 bits, so one is large."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Recorded episodes, all with the same actions.

    ``tasks`` are some of the family's and ``episodes`` one episode of each. ``other`` is one of the first task from
    another seed; ``repeated`` one from the first seed again, in the environment that ran ``other`` in between,
    ``renewed`` in a new one, and ``beside`` one in whose steps another copy of the task was stepped in turn.
    """

    family: TaskFamily
    tasks: tuple[Task, ...]
    episodes: tuple[Recording, ...]
    other: Recording
    repeated: Recording
    renewed: Recording
    beside: Recording

    @property
    def labelled(self) -> Iterator[tuple[str, Recording]]:
        """Every recording, after the label of its task."""
        yield from zip((task.label for task in self.tasks), self.episodes, strict=True)
        for recording in (self.other, self.repeated, self.renewed, self.beside):
            yield self.tasks[0].label, recording


@dataclass(frozen=True, slots=True)
class Moment:
    """What a reset (``reward`` and ``info`` are None) or a step returned; ``where`` names the task and the step."""

    where: str
    observation: Any
    reward: Any
    info: dict[str, Any] | None
    ended: tuple[bool, bool]


def moments(label: str, recording: Recording) -> Iterator[Moment]:
    """The moments of a recording; step 0 is the reset.

    Raises:
        TaskError: reset or a step returned something other than the contract requires.
    """
    where = f"{label}, step 0"
    yield Moment(where, returned.first_observation(recording.start, lambda: where), None, None, (False, False))
    for number, values in enumerate(recording.steps, start=1):
        where = f"{label}, step {number}"
        values = returned.step_values(values, functools.partial(str, where))
        observation, reward, terminated, truncated, info = values
        yield Moment(where, observation, reward, info, (bool(terminated), bool(truncated)))


@contextlib.contextmanager
def _made(family: TaskFamily, task: Task, count: int) -> Iterator[list[gymnasium.Env[Any, Any]]]:
    copies = Copies(lambda: family.make(task.parameters), count, task.label, space_fault)
    try:
        yield copies.envs
    finally:
        copies.close()


def check_making(family: TaskFamily, tasks: tuple[Task, ...]) -> Check:
    """``make`` gives Gymnasium environments with spaces that can be solved, a new one at each call."""
    for number, task in enumerate(tasks):
        with _made(family, task, 2 if number == 0 else 1) as envs:
            kind, numbers = type(envs[0].unwrapped).__name__, int(np.prod(envs[0].observation_space.shape or (1,)))
    finding = f"{len(tasks) + 1} environments, each a {kind}"
    return ok("making", finding) if numbers <= WIDEST else warning("making", f"{finding}; {wide_note(numbers)}")


def wide_note(numbers: int) -> str:
    """What observations of so many numbers cost."""
    return (
        f"an observation has {numbers} numbers: 4,000 steps take {numbers * 16_000 / 1e6:,.0f} MB, and the "
        f"preconditioner keeps no factor of more than {WIDEST} inputs, so that steps take more Fisher products; fewer "
        "features (a smaller or an encoded image) train far faster"
    )


def check_answers(family: TaskFamily, tasks: tuple[Task, ...], bounds: Bounds) -> tuple[Check, Evidence | None]:
    """Record the episodes of the evidence; no reset or step raises or hangs (then there is no evidence)."""
    first, second = _SEEDS
    labels = [task.label for task in tasks]
    recordings: list[Recording] = []
    with _made(family, tasks[0], 2) as (env, new), contextlib.ExitStack() as stack:
        others = [stack.enter_context(_made(family, task, 1))[0] for task in tasks[1:]]
        plan = [*zip([env, *others], labels, strict=True), *((one, labels[0]) for one in (env, env, new, env))]
        seeds = [*(first for _ in tasks), second, first, first, first]
        for (one, label), seed in zip(plan, seeds, strict=True):
            last = len(recordings) == len(plan) - 1
            beside = Companion(new, second, bounds.horizon) if last else None
            recordings.append(record(one, seed, bounds, beside))
            failure = recordings[-1].failure
            if failure is not None:
                turn = " (with another copy stepped in turn)" if last else ""
                return wrong("answers", f"{label}, {failure}{turn}; reset and step must return"), None
    count = sum(len(recording.steps) for recording in recordings)
    evidence = Evidence(family, tasks, tuple(recordings[: len(tasks)]), *recordings[len(tasks) :])
    return ok("answers", f"reset and {count} steps of random actions returned"), evidence
