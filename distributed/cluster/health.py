"""Whether the cluster still is there: a thread asks it, so that no wait for a call outlasts the cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray._private import worker

from distributed.settings.errors import CLUSTER_LOST_EXIT_CODE

_ASK_EVERY, _GONE_AFTER = 2.0, 25.0
_LOOK_EVERY = 0.1
"""Ray's own code ends this process without a word, some tenths of a second after its raylet has ended."""
_STUCK_AFTER = 40.0
"""Seconds in one call of Ray's until a fault of the cluster ends the process: most return at once."""
_UNSEEN_AFTER = 30.0
"""Seconds that a process of the own cluster has ended without a call that would notice; Ray itself ends this process
without a word 60 s after its control service has."""
_SUSPECT_SECONDS = 5.0
"""So long the fault must last after it is first seen: this process itself may have been stopped meanwhile."""


class ClusterLostError(RuntimeError):
    """The cluster is gone; the message says what does not answer."""


@dataclass(frozen=True)
class Asking:
    """A call of Ray's under way: when it began, and until when it comes back by itself; both monotonic seconds."""

    since: float
    back_at: float


class _Watch:
    """Asks a cluster for its nodes, again and again."""

    def __init__(self, node: str) -> None:
        self._node, self._over = node, threading.Event()
        self._asked: float | None = None
        self._dead, self._suspect = "", 0.0
        self._own: list[tuple[str, psutil.Process]] = own_processes()
        self._stopped: float | None = None
        self.asking: Asking | None = None
        for work in (self._ask_on, self._end_a_stuck_call):
            threading.Thread(target=work, name="cluster-watch", daemon=True).start()

    def close(self) -> None:
        """Stop asking."""
        self._over.set()

    def require(self) -> None:
        """Raise ClusterLostError if the cluster has been gone for some time."""
        self.require_own()
        now, fault = time.monotonic(), self._fault()
        if not fault:
            self._suspect = 0.0
        elif not self._suspect:
            self._suspect = now
        elif now - self._suspect > _SUSPECT_SECONDS:
            raise _lost(fault)

    def require_own(self) -> None:
        """Raise ClusterLostError at once if a process of the own cluster has ended."""
        ended = self._ended()
        if ended:
            raise _lost(ended)

    def _ended(self) -> str:
        """Which process of the own cluster has ended; empty without any."""
        return next((f"its {name} has ended" for name, process in self._own if not _runs(process)), "")

    def _fault(self) -> str:
        """What does not answer, or is stopped, for some time; empty if all is well."""
        now, asked, stopped, fault = time.monotonic(), self._asked, self._stopped, self._dead
        if not fault and stopped is not None and now - stopped > _GONE_AFTER:
            fault = f"a process of it was stopped {now - stopped:.0f} s ago (SIGSTOP)"
        if asked is not None and now - asked > _GONE_AFTER:
            fault = f"its control service (GCS) has not answered for {now - asked:.0f} s"
        return fault

    def _end_a_stuck_call(self) -> None:
        """End this process if a call of Ray's does not come back from a cluster that is gone: no wait can be ended.

        Also if no call is made for long, since other work goes on.
        """
        ended_at: float | None = None
        while not self._over.wait(_LOOK_EVERY):
            asking, now, ended = self.asking, time.monotonic(), self._ended()
            ended_at = (now if ended_at is None else ended_at) if ended else None
            if ended_at is not None and now - ended_at > _UNSEEN_AFTER:
                _leave(ended)
            if asking is None:
                continue
            fault = ended if now > asking.back_at else ""
            if not fault and now - asking.since > _STUCK_AFTER:
                fault = self._fault()
            if fault and self.asking is asking:
                _leave(fault)

    def _ask_on(self) -> None:
        while not self._over.wait(_ASK_EVERY):
            self._look()
            self._asked = time.monotonic()
            try:
                nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
            except Exception as error:
                if not ray.is_initialized():
                    return
                self._dead = f"its control service (GCS) does not answer ({type(error).__name__})"
            else:
                alive = {node["NodeID"] for node in nodes if node["Alive"]}
                self._dead = "" if self._node in alive else "the node of this process is dead (its raylet)"
            self._asked = None

    def _look(self) -> None:
        """Note since when a process of the own cluster is stopped: Ray itself takes more than a minute to see it."""
        stopped = False
        for _, process in self._own:
            with contextlib.suppress(psutil.Error):
                stopped = stopped or process.status() == psutil.STATUS_STOPPED
        if not stopped:
            self._stopped = None
        elif self._stopped is None:
            self._stopped = time.monotonic()


def _lost(fault: str) -> ClusterLostError:
    return ClusterLostError(
        f"the Ray cluster is gone: {fault}. Finished tasks are saved; --resume continues the run on a new one"
    )


def _leave(fault: str) -> None:
    """End this process with a message, and what is left of its cluster before Ray's own code does it with 1."""
    sys.stderr.write(f"error: {_lost(fault)}\n")
    sys.stderr.flush()
    for pid in _own_pids():
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    os._exit(CLUSTER_LOST_EXIT_CODE)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def own_processes() -> list[tuple[str, psutil.Process]]:
    """Raylet and control service of the cluster that this process has started, by name; none of a joined cluster."""
    node, found = worker._global_node, list[tuple[str, psutil.Process]]()
    started: dict[str, list[Any]] = {} if node is None else node.all_processes
    for name in ("raylet", "gcs_server"):
        for info in started.get(name, []):
            with contextlib.suppress(psutil.Error):
                found.append((name, psutil.Process(info.process.pid)))
    return found


def _own_pids() -> list[int]:
    """All processes of the own cluster, the raylet last."""
    started: dict[str, list[Any]] = {} if worker._global_node is None else worker._global_node.all_processes
    names = sorted(started, key=lambda name: name == "raylet")
    return [info.process.pid for name in names for info in started[name]]


def end_own_cluster() -> None:
    """End the processes of the cluster that this process has started at once: they may not answer any more."""
    node = worker._global_node
    if node is not None:
        node.kill_all_processes(check_alive=False, allow_graceful=False)


_watches: list[_Watch] = []


@contextlib.contextmanager
def watched_cluster() -> Iterator[None]:
    """Watch the cluster that this process is connected to."""
    watch = _Watch(ray.get_runtime_context().get_node_id())
    _watches.append(watch)
    try:
        yield
    finally:
        _watches.remove(watch)
        watch.close()


@contextlib.contextmanager
def asking(seconds: float = 0.0) -> Iterator[None]:
    """Around a call of Ray's in the main thread: one that returns soon, or a wait of at most ``seconds``.

    Where the own cluster ends meanwhile, the call comes back within ``seconds``, or this process ends with a message.

    Raises:
        ClusterLostError: A process of the own cluster has ended before.
    """
    before = [watch.asking for watch in _watches]
    now = time.monotonic()
    for watch in _watches:
        watch.require_own()
        watch.asking = Asking(now, now + seconds)
    try:
        yield
    finally:
        for watch, one in zip(_watches, before, strict=False):
            watch.asking = one


def require_cluster() -> None:
    """Check that the watched cluster, if any, is there.

    Raises:
        ClusterLostError: It has been gone for some time.
    """
    for watch in _watches:
        watch.require()
