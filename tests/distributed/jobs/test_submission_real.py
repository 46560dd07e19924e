"""A real head on loopback: what `metasrl submit` and Ray's own command do there, and who is not let in."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import ray_head

ROOT = Path(__file__).resolve().parent.parent.parent.parent
BIN = Path(sys.executable).parent
TOKEN = "t" * 32
SMALL = ["--family.num_tasks", "8", "--evaluation.num_test_tasks", "2", "--tracking.enabled", "false"]
pytestmark = pytest.mark.slow


def environment(token: str = TOKEN) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return {**kept, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "PATH": f"{BIN}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The dashboard's address of a head with two CPUs and a token."""
    with ray_head(TOKEN) as found:
        yield found.dashboard


def _metasrl(command: str, address: str, *more: str) -> list[str]:
    return [str(BIN / "python"), "-m", "distributed.cli", command, *more, "--address", address]


def run(words: list[str], token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=ROOT, env=environment(token), capture_output=True, text=True, timeout=300, check=False
    )


def summary(folder: Path) -> dict[str, object]:
    (found,) = folder.glob("frozen_lake/*/summary.json")
    return json.loads(found.read_text())


def test_submit_follow_list_and_go_on(head: str, tmp_path: Path) -> None:
    words = [*SMALL, "--output.run_dir", str(tmp_path), "--resume", "latest"]
    done = run(_metasrl("submit", head, "deploy/runs/frozen_lake.yaml", *words))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no earlier run with these settings: starting a new one" in done.stdout
    first = summary(tmp_path)
    assert first["num_tasks"] == 8
    again = run(_metasrl("submit", head, "deploy/runs/frozen_lake.yaml", *words))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "continuing " in again.stdout
    assert summary(tmp_path)["meta_state_sha256"] == first["meta_state_sha256"]
    listed = run(_metasrl("jobs", head)).stdout
    assert listed.count("SUCCEEDED") == 2


def test_a_failing_job_gives_its_exit_code(head: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = [*SMALL, "--output.run_dir", str(tmp_path / "file" / "runs")]
    done = run(_metasrl("submit", head, "deploy/runs/frozen_lake.yaml", *words))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: output.run_dir: " in done.stdout


def test_a_job_is_stopped_and_keeps_its_tasks(head: str, tmp_path: Path) -> None:
    words = ["--family.num_tasks", "400", *SMALL[2:], "--output.run_dir", str(tmp_path), "--detach"]
    done = run(_metasrl("submit", head, "deploy/runs/frozen_lake.yaml", *words))
    job = done.stderr.split("job ")[1].split(";")[0]
    deadline = time.monotonic() + 90.0
    while not list(tmp_path.glob("frozen_lake/*/checkpoints/round-*.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert run(_metasrl("stop", head, job)).returncode == 0
    assert run(_metasrl("logs", head, job)).returncode == 143
    assert list(tmp_path.glob("frozen_lake/*/checkpoints/round-*.json"))
    assert not list(tmp_path.glob("frozen_lake/*/summary.json"))


def test_rays_own_command(head: str, tmp_path: Path) -> None:
    words = [
        "python",
        "-m",
        "distributed.train",
        "deploy/runs/frozen_lake.yaml",
        *SMALL,
        "--output.run_dir",
        str(tmp_path),
    ]
    done = run([str(BIN / "ray"), "job", "submit", "--address", head, "--working-dir", ".", "--", *words])
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary(tmp_path)["num_tasks"] == 8


def test_a_wrong_token_is_refused(head: str) -> None:
    done = run(_metasrl("submit", head, "deploy/runs/frozen_lake.yaml"), token="w" * 32)
    assert done.returncode == 2
    assert "refuses the token; set RAY_AUTH_MODE=token" in " ".join(done.stderr.split())


FAMILY = """
import hashlib, os
from pathlib import Path
from tasks.lakes.frozen_lake import FrozenLake

class Told(FrozenLake):
    folder: str
    def make(self, parameters):
        digest = hashlib.sha256(os.environ.get("PLANTED", "").encode()).hexdigest()
        (Path(self.folder) / f"told-{os.getpid()}").write_text(digest)
        return super().make(parameters)
"""


def test_a_secret_reaches_driver_and_workers_and_no_log_of_ray(head: str, tmp_path: Path) -> None:
    secret, project = f"planted-{os.urandom(12).hex()}", tmp_path / "project"
    project.mkdir()
    (project / "own.py").write_text(FAMILY)
    (project / "server.pem").write_text(f"key {secret}-file")
    shutil.copy(ROOT / "deploy" / "runs" / "frozen_lake.yaml", project / "run.yaml")
    words = [
        "--family.name",
        "own.py:Told",
        "--family.folder",
        str(tmp_path),
        "--output.run_dir",
        str(tmp_path / "runs"),
    ]
    done = subprocess.run(
        [*_metasrl("submit", head, "run.yaml", *SMALL, *words), "--secret", "PLANTED"],
        cwd=project,
        env={**environment(), "PLANTED": secret},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not uploaded, since files of such names hold secrets: server.pem" in " ".join(done.stderr.split())
    told = {file.read_text() for file in tmp_path.glob("told-*")}
    assert told == {hashlib.sha256(secret.encode()).hexdigest()}
    assert len(list(tmp_path.glob("told-*"))) >= 2, "the driver and the workers"
    session = Path("/tmp/ray/session_latest").resolve()
    read = [file for file in session.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]
    assert read == [], "a file of Ray holds the secret"
    assert secret not in done.stdout + done.stderr
