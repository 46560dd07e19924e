"""Where a run's cluster comes from."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from distributed.cluster import cluster
from distributed.config import ClusterSettings, ConfigurationError


class Context:
    """What ``ray.init`` returns."""

    dashboard_url = ""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Ray is asked for; nothing is started."""
    options: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **given: options.update(given) or Context())
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return options


def test_without_an_address_a_cluster_is_started_even_where_another_one_runs(asked: dict[str, Any]) -> None:
    with cluster(ClusterSettings(num_workers=3, dashboard=False)) as where:
        assert where == "local, 3 workers; no dashboard"
    assert asked["address"] == "local", "without it Ray joins whatever cluster was last started on the machine"
    assert asked["num_cpus"] == 3
    assert asked["include_dashboard"] is False


@pytest.mark.parametrize("source", ["setting", "environment"])
def test_an_address_is_joined(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    if source == "environment":
        monkeypatch.setenv("RAY_ADDRESS", "ray-head:6379")
    settings = ClusterSettings(address="ray-head:6379" if source == "setting" else None)
    with cluster(settings) as where:
        assert where == "joined ray-head:6379; no dashboard"
    assert asked["address"] == "ray-head:6379"
    assert "num_cpus" not in asked


def test_the_dashboard_listens_on_loopback_only(asked: dict[str, Any]) -> None:
    with cluster(ClusterSettings()):
        pass
    assert asked["include_dashboard"] is True
    assert asked["dashboard_host"] == "127.0.0.1"


def test_a_cluster_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(**options: Any) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "init", failing)
    with (
        pytest.raises(ConfigurationError, match=r"cluster\.address: .* at 10\.9\.9\.9:1: nobody there"),
        cluster(ClusterSettings(address="10.9.9.9:1")),
    ):
        pass
