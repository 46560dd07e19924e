"""A run's process is killed or told to stop at a known moment; resumed, it ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distributed.settings.errors import CLUSTER_LOST_EXIT_CODE
from tests.distributed.families import counts, notes
from tests.distributed.helpers import (
    Raw,
    command,
    environment,
    finished_tasks,
    is_alive,
    noted,
    only_run,
    run_file,
    started,
    summary_of,
    tiny,
    undisturbed_sha,
    wait_until,
)

HELD = 5
SECONDS_OF_A_RAY_JOB = 3.0
"""Between SIGTERM and SIGKILL when a Ray job is stopped."""


def held(tmp_path: Path, pool: str) -> Raw:
    """A run that waits in the middle of task 5, in the second round."""
    return noted(tmp_path / "notes", family={"hold": HELD}, cluster={"pool": pool})


def until_held(tmp_path: Path, finished: set[int], process: subprocess.Popen[bytes]) -> None:
    """Wait until task 5 waits and some others of its round are finished."""
    waits = tmp_path / "notes" / "waiting"
    wait_until(lambda: waits.exists() and finished_tasks(tmp_path) == finished, process=process)


def go_on(tmp_path: Path, file: Path, *more: str) -> Raw:
    """Resume and return the summary."""
    (tmp_path / "notes" / "go").touch()
    done = command(["train", file, "--resume", only_run(tmp_path), *more], tmp_path)
    assert done.returncode == 0, done.stderr
    return summary_of(only_run(tmp_path))


def require_undisturbed(tmp_path: Path, summary: Raw) -> None:
    """The undisturbed state; only the task that was interrupted was run twice."""
    assert summary["meta_state_sha256"] == undisturbed_sha()
    assert summary["num_tasks"] == 8
    runs = counts(notes(tmp_path / "notes", "runs"))
    assert runs == {f"train/{index}": 2 if index == HELD else 1 for index in range(8)}


def test_a_killed_local_run_is_resumed(tmp_path: Path) -> None:
    file = run_file(tmp_path, held(tmp_path, "local"))
    with started(["train", file], tmp_path) as process:
        until_held(tmp_path, {4}, process)
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
    assert not list(tmp_path.rglob("summary.json"))
    require_undisturbed(tmp_path, go_on(tmp_path, file))


def stop(process: subprocess.Popen[bytes]) -> float:
    """Send SIGTERM; seconds until the process is gone."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    return time.monotonic() - began


@pytest.mark.parametrize(("pool", "finished"), [("local", {4}), ("ray", {4, 6, 7})])
@pytest.mark.slow
def test_a_run_that_is_stopped_exits_in_time_and_is_resumed(tmp_path: Path, pool: str, finished: set[int]) -> None:
    file = run_file(tmp_path, held(tmp_path, pool))
    with started(["train", file], tmp_path) as process:
        until_held(tmp_path, finished, process)
        seconds = stop(process)
        assert process.returncode == 143
    print(f"{pool}: gone {seconds:.2f} s after SIGTERM")
    assert seconds < SECONDS_OF_A_RAY_JOB
    require_gone(tmp_path)
    require_undisturbed(tmp_path, go_on(tmp_path, file, "--cluster.pool", "local"))


def require_gone(tmp_path: Path) -> None:
    """The process that held task 5 does not outlive its run."""
    pid = int(notes(tmp_path / "notes", "waiting")[0])
    wait_until(lambda: not is_alive(pid), seconds=20.0)


@pytest.mark.slow
def test_a_killed_ray_run_is_resumed_on_ray(tmp_path: Path) -> None:
    file = run_file(tmp_path, held(tmp_path, "ray"))
    with started(["train", file], tmp_path) as process:
        until_held(tmp_path, {4, 6, 7}, process)
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
    require_gone(tmp_path)
    require_undisturbed(tmp_path, go_on(tmp_path, file))


@pytest.mark.slow
@pytest.mark.parametrize("signals", [[signal.SIGKILL], [signal.SIGTERM, signal.SIGKILL], [signal.SIGTERM] * 3])
def test_a_run_that_is_interrupted_again_and_again_is_resumed(tmp_path: Path, signals: list[int]) -> None:
    """Each of the resumed runs is stopped too, at a later and later moment that only the clock chooses."""
    file = run_file(tmp_path, tiny(family={"num_tasks": 24}))
    straight = tmp_path / "straight"
    straight.mkdir()
    assert command(["train", file], straight).returncode == 0
    arguments = ["train", file]
    for number in range(6):
        with started(arguments, tmp_path) as process:
            time.sleep(1.5 + 0.35 * number)
            for which in signals:
                if process.poll() is None:
                    os.kill(process.pid, which)
            process.wait(30)
        if list(tmp_path.glob("runs/*/*/config.yaml")):
            arguments = ["train", file, "--resume", only_run(tmp_path)]
    assert command(arguments, tmp_path).returncode == 0
    ours, theirs = (summary_of(only_run(folder)) for folder in (tmp_path, straight))
    for summary in (ours, theirs):
        del summary["wall_seconds"]
    assert ours == theirs


@pytest.mark.parametrize("delay", [0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 1.0, 1.2])
@pytest.mark.slow
def test_a_run_that_is_stopped_while_its_workers_start_exits_in_time(tmp_path: Path, delay: float) -> None:
    """Ray's waiting calls do not pass on every exception that a signal raises in them."""
    file = run_file(tmp_path, tiny(cluster={"pool": "ray"}))
    with started(["train", file], tmp_path) as process:
        wait_until(lambda: "Ray: local" in messages(tmp_path), process=process)
        of_the_cluster = children(process.pid).values()
        time.sleep(delay)
        seconds = stop(process)
        assert process.returncode == 143, messages(tmp_path)
    assert seconds < SECONDS_OF_A_RAY_JOB
    assert "Error" not in messages(tmp_path)
    wait_until(lambda: not any(is_alive(pid) for pid in of_the_cluster), seconds=20.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_run_that_is_stopped_while_its_cluster_starts_exits_in_time(tmp_path: Path, name: str) -> None:
    """Inside ray.init, as soon as a process of the cluster is there; Ray's own code may then end it by a signal."""
    file = run_file(tmp_path, tiny(cluster={"pool": "ray"}))
    with started(["train", file], tmp_path) as process:
        wait_until(lambda: name in children(process.pid), process=process)
        of_the_cluster = children(process.pid).values()
        seconds = stop(process)
        assert process.returncode == 143 or process.returncode < 0
    assert seconds < SECONDS_OF_A_RAY_JOB
    wait_until(lambda: not any(is_alive(pid) for pid in of_the_cluster), seconds=20.0)


def messages(tmp_path: Path) -> str:
    """What a run has printed so far."""
    return (tmp_path / "stderr").read_text(encoding="utf-8")


def children(pid: int) -> dict[str, int]:
    """Processes that a process has started: name and process id."""
    found = subprocess.run(["ps", "-o", "comm=,pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return {line.split()[0]: int(line.split()[-1]) for line in found.stdout.splitlines()}


@pytest.mark.slow
@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_run_whose_cluster_is_gone_ends_within_a_minute_and_is_resumed(
    name: str, what: signal.Signals, tmp_path: Path
) -> None:
    file = run_file(tmp_path, held(tmp_path, "ray"))
    with started(["train", file], tmp_path) as process:
        until_held(tmp_path, {4, 6, 7}, process)
        of_the_cluster = children(process.pid)
        began = time.monotonic()
        os.kill(of_the_cluster[name], what)
        assert process.wait(90) == CLUSTER_LOST_EXIT_CODE, messages(tmp_path)
        print(f"{name} {what.name}: ended after {time.monotonic() - began:.0f} s")
        assert time.monotonic() - began < 60.0
    assert "error: the Ray cluster is gone" in messages(tmp_path)
    assert "Traceback" not in messages(tmp_path)
    wait_until(lambda: not any(is_alive(pid) for pid in of_the_cluster.values()), seconds=20.0)
    require_gone(tmp_path)
    require_undisturbed(tmp_path, go_on(tmp_path, file, "--cluster.pool", "local"))


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_cluster_that_is_gone_while_workers_start_is_named(name: str, delay: float, tmp_path: Path) -> None:
    """Ray's own code ends a process whose raylet is gone with exit code 1 and without a word."""
    file = run_file(tmp_path, tiny(cluster={"pool": "ray"}))
    with started(["train", file], tmp_path) as process:
        wait_until(lambda: "Ray: local" in messages(tmp_path), process=process)
        of_the_cluster = children(process.pid)
        time.sleep(delay)
        os.kill(of_the_cluster[name], signal.SIGKILL)
        assert process.wait(60) == CLUSTER_LOST_EXIT_CODE, messages(tmp_path)
    assert "error: the Ray cluster is gone" in messages(tmp_path)
    wait_until(lambda: not any(is_alive(pid) for pid in of_the_cluster.values()), seconds=20.0)


STUCK = """
import os, signal, sys
import numpy as np
from distributed.cluster.calls import put
from distributed.cluster.health import own_processes
from distributed.cluster.ray_cluster import cluster
from distributed.settings.run_config import ClusterSettings

with cluster(ClusterSettings(num_workers=1, dashboard=False, object_store_mb=100)):
    ((_, raylet),) = [found for found in own_processes() if found[0] == "raylet"]
    os.kill(raylet.pid, signal.SIGSTOP)
    print("stopped", flush=True)
    put(np.zeros(10**6))
"""


@pytest.mark.slow
def test_a_call_that_never_comes_back_from_a_stopped_cluster_ends_the_process(tmp_path: Path) -> None:
    began = time.monotonic()
    words = [sys.executable, "-c", STUCK]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == CLUSTER_LOST_EXIT_CODE, done.stderr
    assert "error: the Ray cluster is gone" in done.stderr
    assert time.monotonic() - began < 80.0


UNSEEN = """
import os, signal, time
from distributed.cluster import health
from distributed.cluster.ray_cluster import cluster
from distributed.settings.run_config import ClusterSettings

health._UNSEEN_AFTER = 2.0
with cluster(ClusterSettings(num_workers=1, dashboard=False, object_store_mb=100)):
    ((_, control),) = [found for found in health.own_processes() if found[0] == "gcs_server"]
    os.kill(control.pid, signal.SIGKILL)
    time.sleep(50.0)  # other work; Ray itself ends the process after 60 s, with 1 and without a word
"""


@pytest.mark.slow
def test_a_cluster_that_ends_while_no_call_is_made_is_named(tmp_path: Path) -> None:
    words = [sys.executable, "-c", UNSEEN]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == CLUSTER_LOST_EXIT_CODE, done.stderr
    assert "error: the Ray cluster is gone: its gcs_server has ended" in done.stderr


@pytest.mark.slow
def test_a_run_whose_raylet_is_stopped_for_some_seconds_goes_on(tmp_path: Path) -> None:
    file = run_file(tmp_path, held(tmp_path, "ray"))
    with started(["train", file], tmp_path) as process:
        until_held(tmp_path, {4, 6, 7}, process)
        raylet = children(process.pid)["raylet"]
        os.kill(raylet, signal.SIGSTOP)
        time.sleep(8.0)
        os.kill(raylet, signal.SIGCONT)
        (tmp_path / "notes" / "go").touch()
        assert process.wait(120) == 0, messages(tmp_path)
    assert summary_of(only_run(tmp_path))["meta_state_sha256"] == undisturbed_sha()
