from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from policies.exact.drawing import draw_task
from tasks.contract import rendering
from tasks.contract.family_registry import make_family
from tasks.contract.rendering import LIBRARIES, NoGraphicsError, choose_graphics, graphics_work, picture, renderable
from tasks.contract.task import Task, TaskError


def working_library() -> str | None:
    """The first graphics library that works on this machine."""
    return next((name for name in LIBRARIES if graphics_work(name)), None)


def drawn(name: str, **parameters: Any) -> tuple[Any, Task]:
    """A family and its first training task."""
    family = make_family(name, seed=0, num_tasks=4, parameters=parameters)
    return family, draw_task(family, name, 0, "train", 0)


@pytest.mark.parametrize(
    ("given", "work", "chosen"),
    [(None, {"egl", "osmesa"}, "egl"), (None, {"osmesa"}, "osmesa"), ("osmesa", {"egl", "osmesa"}, "osmesa")],
)
def test_the_first_library_that_works_is_chosen_and_a_given_one_is_kept(
    given: str | None, work: set[str], chosen: str
) -> None:
    assert choose_graphics(given, lambda name: name in work) == chosen


def test_a_screen_is_a_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    assert choose_graphics(None, lambda name: name == "glfw") == "glfw"
    monkeypatch.delenv("DISPLAY")
    with pytest.raises(NoGraphicsError, match="none of egl, osmesa works"):
        choose_graphics(None, lambda name: name == "glfw")


def test_where_none_works_the_packages_to_install_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(rendering, "graphics_work", lambda name: False)
    family, task = drawn("hopper")
    with pytest.raises(NoGraphicsError) as caught:
        renderable(family, task)
    reported = str(caught.value)
    assert "none of egl, osmesa works" in reported
    assert "libegl1 and libgl1-mesa-dri for MUJOCO_GL=egl; libosmesa6 for MUJOCO_GL=osmesa" in reported
    assert reported.endswith("Training needs no pictures and is not affected.")
    assert "MUJOCO_GL" not in os.environ
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(NoGraphicsError, match=r"MUJOCO_GL=osmesa is set and does not work.*or unset MUJOCO_GL"):
        renderable(family, task)
    renderable(*drawn("frozen_lake")).close()  # type: ignore[no-untyped-call]


def test_a_library_that_does_not_work_is_found_out_in_a_process_of_its_own() -> None:
    assert not graphics_work("slate")


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_mujoco_draws_with_each_library_that_is_installed(library: str) -> None:
    """In a fresh process that imported MuJoCo before it chose."""
    if not graphics_work(library):
        pytest.skip(f"MUJOCO_GL={library} does not work here; Debian: {LIBRARIES[library]}")
    code = (
        "import numpy, os, tasks.contract.rendering as r; from tests.tasks.contract.test_rendering import drawn; "
        f"r.LIBRARIES = {{{library!r}: ''}}; family, task = drawn('hopper'); env = r.renderable(family, task); "
        "env.reset(seed=0); image = r.picture(env, ''); assert image.shape == (480, 480, 3); "
        f"assert len(numpy.unique(image)) > 50; assert os.environ['MUJOCO_GL'] == {library!r}"
    )
    environment = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", ["frozen_lake", "acrobot", "hopper"])
def test_pictures_change_nothing_in_the_episode(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "")
    if name == "hopper" and working_library() is None:
        pytest.skip("no graphics library works here; Debian: libegl1 or libosmesa6")
    family, task = drawn(name)
    plain, drawing = family.make(task.parameters), renderable(family, task)
    images, actions = [], np.random.default_rng(0).integers(0, 3, 12)
    np.testing.assert_array_equal(plain.reset(seed=3)[0], drawing.reset(seed=3)[0])
    for number, action in enumerate(actions):
        images.append(picture(drawing, f"step {number}"))
        given = np.full(3, action - 1.0, np.float32) if name == "hopper" else action
        one, other = plain.step(given), drawing.step(given)
        for a, b in zip(one[:4], other[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(one[4]["cost"], other[4]["cost"])
    assert len({image.tobytes() for image in images}) > 3
    drawing.close()


def test_a_lake_shows_its_thin_ice() -> None:
    """Two lakes that differ in one hole look different, though to Gymnasium both are ice all over."""
    family, _ = drawn("frozen_lake", map_size=4)
    images = []
    for rows in (["SFFF", "FHFH", "FFFH", "HFFG"], ["SFFF", "FHFH", "FHFH", "HFFG"]):
        env = renderable(family, Task("lake", "train", 0, 0, {"desc": rows}, (0.1,)))
        env.reset(seed=0)
        images.append(picture(env, "lake"))
        env.close()  # type: ignore[no-untyped-call]
    changed = np.argwhere((images[0] != images[1]).any(axis=2))
    height, width = (side // 4 for side in images[0].shape[:2])
    assert {tuple(place) for place in changed // [height, width]} == {(2, 1)}


class _Square(gymnasium.Env[Any, Any]):
    """Draws ``image`` where its class says that it can."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium's own
    image: Any = np.full((4, 6, 3), 7, np.uint8)

    def render(self) -> Any:
        if self.render_mode != "rgb_array":
            raise ValueError(f"render_mode is {self.render_mode}")
        return self.image


class _Blind(_Square):
    metadata: dict[str, Any] = {"render_modes": ["human"]}  # noqa: RUF012


class _Family:
    def __init__(self, kind: type[_Square]) -> None:
        self.kind = kind

    def make(self, parameters: Any) -> gymnasium.Env[Any, Any]:
        return self.kind()


TASK = Task("squares", "test", 4, 0, {}, (1.0,))


def test_a_make_without_render_mode_will_do() -> None:
    env = renderable(_Family(_Square), TASK)  # type: ignore[arg-type]
    assert picture(env, "").shape == (4, 6, 3)


def test_an_environment_that_cannot_be_rendered_is_reported() -> None:
    with pytest.raises(
        TaskError, match=r"squares/test/4: its environment _Blind cannot be rendered.*'human'.*rgb_array"
    ):
        renderable(_Family(_Blind), TASK)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "reported"),
    [
        (None, "got NoneType"),
        (np.zeros((4, 6)), r"got float64 of shape \[4, 6\]"),
        (np.zeros((4, 6, 4), np.uint8), r"got uint8 of shape \[4, 6, 4\]"),
    ],
)
def test_a_render_result_that_is_not_a_picture_is_reported(image: Any, reported: str) -> None:
    env = _Square()
    env.render_mode, env.image = "rgb_array", image
    with pytest.raises(
        TaskError, match=rf"squares/test/4, step 2: render must give .*\[height, width, 3\], {reported}"
    ):
        picture(env, "squares/test/4, step 2")
    env.render_mode = None
    with pytest.raises(TaskError, match="squares/test/4, step 2: render raised ValueError: render_mode is None"):
        picture(env, "squares/test/4, step 2")
