"""A queue on disk between a run and its tracking server, so that an unreachable server loses no event.

The run appends events to ``outbox.jsonl``; one thread sends them in order and records its progress in ``sent.json``.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from distributed.settings.bounded_reading import MOST_TABLE_BYTES, read_bytes, read_json, read_text
from distributed.settings.errors import first_line
from distributed.storage.checkpoints import write_atomically
from distributed.tracking.events import Event, Memory


class RefusedError(Exception):
    """The server rejects this event for good; sending it again is useless."""


class Sender(Protocol):
    """Delivers events; it keeps what it must remember between processes in ``memory``."""

    def send(self, event: Event, memory: Memory, *, again: bool) -> None:
        """Deliver one event. ``again``: it may have been delivered before.

        Raises:
            RefusedError: The server rejects the event, which is then dropped.
            Exception: Any other error; the event is sent again later.
        """


class Outbox:
    """An append-only queue with one sending thread; ``say`` reports the first failure and the recovery."""

    def __init__(self, folder: Path, sender: Sender, say: Callable[[str], None], retry_seconds: float = 2.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._progress_path = folder / "outbox.jsonl", folder / "sent.json"
        self._sender, self._say, self._retry_seconds = sender, say, retry_seconds
        self._drop_partial_line()
        self._events: list[Event | None] = [
            json.loads(line) for line in read_text(self._path, MOST_TABLE_BYTES).splitlines()
        ]
        self._keys = {event.get("key") for event in self._events if event is not None}
        progress = read_json(self._progress_path) if self._progress_path.exists() else {}
        self._sent: int = progress.get("sent", 0)
        self._memory: Memory = progress.get("memory", {})
        self._maybe_delivered = self._sent < len(self._events)
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
        with self._path.open("a", encoding="utf-8") as file:
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
                assert event is not None
            try:
                self._sender.send(event, self._memory, again=self._maybe_delivered)
            except RefusedError as error:
                self._say(f"tracking: the server rejected an event, which is dropped: {error}")
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
            progress = json.dumps({"sent": self._sent, "memory": self._memory})
            write_atomically(self._progress_path, progress.encode())

    def _drop_partial_line(self) -> None:
        """Remove an incomplete last line left by a crash."""
        if not self._path.exists():
            self._path.touch()
        content = read_bytes(self._path, MOST_TABLE_BYTES)
        if content and not content.endswith(b"\n"):
            write_atomically(self._path, content[: content.rfind(b"\n") + 1])
