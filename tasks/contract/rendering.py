"""Render environments without a screen: environments that return RGB arrays, and a graphics library for MuJoCo."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tasks.contract.task import Task, TaskError, TaskFamily

_MODE = "rgb_array"
LIBRARIES = {"egl": "libegl1 and libgl1-mesa-dri", "osmesa": "libosmesa6"}
"""Values of MUJOCO_GL that need no screen, in the order of trial, and Debian's packages for them."""
_TRIAL = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
renderer = mujoco.Renderer(model, 8, 8)
renderer.update_scene(mujoco.MjData(model))
assert renderer.render().shape == (8, 8, 3)
"""
_SECONDS = 60.0
_SHADOWS = 1024
"""Resolution of MuJoCo's shadows. The defaults of 4096, and of four samples per pixel, take a CPU ten times as long;
the difference is invisible in a picture that is scaled down."""


class NoGraphicsError(RuntimeError):
    """MuJoCo cannot render on this machine; the message names the package to install."""


def renderable(family: TaskFamily, task: Task) -> gymnasium.Env[Any, Any]:
    """A new environment of ``task`` whose ``render`` returns pictures [height, width, 3].

    If the family's ``make`` takes no ``render_mode``, the environment's attribute ``render_mode`` is set instead;
    Gymnasium's environments read it at each ``render``.

    Raises:
        TaskError: the environment cannot render RGB arrays.
        NoGraphicsError: the environment uses MuJoCo, and no graphics library works.
    """
    _quiet_pygame()
    make: Callable[..., gymnasium.Env[Any, Any]] = family.make
    if "render_mode" in inspect.signature(make).parameters:
        env = make(task.parameters, render_mode=_MODE)
    else:
        env = make(task.parameters)
        vars(env.unwrapped)["render_mode"] = _MODE
    modes = env.unwrapped.metadata.get("render_modes", [])
    if _MODE not in modes:
        raise TaskError(
            f"{task.label}: its environment {type(env.unwrapped).__name__} cannot be rendered: metadata['render_modes']"
            f" is {list(modes)}; it must hold {_MODE!r}, and render() must then give an array [height, width, 3]"
        )
    model = mujoco_model(env)
    if model is not None:
        use_graphics()
        model.vis.quality.shadowsize, model.vis.quality.offsamples = _SHADOWS, 0
    return env


def picture(env: gymnasium.Env[Any, Any], where: str) -> NDArray[np.uint8]:
    """The current picture [height, width, 3] of the environment.

    Raises:
        TaskError: ``render`` raises or returns something else; ``where`` names the task and the step.
    """
    try:
        image: Any = env.render()
    except Exception as error:
        raise TaskError(f"{where}: render raised {type(error).__name__}: {error}") from error
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} of shape {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise TaskError(f"{where}: render must give an array of uint8 [height, width, 3], got {got}")
    return image


def mujoco_model(env: gymnasium.Env[Any, Any]) -> Any | None:
    """The MuJoCo model that the environment renders, or None."""
    if "mujoco" not in sys.modules:
        return None
    import mujoco

    inner: Any = env.unwrapped
    for model in (getattr(inner, "model", None), getattr(getattr(inner, "task", None), "model", None)):
        if isinstance(model, mujoco.MjModel):
            return model
    return None


def use_graphics() -> str:
    """Set MUJOCO_GL to a library that works on this machine and return it; a value already set is the only one tried.

    Raises:
        NoGraphicsError: no library works.
    """
    chosen = choose_graphics(os.environ.get("MUJOCO_GL"), graphics_work)
    os.environ["MUJOCO_GL"] = chosen
    return chosen


def choose_graphics(given: str | None, works: Callable[[str], bool]) -> str:
    """The first library that ``works``: ``given``, or otherwise one of :data:`LIBRARIES` (or glfw with a screen).

    Raises:
        NoGraphicsError: no library works; the message names Debian's packages.
    """
    screen = ("glfw",) if os.environ.get("DISPLAY") else ()
    tried = (given,) if given else (*LIBRARIES, *screen)
    for name in tried:
        if works(name):
            return name
    packages = "; ".join(f"{package} for MUJOCO_GL={name}" for name, package in LIBRARIES.items())
    what = f"MUJOCO_GL={given} is set and does not work" if given else f"none of {', '.join(tried)} works"
    raise NoGraphicsError(
        f"MuJoCo cannot draw pictures on this machine: {what}. Install one of Debian's packages ({packages})"
        f"{', or unset MUJOCO_GL' if given else ''}. Training needs no pictures and is not affected."
    )


@functools.cache
def graphics_work(name: str) -> bool:
    """Whether MuJoCo renders with MUJOCO_GL=``name``; tried in a subprocess, since a broken library may crash it."""
    environment = {**os.environ, "MUJOCO_GL": name}
    environment.pop("PYOPENGL_PLATFORM", None)
    command = [sys.executable, "-c", _TRIAL]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _quiet_pygame() -> None:
    """Make pygame, which draws Gymnasium's simple environments, run without screen, speaker and greeting."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    if not os.environ.get("DISPLAY"):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pygame imports a deprecated part of setuptools
        import pygame  # noqa: F401
