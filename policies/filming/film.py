"""Episodes as pictures: what a policy does in a task, frame by frame, with its running costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from policies.common.results import Policy
from policies.neural.policy_state import PolicyState
from policies.neural.rollouts import to_bounds
from policies.solving.acting import act
from tasks.contract import returned
from tasks.contract.rendering import picture, renderable
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.contract.timeout import step_seconds, time_limit
from tasks.stepping.batch import GymnasiumBatch

Frames = NDArray[np.uint8]
_ACTION_STREAM = 41
_SLOWEST, _FASTEST = 2.0, 50.0
"""Frames a second."""


@dataclass(frozen=True, slots=True)
class Film:
    """One episode of T steps.

    ``frames`` [F, height, width, 3] show the environment after ``times`` [F] steps (0 is the start, the last one the
    end). ``reward`` [T+1] and ``costs`` [T+1, p] are the discounted sums so far. ``rate`` is frames a second in the
    environment's own time.
    """

    frames: Frames
    times: NDArray[np.int64]
    reward: FloatArray
    costs: FloatArray
    rate: float


def render_episode(
    family: TaskFamily, task: Task, policy: Policy, seed: int, *, height: int = 240, most_frames: int = 600
) -> Film:
    """Run ``policy`` for one episode of ``task``, from ``seed``, and take pictures of it.

    Pictures are scaled to ``height``. Of an episode that could be longer than ``most_frames`` every second (third, ...)
    step is shown.

    Raises:
        TaskError: the environment breaks its contract or cannot be rendered.
        tasks.contract.rendering.NoGraphicsError: MuJoCo finds no graphics library.
    """
    every = math.ceil((family.horizon + 1) / most_frames)
    env = renderable(family, task)
    try:
        frames, times, gains, costs = list[Frames](), list[int](), list[float](), list[FloatArray]()
        for time, (gain, paid, last) in enumerate(_steps(env, family, task, policy, seed)):
            gains.append(gain)
            costs.append(paid)
            if time % every == 0 or last:
                frames.append(_scaled(picture(env, f"{task.label}, step {time}"), height))
                times.append(time)
        rate = float(env.unwrapped.metadata.get("render_fps") or 30.0) / every
    finally:
        env.close()  # type: ignore[no-untyped-call]
    weights = family.discount ** np.maximum(np.arange(len(gains)) - 1.0, 0.0)
    return Film(
        np.stack(frames),
        np.array(times),
        np.cumsum(weights * np.array(gains)),
        np.cumsum(weights[:, None] * np.array(costs), axis=0),
        min(max(rate, _SLOWEST), _FASTEST),
    )


Step = tuple[float, FloatArray, bool]
"""Reward, costs [p], and whether it is the episode's last."""


def _steps(env: gymnasium.Env[Any, Any], family: TaskFamily, task: Task, policy: Policy, seed: int) -> Iterator[Step]:
    """The start (no reward, no costs), then each step."""
    play = _network_steps if isinstance(policy, PolicyState) else _table_steps
    return play(env, family, task, policy, seed)


def _network_steps(
    env: gymnasium.Env[Any, Any], family: TaskFamily, task: Task, policy: Policy, seed: int
) -> Iterator[Step]:
    assert isinstance(policy, PolicyState)
    rng, num_costs, last = np.random.default_rng([seed, _ACTION_STREAM]), len(family.cost_names), False
    batch = GymnasiumBatch(lambda: env, 1, num_costs, family.horizon, task.label, step_seconds(family))
    if policy.actor.network.sizes[0] != batch.observation_size:
        raise TaskError(
            f"{task.label}: the policy takes {policy.actor.network.sizes[0]} numbers, an observation has "
            f"{batch.observation_size}; film the tasks of the family that it was learned on"
        )
    bounded = to_bounds(batch)
    batch.reset(np.array([0]), np.array([seed]))
    yield 0.0, np.zeros(num_costs), False
    while not last:
        batch.step(bounded(act(policy, batch.observations, rng)))
        last = bool(batch.terminated[0] or batch.truncated[0])
        yield float(batch.reward[0]), batch.costs[0].copy(), last


def _table_steps(
    env: gymnasium.Env[Any, Any], family: TaskFamily, task: Task, policy: Policy, seed: int
) -> Iterator[Step]:
    rng, num_costs, time, last = np.random.default_rng([seed, _ACTION_STREAM]), len(family.cost_names), 0, False

    def where() -> str:
        return f"{task.label}, step {time}"

    with time_limit(step_seconds(family), where):
        state = returned.first_observation(env.reset(seed=seed), where)
    yield 0.0, np.zeros(num_costs), False
    while not last:
        time += 1
        action = int(act(policy, np.array([state]), rng)[0])
        with time_limit(step_seconds(family), where):
            result = env.step(action)
        state, reward, terminated, truncated, info = returned.step_values(result, where)
        last = bool(terminated or truncated) or time == family.horizon
        yield returned.number(reward, "the reward", where), np.array(returned.costs(info, num_costs, where)), last


def _scaled(image: Frames, height: int) -> Frames:
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
