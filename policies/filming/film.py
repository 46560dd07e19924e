"""Episodes as pictures: what a policy does in a task, frame by frame, with its running costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from policies.common.policy import Policy
from policies.solving.algorithms import kind_of_policy
from tasks.contract.rendering import picture, renderable
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskFamily

Frames = NDArray[np.uint8]
_ACTION_STREAM = 41
_SLOWEST, _FASTEST = 2.0, 50.0
"""Frames per second."""


@dataclass(frozen=True, slots=True)
class Film:
    """One episode of T steps.

    ``frames`` [F, height, width, 3] show the environment after ``times`` [F] steps (0 is the start, the last one the
    end). ``reward`` [T+1] and ``costs`` [T+1, p] are the discounted sums so far. ``rate`` is frames per second in the
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
    played = kind_of_policy(policy).play(env, family, task, policy, seed)
    try:
        frames, times, gains, costs = list[Frames](), list[int](), list[float](), list[FloatArray]()
        for time, (gain, paid, last) in enumerate(played):
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


def _scaled(image: Frames, height: int) -> Frames:
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
