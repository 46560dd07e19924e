"""Films side by side with captions, as a video and as one sheet of frames."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
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
_PAPER, _INK, _RED = (255, 255, 255), (20, 20, 20), (200, 0, 0)
_GIF_SHORTEST = 20
"""Milliseconds; programs show shorter ones slowly."""


@dataclass(frozen=True, slots=True)
class Caption:
    """The caption above a film: its ``title``, and the names [p] of the costs with their ``limits`` [p]."""

    title: str
    cost_names: tuple[str, ...]
    limits: tuple[float, ...]


class SideBySide:
    """The frames of several films side by side, made on demand.

    A film that is over stays at its last frame. The caption shows the discounted sums so far; a cost above its limit is
    red.
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
        lines = self._lines(film, caption, number)
        image = Image.fromarray(film.frames[min(number, len(film.frames) - 1)])
        top = _LINE * len(lines) + 2 * _MARGIN
        panel = Image.new("RGB", (max(image.width, width + 2 * _MARGIN), image.height + top), _PAPER)
        draw = ImageDraw.Draw(panel)
        for row, (text, colour) in enumerate(lines):
            draw.text((_MARGIN, _MARGIN + _LINE * row), text, fill=colour, font=self._font)
        panel.paste(image, ((panel.width - image.width) // 2, top))
        return panel

    def _lines(self, film: Film, caption: Caption, number: int) -> list[tuple[str, tuple[int, int, int]]]:
        over = number >= len(film.times)
        time = int(film.times[-1 if over else number])
        lines = [(caption.title, _INK)]
        lines.append(
            (f"step {time}{' (over)' if over else ''}, discounted reward {digits(film.reward[time], decimals=2)}", _INK)
        )
        for name, cost, limit in zip(caption.cost_names, film.costs[time], caption.limits, strict=True):
            lines.append(
                (
                    f"{name} {digits(cost, decimals=2)}, limit {digits(limit, decimals=2)}",
                    _RED if cost > limit else _INK,
                )
            )
        return lines

    def _widest(self, film: Film, caption: Caption) -> int:
        """Width in pixels of the longest line of the caption."""
        lines = (line for number in range(len(film.times) + 1) for line, _ in self._lines(film, caption, number))
        return math.ceil(max(map(self._font.getlength, lines)))


def contact_sheet(frames: SideBySide, count: int = 8, columns: int = 2) -> Frames:
    """``count`` frames, evenly spaced from the first to the last, in rows of ``columns``, [height, width, 3]."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))
    pictures = [frames[int(number)] for number in chosen]
    pictures += [np.full_like(pictures[0], 255)] * (-len(pictures) % columns)
    padded = [np.pad(picture, ((0, _GAP), (0, 3 * _GAP), (0, 0)), constant_values=255) for picture in pictures]
    rows = [np.concatenate(padded[place : place + columns], axis=1) for place in range(0, len(padded), columns)]
    return np.concatenate(rows)


def write_video(path: Path, frames: SideBySide) -> None:
    """Write an MP4 (H.264) or a GIF, by the suffix; atomically, so that the file is complete or absent.

    Raises:
        ValueError: another suffix.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: a video ends in {' or '.join(SUFFIXES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.part{path.suffix}")
    (_write_gif if path.suffix == ".gif" else _write_mp4)(partial, frames)
    os.replace(partial, path)


def write_picture(path: Path, picture: Frames) -> None:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def _write_gif(path: Path, frames: SideBySide) -> None:
    images = (Image.fromarray(frames[number]) for number in range(len(frames)))
    duration = max(_GIF_SHORTEST, round(1000.0 / frames.rate))
    next(images).save(path, save_all=True, append_images=images, duration=duration, loop=0)


def _write_mp4(path: Path, frames: SideBySide) -> None:
    options: dict[str, Any] = {"format": "FFMPEG", "fps": frames.rate, "codec": "libx264", "macro_block_size": 2}
    writer: Any
    with imageio.get_writer(path, **options) as writer:
        for number in range(len(frames)):
            writer.append_data(frames[number])
