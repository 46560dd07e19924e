"""A queue on disk between a run and its tracking server, so that an unreachable server loses no event.

The run appends events to ``outbox.jsonl``; one thread sends them in order and records its progress in ``sent.json``.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from distributed.settings.bounded_reading import MOST_TABLE_BYTES, read_bytes, read_json, require_shallow
from distributed.settings.errors import first_line
from distributed.storage.checkpoints import storing, write_atomically
from distributed.tracking.events import KINDS, Event, Memory

_KIND, _REBUILDS = "sent events", 3
"""How often one process sends everything again because the store lost the run."""


class RefusedError(Exception):
    """The server rejects this event for good; sending it again is useless."""


class LostError(Exception):
    """The server does not know the run any more: its store was deleted or replaced."""


class Sender(Protocol):
    """Delivers events; it keeps what it must remember between processes in ``memory``.

    ``notes`` are messages about the last event: parts of it that were left out.
    """

    notes: list[str]

    def send(self, event: Event, memory: Memory, *, again: bool) -> None:
        """Deliver one event. ``again``: it may have been delivered before.

        Raises:
            RefusedError: The server rejects the event, which is then dropped.
            LostError: The server lost the run; all events are sent again.
            Exception: Any other error; the event is sent again later.
        """


def _event(line: bytes) -> Event | None:
    """The event in a line; None for a damaged one."""
    try:
        require_shallow(line.decode("utf-8"), "an event")
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("kind") in KINDS else None  # type: ignore[return-value]


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Outbox:
    """An append-only queue with one sending thread; ``say`` reports the first failure and the recovery."""

    def __init__(self, folder: Path, sender: Sender, say: Callable[[str], None], retry_seconds: float = 2.0) -> None:
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._path, self._progress_path = folder / "outbox.jsonl", folder / "sent.json"
        self._sender, self._say, self._retry_seconds = sender, say, retry_seconds
        self._drop_partial_line()
        self._events = self._read_events()
        self._keys = {event.get("key") for event in self._events if event is not None}
        self._sent, self._memory = self._read_progress()
        self._delivered_before, self._forgetful = len(self._events), False
        self._maybe_delivered, self._rebuilds = False, 0
        self._wake, self._stop = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracking-sender", daemon=True)
        self._thread.start()

    @property
    def unsent(self) -> int:
        """Number of events not delivered yet."""
        return len(self._events) - self._sent

    @property
    def memory(self) -> Memory:
        """The sender's memory."""
        return self._memory

    @property
    def empty(self) -> bool:
        """Whether no event was ever appended, by this process or an earlier one."""
        return not self._events

    def append(self, event: Event) -> None:
        """Write an event to disk and queue it for sending; an event with a known ``key`` is ignored."""
        key = event.get("key")
        if key is not None and key in self._keys:
            return
        self._keys.add(key)
        with storing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
        with self._wake:
            self._events.append(event)
            self._wake.notify()

    def close(self, timeout_seconds: float) -> int:
        """Wait until every event is sent or the time is up; return the number of unsent events."""
        deadline = time.monotonic() + timeout_seconds
        while self.unsent and time.monotonic() < deadline and self._thread.is_alive():
            time.sleep(0.02)
        self._stop.set()
        with self._wake:
            self._wake.notify()
        self._thread.join(timeout=max(0.5, min(2.0, timeout_seconds)))
        return self.unsent

    def _run(self) -> None:
        failing, wait = False, self._retry_seconds
        while not self._stop.is_set():
            with self._wake:
                if self._sent >= len(self._events):
                    self._wake.wait(timeout=0.5)
                    continue
                event = self._events[self._sent]
            try:
                if event is not None:
                    again = self._maybe_delivered or self._sent < self._delivered_before
                    self._sender.send(event, self._memory, again=again)
                    self._tell_notes()
            except RefusedError as error:
                self._say(f"tracking: the server rejected an event, which is dropped: {error}")
            except LostError as error:
                if self._rebuilds < _REBUILDS:
                    self._begin_again(error)
                    continue
                self._say(f"tracking: the store loses the run again and again, an event is dropped: {error}")
            except Exception as error:
                if not failing:
                    self._say(f"tracking: {first_line(error)}; the run continues, unsent events stay in {self._path}")
                failing, self._maybe_delivered = True, True
                self._stop.wait(wait)
                wait = min(2.0 * wait, 60.0)
                continue
            if failing:
                self._say("tracking: the server is reachable again")
            failing, wait, self._maybe_delivered = False, self._retry_seconds, False
            self._events[self._sent] = None  # free the memory of sent events
            self._sent += 1
            self._remember()

    def _remember(self) -> None:
        """Write down what is sent. Where that fails, sending goes on: the next process asks before it sends again."""
        content = {"kind": _KIND, "sent": self._sent, "memory": self._memory}
        try:
            write_atomically(self._progress_path, json.dumps(content | {"sha256": _digest(content)}).encode())
        except OSError as error:
            if not self._forgetful:
                self._say(f"tracking: {first_line(error)}; a resume compares its events with the server")
            self._forgetful = True

    def _begin_again(self, error: LostError) -> None:
        """Send everything from the start: the store lost the run, and ``outbox.jsonl`` has all of it."""
        self._say(f"tracking: the store has lost this run ({error}); it is rebuilt from {self._path}")
        self._rebuilds += 1
        with self._wake:
            self._events = self._read_events()
            self._delivered_before = len(self._events)
            self._sent = 0
            self._memory.clear()  # type: ignore[attr-defined]

    def _tell_notes(self) -> None:
        for note in self._sender.notes:
            self._say(f"tracking: {note}")
        self._sender.notes.clear()

    def _read_events(self) -> list[Event | None]:
        """The lines of ``outbox.jsonl``; None for damaged ones, which are reported and left out."""
        lines = read_bytes(self._path, MOST_TABLE_BYTES).splitlines()
        found = [_event(line) for line in lines]
        if None in found:
            self._say(
                f"tracking: {found.count(None)} of {len(found)} events in {self._path} are damaged and left out; the "
                "run directory itself has everything"
            )
        return found

    def _read_progress(self) -> tuple[int, Memory]:
        """How many events were sent, and the sender's memory; from the start where ``sent.json`` is damaged."""
        if not self._progress_path.exists():
            return 0, {}
        try:
            found = read_json(self._progress_path)
            sent, memory = found["sent"], found["memory"]
            if "sha256" in found and found.pop("sha256") != _digest(found):
                raise ValueError("wrong checksum")
            if not isinstance(memory, dict) or type(sent) is not int or not 0 <= sent <= len(self._events):
                raise ValueError("not a number of sent events")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._say(f"tracking: {self._progress_path} is damaged ({error}); all events are sent again")
            return 0, {}
        return sent, memory  # type: ignore[return-value]

    def _drop_partial_line(self) -> None:
        """Remove an incomplete last line left by a crash."""
        if not self._path.exists():
            self._path.touch()
        content = read_bytes(self._path, MOST_TABLE_BYTES)
        if content and not content.endswith(b"\n"):
            write_atomically(self._path, content[: content.rfind(b"\n") + 1])
