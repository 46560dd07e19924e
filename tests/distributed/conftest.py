"""One Ray cluster for all tests of this room that need one in this process, and what saves them time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.drawings import empty_pictures

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("MLFLOW_TRACKING_URI", None)


_STARTED: list[str] = []


@pytest.fixture(scope="package")
def ray_cluster() -> Iterator[str]:
    """A cluster on this machine, with more CPUs declared than any one test uses.

    It ends with this package's last test: tests outside it start clusters of their own. A start takes as long as twenty
    tests, so a process of tests makes one; tests/conftest.py and the Makefile keep this package's tests together.
    """
    assert not _STARTED, "the tests of this package did not stay together"
    from distributed.cluster.ray_cluster import cluster
    from distributed.settings.run_config import ClusterSettings

    settings = ClusterSettings(num_workers=6, dashboard=False, object_store_mb=100, worker_resources={"shelf": 0.5})
    with cluster(settings) as where:
        _STARTED.append(where)
        yield where


@pytest.fixture(scope="session", autouse=True)
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder of this session for what is kept in the user's configuration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("configuration")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _undrawn() -> Iterator[None]:
    """Runs in this process do not draw, but where a test asks for real_pictures; those in other processes do."""
    with empty_pictures():
        yield


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not draw at the end of a run in this process."""
    monkeypatch.setattr("distributed.jobs.training_job.save_figures", lambda *arguments: [])
    monkeypatch.setattr("distributed.jobs.training_job.write_run_page", lambda *arguments: 0)
    monkeypatch.setattr("distributed.tracking.mlflow_tracker.build_model", lambda folder, *arguments: folder)
