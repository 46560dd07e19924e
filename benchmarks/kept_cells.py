"""Cells of a bench: computed in processes of their own, and kept in files, so that a bench goes on where it stopped."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distributed.storage.checkpoints import write_atomically


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The contents of ``path``; computed and written first if the file does not exist."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(make()).encode())
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def end_with_parent() -> None:
    """End this process as soon as its parent is gone: unfinished work has nobody to go to and takes a core."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is not a child process"

    def wait_for_the_end() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait_for_the_end, daemon=True).start()


def in_processes(
    work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], processes: int
) -> Iterator[tuple[int, tuple[Any, ...], Any]]:
    """``work(*job)`` for every job, each in one process: how many are done, the job and its result, as they finish.

    The first error is raised once the jobs that run have ended; no other one begins. The processes end with the one
    that asked, also where a signal ends it.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, context, initializer=end_with_parent) as pool:
        waiting = {pool.submit(work, *job): job for job in jobs}
        try:
            for done, future in enumerate(concurrent.futures.as_completed(waiting), start=1):
                yield done, waiting[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
