"""An outbox on disk between the run and its tracking server: nothing that was logged is lost while the server is away.

Events are appended to ``outbox.jsonl`` by the run and sent in order by one thread; ``sent.json`` says how far it got.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from distributed.storage.checkpoints import write_atomically

Event = dict[str, Any]


class RefusedError(Exception):
    """The server will never take this event: sending it again is no use."""


class Sender(Protocol):
    """Delivers events; what it must remember between processes goes through ``memory``."""

    def send(self, event: Event, memory: dict[str, Any], *, again: bool) -> None:
        """Deliver one event. ``again``: an earlier process may have delivered it already. Raises when it cannot.

        Raises:
            RefusedError: it never will; the event is given up.
        """


class Outbox:
    """Append-only events with one sending thread. ``say`` is told once when sending fails and when it recovers."""

    def __init__(self, folder: Path, sender: Sender, say: Callable[[str], None], retry_seconds: float = 2.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._progress_path = folder / "outbox.jsonl", folder / "sent.json"
        self._sender, self._say, self._retry_seconds = sender, say, retry_seconds
        self._mend_last_line()
        self._events = [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]
        self._keys = {event.get("key") for event in self._events}
        progress = json.loads(self._progress_path.read_text()) if self._progress_path.exists() else {}
        self._sent: int = progress.get("sent", 0)
        self._memory: dict[str, Any] = progress.get("memory", {})
        self._maybe_delivered = self._sent < len(self._events)
        self._wake, self._stop = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracking-sender", daemon=True)
        self._thread.start()

    @property
    def unsent(self) -> int:
        """Events that are not delivered yet."""
        return len(self._events) - self._sent

    @property
    def memory(self) -> dict[str, Any]:
        """What the sender remembers."""
        return self._memory

    @property
    def empty(self) -> bool:
        """Whether nothing was ever appended, by this process or an earlier one."""
        return not self._events

    def append(self, event: Event) -> None:
        """Keep an event on disk and let it be sent. An event whose ``key`` is already there is not taken twice."""
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
        """Wait until everything is sent or time is up; return how many events were not sent."""
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
                self._sender.send(event, self._memory, again=self._maybe_delivered)
            except RefusedError as error:
                self._say(f"tracking: an event was refused and is left out: {error}")
            except Exception as error:
                if not failing:
                    self._say(
                        f"tracking: {_first_line(error)}; the run goes on, unsent events are kept in {self._path}"
                    )
                failing, self._maybe_delivered = True, True
                self._stop.wait(wait)
                wait = min(2.0 * wait, 60.0)
                continue
            if failing:
                self._say("tracking: the server answers again")
            failing, wait, self._maybe_delivered = False, self._retry_seconds, False
            self._events[self._sent] = {}
            self._sent += 1
            progress = json.dumps({"sent": self._sent, "memory": self._memory})
            write_atomically(self._progress_path, progress.encode())

    def _mend_last_line(self) -> None:
        """Drop a last line that a crash cut short."""
        if not self._path.exists():
            self._path.touch()
        content = self._path.read_bytes()
        if content and not content.endswith(b"\n"):
            write_atomically(self._path, content[: content.rfind(b"\n") + 1])


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
