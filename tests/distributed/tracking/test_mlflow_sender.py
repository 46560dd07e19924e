"""What the sender of tracking events uploads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distributed.tracking import mlflow_sender
from distributed.tracking.events import EndEvent, Memory


class Client:
    """Keeps what it is asked to upload."""

    def __init__(self) -> None:
        self.uploaded: list[str] = []
        self.ended: list[str] = []

    def log_batch(self, *arguments: Any, **keywords: Any) -> None:
        """Not of interest."""

    def log_artifact(self, run_id: str, path: str, target: str | None) -> None:
        del run_id, target
        self.uploaded.append(Path(path).name)

    def set_terminated(self, run_id: str, *, status: str, end_time: int) -> None:
        del run_id, end_time
        self.ended.append(status)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run directory with a file of its own, a link to a file outside, and a model."""
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (tmp_path / "secret").write_text("key", encoding="utf-8")
    (run / "summary.json").write_text("{}", encoding="utf-8")
    (run / "link.json").symlink_to(tmp_path / "secret")
    (run / "model" / "MLmodel").write_text("{}", encoding="utf-8")
    return run


def end(client: Client, folder: Path, paths: list[Path], model: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def log_model(client: Client, experiment: str, run: str, folder: Path, step: int) -> tuple[str, str]:
        del experiment, run, step
        client.uploaded.append(folder.name)
        return "id", "place"

    monkeypatch.setattr("distributed.models.mlflow_model.log_model", log_model)
    event: EndEvent = {
        "kind": "end",
        "status": "FINISHED",
        "time": 0,
        "artifacts": [(str(path), "") for path in paths],
        "model": None if model is None else str(model),
    }
    memory: Memory = {"run_id": "run", "experiment_id": "0"}
    mlflow_sender._end(client, event, memory, folder)  # type: ignore[arg-type]
    assert client.ended == ["FINISHED"]


def test_only_files_of_the_run_are_uploaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    paths = [folder / "summary.json", folder / "link.json", folder.parent / "secret", folder / "gone.json"]
    end(client, folder, [*paths, folder / ".." / "secret"], folder / "model", monkeypatch)
    assert client.uploaded == ["summary.json", "model"]


def test_a_model_that_links_or_lies_outside_is_not_uploaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = folder.parent / "model"
    outside.mkdir()
    (outside / "MLmodel").write_text("{}", encoding="utf-8")
    client = Client()
    end(client, folder, [], outside, monkeypatch)
    assert client.uploaded == []
    (folder / "model" / "data").symlink_to(folder.parent / "secret")
    client = Client()
    end(client, folder, [], folder / "model", monkeypatch)
    assert client.uploaded == []
