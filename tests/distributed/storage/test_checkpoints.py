"""Checkpoints hold every bit, survive a crash at any point, and tell damage wherever it is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from distributed.storage import checkpoints
from distributed.storage.checkpoints import (
    CheckpointFolder,
    DamagedFileError,
    load_arrays,
    save_arrays,
    write_atomically,
)
from meta.learning.tabular import Contribution, MetaState
from meta.offline.diagnostics import Diagnostics
from meta.training.loop import Finished

DIGEST = "d" * 64
RNG = np.random.default_rng(5)
Said = list[str]


def state(rounds: int) -> MetaState:
    """A state with awkward numbers: denormal, negative zero, thirds."""
    return MetaState(
        num_rounds=rounds,
        num_tasks=4 * rounds,
        policy_count=rounds / 3.0,
        initialization=np.full((3, 2), 1.0 / 3.0) * rounds,
        learning_rates=np.array([5e-324, 10.0 / 3.0]),
        policy_sum=np.array([[-0.0, 1e308], [0.1, 0.2], [0.3, 7.0]]),
        loss_sum=np.array([0.1 + 0.2, 1.0]),
        curvature_sum=np.array([2.0**-1074, 3.0]),
    )


def finished(index: int, rounds: int) -> Finished:
    """A finished task with something unknown in its row."""
    item = Contribution(
        task_index=index,
        occupancy=RNG.random(3),
        policy=RNG.random((3, 2)),
        loss=0.1 + 0.2,
        curvature=np.array([np.nan, 1.0 / 3.0]),
        weight=0.1,
        diagnostics=Diagnostics(*(0.1 * i for i in range(len(dataclasses.fields(Diagnostics))))),
        failures=("effective_sample_size",),
    )
    return Finished({"task_index": index, "round": rounds, "gap": float("nan"), "feasible": True, "note": "é"}, item)


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    """An empty folder."""
    return CheckpointFolder(tmp_path, DIGEST, keep=2)


@pytest.fixture
def said() -> Said:
    """The messages."""
    return []


def same(first: Finished, second: Finished) -> bool:
    """Equal in every bit."""
    ours, theirs = (
        {name: repr(np.asarray(value).tolist()) for name, value in dataclasses.asdict(item.contribution).items()}
        for item in (first, second)
    )
    return repr(first.row) == repr(second.row) and ours == theirs


def test_a_state_comes_back_bit_for_bit(folder: CheckpointFolder, said: Said) -> None:
    folder.save_state(state(1), {"wall_seconds": 1.25})
    loaded = folder.load_state(said.append)
    assert loaded is not None
    assert loaded[0].sha256() == state(1).sha256()
    assert loaded[1]["wall_seconds"] == 1.25
    assert said == []


def test_an_empty_folder_has_no_state(folder: CheckpointFolder, said: Said) -> None:
    assert folder.load_state(said.append) is None
    assert folder.load_finished(state(0), said.append) == {}


def test_the_newest_are_kept_and_finished_tasks_dropped(folder: CheckpointFolder, tmp_path: Path, said: Said) -> None:
    folder.save_finished(finished(7, 1))
    folder.save_finished(finished(12, 3))
    for rounds in (1, 2, 3):
        folder.save_state(state(rounds), {})
    names = ["round-000002.json", "round-000002.safetensors", "round-000003.json", "round-000003.safetensors"]
    assert sorted(path.name for path in tmp_path.glob("round-*")) == names
    assert folder.load_finished(state(3), said.append) == {}
    assert list((tmp_path / "finished").iterdir()) == [], "a round is over with all of its tasks"


def test_finished_tasks_come_back_bit_for_bit(folder: CheckpointFolder, said: Said) -> None:
    items = {index: finished(index, 1) for index in (5, 4)}
    for item in items.values():
        folder.save_finished(item)
    loaded = folder.load_finished(state(1), said.append)
    assert set(loaded) == {4, 5}
    assert all(same(loaded[index], items[index]) for index in items)
    assert said == []


def test_finished_tasks_of_another_round_or_configuration_are_left_out(tmp_path: Path, said: Said) -> None:
    folder = CheckpointFolder(tmp_path, DIGEST, keep=2)
    folder.save_finished(finished(4, 1))
    assert folder.load_finished(state(2), said.append) == {}
    assert folder.load_finished(state(0), said.append) == {}
    assert CheckpointFolder(tmp_path, "e" * 64, keep=2).load_finished(state(1), said.append) == {}


def truncate(path: Path) -> None:
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Flip one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("harm", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_is_used(
    folder: CheckpointFolder, tmp_path: Path, said: Said, harm: Callable[[Path], None], suffix: str
) -> None:
    for rounds in (1, 2):
        folder.save_state(state(rounds), {})
    harm(tmp_path / f"round-000002{suffix}")
    loaded = folder.load_state(said.append)
    assert loaded is not None
    assert loaded[0].sha256() == state(1).sha256()
    if (harm, suffix) != (Path.unlink, ".json"):
        assert len(said) == 1
        assert "round-000002" in said[0]


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_no_flipped_bit_of_a_checkpoint_goes_unseen(
    folder: CheckpointFolder, tmp_path: Path, said: Said, suffix: str
) -> None:
    for rounds in (1, 2):
        folder.save_state(state(rounds), {"wall_seconds": 2.5})
    path = tmp_path / f"round-000002{suffix}"
    for content in flipped(path):
        path.write_bytes(content)
        loaded = folder.load_state(said.append)
        assert loaded is not None
        assert loaded[0].sha256() in {state(1).sha256(), state(2).sha256()}, content


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_no_flipped_bit_of_a_finished_task_goes_unseen(
    folder: CheckpointFolder, tmp_path: Path, said: Said, suffix: str
) -> None:
    item = finished(4, 1)
    folder.save_finished(item)
    path = tmp_path / "finished" / f"task-000004{suffix}"
    for content in flipped(path):
        path.write_bytes(content)
        loaded = folder.load_finished(state(1), said.append)
        assert all(same(found, item) for found in loaded.values()), content


def flipped(path: Path) -> Iterator[bytes]:
    """The content of a file with one bit flipped, for a bit of every byte."""
    whole = path.read_bytes()
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 1 << (position % 7)
        yield bytes(content)


def test_without_a_usable_checkpoint_the_error_names_the_fault(
    folder: CheckpointFolder, tmp_path: Path, said: Said
) -> None:
    for rounds in (1, 2):
        folder.save_state(state(rounds), {})
        truncate(tmp_path / f"round-{rounds:06d}.safetensors")
    with pytest.raises(DamagedFileError, match="all 2 checkpoints are damaged; start a new run"):
        folder.load_state(said.append)
    assert len(said) == 2
    assert folder.load_state(said.append, begins_again=True) is None
    assert "all 2 checkpoints are damaged; the run begins again with its first round" in said[-1]
    for suffix in (".json", ".safetensors"):
        (tmp_path / "round-000001").with_suffix(suffix).unlink()
    with pytest.raises(DamagedFileError, match="all 1 checkpoints are damaged; start a new run"):
        folder.load_state(said.append, begins_again=True)


def test_a_damaged_finished_task_is_reported_and_run_again(
    folder: CheckpointFolder, tmp_path: Path, said: Said
) -> None:
    for index in (4, 5):
        folder.save_finished(finished(index, 1))
    truncate(tmp_path / "finished" / "task-000004.safetensors")
    assert set(folder.load_finished(state(1), said.append)) == {5}
    assert len(said) == 1
    assert said[0].startswith("finished task 4 will be run again")


class Crash(BaseException):
    """The power goes."""


@pytest.mark.parametrize("moment", range(6))
def test_a_crash_at_any_moment_leaves_the_old_or_the_new_checkpoint(
    folder: CheckpointFolder, said: Said, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Moments: before, after and between the two files' syncing and renaming."""
    folder.save_state(state(1), {})
    passed = [0]

    def or_crash(step: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object) -> object:
            passed[0] += 1
            if passed[0] > moment:
                raise Crash
            return step(*arguments)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", or_crash(checkpoints.os.fsync))
        patch.setattr(Path, "replace", or_crash(Path.replace))
        try:
            folder.save_state(state(2), {})
        except Crash:
            assert moment < 4
        else:
            assert moment >= 4
    loaded = folder.load_state(said.append)
    assert loaded is not None
    assert loaded[0].sha256() == state(1 if moment < 4 else 2).sha256()
    assert said == []
    folder.save_state(state(2), {})
    again = folder.load_state(said.append)
    assert again is not None
    assert again[0].sha256() == state(2).sha256()


def test_a_file_is_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"new and longer"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_checkpoint_of_another_schema_is_not_read(tmp_path: Path) -> None:
    save_arrays(tmp_path / "pair", {"a": np.arange(3.0)}, {})
    facts = json.loads((tmp_path / "pair.json").read_text())
    (tmp_path / "pair.json").write_text(json.dumps({**facts, "schema_version": 99}))
    with pytest.raises(DamagedFileError, match=r"pair\.json: is not of schema version 2"):
        load_arrays(tmp_path / "pair")


def test_a_checkpoint_of_another_configuration_is_not_used(folder: CheckpointFolder, tmp_path: Path) -> None:
    folder.save_state(state(1), {})
    with pytest.raises(DamagedFileError, match="another configuration"):
        CheckpointFolder(tmp_path, "e" * 64, keep=2).load_state(lambda message: None)
