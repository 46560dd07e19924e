"""Progress of work: the time left, and one line a minute where there is no terminal."""

from __future__ import annotations

import io

import pytest
import rich.console

from distributed.settings.console import Console
from distributed.tracking.work_progress import WorkProgress, duration, time_left


def _console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    console, text = Console(), io.StringIO()
    console.error = rich.console.Console(file=text, force_terminal=terminal, width=150, highlight=False)
    return console, text


def test_the_time_left_follows_the_share() -> None:
    assert time_left(0.25, 60.0) == "about 3 min left"
    assert time_left(0.5, 30.0) == "about 30 s left"
    assert time_left(0.001, 60.0) == "", "too early to say"
    assert time_left(1.0, 60.0) == ""
    assert [duration(seconds) for seconds in (0.2, 99.0, 100.0, 2520.0, 7200.0)] == [
        "1 s",
        "99 s",
        "2 min",
        "42 min",
        "2.0 h",
    ]


def test_without_a_terminal_there_is_a_line_a_minute() -> None:
    console, text = _console(terminal=False)
    now = 0.0
    with WorkProgress(console, "comparing", lambda: now) as bar:
        for second in range(0, 200, 10):
            now = float(second)
            bar.report("new tasks from fal", second / 200)
    assert text.getvalue().splitlines() == [
        "comparing: 30%, new tasks from fal, about 2 min left",
        "comparing: 60%, new tasks from fal, about 80 s left",
        "comparing: 90%, new tasks from fal, about 20 s left",
    ]


def test_short_work_prints_nothing_without_a_terminal() -> None:
    console, text = _console(terminal=False)
    with WorkProgress(console, "comparing", lambda: 0.0) as bar:
        bar.report("all", 1.0)
    assert text.getvalue() == ""


def test_on_a_terminal_there_is_a_bar_with_the_time_left() -> None:
    console, text = _console(terminal=True)
    now = 0.0
    with WorkProgress(console, "comparing", lambda: now) as bar:
        now = 30.0
        bar.report("new tasks from fal", 0.5)
    shown = text.getvalue()
    assert "comparing" in shown
    assert "new tasks from fal, about 30 s left" in shown
    assert "50%" in shown


def test_a_part_of_the_work_has_its_own_share() -> None:
    console, text = _console(terminal=False)
    now = 0.0
    with WorkProgress(console, "drawing the results", lambda: now) as bar:
        plots = bar.part(0.2, 0.7)
        now = 70.0
        plots("plot training", 0.5)
    assert text.getvalue() == "drawing the results: 45%, plot training, about 86 s left\n"


def test_an_error_leaves_the_terminal_as_it_was() -> None:
    console, text = _console(terminal=True)
    with pytest.raises(RuntimeError), WorkProgress(console, "comparing"):
        raise RuntimeError
    assert text.getvalue().count("\x1b[?25l") == text.getvalue().count("\x1b[?25h") == 1, "the cursor is back"
