"""Where a run's cluster comes from."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from pydantic import ValidationError

from distributed.cluster import ray_cluster
from distributed.cluster.ray_cluster import cluster
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import ClusterSettings


class Context:
    """What ``ray.init`` returns."""

    dashboard_url = ""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Ray is asked for; nothing is started."""
    options: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **given: options.update(given) or Context())
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray_cluster, "watched_cluster", contextlib.nullcontext)
    return options


def test_without_an_address_a_cluster_is_started_even_where_another_one_runs(asked: dict[str, Any]) -> None:
    with cluster(ClusterSettings(num_workers=3, dashboard=False)) as where:
        assert where == "local, 3 workers; no dashboard"
    assert asked["address"] == "local", "without it Ray joins whatever cluster was last started on the machine"
    assert asked["num_cpus"] == 3
    assert "resources" not in asked
    assert asked["include_dashboard"] is False


def test_a_cluster_that_is_started_has_room_for_all_workers(asked: dict[str, Any]) -> None:
    resources = {"CPU": 0.5, "GPU": 0.25, "shelf": 2.0}
    with cluster(ClusterSettings(num_workers=3, dashboard=False, worker_resources=resources)):
        pass
    assert asked["num_cpus"] == 2, "3 x 0.5, rounded up"
    assert asked["resources"] == {"shelf": 6.0}
    assert "num_gpus" not in asked, "Ray finds out how many there are"


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"GPU": 1.5}, "GPU: 1.5 is no amount: give a share of at most 1, or a whole number"),
        ({"CPU": -1}, "CPU: -1 is no amount"),
        ({"shelf": float("nan")}, "shelf: nan is no amount"),
        ({"memory": 1e9}, "memory is counted in bytes and is not supported here"),
    ],
)
def test_amounts_that_ray_would_refuse_later_are_refused(resources: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClusterSettings(worker_resources=resources)


def test_a_machine_that_is_too_busy_for_ray_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(**given: Any) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(ConfigurationError, match=r"did not start in the 30 s .* this machine is busy; try again"):
        cluster(ClusterSettings(dashboard=False)).__enter__()
    monkeypatch.setattr(ray, "init", lambda **given: {}["else"])
    with pytest.raises(KeyError):
        cluster(ClusterSettings(dashboard=False)).__enter__()


@pytest.fixture
def listening() -> Iterator[str]:
    """An address at which somebody listens, who may be a cluster."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("source", ["setting", "environment"])
def test_an_address_is_joined(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, listening: str, source: str
) -> None:
    if source == "environment":
        monkeypatch.setenv("RAY_ADDRESS", listening)
    settings = ClusterSettings(address=listening if source == "setting" else None)
    with cluster(settings) as where:
        assert where == f"joined {listening}; no dashboard"
    assert asked["address"] == listening
    assert "num_cpus" not in asked


def test_the_dashboard_listens_on_loopback_only(asked: dict[str, Any]) -> None:
    with cluster(ClusterSettings()):
        pass
    assert asked["include_dashboard"] is True
    assert asked["dashboard_host"] == "127.0.0.1"


def test_a_cluster_that_does_not_start_is_reported(monkeypatch: pytest.MonkeyPatch, listening: str) -> None:
    def failing(**options: Any) -> None:
        raise ConnectionError("no cluster there")

    monkeypatch.setattr(ray, "init", failing)
    with (
        pytest.raises(ConfigurationError, match=rf"cluster\.address: .* at {listening}: no cluster there"),
        cluster(ClusterSettings(address=listening)),
    ):
        pass
