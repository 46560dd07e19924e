"""Episodes as pictures: what a policy does in a task, frame by frame, with its running costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
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
    environment's own time. ``actual`` [T+1] has, for each parameter of the family's ``gauges``, what the environment
    reported at that step; NaN at the start.
    """

    frames: Frames
    times: NDArray[np.int64]
    reward: FloatArray
    costs: FloatArray
    rate: float
    actual: Mapping[str, FloatArray] = field(default_factory=dict)


class _Noted(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps the ``info`` of the last step."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.last: Mapping[str, Any] = {}

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Forget it."""
        self.last = {}
        return self.env.reset(**options)

    def step(self, action: Any) -> Any:
        """Step, and keep ``info``."""
        result = self.env.step(action)
        self.last = result[-1] if isinstance(result[-1], Mapping) else {}
        return result


def render_episode(
    family: TaskFamily,
    task: Task,
    policy: Policy,
    seed: int,
    *,
    height: int = 240,
    most_frames: int = 600,
    report: Callable[[float], None] = lambda share: None,
) -> Film:
    """Run ``policy`` for one episode of ``task``, from ``seed``, and take pictures of it.

    Pictures are scaled to ``height``. Of an episode that could be longer than ``most_frames`` every second (third, ...)
    step is shown. ``report`` is told which share of the longest possible episode is over.

    A family may have ``gauges``, a mapping from a parameter of its tasks to the key of ``info`` that shows its actual
    value, such as ``{"target_speed": "x_velocity"}``.

    Raises:
        TaskError: the environment breaks its contract or cannot be rendered.
        tasks.contract.rendering.NoGraphicsError: MuJoCo finds no graphics library.
    """
    every = math.ceil((family.horizon + 1) / most_frames)
    env, gauges = _Noted(renderable(family, task)), gauges_of(family, task)
    actual: dict[str, list[float]] = {name: [] for name in gauges}
    played = kind_of_policy(policy).play(env, family, task, policy, seed)
    try:
        frames, times, gains, costs = list[Frames](), list[int](), list[float](), list[FloatArray]()
        for time, (gain, paid, last) in enumerate(played):
            gains.append(gain)
            costs.append(paid)
            report(min(1.0, time / family.horizon))
            for name, key in gauges.items():
                actual[name].append(float(env.last.get(key, np.nan)))
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
        {name: np.array(values) for name, values in actual.items()},
    )


def gauges_of(family: TaskFamily, task: Task) -> dict[str, str]:
    """The family's ``gauges`` for those parameters that ``task`` has."""
    gauges: Mapping[str, str] = getattr(getattr(family, "plain", family), "gauges", {})
    return {name: key for name, key in gauges.items() if name in task.parameters}


def _scaled(image: Frames, height: int) -> Frames:
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
