"""Films side by side with captions, as a video and as one sheet of frames."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from policies.common.digits import digits
from policies.filming.film import Film, Frames

SUFFIXES = (".mp4", ".gif")
_FONT_SIZE, _LINE, _MARGIN, _GAP = 13, 17, 6, 8
"""Pixels."""
Colour = tuple[int, int, int]
_PAPER, _INK = (255, 255, 255), (20, 20, 20)
BELOW, ABOVE, _TRACK = (0, 114, 178), (230, 159, 0), (225, 225, 225)
"""Of a gauge up to its mark and beyond it, which colour-blind people tell apart; and of the rest of it."""
_GAUGE, _AT_MARK, _LEAST_WIDTH = 7, 0.75, 200
"""Height of a gauge in pixels, where its mark is, and the least width of a panel."""
_GIF_SHORTEST = 20
"""Milliseconds; programs show shorter ones slowly."""


@dataclass(frozen=True, slots=True)
class Caption:
    """The caption above a film.

    Its ``title``, the names [p] of the costs with their ``limits`` [p], the ``task`` in words, and ``targets``, the
    parameters of which a gauge shows the actual value.
    """

    title: str
    cost_names: tuple[str, ...]
    limits: tuple[float, ...]
    task: str = ""
    targets: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a caption; ``level``: of the gauge below it, 1 at the mark, None without one."""

    text: str
    level: float | None = None


class SideBySide:
    """The frames of several films side by side, made on demand.

    A film that is over stays at its last frame. The caption shows the task, the discounted sums so far, and gauges with
    a mark at the target or limit. A limit is on the mean over episodes, so a single episode beyond it is no alarm.
    """

    def __init__(self, films: Sequence[Film], captions: Sequence[Caption]) -> None:
        self._films, self._captions = films, captions
        self._font = ImageFont.load_default(_FONT_SIZE)
        self._widths = [self._widest(film, caption) for film, caption in zip(films, captions, strict=True)]
        self.rate = films[0].rate

    def __len__(self) -> int:
        return max(len(film.times) for film in self._films)

    def __getitem__(self, number: int) -> Frames:
        """Frame ``number``, [height, width, 3]; both sides are even numbers, as video requires."""
        every = zip(self._films, self._captions, self._widths, strict=True)
        panels = [self._panel(film, caption, width, number) for film, caption, width in every]
        height = max(panel.height for panel in panels)
        width = sum(panel.width for panel in panels) + _GAP * (len(panels) - 1)
        picture, left = Image.new("RGB", (width + width % 2, height + height % 2), _PAPER), 0
        for panel in panels:
            picture.paste(panel, (left, 0))
            left += panel.width + _GAP
        return np.asarray(picture)

    def _panel(self, film: Film, caption: Caption, width: int, number: int) -> Image.Image:
        lines = lines_of(film, caption, number)
        image = Image.fromarray(film.frames[min(number, len(film.frames) - 1)])
        gauges = sum(line.level is not None for line in lines)
        top = _LINE * len(lines) + (_GAUGE + _MARGIN) * gauges + 2 * _MARGIN
        wide = max(image.width, width + 2 * _MARGIN, _LEAST_WIDTH)
        panel = Image.new("RGB", (wide, image.height + top), _PAPER)
        draw, y = ImageDraw.Draw(panel), _MARGIN
        for line in lines:
            draw.text((_MARGIN, y), line.text, fill=_INK, font=self._font)
            y += _LINE
            if line.level is not None:
                _draw_gauge(draw, y + 2, wide, line.level)
                y += _GAUGE + _MARGIN
        panel.paste(image, ((panel.width - image.width) // 2, top))
        return panel

    def _widest(self, film: Film, caption: Caption) -> int:
        """Width in pixels of the longest line of the caption."""
        lines = (line.text for number in range(len(film.times) + 1) for line in lines_of(film, caption, number))
        return math.ceil(max(map(self._font.getlength, lines)))


def lines_of(film: Film, caption: Caption, number: int) -> list[Line]:
    """The caption of frame ``number``: title, task, reward so far, targets and costs with their gauges."""
    over = number >= len(film.times)
    time = int(film.times[-1 if over else number])
    lines = [Line(caption.title), *([Line(caption.task)] if caption.task else [])]
    ended = " (over)" if over else ""
    lines.append(Line(f"step {time}{ended}, discounted reward {digits(film.reward[time], decimals=2)}"))
    for name, target in caption.targets.items():
        actual = float(film.actual[name][time])
        shown = "-" if math.isnan(actual) else digits(actual, decimals=2)
        level = None if target <= 0.0 else max(0.0, 0.0 if math.isnan(actual) else actual / target)
        lines.append(Line(f"{name} {digits(target, decimals=2)}, now {shown}", level))
    for name, cost, limit in zip(caption.cost_names, film.costs[time].tolist(), caption.limits, strict=True):
        text = f"{name} {digits(cost, decimals=2)}; limit {digits(limit, decimals=2)} on the mean"
        lines.append(Line(text, cost / limit if limit > 0.0 else 0.0 if cost <= 0.0 else math.inf))
    return lines


def _draw_gauge(draw: ImageDraw.ImageDraw, top: int, width: int, level: float) -> None:
    """A bar that is full at its mark plus a third; what is beyond the mark has another colour."""
    left, right = _MARGIN, width - _MARGIN
    mark = left + round(_AT_MARK * (right - left))
    end = left + round(min(level * _AT_MARK, 1.0) * (right - left))
    draw.rectangle((left, top, right, top + _GAUGE), fill=_TRACK)
    if end > left:
        draw.rectangle((left, top, min(end, mark), top + _GAUGE), fill=BELOW)
    if end > mark:
        draw.rectangle((mark, top, end, top + _GAUGE), fill=ABOVE)
    draw.line((mark, top - 2, mark, top + _GAUGE + 2), fill=_INK, width=2)


def contact_sheet(frames: SideBySide, count: int = 8, columns: int = 2) -> Frames:
    """``count`` frames, evenly spaced from the first to the last, in rows of ``columns``, [height, width, 3]."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))
    pictures = [frames[int(number)] for number in chosen]
    pictures += [np.full_like(pictures[0], 255)] * (-len(pictures) % columns)
    padded = [np.pad(picture, ((0, _GAP), (0, 3 * _GAP), (0, 0)), constant_values=255) for picture in pictures]
    rows = [np.concatenate(padded[place : place + columns], axis=1) for place in range(0, len(padded), columns)]
    return np.concatenate(rows)


def write_video(path: Path, frames: SideBySide, report: Callable[[float], None] = lambda share: None) -> None:
    """Write an MP4 (H.264) or a GIF, by the suffix; atomically, so that the file is complete or absent.

    ``report`` is told which share of the frames is written.

    Raises:
        ValueError: another suffix.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: a video ends in {' or '.join(SUFFIXES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.part{path.suffix}")
    (_write_gif if path.suffix == ".gif" else _write_mp4)(partial, frames, report)
    os.replace(partial, path)


def write_picture(path: Path, picture: Frames) -> None:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def _told(frames: SideBySide, report: Callable[[float], None]) -> Iterator[Frames]:
    for number in range(len(frames)):
        yield frames[number]
        report((number + 1) / len(frames))


def _write_gif(path: Path, frames: SideBySide, report: Callable[[float], None]) -> None:
    images = map(Image.fromarray, _told(frames, report))
    duration = max(_GIF_SHORTEST, round(1000.0 / frames.rate))
    next(images).save(path, save_all=True, append_images=images, duration=duration, loop=0)


def _write_mp4(path: Path, frames: SideBySide, report: Callable[[float], None]) -> None:
    options: dict[str, Any] = {"format": "FFMPEG", "fps": frames.rate, "codec": "libx264", "macro_block_size": 2}
    writer: Any
    with imageio.get_writer(path, **options) as writer:
        for frame in _told(frames, report):
            writer.append_data(frame)
