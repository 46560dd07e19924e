"""Run directories in an object store: a run goes on from the store alone, and what is not whole is refused."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from distributed.settings.errors import ConfigurationError
from distributed.settings.stopping import Stopped
from distributed.storage.checkpoints import DamagedFileError
from distributed.storage.mirror import Mirror
from distributed.storage.object_store import (
    MANIFEST,
    Entry,
    progress_of,
    read_file,
    read_manifest,
    restore,
    runs_at,
)
from distributed.storage.run_directory import RunDirectory
from distributed.storage.run_places import fetch
from tests.distributed.helpers import Raw, exit_code, parsed, run_file, summary_of, tiny, undisturbed_sha


def silent(text: str) -> None:
    """Reports to nobody."""
    del text


@pytest.fixture
def memory() -> Iterator[str]:
    """An empty store in this process."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield "memory://bucket/runs"
    MemoryFileSystem.store.clear()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3-compatible server on a free loopback port, with a bucket."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    fsspec.filesystem("s3").mkdir("metasrl-runs")
    yield "s3://metasrl-runs/lab"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def stored(place: str) -> Raw:
    return tiny(output={"run_dir": place, "local_dir": "here"})


def crash_after(monkeypatch: pytest.MonkeyPatch, method: str, call: int) -> None:
    """Stop the run just after the ``call``-th time its directory heard of a task or a round."""
    original, calls = getattr(RunDirectory, method), [0]

    def stopping(self: Any, *arguments: Any) -> Any:
        result = original(self, *arguments)
        calls[0] += 1
        if calls[0] == call:
            raise Stopped
        return result

    monkeypatch.setattr(RunDirectory, method, stopping)


def only_url(place: str) -> str:
    (url,) = runs_at(f"{place}/tiny")
    return url


def interrupted_and_resumed_elsewhere(place: str, folder: Path, method: str, call: int) -> None:
    """Another machine, which has the store and nothing else, ends in the bits of an undisturbed run."""
    file = run_file(folder, stored(place))
    with pytest.MonkeyPatch.context() as patch:
        crash_after(patch, method, call)
        assert exit_code("train", file) == 143
    shutil.rmtree(folder / "here")
    url = only_url(place)
    assert exit_code("train", file, "--resume", "latest") == 0
    (run,) = folder.glob("here/tiny/*")
    assert url == f"{place}/tiny/{run.name}"
    assert summary_of(run)["meta_state_sha256"] == undisturbed_sha()
    manifest = read_manifest(url)
    for name, path in {name: run / name for name in manifest}.items():
        assert read_file(url, manifest, name) == path.read_bytes()
    assert {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()} == set(manifest)


@pytest.mark.parametrize(("method", "call"), [("task_finished", 2), ("round_finished", 1), ("task_finished", 7)])
def test_a_run_resumes_from_the_store_alone(
    workplace: Path, no_plots: None, memory: str, method: str, call: int
) -> None:
    interrupted_and_resumed_elsewhere(memory, workplace, method, call)


def test_a_run_resumes_from_an_s3_server(workplace: Path, no_plots: None, s3: str) -> None:
    interrupted_and_resumed_elsewhere(s3, workplace, "task_finished", 6)


def test_latest_without_an_earlier_run_begins_one(workplace: Path, no_plots: None, memory: str) -> None:
    assert exit_code("train", run_file(workplace, stored(memory)), "--resume", "latest") == 0
    assert progress_of(list(read_manifest(only_url(memory)))) == (2, 0)


def test_commands_take_the_url_of_a_run(
    workplace: Path, no_plots: None, memory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(workplace, stored(memory))
    assert exit_code("train", file) == 0
    shutil.rmtree(workplace / "here")
    url = only_url(memory)
    assert exit_code("inspect", url) == 0
    assert "intact" in capsys.readouterr().out
    assert exit_code("adapt", url, "--task-index", "1") == 0
    assert exit_code("report", url) == 0
    assert "| `meta_srl` |" in capsys.readouterr().out
    assert exit_code("train", file, "--resume", url) == 0
    (run,) = workplace.glob("here/tiny/*")
    assert summary_of(run)["meta_state_sha256"] == undisturbed_sha()


def test_old_checkpoints_leave_the_store_too(workplace: Path, no_plots: None, memory: str) -> None:
    raw = stored(memory) | {"output": {"run_dir": memory, "local_dir": "here", "keep_checkpoints": 2}}
    raw["cluster"] = {**raw["cluster"], "tasks_per_round": 2}
    assert exit_code("train", run_file(workplace, raw)) == 0
    url = only_url(memory)
    rounds = [name for name in read_manifest(url) if "round-" in name]
    assert sorted(rounds) == [
        f"checkpoints/round-00000{n}.{suffix}" for n in (3, 4) for suffix in ("json", "safetensors")
    ]
    path = url.removeprefix("memory:/")
    objects = [name for name in MemoryFileSystem.store if name.startswith(path)]
    assert len(objects) == len(read_manifest(url)) + 1


class Broken:
    """A store that fails while ``away`` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away = threading.Event()
        original = MemoryFileSystem.pipe_file

        def pipe(system: Any, path: str, value: bytes, **more: Any) -> Any:
            if self.away.is_set():
                raise OSError("the store is away")
            return original(system, path, value, **more)

        monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Broken:
    return Broken(monkeypatch)


def test_a_store_that_goes_away_stops_nothing_and_gets_all_when_it_is_back(
    tmp_path: Path, memory: str, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distributed.storage.mirror._RETRY_SECONDS", 0.02)
    local, reported = tmp_path / "run", list[str]()
    local.mkdir()
    (local / "a").write_text("1")
    mirror = Mirror(local, f"{memory}/x", reported.append)
    broken.away.set()
    (local / "a").write_text("22")
    assert mirror.close(0.3) is False
    assert reported == [f"storage: {memory}/x: OSError: the store is away; the run continues, {local} has everything"]
    manifest = read_manifest(f"{memory}/x")
    assert read_file(f"{memory}/x", manifest, "a") == b"1"
    broken.away.clear()
    again = Mirror(local, f"{memory}/x", reported.append)
    assert again.close(5.0) is True
    assert read_file(f"{memory}/x", read_manifest(f"{memory}/x"), "a") == b"22"


def test_a_run_that_ends_while_the_store_is_unreachable_reports_where_it_is_complete(
    workplace: Path, no_plots: None, memory: str, broken: Broken, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = stored(memory)
    raw["output"]["flush_timeout_seconds"] = 0.2
    original = RunDirectory.task_finished

    def goes_away(self: Any, *arguments: Any) -> None:
        broken.away.set()
        original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "task_finished", goes_away)
        assert exit_code("train", run_file(workplace, raw)) == 0
    (run,) = workplace.glob("here/tiny/*")
    assert summary_of(run)["meta_state_sha256"] == undisturbed_sha()
    said = " ".join(capsys.readouterr().err.split())
    assert f"lacks the end of the run; {Path.cwd() / 'here' / 'tiny'}" in said
    broken.away.clear()
    assert exit_code("train", run_file(workplace, raw), "--resume", run) == 0
    assert "summary.json" in read_manifest(only_url(memory))


def test_a_store_that_cannot_be_written_is_reported_before_any_work(
    workplace: Path, no_plots: None, memory: str, broken: Broken, capsys: pytest.CaptureFixture[str]
) -> None:
    broken.away.set()
    assert exit_code("train", run_file(workplace, stored(memory))) == 2
    reported = " ".join(capsys.readouterr().err.split())
    assert "output.run_dir: memory://bucket/runs/tiny/" in reported
    assert "cannot be written: OSError: the store is away" in reported
    assert not (workplace / "here").exists()


@pytest.mark.parametrize(("place", "message"), [("nowhere://x", "no file system for nowhere://"), ("s3://", "s3")])
def test_a_url_that_leads_nowhere_is_reported(
    workplace: Path, place: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert exit_code("train", run_file(workplace, stored(place))) == 2
    assert message in capsys.readouterr().err


def test_a_comparison_wants_a_path(workplace: Path, memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("compare", run_file(workplace, stored(memory))) == 2
    assert "keeps its cells on a path" in capsys.readouterr().err


@pytest.fixture
def copied(tmp_path: Path, memory: str) -> tuple[Path, str]:
    """A directory and its copy."""
    local = tmp_path / "run"
    (local / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/round-000002.json", "tasks.csv"):
        (local / name).write_text(name)
    assert Mirror(local, f"{memory}/x", silent).close(5.0)
    return local, f"{memory}/x"


def in_store(url: str, name: str) -> str:
    (found,) = [
        path for path in MemoryFileSystem.store if path.startswith(url.removeprefix("memory:/")) and name in path
    ]
    return found


def change(path: str, edit: Callable[[bytes], bytes]) -> None:
    system = fsspec.filesystem("memory")
    system.pipe_file(path, edit(system.cat_file(path)))


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("files/tasks", lambda content: content[:-1]),
        ("files/tasks", lambda content: b"x" + content[1:]),
        ("files/tasks", lambda content: content + b"more"),
        (MANIFEST, lambda content: content[:-5]),
        (MANIFEST, lambda content: content.replace(b'"tasks.csv"', b'"../../tasks.csv"')),
        (MANIFEST, lambda content: content.replace(b'"tasks.csv"', b'"/etc/passwd"')),
        (MANIFEST, lambda content: content.replace(b'"schema_version": 1', b'"schema_version": 9')),
    ],
)
def test_a_damaged_or_hostile_copy_is_refused_and_leaves_what_is_here(
    copied: tuple[Path, str], tmp_path: Path, name: str, edit: Callable[[bytes], bytes]
) -> None:
    _, url = copied
    change(in_store(url, name), edit)
    other = tmp_path / "other" / "run"
    other.mkdir(parents=True)
    (other / "config.yaml").write_text("mine")
    with pytest.raises(DamagedFileError):
        restore(url, other)
    assert (other / "config.yaml").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run"]


def test_a_file_missing_from_the_store_is_reported(copied: tuple[Path, str], tmp_path: Path) -> None:
    _, url = copied
    del MemoryFileSystem.store[in_store(url, "files/tasks")]
    with pytest.raises(DamagedFileError, match=r"tasks.csv is missing from the store"):
        restore(url, tmp_path / "other")
    with pytest.raises(DamagedFileError, match="holds no run"):
        fetch("memory://bucket/none", str(tmp_path))


def test_what_is_farther_wins(copied: tuple[Path, str], tmp_path: Path) -> None:
    """The store where it is ahead, the local directory where that is as far."""
    local, url = copied
    (local / "tasks.csv").write_text("local")
    assert restore(url, local) == local
    assert (local / "tasks.csv").read_text() == "local"
    (local / "checkpoints" / "round-000002.json").rename(local / "checkpoints" / "round-000001.json")
    restore(url, local)
    assert (local / "tasks.csv").read_text() == "tasks.csv"
    assert not (local / "checkpoints" / "round-000001.json").exists()


def test_a_file_that_vanishes_while_it_is_copied_does_not_tear_the_copy(
    copied: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round ends while the mirror reads: the copy is of the moment after it."""
    local, url = copied
    original, done = Path.read_bytes, [False]

    def vanishing(path: Path) -> bytes:
        if path.name == "tasks.csv" and path.is_relative_to(local) and not done[0]:
            done[0] = True
            path.unlink()
            (local / "checkpoints" / "round-000003.json").write_text("three")
        return original(path)

    (local / "tasks.csv").write_text("changed")
    monkeypatch.setattr(Path, "read_bytes", vanishing)
    assert Mirror(local, url, silent).close(5.0)
    assert set(read_manifest(url)) == {"config.yaml", "checkpoints/round-000002.json", "checkpoints/round-000003.json"}


def test_progress_is_read_from_names() -> None:
    names = ["checkpoints/round-000003.json", "checkpoints/round-000002.json", "checkpoints/finished/task-000012.json"]
    assert progress_of([*names, "checkpoints/round-000004.safetensors", "round-9.json", "tasks.csv"]) == (3, 1)
    assert progress_of(["tasks.csv"]) == (0, 0)


def test_the_manifest_holds_size_and_digest(copied: tuple[Path, str]) -> None:
    _, url = copied
    reported = json.loads(fsspec.filesystem("memory").cat_file(in_store(url, MANIFEST)))
    assert reported["schema_version"] == 1
    assert read_manifest(url)["tasks.csv"] == Entry(reported["files"]["tasks.csv"]["sha256"], 9)


def test_local_dir_means_nothing_for_a_path() -> None:
    config = parsed(tiny(output={"run_dir": "there", "local_dir": "here"}))
    assert config.output.run_dir == "there"
    with pytest.raises(ConfigurationError, match="local_directory"):
        parsed(tiny(output={"local_directory": "x"}))
