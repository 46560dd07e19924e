"""How far computations in other processes are: they write to a small actor, and the driver reads it while it waits."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray

from distributed.cluster.calls import end_actor
from distributed.cluster.health import asking

_EVERY_SECONDS = 1.0


class Progress(NamedTuple):
    """The ``share`` of a computation that is done, between 0 and 1, after ``seconds``."""

    share: float
    seconds: float


class Board:
    """The newest progress by name."""

    def __init__(self) -> None:
        self._found: dict[str, Progress] = {}

    def tell(self, name: str, progress: Progress) -> None:
        """Keep the progress of ``name``."""
        self._found[name] = progress

    def read(self) -> dict[str, Progress]:
        """All that is known."""
        return dict(self._found)


@dataclass
class Reporter:
    """Hands on how far the computation ``name`` is, once a second at most; goes with it to its process.

    ``tell`` receives the name and the progress. The time begins with the first report.
    """

    name: str
    tell: Callable[[str, Progress], None]
    _began: float | None = None
    _told: float = -math.inf

    def __call__(self, what: str, share: float) -> None:
        """``share`` of the work is done."""
        del what
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        if now - self._told >= _EVERY_SECONDS:
            self._told = now
            self.tell(self.name, Progress(share, now - self._began))


@dataclass(frozen=True)
class _OnBoard:
    board: Any

    def __call__(self, name: str, progress: Progress) -> None:
        self.board.tell.remote(name, progress)


class SharedProgress:
    """The board as the driver has it. A board that is lost shows nothing more, and disturbs nobody."""

    def __init__(self) -> None:
        with asking():
            self._board: Any = ray.remote(num_cpus=0)(Board).remote()
        self._asked: Any = None
        self._known: Mapping[str, Progress] = {}
        self._next = 0.0

    def reporter(self, name: str) -> Reporter:
        """The reporter of the computation ``name``."""
        return Reporter(name, _OnBoard(self._board))

    def newest(self) -> Mapping[str, Progress]:
        """The newest progress that has arrived; never waits."""
        with asking(), contextlib.suppress(Exception):
            if self._asked is not None and ray.wait([self._asked], timeout=0.0)[0]:
                answer, self._asked = self._asked, None
                self._known = ray.get(answer)
            if self._asked is None and time.monotonic() >= self._next:
                self._next = time.monotonic() + _EVERY_SECONDS
                self._asked = self._board.read.remote()
        return self._known

    def watch(self, show: Callable[[Mapping[str, Progress]], None]) -> Callable[[], bool]:
        """What :meth:`distributed.cluster.calls.Calls.results` polls: it shows the newest progress."""

        def look() -> bool:
            show(self.newest())
            return False

        return look

    def end(self) -> None:
        """Remove the board."""
        end_actor(self._board)
