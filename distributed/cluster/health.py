"""Whether the cluster still is there: a thread asks it, so that no wait for a call outlasts the cluster."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import ray
from ray._private import worker

_ASK_EVERY, _GONE_AFTER = 2.0, 25.0
_SUSPECT_SECONDS = 5.0
"""So long the fault must last after it is first seen: this process itself may have been stopped meanwhile."""


class ClusterLostError(RuntimeError):
    """The cluster is gone; the message says what does not answer."""


class _Watch:
    """Asks a cluster for its nodes, again and again."""

    def __init__(self, node: str) -> None:
        self._node, self._over = node, threading.Event()
        self._asked: float | None = None
        self._dead, self._suspect = "", 0.0
        self._own: list[tuple[str, psutil.Process]] = own_processes()
        self._stopped: float | None = None
        self._thread = threading.Thread(target=self._ask_on, name="cluster-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop asking."""
        self._over.set()

    def require(self) -> None:
        """Raise ClusterLostError if the cluster has been gone for some time."""
        ended = [name for name, process in self._own if not _runs(process)]
        if ended:  # at once: whatever asks Ray for an object now may end this process without a word
            raise _lost(f"its {ended[0]} has ended")
        now, asked = time.monotonic(), self._asked
        fault = self._dead
        if not fault and self._stopped is not None and now - self._stopped > _GONE_AFTER:
            fault = f"a process of it was stopped {now - self._stopped:.0f} s ago (SIGSTOP)"
        if asked is not None and now - asked > _GONE_AFTER:
            fault = f"its control service (GCS) has not answered for {now - asked:.0f} s"
        if not fault:
            self._suspect = 0.0
        elif not self._suspect:
            self._suspect = now
        elif now - self._suspect > _SUSPECT_SECONDS:
            raise _lost(fault)

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


def require_cluster() -> None:
    """Check that the watched cluster, if any, is there.

    Raises:
        ClusterLostError: It has been gone for some time.
    """
    for watch in _watches:
        watch.require()
