from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from policies.exact.drawing import draw_task
from policies.filming.film import Film, gauges_of, render_episode
from policies.filming.pictures import (
    ABOVE,
    BELOW,
    Caption,
    SideBySide,
    contact_sheet,
    lines_of,
    write_picture,
    write_video,
)
from policies.neural.crpo import fresh_policy
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import new_policy
from policies.solving.acting import act
from policies.tabular.rollouts import TabularRollouts
from tasks.contract.family_registry import make_family
from tasks.contract.task import Task, TaskError
from tasks.stepping.batch import make_batch
from tests.support.problems import random_policy


def drawn(name: str, **parameters: Any) -> tuple[Any, Task]:
    """A family and its first held-out task."""
    family = make_family(name, seed=0, num_tasks=4, parameters=parameters)
    return family, draw_task(family, name, 0, "test", 0)


def film_of(steps: int, colour: int, cost: float) -> Film:
    """A made-up film of one cost, the same at every step; each frame is one shade brighter."""
    times = np.arange(steps + 1)
    frames = np.full((steps + 1, 40, 60, 3), colour, np.uint8) + times[:, None, None, None].astype(np.uint8)
    return Film(frames, times, 2.0 * times, cost * times[:, None].astype(np.float64), 10.0)


def pair() -> SideBySide:
    """A long film that keeps its limit beside a short one that does not."""
    captions = [Caption(title, ("noise",), (2.5,)) for title in ("start", "adapted")]
    return SideBySide([film_of(8, 40, 0.1), film_of(3, 80, 1.0)], captions)


def test_actions_of_a_table_have_its_probabilities() -> None:
    policy, rng = random_policy(0, 5, 3), np.random.default_rng(0)
    actions = act(policy, np.full(20_000, 2), rng)
    np.testing.assert_allclose(np.bincount(actions, minlength=3) / 20_000, policy[2], atol=0.015)


@pytest.mark.parametrize("continuous", [False, True])
def test_actions_of_a_network_are_drawn_from_its_distribution(continuous: bool) -> None:
    policy = new_policy(4, 2, 1, continuous=continuous, log_std=-1.0, seed=3)
    actions = act(policy, np.tile(np.float32([0.1, -0.4, 2.0, 0.0]), (20_000, 1)), np.random.default_rng(0))
    outputs, _ = policy.act(np.float32([[0.1, -0.4, 2.0, 0.0]]))
    if continuous:
        np.testing.assert_allclose(actions.mean(axis=0), outputs[0], atol=0.01)
        np.testing.assert_allclose(actions.std(axis=0), np.exp(-1.0), atol=0.01)
    else:
        odds = np.exp(outputs[0] - outputs[0].max())
        np.testing.assert_allclose(np.bincount(actions) / 20_000, odds / odds.sum(), atol=0.015)


def test_a_film_of_a_table_has_the_sums_of_its_episode() -> None:
    family, task = drawn("frozen_lake", map_size=4, horizon=25)
    film = render_episode(family, task, random_policy(1, 16, 4), 5, height=64)
    steps = len(film.reward) - 1
    assert film.frames.shape == (steps + 1, 64, 64, 3)
    assert film.times.tolist() == list(range(steps + 1))
    assert film.reward[0] == film.costs[0, 0] == 0.0
    entered = np.diff(film.costs[:, 0]) / 0.97 ** np.arange(steps)
    np.testing.assert_allclose(entered, entered.round(), atol=1e-9)
    assert set(entered.round()) <= {0.0, 1.0}
    again = render_episode(family, task, random_policy(1, 16, 4), 5, height=64)
    np.testing.assert_array_equal(film.frames, again.frames)
    other = render_episode(family, task, random_policy(1, 16, 4), 6, height=64)
    assert other.frames.shape != film.frames.shape or (other.frames != film.frames).any()


def test_the_mean_over_films_is_the_mean_over_rollouts() -> None:
    """The film's episodes are of the same distribution as those that a policy is judged on."""
    family, task = drawn("frozen_lake", map_size=4, horizon=8)
    policy = random_policy(2, 16, 4)
    films = [render_episode(family, task, policy, seed, height=4, most_frames=1) for seed in range(30)]
    data = TabularRollouts(family, task, 10).collect(policy, 0, 1000)
    per_episode = data.costs[:, 0].sum() / 1000
    counts = [(np.diff(film.costs[:, 0]) > 0).sum() for film in films]
    assert np.mean(counts) == pytest.approx(per_episode, abs=4 * np.std(counts) / np.sqrt(30))


def test_a_network_is_filmed_and_long_episodes_skip_frames() -> None:
    family, task = drawn("acrobot", horizon=40)
    policy = fresh_policy(make_batch(family, task, 1), NeuralSettings(), seed=0)
    film = render_episode(family, task, policy, 1, height=32, most_frames=15)
    assert film.times.tolist() == [*range(0, 40, 3), 40]
    assert film.frames.shape == (15, 32, 32, 3)
    assert film.rate == pytest.approx(15.0 / 3)
    assert film.reward[-1] == pytest.approx(-(1 - 0.99**40) / 0.01)
    assert film.costs.shape == (41, 2)
    assert (np.diff(film.costs, axis=0) >= 0.0).all()
    with pytest.raises(TaskError, match="acrobot/test/0: the policy takes 4 numbers, an observation has 6"):
        render_episode(family, task, new_policy(4, 3, 2, continuous=False), 1)


def has(picture: Any, colour: tuple[int, int, int]) -> tuple[bool, bool]:
    """Whether the left and the right half have a pixel of ``colour``."""
    hit, middle = (picture == np.array(colour)).all(axis=2), picture.shape[1] // 2
    return bool(hit[:, :middle].any()), bool(hit[:, middle:].any())


def test_films_lie_side_by_side_and_the_shorter_one_waits_at_its_end() -> None:
    frames = pair()
    assert len(frames) == 9
    assert len({frames[number].shape for number in range(9)}) == 1
    assert [side % 2 for side in frames[0].shape[:2]] == [0, 0]
    for number in range(9):
        images = frames[number][-36:]
        assert has(images, (40 + number,) * 3) == (True, False)
        assert has(images, (80 + min(number, 3),) * 3) == (False, True)


def test_a_gauge_shows_each_cost_against_its_limit_and_a_single_episode_is_no_alarm() -> None:
    frames = pair()
    assert [has(frames[number], ABOVE) for number in (0, 2, 3, 8)] == [
        (False, False),
        (False, False),
        (False, True),
        (False, True),
    ]
    assert [has(frames[number], BELOW) for number in (0, 2, 8)] == [(False, False), (True, True), (True, True)]
    reddish = (frames[8][..., 0] > 150) & (frames[8][..., 1:] < 60).all(axis=2)
    assert not reddish.any()


def test_a_gauge_is_as_long_as_its_share() -> None:
    lengths = []
    for cost in (0.5, 1.0, 2.0):
        frames = SideBySide([film_of(3, 40, cost)], [Caption("start", ("noise",), (6.0,))])
        lengths.append(int((frames[2] == np.array(BELOW)).all(axis=2).any(axis=0).sum()))
    assert lengths[1] == pytest.approx(2 * lengths[0], abs=2)
    assert lengths[2] == pytest.approx(4 * lengths[0], abs=3)


def test_the_caption_shows_the_task_its_target_and_the_actual_value() -> None:
    film = replace(film_of(2, 40, 0.1), actual={"target_speed": np.array([np.nan, 0.5, 1.5])})
    caption = Caption("start", ("effort",), (2.0,), "target_speed 2", {"target_speed": 2.0})
    first, last = lines_of(film, caption, 0), lines_of(film, caption, 2)
    assert [line.text for line in last] == [
        "start",
        "target_speed 2",
        "step 2, discounted reward 4.00",
        "target_speed 2.00, now 1.50",
        "effort 0.20; limit 2.00 on the mean",
    ]
    assert [line.level for line in last] == [None, None, None, pytest.approx(0.75), pytest.approx(0.1)]
    assert first[3].text == "target_speed 2.00, now -"
    assert lines_of(film, caption, 3)[2].text == "step 2 (over), discounted reward 4.00"


def test_a_family_names_what_its_gauges_show() -> None:
    family, task = drawn("half_cheetah", horizon=4)
    assert gauges_of(family, task) == {"target_speed": "x_velocity"}
    lake, on_ice = drawn("frozen_lake", map_size=4)
    assert gauges_of(lake, on_ice) == {}


def test_no_caption_is_cut() -> None:
    """A panel is as wide as its longest line: the column at its right edge stays empty above the picture."""
    name = "a_cost_with_a_rather_long_name_of_its_own"
    frames = SideBySide([film_of(3, 40, 1234.5)], [Caption("start", (name,), (9.0,))])
    head = frames[3][: -40 - 2]
    assert head.shape[1] > 250
    assert (head[:, -4:] == 255).all()
    assert (head[:, -40:-8] != 255).any()


def test_the_sheet_has_frames_from_the_first_to_the_last() -> None:
    frames = pair()
    sheet = contact_sheet(frames, count=5, columns=2)
    height, width, _ = frames[0].shape
    assert sheet.shape[0] > 3 * height
    assert sheet.shape[1] > 2 * width
    for place, number in enumerate((0, 2, 4, 6, 8)):
        row, column = divmod(place, 2)
        top, left = row * (sheet.shape[0] // 3), column * (sheet.shape[1] // 2)
        np.testing.assert_array_equal(sheet[top : top + height, left : left + width], frames[number])
    assert contact_sheet(SideBySide([film_of(0, 1, 0.0)], [Caption("x", ("noise",), (1.0,))])).shape[1] > width // 2


def decoded(path: Path, shape: tuple[int, ...]) -> tuple[Any, float]:
    """All frames of an MP4, and frames a second. (imageio's reader leaves pipes open where ffmpeg ends before it.)"""
    command = [get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    run = subprocess.run(command, capture_output=True, check=True)
    reported = re.search(r"([\d.]+) fps", run.stderr.decode())
    assert reported is not None
    return np.frombuffer(run.stdout, np.uint8).reshape(-1, *shape), float(reported[1])


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_video_is_read_back(suffix: str, tmp_path: Path) -> None:
    frames, path = pair(), tmp_path / "new folder" / f"film{suffix}"
    write_video(path, frames)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if suffix == ".mp4":
        read, rate = decoded(path, frames[0].shape)
        assert rate == pytest.approx(10.0)
    else:
        read = iio.imread(path)
        with Image.open(path) as image:
            assert image.info["duration"] == 100
    assert read.shape[:3] == (9, *frames[0].shape[:2])
    for number in (0, 8):
        assert np.abs(read[number][..., :3].astype(float) - frames[number]).mean() < 6.0


def test_other_suffixes_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"film\.avi: a video ends in \.mp4 or \.gif"):
        write_video(tmp_path / "film.avi", pair())
    write_picture(tmp_path / "deep" / "sheet.png", pair()[0])
    np.testing.assert_array_equal(iio.imread(tmp_path / "deep" / "sheet.png"), pair()[0])
