"""The outbox delivers every event once and in order, whatever its server and its process do."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import distributed.tracking.outbox
from distributed.storage.checkpoints import StorageError
from distributed.tracking.events import Event
from distributed.tracking.outbox import LostError, Outbox
from tests.distributed.helpers import wait_until


class Server:
    """Remembers what it was given by key, as an MLflow server does; fails when told to."""

    def __init__(self) -> None:
        self.received, self.agains, self.notes = list[str](), list[bool](), list[str]()
        self.lost = False
        self.fail_before: list[str] = []
        self.fail_after: list[str] = []
        self.memories: list[dict[str, Any]] = []
        self.open = threading.Event()
        self.open.set()

    def send(self, event: Event, memory: dict[str, Any], *, again: bool) -> None:
        """Deliver: look for the key first if the event may be there already."""
        self.open.wait()
        self.agains.append(again)
        if self.lost:
            self.lost = False
            self.received.clear()
            raise LostError("no such run")
        if event["key"] in self.fail_before:
            self.fail_before.remove(event["key"])
            raise ConnectionError("nobody answers\nsecond line")
        self.memories.append(dict(memory))
        memory["last"] = event["key"]
        if not (again and event["key"] in self.received):
            self.received.append(event["key"])
        if event["key"] in self.fail_after:
            self.fail_after.remove(event["key"])
            raise TimeoutError("delivered, but the answer was lost")


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that answers."""
    server = Server()
    yield server
    server.open.set()


@pytest.fixture
def said() -> list[str]:
    """The messages."""
    return []


def outbox(folder: Path, server: Server, said: list[str] | None = None) -> Outbox:
    """An outbox that tries again at once."""
    return Outbox(folder, server, ([] if said is None else said).append, retry_seconds=0.01)


def append(box: Outbox, *keys: str) -> None:
    """Append events with these keys."""
    for key in keys:
        box.append({"kind": "task", "key": key})


def lines(folder: Path) -> list[str]:
    """Keys in the file."""
    return [json.loads(line)["key"] for line in (folder / "outbox.jsonl").read_text().splitlines()]


def test_events_arrive_in_order(tmp_path: Path, server: Server, said: list[str]) -> None:
    box = outbox(tmp_path, server, said)
    assert box.empty
    append(box, *"abcde")
    assert not box.empty
    assert box.close(5.0) == 0
    assert server.received == list("abcde") == lines(tmp_path)
    assert server.agains == [False] * 5
    assert said == []


def test_a_failed_delivery_is_retried_and_reported_once(tmp_path: Path, server: Server, said: list[str]) -> None:
    server.fail_before = ["b", "b", "b"]
    box = outbox(tmp_path, server, said)
    append(box, *"abc")
    assert box.close(5.0) == 0
    assert server.received == ["a", "b", "c"]
    assert server.agains == [False, False, True, True, True, False]
    assert said == [
        f"tracking: ConnectionError: nobody answers; the run continues, unsent events stay in "
        f"{tmp_path / 'outbox.jsonl'}",
        "tracking: the server is reachable again",
    ]


def test_a_lost_answer_delivers_nothing_twice(tmp_path: Path, server: Server) -> None:
    server.fail_after = ["a", "b"]
    box = outbox(tmp_path, server)
    append(box, *"abc")
    assert box.close(5.0) == 0
    assert server.received == ["a", "b", "c"]


def test_appending_does_not_wait_for_a_server_that_hangs(tmp_path: Path, server: Server) -> None:
    server.open.clear()
    box = outbox(tmp_path, server)
    began = time.monotonic()
    append(box, *"abc")
    assert box.unsent == 3
    assert box.close(0.0) == 3
    assert time.monotonic() - began < 2.0
    assert lines(tmp_path) == ["a", "b", "c"]


def test_what_was_not_sent_is_sent_by_the_next_process(tmp_path: Path, server: Server) -> None:
    server.open.clear()
    box = outbox(tmp_path, server)
    append(box, *"ab")
    assert box.close(0.0) == 2
    later = Server()
    box = outbox(tmp_path, later)
    append(box, "c")
    assert box.close(5.0) == 0
    assert later.received == ["a", "b", "c"]
    assert later.agains == [True, True, False], "those of an earlier process may have been delivered"


def test_what_was_sent_is_not_sent_by_the_next_process(tmp_path: Path, server: Server) -> None:
    for keys in ("ab", "abc", "abcd"):
        box = outbox(tmp_path, server)
        append(box, *keys)
        assert box.close(5.0) == 0
    assert server.received == list("abcd") == lines(tmp_path)


def test_a_process_that_dies_after_delivery_delivers_nothing_twice(tmp_path: Path, server: Server) -> None:
    box = outbox(tmp_path, server)
    append(box, *"ab")
    assert box.close(5.0) == 0
    progress = json.loads((tmp_path / "sent.json").read_text())
    (tmp_path / "sent.json").write_text(json.dumps({**progress, "sent": 1}))
    box = outbox(tmp_path, server)
    append(box, "c")
    assert box.close(5.0) == 0
    assert server.received == ["a", "b", "c"]


def test_progress_that_cannot_be_written_stops_nothing_and_doubles_nothing(
    tmp_path: Path, server: Server, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise StorageError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(distributed.tracking.outbox, "write_atomically", full)
        box = outbox(tmp_path, server, said)
        append(box, *"abc")
        assert box.close(5.0) == 0
    assert server.received == ["a", "b", "c"]
    assert [line.split("; ")[-1] for line in said] == ["a resume compares its events with the server"]
    second = outbox(tmp_path, server)
    append(second, "d")
    assert second.close(5.0) == 0
    assert server.received == ["a", "b", "c", "d"]
    assert server.agains[3:] == [True, True, True, False]


def test_what_the_sender_remembers_outlives_the_process(tmp_path: Path, server: Server) -> None:
    box = outbox(tmp_path, server)
    append(box, "a")
    box.close(5.0)
    box = outbox(tmp_path, server)
    assert box.memory == {"last": "a"}
    append(box, "b")
    box.close(5.0)
    assert server.memories == [{}, {"last": "a"}]


def test_a_key_is_taken_once(tmp_path: Path, server: Server) -> None:
    box = outbox(tmp_path, server)
    append(box, *"aab")
    box.append({"kind": "round", "key": "a", "more": 1})
    assert box.close(5.0) == 0
    assert server.received == ["a", "b"] == lines(tmp_path)


def test_events_without_a_key_are_all_taken(tmp_path: Path) -> None:
    class Counter:
        count = 0
        notes: list[str] = []  # noqa: RUF012 - none

        def send(self, event: Event, memory: dict[str, Any], *, again: bool) -> None:
            del event, memory, again
            self.count += 1

    counter = Counter()
    for _ in range(2):
        box = Outbox(tmp_path, counter, lambda message: None)
        box.append({"kind": "round"})
        box.append({"kind": "round"})
        assert box.close(5.0) == 0
    assert counter.count == 4


@pytest.mark.parametrize("cut", [1, 5, -1])
def test_a_last_line_that_was_cut_short_is_dropped_and_can_be_appended_anew(
    tmp_path: Path, server: Server, cut: int
) -> None:
    server.open.clear()
    box = outbox(tmp_path, server)
    append(box, *"ab")
    box.close(0.0)
    path = tmp_path / "outbox.jsonl"
    whole, last = path.read_text().splitlines(keepends=True)
    path.write_text(whole + last[:cut])
    later = Server()
    box = outbox(tmp_path, later)
    append(box, "b", "c")
    assert box.close(5.0) == 0
    assert later.received == ["a", "b", "c"] == lines(tmp_path)


def test_a_file_that_holds_nothing_but_a_cut_line_counts_as_empty(tmp_path: Path, server: Server) -> None:
    (tmp_path / "outbox.jsonl").write_text('{"kind": "sta')
    box = outbox(tmp_path, server)
    assert box.empty
    append(box, "a")
    assert box.close(5.0) == 0
    assert server.received == ["a"]


def test_events_are_on_disk_before_they_are_sent(tmp_path: Path, server: Server) -> None:
    server.open.clear()
    box = outbox(tmp_path, server)
    append(box, "a")
    assert lines(tmp_path) == ["a"]
    assert server.received == []
    server.open.set()
    wait_until(lambda: server.received == ["a"], seconds=5.0)
    box.close(1.0)


def test_sending_and_appending_at_the_same_time_loses_nothing(tmp_path: Path, server: Server) -> None:
    keys = [f"{number}" for number in range(300)]
    server.fail_before = keys[::50]
    box = outbox(tmp_path, server)
    append(box, *keys)
    assert box.close(20.0) == 0
    assert server.received == keys


def test_a_store_that_lost_the_run_is_rebuilt(tmp_path: Path, server: Server, said: list[str]) -> None:
    box = outbox(tmp_path, server, said)
    append(box, *"abc")
    assert box.close(5.0) == 0
    server.lost = True
    box = outbox(tmp_path, server, said)
    append(box, "d")
    assert box.close(5.0) == 0
    assert server.received == list("abcd")
    assert server.agains[-4:] == [True] * 4, "what is there already must not be made twice"
    assert said == [
        f"tracking: the store has lost this run (no such run); it is rebuilt from {tmp_path / 'outbox.jsonl'}"
    ]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        b'{"sent": 9, "memory": {}}',
        b'{"sent": 2, "memory": {}, "sha256": "0"}',
    ],
)
def test_damaged_progress_sends_everything_again(
    tmp_path: Path, server: Server, said: list[str], damage: bytes
) -> None:
    box = outbox(tmp_path, server)
    append(box, *"abc")
    assert box.close(5.0) == 0
    (tmp_path / "sent.json").write_bytes(damage)
    box = outbox(tmp_path, server, said)
    append(box, "d")
    assert box.close(5.0) == 0
    assert server.received == list("abcd"), "nothing twice"
    assert len(said) == 1
    assert f"{tmp_path / 'sent.json'} is damaged (" in said[0]


@pytest.mark.parametrize("damage", [b"{", b"\xff\xfe", b"[]", b"[" * 100_000, b'{"kind": "other"}', b"null"])
def test_a_damaged_event_costs_itself_and_no_other(
    tmp_path: Path, server: Server, said: list[str], damage: bytes
) -> None:
    server.open.clear()
    box = outbox(tmp_path, server)
    append(box, *"abc")
    box.close(0.0)
    first, _, last = (tmp_path / "outbox.jsonl").read_bytes().splitlines()
    (tmp_path / "outbox.jsonl").write_bytes(b"\n".join([first, damage, last, b""]))
    later = Server()
    box = outbox(tmp_path, later, said)
    append(box, "d")
    assert box.close(5.0) == 0
    assert later.received == ["a", "c", "d"]
    assert len(said) == 1
    assert "1 of 3 events" in said[0]
