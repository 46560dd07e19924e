"""Start or join a Ray cluster."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import ray

from distributed.cluster.exposure import keep_token_private, on_loopback, require_token
from distributed.cluster.health import ClusterLostError, end_own_cluster, watched_cluster
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import ClusterSettings

_SECONDS_TO_ANSWER = 5.0
_TOO_SLOW = "timed out during startup"
"""What Ray says of itself where a machine is overloaded."""
_LEAST_ROOM = 100 * 2**20
"""Bytes that must be free where Ray keeps its files; a run writes a few MB of logs there."""


@contextmanager
def cluster(settings: ClusterSettings, cpus_of_worker: int = 1) -> Iterator[str]:
    """Join ``settings.address`` (or the cluster that runs this job), else start a cluster on this machine.

    ``cpus_of_worker`` counts what a worker starts, too; the cluster must have them for all workers together, or two of
    them could wait for each other.

    Yields a description of the cluster. On exit, a cluster that was started here is stopped; a joined one keeps
    running.

    Raises:
        ConfigurationError: The dashboard's port is taken, Ray has no room, the address does not answer, or the cluster
            there has too few CPUs for what workers start.
        ClusterLostError: The cluster has gone meanwhile (raised by waits inside).
    """
    address = settings.address or os.environ.get("RAY_ADDRESS")
    if address is not None:
        _require_answer(address, unauthenticated=settings.unauthenticated)
    elif settings.dashboard and settings.dashboard_port is not None:
        _require_free(settings.dashboard_port)
    if address is None:
        _require_room()
    try:
        with _own_sigterm_handler(), on_loopback() if address is None else contextlib.nullcontext():
            if address is None:
                keep_token_private()
            context = ray.init(**_options(settings, address, cpus_of_worker))
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"cluster.address: Ray did not start or answer at {address or 'this machine'}: {error}"
        ) from error
    except Exception as error:  # Ray has no type of its own for this
        if _TOO_SLOW not in str(error):
            raise
        raise ConfigurationError(
            "cluster.pool: Ray's processes did not start in the 30 s that it waits, since this machine is busy; try "
            "again when it is less so, or do without Ray (--cluster.pool local)"
        ) from error
    try:
        url = context.dashboard_url
        where = f"joined {address}" if address is not None else f"local, {settings.num_workers} workers"
        _require_cpus(settings, cpus_of_worker)
        with watched_cluster():
            yield f"{where}; dashboard http://{url}" if url else f"{where}; no dashboard"
    except ClusterLostError:
        end_own_cluster()  # the command line then leaves at once: Ray's own way down would wait for what is gone
        raise
    except BaseException:
        ray.shutdown()
        raise
    else:
        ray.shutdown()


def resources_of_cluster() -> dict[str, float]:
    """What the cluster of this process declares, by Ray's names."""
    resources: Callable[[], dict[str, float]] = ray.cluster_resources
    return resources()


def as_options(resources: Mapping[str, float]) -> dict[str, Any]:
    """Ray's options of an actor or a task that holds ``resources``, which go by Ray's names; CPU is one of them."""
    own = {name: amount for name, amount in resources.items() if name not in ("CPU", "GPU")}
    return {"num_cpus": resources["CPU"], "num_gpus": resources.get("GPU", 0.0), "resources": own}


def _require_cpus(settings: ClusterSettings, cpus_of_worker: int) -> None:
    """Raise ConfigurationError where workers start processes and the cluster has not the CPUs for all of them."""
    if cpus_of_worker == 1:
        return
    found, needed = resources_of_cluster().get("CPU", 0.0), _cpus_needed(settings, cpus_of_worker)
    if found < needed:
        raise ConfigurationError(
            f"within_task.method.num_env_runners: {settings.num_workers} workers with {cpus_of_worker - 1} runners "
            f"each need {needed} CPUs, and the cluster has {found:g}: use fewer, or lower cluster.num_workers"
        )


def _cpus_needed(settings: ClusterSettings, cpus_of_worker: int) -> int:
    """CPUs of all workers, and of what each of them starts."""
    of_workers = ceil(settings.num_workers * settings.resources_of_a_worker["CPU"])
    return of_workers + settings.num_workers * (cpus_of_worker - 1)


def _options(settings: ClusterSettings, address: str | None, cpus_of_worker: int) -> dict[str, Any]:
    """Arguments of ``ray.init``."""
    options: dict[str, Any] = {"log_to_driver": True, "logging_level": "WARNING", "configure_logging": True}
    if address is not None:
        return options | {"address": address}
    options |= {
        "address": "local",
        **_room_for_workers(settings, cpus_of_worker),
        "object_store_memory": settings.object_store_mb * 2**20,
        "include_dashboard": settings.dashboard,
        "dashboard_host": "127.0.0.1",
        "_node_ip_address": "127.0.0.1",
        "_system_config": {"num_workers_soft_limit": settings.num_workers},  # idle processes that estimates find again
    }
    return options if settings.dashboard_port is None else options | {"dashboard_port": settings.dashboard_port}


def _room_for_workers(settings: ClusterSettings, cpus_of_worker: int) -> dict[str, Any]:
    """CPUs and resources of a node for the workers and what each of them starts; Ray finds GPUs itself."""
    held: dict[str, float] = as_options(settings.resources_of_a_worker)["resources"]
    own = {name: amount * settings.num_workers for name, amount in held.items()}
    cpus = max(1, _cpus_needed(settings, cpus_of_worker))
    return {"num_cpus": cpus, "resources": own} if own else {"num_cpus": cpus}


def _require_answer(address: str, *, unauthenticated: bool) -> None:
    """Check that something listens at ``address``: Ray itself retries for minutes and then aborts the process."""
    if address in ("auto", "local"):
        return
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not host or not port.isdigit():
        raise ConfigurationError(
            f"cluster.address: {address!r} is not an address; give host:port, ray://host:port, auto, or nothing"
        )
    require_token(address, unauthenticated=unauthenticated)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise ConfigurationError(
            f"cluster.address: no Ray cluster answers at {address} ({error.strerror or error}); "
            "start one there (ray start --head), or leave cluster.address empty for one on this machine"
        ) from error


@contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Restore our SIGTERM handler, which Ray replaces during start-up."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _require_room() -> None:
    """Check that Ray has room for its sockets and logs: with a full disk it fails, or hangs, in its own words.

    Raises:
        ConfigurationError: It has not.
    """
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())  # as Ray chooses
    free = shutil.disk_usage(folder).free if folder.is_dir() else 0
    if free < _LEAST_ROOM:
        raise ConfigurationError(
            f"cluster: Ray keeps its sockets and logs under {folder}, which "
            + (f"has {free / 2**20:.3g} MiB left; free at least {_LEAST_ROOM // 2**20} MiB" if free else "has no room")
            + ", or let RAY_TMPDIR name another directory"
        )


def _require_free(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(
                f"cluster.dashboard_port: port {port} on 127.0.0.1 is in use ({error.strerror}); "
                "give another one, leave it empty for a free one, or set cluster.dashboard to false"
            ) from error
