"""Workers hold the resources that they are given, and a cluster that lacks them, or the device, says so."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import ray

from distributed.cluster.calls import Rules, WorkerLostError
from distributed.cluster.ray_pool import RayPool
from distributed.settings.errors import ConfigurationError
from tasks.contract.family_registry import FamilySpec

FAMILY = FamilySpec("frozen_lake", 1, 4, {"map_size": 4})
SHELVES = 3.0
"""Those of the session's cluster: half a shelf for each of six workers."""
torch = pytest.importorskip("torch")


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it holds within 20 s; Ray updates what is free a little later."""
    until = time.monotonic() + 20.0
    while not holds() and time.monotonic() < until:
        time.sleep(0.1)
    return holds()


def free() -> float:
    """Shelves that nobody holds."""
    available: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return available.get("shelf", 0.0)


def test_workers_hold_what_they_are_given_as_long_as_they_live(ray_cluster: str) -> None:
    assert eventually(lambda: free() == SHELVES)
    pool = RayPool(FAMILY, 2, Rules(1), 60.0, resources={"CPU": 0.5, "shelf": 1.0})
    assert eventually(lambda: free() == SHELVES - 2.0)
    assert [task.index for task in pool.draw("train", range(3))] == [0, 1, 2]
    first = pool.workers[0]
    assert pool.replace(0, "task", 1, RuntimeError("lost")) is None
    assert first not in pool.workers
    assert len(pool.draw("train", range(3))) == 3
    assert eventually(lambda: free() == SHELVES - 2.0), "the new worker holds as much"
    del pool, first
    assert eventually(lambda: free() == SHELVES)


@pytest.mark.slow
def test_a_cluster_that_lacks_them_says_what_each_worker_needs(ray_cluster: str) -> None:
    assert eventually(lambda: free() == SHELVES)
    with pytest.raises(WorkerLostError, match=r"only 1 of 2 .* each needs 1 of 6 CPU, 2 of 3 shelf of the"):
        RayPool(FAMILY, 2, Rules(1), 12.0, resources={"shelf": 2.0})
    assert eventually(lambda: free() == SHELVES)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_worker_without_the_device_says_so_before_any_task(ray_cluster: str) -> None:
    with pytest.raises(ConfigurationError, match=r"within_task\.device: cuda: torch finds no GPU .* \(worker on .*\)"):
        RayPool(FAMILY, 1, Rules(1), 60.0, device="cuda")
