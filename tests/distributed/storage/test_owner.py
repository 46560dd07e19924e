"""A directory belongs to one process: a second one is refused, a dead one followed, and one that lost it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distributed.settings.errors import ConfigurationError
from distributed.storage import owner
from distributed.storage.checkpoints import StorageError
from distributed.storage.object_store import files_of
from distributed.storage.owner import LOCK, own
from tests.distributed.families import notes
from tests.distributed.helpers import (
    command,
    noted,
    only_run,
    run_file,
    started,
    summary_of,
    undisturbed_sha,
    wait_until,
)


@pytest.fixture
def said() -> list[str]:
    """What the lock says."""
    return []


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that only lives."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def lock_of(folder: Path, **changes: Any) -> None:
    """The lock of this process with some facts changed."""
    own(folder, print)._over.set()
    facts = json.loads((folder / LOCK).read_text())
    (folder / LOCK).write_text(json.dumps({**facts, "token": "another", **changes}))


def test_a_second_owner_is_refused_while_the_first_lives(tmp_path: Path, said: list[str]) -> None:
    first = own(tmp_path, said.append)
    with pytest.raises(ConfigurationError, match=rf"belongs to process {os.getpid()} on .*, which is running"):
        own(tmp_path, said.append)
    first.require()
    first.release()
    assert list(tmp_path.iterdir()) == []
    own(tmp_path, said.append).release()
    assert said == []


def test_a_dead_owner_is_followed_with_a_message(
    tmp_path: Path, said: list[str], sleeper: subprocess.Popen[bytes]
) -> None:
    lock_of(tmp_path, pid=sleeper.pid, **{"started": owner._process(sleeper.pid)["started"]})
    with pytest.raises(ConfigurationError, match=f"process {sleeper.pid} "):
        own(tmp_path, said.append)
    sleeper.send_signal(signal.SIGSTOP)
    with pytest.raises(ConfigurationError, match=f"process {sleeper.pid} "):
        own(tmp_path, said.append)
    sleeper.kill()
    sleeper.wait()
    own(tmp_path, said.append).release()
    assert [f"its owner is dead (process {sleeper.pid} on " in message for message in said] == [True]


def test_another_process_of_the_same_number_is_not_the_owner(tmp_path: Path, said: list[str]) -> None:
    lock_of(tmp_path, started=1)
    own(tmp_path, said.append).release()
    assert len(said) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}'])
def test_a_damaged_lock_is_taken_over(content: str, tmp_path: Path, said: list[str]) -> None:
    (tmp_path / LOCK).write_text(content)
    own(tmp_path, said.append).release()
    assert "its owner is dead (unreadable)" in said[0]


@pytest.mark.parametrize("beats", [True, False])
def test_an_owner_on_another_machine_lives_as_long_as_it_touches_its_lock(
    beats: bool, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "_SILENCE_SECONDS", 0.6)
    lock_of(tmp_path, host="elsewhere", pid=1)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.1):
            os.utime(tmp_path / LOCK)

    thread = threading.Thread(target=beat)
    if beats:
        thread.start()
        with pytest.raises(ConfigurationError, match="belongs to process 1 on elsewhere, which is running"):
            own(tmp_path, said.append)
        over.set()
        thread.join()
    else:
        own(tmp_path, said.append).release()
    assert "looking for 0.6 s whether it still is there" in said[0]


def test_an_owner_touches_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_BEAT_SECONDS", 0.05)
    mine = own(tmp_path, print)
    before = owner._touched(tmp_path / LOCK)
    wait_until(lambda: owner._touched(tmp_path / LOCK) != before, seconds=10.0)
    mine.release()


def test_an_owner_that_lost_the_directory_ends_at_its_next_write(tmp_path: Path) -> None:
    mine = own(tmp_path, print)
    lock_of_another = {**json.loads((tmp_path / LOCK).read_text()), "token": "another", "host": "elsewhere"}
    (tmp_path / LOCK).write_text(json.dumps(lock_of_another))
    with pytest.raises(StorageError, match=r"on elsewhere has taken this directory over"):
        mine.require()
    mine.release()
    assert (tmp_path / LOCK).exists(), "it is the other's"


def test_without_links_the_lock_is_made_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*arguments: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    mine = own(tmp_path, print)
    with pytest.raises(ConfigurationError):
        own(tmp_path, print)
    mine.release()


@pytest.mark.slow
def test_of_many_that_begin_at_once_one_owns_the_directory(tmp_path: Path) -> None:
    """After a crash, so that all of them find a dead owner."""
    code = (
        "import sys, time; from pathlib import Path; from distributed.storage.owner import own\n"
        "from distributed.settings.errors import ConfigurationError\n"
        "while not Path('go').exists(): time.sleep(0.001)\n"
        "try: own(Path('.'), lambda message: None); print('mine', flush=True); time.sleep(4)\n"
        "except ConfigurationError: pass"
    )
    lock_of(tmp_path, pid=2**22 + 1, started=1)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    words = [sys.executable, "-c", code]
    racers = [subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, env=environment) for _ in range(4)]
    time.sleep(2.0)
    (tmp_path / "go").touch()
    assert sum(racer.communicate(timeout=60)[0].decode().count("mine") for racer in racers) == 1


def test_the_lock_is_not_copied_to_a_store(tmp_path: Path) -> None:
    mine = own(tmp_path, print)
    (tmp_path / "tasks.csv").touch()
    assert [path.name for path in files_of(tmp_path)] == ["tasks.csv"]
    mine.release()


@pytest.mark.slow
def test_a_second_driver_in_a_run_directory_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    raw = noted(tmp_path / "notes", family={"hold": 5}, cluster={"pool": "local"})
    file = run_file(tmp_path, raw)
    with started(["train", file], tmp_path) as process:
        wait_until(lambda: notes(tmp_path / "notes", "waiting"), process=process)
        second = command(["train", file, "--resume", "latest"], tmp_path)
        assert second.returncode == 2
        assert f"belongs to process {process.pid} on " in " ".join(second.stderr.split())
        (tmp_path / "notes" / "go").touch()
        assert process.wait(60) == 0
    assert summary_of(only_run(tmp_path))["meta_state_sha256"] == undisturbed_sha()
    assert not (only_run(tmp_path) / LOCK).exists()
