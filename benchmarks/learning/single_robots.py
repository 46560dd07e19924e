"""Single robots from a fresh policy under a limit of 25: their tasks, and a training that goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save
from threadpoolctl import threadpool_limits

from benchmarks.learning.curve_tasks import TASKS, CurveTask, package_task
from benchmarks.learning.learning_curves import evaluate
from distributed.settings.provenance import commit_of_results
from distributed.storage.checkpoints import write_atomically
from policies.neural.critic import CriticSettings
from policies.neural.crpo import NeuralIteration, fresh_policy, iterate_neural
from policies.neural.policy_state import PolicyState, policy_from_arrays
from policies.neural.update import Problem
from policies.rules.rule_registry import RULES, MethodSettings

_HOPPER = TASKS["hopper"].settings.trust_region.model_copy(update={"delta_max": 0.03, "delta_last": None})
_ANT = TASKS["half_cheetah"].settings.trust_region.model_copy(update={"delta_max": 0.05, "delta_last": 0.01})
ROBOTS = {
    "half_cheetah": TASKS["half_cheetah"].with_settings(keep_function=True),
    "hopper": dataclasses.replace(
        TASKS["hopper"].with_settings(
            keep_function=True, trust_region=_HOPPER, num_copies=10, steps_per_iteration=10_000
        ),
        margin=(20.0,),
    ),
    **{
        robot: package_task(robot, TASKS["half_cheetah"].settings, 10.0).with_settings(
            keep_function=True, trust_region=_ANT
        )
        for robot in ("ant", "humanoid")
    },
}
"""The tasks of the learning curves, with policies that stay the functions they are where statistics change (decision
0048).

Hopper has a wider margin and ten episodes an iteration instead of five, with longer steps: five say little of a cost
that few episodes have, and a step on the reward can take a cost of 8 to 50. C-TRPO's reward of the last tenth and mean
excess with steps of 0.03: margin 15 1,686 and 0.02 (tuning seed 101), margin 20 1,703 and 0.04, 1,661 and 0.00 (101,
102). With steps of 0.02: margin 15 1,687 and 0.02, 1,587 and 0.02 (100, 101), margin 10 1,647 and 0.12.

Ant takes long steps that shrink. With 0.05 to 0.01 and a margin of 5 it earns 3,120 after 3 million steps, mean excess
0.02 (tuning seed 100), and from a fresh standard deviation of e^-2 instead of e^-1 2,825. On Gymnasium's v5, which also
observes contacts and pays for them, the same settings earn 2,846, and steps of 0.02 2,752.

Humanoid has Ant's settings, and stands near 600 for a million steps: 612 after 600,000, 615 with ten episodes an
iteration (tuning seed 100). Between 100,000 and 200,000 steps of a schedule of 400,000: 498 with a damping of 0.02, 490
with 1, 496 with a reward trace of 0.85 and 15 passes of the critic, 425 with a standard deviation of 1. Of a schedule
of a million: 532 with a discount of 0.995, 515 with steps of 0.1 to 0.05, 489 with these and ten episodes an iteration.
"""

FIRST_ORDER = {
    "humanoid": ROBOTS["humanoid"].with_settings(
        trust_region=_ANT.model_copy(update={"delta_max": 0.06, "delta_last": 0.02}),
        critic_hidden=(256, 256),
        critic=CriticSettings(epochs=10, learning_rate=1e-3),
        reward_trace=0.8,
    )
}
"""The task of a robot for algorithms of clipped steps, where they have settings of their own.

Humanoid leaves the 600 earlier with them. Rewards around 500,000 steps of a schedule of 3 million (tuning seed 100):
C-TRPO with a critic of 256 and 256 units, 10 passes and a reward trace of 0.9 627, with steps of 0.15 669. PPO-
Lagrangian with minibatches of 64, steps of 0.05 and the last pass kept: with the smaller critic and a trace of 0.95
615, with the wider critic and 0.9 722, and 1,374 at a million. P3O with the wider critic and steps of 0.06: with a
trace of 0.9 583 at 350,000, with 0.8 629 there, 723 at 500,000 and 883 at 650,000, with 0.6 540 at 200,000 (0.8: 580).
Steps of 0.1 with the last pass kept overshoot to 0.25: 539 at 250,000.
"""

CLIPPED: dict[str, dict[str, Any]] = {"humanoid": {"minibatch": 64}}
"""Their clipped steps on a robot, where they are not the default ones."""

QUIETER = {"humanoid_quieter": "humanoid"}
"""Robots whose noise is lowered over the last 0.3 of the updates, to a standard deviation of e^-2: which robot it is.

No gradient lowers the noise of Humanoid's 17 joints: after 3.25 million steps of one training its standard deviation is
e^-0.8 and ten episodes earn 2,745; the same policy earns 5,435 with e^-1.5 and 5,557 with e^-3 (decision 0051).
"""
for _name, _robot in QUIETER.items():
    for _tasks in (ROBOTS, FIRST_ORDER):
        _tasks[_name] = _tasks[_robot].with_settings(final_log_std=-2.0, final_noise_share=0.3)
    CLIPPED[_name] = CLIPPED[_robot]

_KEEP_EVERY = 50
"""Iterations between two states on disk, and between two lines on the terminal."""


def of_first_order(robot: str, algorithm: str) -> bool:
    """Whether an algorithm takes clipped steps, and these have settings of their own on a robot."""
    return robot in FIRST_ORDER and "clipped" in RULES[algorithm].model_fields


def robot_task(robot: str, algorithm: str) -> CurveTask:
    """The task of a robot, with the settings for an algorithm."""
    return (FIRST_ORDER if of_first_order(robot, algorithm) else ROBOTS)[robot]


def clipped_steps(robot: str, algorithm: str) -> dict[str, Any]:
    """What an algorithm's clipped steps on a robot have for their defaults; empty for those that take none."""
    return CLIPPED.get(robot, {}) if of_first_order(robot, algorithm) else {}


@dataclass
class Training:
    """A robot's training between two iterations.

    ``output`` is the newest iterate whose own estimates keep the solver's limits (``kept``), or the newest of all where
    none does. ``values`` and ``branches`` are those of every iteration so far, ``seconds`` of rollouts and of updates,
    ``memory`` is what the rule keeps.
    """

    policy: PolicyState
    output: PolicyState
    kept: bool = False
    memory: Any = None
    values: list[list[float]] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def take(self, iteration: NeuralIteration, problem: Problem) -> None:
        """Count one iteration."""
        assert iteration.update is not None
        keeps = bool((iteration.values[1:] <= problem.limits + problem.tolerance).all())
        if keeps or not self.kept:
            self.output, self.kept = iteration.policy, keeps
        self.policy, self.memory = iteration.improved, iteration.update.memory
        self.values.append(np.round(iteration.values, 2).tolist())
        self.branches.append(iteration.update.branch)
        self.seconds[0] += iteration.rollout_seconds
        self.seconds[1] += iteration.update.update_seconds


def write_training(path: Path, training: Training, rng: np.random.Generator) -> None:
    """Keep a training, in one file, so that it is there as a whole or not at all."""
    names = ("kept", "values", "branches", "seconds")
    facts = {name: getattr(training, name) for name in names}
    facts |= {"commit": commit_of_results(), "rng": rng.bit_generator.state}
    arrays = {
        **{f"policy.{name}": value for name, value in training.policy.to_arrays().items()},
        **{f"output.{name}": value for name, value in training.output.to_arrays().items()},
        **{f"memory.{name}": value for name, value in _parts(training.memory).items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    content = save({name: np.ascontiguousarray(value) for name, value in arrays.items()}, {"facts": json.dumps(facts)})
    write_atomically(path, content)


def read_training(path: Path, first_memory: Any, rng: np.random.Generator) -> Training:
    """The training that ``path`` keeps, with ``rng`` put into the state in which it was; executes nothing.

    ``first_memory`` is what the rule knows before its first step, of the kind that it keeps later.

    Raises:
        ValueError: another commit began it.
    """
    with safe_open(path, framework="np") as file:
        facts = json.loads(file.metadata()["facts"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the file is no mapping)
    if facts["commit"] != commit_of_results():
        raise ValueError(
            f"{path}: commit {facts['commit']} began this training; check it out to go on, or remove the file"
        )
    rng.bit_generator.state = facts["rng"]
    groups: dict[str, dict[str, Any]] = {"policy": {}, "output": {}, "memory": {}}
    for name, value in arrays.items():
        group, _, rest = name.partition(".")
        groups[group][rest] = value
    policy, output = (policy_from_arrays(groups[name]) for name in ("policy", "output"))
    memory = _memory(groups["memory"], first_memory)
    return Training(policy, output, facts["kept"], memory, facts["values"], facts["branches"], facts["seconds"])


def _parts(memory: Any) -> Mapping[str, Any]:
    """The arrays of a rule's memory: an array, a dataclass of arrays, or nothing."""
    if isinstance(memory, np.ndarray):
        return {"": memory}
    if memory is None or memory == ():
        return {}
    return {one.name: getattr(memory, one.name) for one in dataclasses.fields(memory)}


def _memory(parts: Mapping[str, Any], first: Any) -> Any:
    """The inverse of :func:`_parts`, for a memory of the kind of ``first``."""
    if isinstance(first, np.ndarray):
        return parts[""]
    return type(first)(**parts)


def robot_cell(
    robot: str, method: MethodSettings, seed: int, steps: int, state: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """A robot trained from a fresh policy: reward and cost of every iterate, and of the output in 100 episodes.

    Settings, limits and their margin are those of :func:`robot_task`. The training is kept in ``state`` now and then,
    and goes on from there to the same bits.

    Raises:
        ValueError: another commit began the training that ``state`` keeps.
    """
    task = robot_task(robot, method.name)
    settings = task.settings_for(steps).model_copy(update={"method": method})
    assert settings.output == "last", "the rule of Training.take"
    rng = np.random.default_rng([seed, 0])
    batch = task.batch(settings.num_copies)
    problem = task.problem(settings, batch.horizon)
    first = method.make().first(len(task.limits))
    fresh = fresh_policy(batch, settings, seed)
    training = read_training(state, first, rng) if state.exists() else Training(fresh, fresh)
    given = (batch, training.policy, problem, settings, seed, rng)
    began, before = time.monotonic(), len(training.values)
    with threadpool_limits(1):
        for iteration in iterate_neural(*given, label=robot, first=before, memory=training.memory):
            training.take(iteration, problem)
            done = len(training.values)
            if done % _KEEP_EVERY == 0 and done < settings.num_iterations:
                write_training(state, training, rng)
                left = (time.monotonic() - began) / (done - before) * (settings.num_iterations - done) / 60.0
                reward, *costs = np.mean(training.values[-_KEEP_EVERY:], axis=0).round(1)
                what = f"{robot}, {method.name}, seed {seed}: {done}/{settings.num_iterations} updates"
                say(f"{what}, reward {reward}, cost {costs[0]}, about {left:.0f} minutes left")
        final = evaluate(task, training.output, seed)
    return {
        "values": training.values,
        "branches": training.branches,
        "limits": task.limits,
        "final": final.mean(axis=0).round(2).tolist(),
        "rollout_seconds": round(training.seconds[0], 1),
        "update_seconds": round(training.seconds[1], 1),
    }
