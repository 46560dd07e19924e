"""Disks that are full, read-only or gone: a message with the file and the remedy, and what was finished stays."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest

from distributed.cluster import ray_cluster
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import ClusterSettings
from distributed.storage import checkpoints
from distributed.storage.checkpoints import CheckpointFolder, StorageError, storing, write_atomically
from distributed.storage.run_directory import RunDirectory
from tests.distributed.helpers import exit_code, learn, local, only_run, parsed, run_file, tiny, undisturbed_sha


def failing(number: int) -> Any:
    """A function that fails as the operating system does with error ``number``."""

    def fail(*_: Any, **__: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def reported(capsys: pytest.CaptureFixture[str]) -> str:
    text = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize("failing_call", ["save_figures", "write_run_page"])
def test_a_disk_that_fills_while_plotting_leaves_all_results(
    workplace: Path,
    no_plots: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failing_call: str,
) -> None:
    monkeypatch.setattr(f"distributed.jobs.training_job.{failing_call}", failing(errno.ENOSPC))
    assert exit_code("train", run_file(workplace, tiny())) == 1
    run = only_run(workplace)
    text = reported(capsys)
    assert "No space left on device; all results are saved" in text
    assert "metasrl report" in text
    for name in ("summary.json", "tasks.csv", "held_out.csv", "meta_policy/meta_policy.safetensors"):
        assert (run / name).is_file(), name
    monkeypatch.undo()
    monkeypatch.chdir(workplace)
    assert exit_code("report", run) == 0
    assert (run / "report.html").is_file()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EROFS, "Read-only file system; make it writable again"),
        (errno.EDQUOT, "quota exceeded; free some space"),
        (errno.EIO, "Input/output error; repair the disk"),
    ],
)
def test_a_disk_that_stops_taking_writes_ends_the_run_and_it_resumes(
    workplace: Path,
    no_plots: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    said: str,
) -> None:
    calls, fsync = [0], os.fsync

    def sync(descriptor: int) -> None:
        calls[0] += 1
        (failing(number) if calls[0] > 20 else fsync)(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.os, "fsync", sync)
        assert exit_code("train", run_file(workplace, tiny())) == 1
    text, run = reported(capsys), only_run(workplace)
    assert said.lower() in text.lower()
    assert str(run) in text
    config = parsed(tiny())
    assert learn(config, *local(config), RunDirectory.open(run, config))[0].sha256() == undisturbed_sha()


def test_a_run_directory_that_is_removed_meanwhile_ends_the_run_in_words(
    workplace: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = CheckpointFolder.save_finished

    def remove_then_save(self: CheckpointFolder, finished: Any) -> None:
        shutil.rmtree(workplace / "runs", ignore_errors=True)
        save(self, finished)

    monkeypatch.setattr(CheckpointFolder, "save_finished", remove_then_save)
    assert exit_code("train", run_file(workplace, tiny())) == 1
    assert "its directory was removed or renamed while it was written to" in reported(capsys)


def test_a_full_disk_anywhere_is_no_traceback(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no place of ours expects it."""
    monkeypatch.setattr("distributed.jobs.training_job.run", failing(errno.ENOSPC))
    assert exit_code("train", run_file(workplace, tiny())) == 1
    assert "a disk: No space left on device; free some space" in reported(capsys)


def test_a_failure_names_the_file_and_keeps_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kept.json"
    write_atomically(file, b"old")
    monkeypatch.setattr(checkpoints.os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(StorageError, match=r"kept\.json: No space left on device; free some space"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept.json"]
    with (
        pytest.raises(StorageError, match=r"some/place: No space left on device; do this"),
        storing(Path("some/place"), "do this"),
    ):
        failing(errno.ENOSPC)()


def test_a_full_directory_of_ray_is_found_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 5 * 2**20

    def start(**_: Any) -> NoReturn:
        raise AssertionError("Ray was started")

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(ray_cluster.shutil, "disk_usage", lambda folder: Usage() if folder == tmp_path else 1 / 0)
    monkeypatch.setattr(ray_cluster.ray, "init", start)
    with (
        pytest.raises(ConfigurationError, match="has 5 MiB left; free at least 100 MiB") as error,
        ray_cluster.cluster(ClusterSettings(dashboard=False)),
    ):
        pass
    assert str(tmp_path) in str(error.value)
