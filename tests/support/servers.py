"""Servers on free loopback ports for as long as a measurement or a test needs them; each ends what it started."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parent.parent.parent
POSTGRES_USER, POSTGRES_PASSWORD = "mlflow", "a-password-of-a-test"


class NotInstalledError(RuntimeError):
    """A server is not installed on this machine; the message names the package."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a page is there."""
    try:
        with urllib.request.urlopen(url, timeout=2.0) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until ``condition`` holds; RuntimeError with the log where the process ends or time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"did not come up: {log.read_text(encoding='utf-8')[-2000:]}")
        time.sleep(0.1)


@dataclass(frozen=True)
class Head:
    """A Ray head: ``address`` (host:port), ``dashboard`` (http://host:port), ``environment`` to reach both."""

    address: str
    dashboard: str
    environment: dict[str, str]


@contextmanager
def ray_head(token: str | None) -> Iterator[Head]:
    """A head with two CPUs; without a token everybody who can reach its ports is let in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    access["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # or Ray replaces 127.0.0.1 by this machine's address
    access["RAY_worker_niceness"] = "0"  # Ray would have its workers wait for everything else on this machine
    environment = {**kept, **access, "PATH": f"{BIN}:{os.environ['PATH']}"}
    port, dashboard = free_port(), free_port()
    words = [str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
    words += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--num-cpus=2", "--disable-usage-stats"]
    words += ["--object-store-memory=100000000", f"--dashboard-agent-listen-port={free_port()}"]
    folder = Path(tempfile.mkdtemp(prefix="metasrl-head-"))
    jobs = [str(BIN / "python"), "-m", "distributed.cli", "jobs", "--address", f"http://127.0.0.1:{dashboard}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:

            def ready() -> bool:
                done = subprocess.run(jobs, env=environment, cwd=ROOT, capture_output=True, check=False)
                return done.returncode == 0

            wait_for(ready, 90.0, process, folder / "log")
            yield Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", environment)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    shutil.rmtree(folder)


def start_mlflow_server(folder: Path, port: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start MLflow's server in a process group of its own; its words go to ``folder``/server.log."""
    words = [str(BIN / "python"), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    words += ["--default-artifact-root", (folder / "mlruns").as_uri()]
    variables = {**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(words, cwd=folder, env=variables, stdout=log, stderr=log, start_new_session=True)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """MLflow's server over ``folder``/mlflow.db with artifacts in ``folder``/mlruns; its address."""
    port = free_port()
    process = start_mlflow_server(folder, port, os.environ)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), 120.0, process, folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _postgres_binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    there = shutil.which("initdb")
    if not found and there is None:
        raise NotInstalledError("PostgreSQL is not installed (Debian: apt install postgresql)")
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        raise NotInstalledError("PostgreSQL refuses to run as root, and there is no runuser")
    return found[-1].parent if found else Path(str(there)).parent


def _as_server_user(words: list[str | Path], folder: Path) -> None:
    """PostgreSQL refuses to run as root: Debian's own user runs it then."""
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    done = subprocess.run([*prefix, *map(str, words)], capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


@contextmanager
def postgres() -> Iterator[str]:
    """PostgreSQL with an empty database; its URI, password and all.

    Raises:
        NotInstalledError: Debian's packages are not there.
    """
    where = _postgres_binaries()
    folder, port = Path(tempfile.mkdtemp(prefix="metasrl-pg-")), free_port()
    try:
        secret = folder / "secret"
        secret.write_text(POSTGRES_PASSWORD)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
            shutil.chown(secret, "postgres")
        data = folder / "data"
        words: list[str | Path] = [
            where / "initdb",
            "-D",
            data,
            "-U",
            POSTGRES_USER,
            "--pwfile",
            secret,
            "-A",
            "scram-sha-256",
        ]
        _as_server_user([*words, "-E", "UTF8", "--no-sync"], folder)
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        log = folder / "log"
        _as_server_user([where / "pg_ctl", "-D", data, "-o", options, "-l", log, "-w", "start"], folder)
        try:
            yield f"postgresql://{POSTGRES_USER}:{POSTGRES_PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            _as_server_user([where / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"], folder)
    finally:
        shutil.rmtree(folder)
