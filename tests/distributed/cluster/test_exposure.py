"""What a Ray cluster exposes: where its processes listen, and who may read its token."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ray._private import ray_constants

from distributed.cluster.exposure import is_loopback, keep_token_private, on_loopback, require_token
from distributed.cluster.ray_cluster import cluster
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import ClusterSettings

ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_token_is_made_for_its_user_alone_and_stays(home: Path) -> None:
    keep_token_private()
    token = home / ".ray" / "auth_token"
    assert _mode(token) == 0o600
    assert _mode(token.parent) == 0o700
    first = token.read_text()
    assert len(bytes.fromhex(first)) == 32
    token.chmod(0o644)
    keep_token_private()
    assert _mode(token) == 0o600
    assert token.read_text() == first


def test_no_token_is_made_where_the_user_gives_one_or_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "abc")
    keep_token_private()
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    keep_token_private()
    assert list(home.iterdir()) == []


def test_a_token_that_cannot_be_kept_is_an_error(home: Path) -> None:
    (home / ".ray").write_text("a file where the folder should be")
    with pytest.raises(ConfigurationError, match=r"auth_token: Ray's token cannot be kept private"):
        keep_token_private()


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("auto", True),
        ("127.0.0.1:6379", True),
        ("ray://localhost:10001", True),
        ("http://[::1]:8265", True),
        ("http://10.0.0.7:8265", False),
        ("ray://head:10001", False),
        ("http://127.0.0.1.example.com:8265", False),
        ("[fd00::1]:6379", False),
    ],
)
def test_a_cluster_beyond_this_machine_needs_a_token(
    address: str, own: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_loopback(address) == own
    require_token(address, unauthenticated=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    require_token(address, unauthenticated=True)
    if own:
        require_token(address, unauthenticated=False)
    else:
        with pytest.raises(ConfigurationError, match=r"RAY_AUTH_MODE=disabled: .* set cluster\.unauthenticated"):
            require_token(address, unauthenticated=False)


def test_a_cluster_without_a_token_is_refused_before_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with (
        pytest.raises(ConfigurationError, match=r"10\.0\.0\.7:6379 is not the loopback interface"),
        cluster(ClusterSettings(address="10.0.0.7:6379")),
    ):
        raise AssertionError("it was joined")


def test_ray_keeps_its_own_choice_of_clusters_afterwards() -> None:
    earlier = ray_constants.ENABLE_RAY_CLUSTER
    with on_loopback():
        assert not ray_constants.ENABLE_RAY_CLUSTER
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert earlier == ray_constants.ENABLE_RAY_CLUSTER
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ


RUN = """
import json, os, psutil, ray
from distributed.cluster.ray_cluster import cluster
from distributed.settings.run_config import ClusterSettings

@ray.remote(num_cpus=1)
def worker():
    return os.getpid()

found = []
with cluster(ClusterSettings(num_workers=1, object_store_mb=80)):
    ray.get(worker.remote())
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                found.append((" ".join(process.cmdline()), connection.laddr.ip.removeprefix("::ffff:")))
print("found " + json.dumps(found))
"""
"""A local cluster in a process of its own, which prints the commands and addresses of everything that listens."""


def _name(words: str) -> str:
    """The name of a Ray process in the table of the page."""
    for part, name in (
        ("gcs_server", "gcs_server"),
        ("raylet/raylet", "raylet"),
        ("RuntimeEnvAgent", "runtime_env agent"),
        ("DashboardAgent", "dashboard agent"),
        ("dashboard/dashboard.py", "dashboard"),
        ("monitor.py", "monitor"),
    ):
        if part in words:
            return name
    return "the driver, workers, the meta-learner"


def test_a_run_listens_on_the_loopback_interface_only(home: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    kept["RAY_worker_niceness"] = "0"  # beside other tests its workers would wait
    words = [sys.executable, "-c", RUN]
    done = subprocess.run(
        words, cwd=ROOT, env=kept, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=True
    )
    found = [
        (_name(words), ip) for words, ip in json.loads(done.stdout.strip().splitlines()[-1].removeprefix("found "))
    ]
    assert {ip for _, ip in found} == {"127.0.0.1"}
    names = {name for name, _ in found}
    assert {"gcs_server", "raylet", "the driver, workers, the meta-learner"} <= names
    page = (ROOT / "docs" / "security.md").read_text().splitlines()
    assert names <= {line.split("|")[1].strip().strip("`") for line in page if "| 127.0.0.1 |" in line}
    assert _mode(home / ".ray" / "auth_token") == 0o600
