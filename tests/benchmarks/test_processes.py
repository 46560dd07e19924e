"""Benches that compute with several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.kept_cells import in_processes
from tests.distributed.helpers import is_alive, wait_until

_PARENT = """
import sys
from pathlib import Path
from benchmarks.kept_cells import in_processes
from tests.benchmarks.test_processes import note_and_wait
if __name__ == "__main__":
    for _ in in_processes(note_and_wait, [(Path(sys.argv[1]) / name,) for name in "ab"], 2):
        pass
"""


def note_and_wait(path: Path) -> None:
    """Write this process's id, then work for longer than any test."""
    path.with_suffix(".part").write_text(str(os.getpid()), encoding="utf-8")
    path.with_suffix(".part").rename(path)
    time.sleep(600.0)


def add(first: int, second: int) -> int:
    return first + second


def test_every_job_has_its_result() -> None:
    found = list(in_processes(add, [(1, 2), (3, 4), (5, 6)], 2))
    assert sorted(done for done, _, _ in found) == [1, 2, 3]
    assert {job: result for _, job, result in found} == {(1, 2): 3, (3, 4): 7, (5, 6): 11}


def note_and_fail(path: Path) -> None:
    """Say that this job began; the first one fails, the others work for a moment."""
    path.touch()
    if path.name == "00":
        raise ValueError("the first fails")
    time.sleep(0.2)


def test_no_job_begins_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the first fails"):
        list(in_processes(note_and_fail, [(tmp_path / f"{number:02}",) for number in range(40)], 1))
    assert len(list(tmp_path.iterdir())) < 10


@pytest.mark.parametrize("ending", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_processes_end_with_the_one_that_asked(ending: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, script, tmp_path], env={**os.environ, "PYTHONPATH": os.getcwd()})
    paths = [tmp_path / "a", tmp_path / "b"]
    wait_until(lambda: all(path.exists() for path in paths))
    workers = [int(path.read_text(encoding="utf-8")) for path in paths]
    assert all(map(is_alive, workers))
    parent.send_signal(ending)
    parent.wait(60.0)
    wait_until(lambda: not any(map(is_alive, workers)))
