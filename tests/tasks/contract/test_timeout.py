from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import pytest

from tasks.contract.task import TaskError
from tasks.contract.timeout import code_of_others, is_of_others, time_limit


def in_a_thread(work: Callable[[], None]) -> list[str]:
    """What ``work`` said with a TaskError in a thread of its own."""
    reported: list[str] = []

    def run() -> None:
        try:
            work()
        except TaskError as error:
            reported.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10.0)
    assert not thread.is_alive()
    return reported


def here(work: Callable[[], None]) -> list[str]:
    """The same in this thread, the main one."""
    try:
        work()
    except TaskError as error:
        return [str(error)]
    return []


EITHER = pytest.mark.parametrize("run", [here, in_a_thread])


@EITHER
def test_a_timeout_is_reported_even_where_exceptions_are_swallowed(run: Callable[..., list[str]]) -> None:
    def stubborn() -> None:
        with time_limit(0.1, lambda: "walk/train/0, step 3"):
            while True:
                try:
                    time.sleep(0.01)
                except Exception:
                    continue

    began = time.monotonic()
    assert run(stubborn) == ["walk/train/0, step 3: no answer within 0.1 seconds"]
    assert time.monotonic() - began < 2.0


@EITHER
def test_the_clock_can_be_started_anew(run: Callable[..., list[str]]) -> None:
    reached = []

    def steps() -> None:
        with time_limit(0.3, lambda: "walk") as again:
            for step in range(8):
                again()
                time.sleep(0.05)
                reached.append(step)
            time.sleep(0.4)
            for _ in range(10):
                time.sleep(0.01)

    assert run(steps) == ["walk: no answer within 0.3 seconds"]
    assert reached == list(range(8))


@EITHER
def test_no_alarm_fires_afterwards(run: Callable[..., list[str]]) -> None:
    def quick() -> None:
        for _ in range(20):
            with time_limit(0.02, lambda: "walk"):
                pass
        for _ in range(10):
            time.sleep(0.01)

    assert run(quick) == []


@EITHER
def test_other_errors_pass(run: Callable[..., list[str]]) -> None:
    def broken() -> None:
        with time_limit(5.0, lambda: "walk"):
            raise TaskError("a cost is missing")

    assert run(broken) == ["a cost is missing"]


def test_a_timer_that_somebody_else_sets_meanwhile_stays() -> None:
    """The run's own last resort after SIGTERM is such a timer."""
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        with time_limit(5.0, lambda: "walk"):
            signal.setitimer(signal.ITIMER_REAL, 2.5)
        assert 2.0 < signal.setitimer(signal.ITIMER_REAL, 0.0)[0] <= 2.5
        with time_limit(5.0, lambda: "walk"):
            pass
        assert signal.setitimer(signal.ITIMER_REAL, 0.0)[0] == 0.0
    finally:
        signal.signal(signal.SIGALRM, before)


def leaves() -> None:
    os._exit(0)


def quits() -> None:
    sys.exit(3)


def interrupts() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("body", "told"),
    [(leaves, r"called os._exit\(0\)"), (quits, r"called sys.exit\(3\)"), (interrupts, "raised KeyboardInterrupt")],
)
@pytest.mark.parametrize("threaded", [False, True])
def test_code_that_ends_the_process_is_its_tasks_failure(body: Callable[[], None], told: str, threaded: bool) -> None:
    before = os._exit, signal.getsignal(signal.SIGINT)
    errors = list[BaseException]()

    def guarded() -> None:
        try:
            with code_of_others(lambda: "lakes/train/2"), code_of_others(lambda: "inner"):
                body()
        except BaseException as error:
            errors.append(error)

    if threaded:
        thread = threading.Thread(target=guarded)
        thread.start()
        thread.join()
    else:
        guarded()
    with pytest.raises(TaskError, match=rf"^inner: {told}"):
        raise errors[0]
    assert (os._exit, signal.getsignal(signal.SIGINT)) == before


def test_a_signal_is_not_the_failure_of_a_task() -> None:
    def interrupted() -> None:
        with code_of_others(lambda: "lakes/train/2"):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5.0)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not is_of_others(KeyboardInterrupt()), "outside the guard every interrupt is a signal's"


def test_an_exit_that_ray_asks_for_is_not_the_failure_of_a_task() -> None:
    stop = SystemExit(1)
    stop.is_ray_terminate = True  # type: ignore[attr-defined]
    with pytest.raises(SystemExit), code_of_others(lambda: "lakes/train/2"):
        raise stop


def test_a_process_that_guarded_code_forks_may_leave() -> None:
    with code_of_others(lambda: "lakes/train/2"):
        child = os.fork()
        if child == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_other_errors_pass_the_guard_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), code_of_others(lambda: "lakes/train/2"):
        raise ZeroDivisionError
