"""Event files hold what the run did, also across a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from tests.distributed.helpers import exit_code, only_run, run_file, summary_of, tiny


def written(folder: Path) -> list[tuple[str, float, int]]:
    """(name, value, step) of every number in the event files, in order. A record is its length, data and checksums."""
    found = list[tuple[str, float, int]]()
    for path in sorted(folder.glob("events.*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            length = int.from_bytes(content[place : place + 8], "little")
            event = Event.FromString(content[place + 12 : place + 12 + length])
            found += [(value.tag, value.simple_value, event.step) for value in event.summary.value]
            place += 16 + length
    return found


def test_rounds_and_results_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tracking: dict[str, Any] = {"tracking": {"enabled": False, "tensorboard": True}}
    assert exit_code("train", run_file(tmp_path, tiny(**tracking))) == 0
    summary, found = summary_of(only_run(tmp_path)), written(only_run(tmp_path) / "tensorboard")
    gaps = [(value, step) for name, value, step in found if name == "taog"]
    assert [step for _, step in gaps] == [1, 2]
    assert gaps[-1][0] == pytest.approx(summary["taog"])
    final = {name: value for name, value, _ in found if name.startswith("test/")}
    assert final["test/meta_srl/gap"] == pytest.approx(summary["test"]["meta_srl"]["gap"]["mean"])


def test_nothing_is_written_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code("train", run_file(tmp_path, tiny())) == 0
    assert not (only_run(tmp_path) / "tensorboard").exists()
