"""The judge of ``make chaos`` finds what is wrong with a run, and its page says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.chaos.__main__ import again_page, cell, page, stem_of, undisturbed_states
from benchmarks.chaos.faults import FAULTS, Fault
from benchmarks.chaos.storm import KINDS
from benchmarks.chaos.trial import TOO_BUSY, Result, Trial, checked, until_ray_starts

RIGHT = {"sha": "a", "tasks": ["0", "1"]}


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """A run that has ended well."""
    made = Trial(tmp_path / "cell", "mark", "ray", Fault())
    run = made.folder / "runs" / "chaos" / "now"
    run.mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps({"meta_state_sha256": "a"}))
    (run / "tasks.csv").write_text("task_index,gap\n0,1.0\n1,1.0\n")
    (made.folder / "messages").touch()
    return made


def test_a_sound_run_passes(trial: Trial) -> None:
    assert checked(Fault(), trial, [0], RIGHT) == []
    assert checked(FAULTS["driver killed"], trial, [-9, 0], RIGHT) == []


def test_every_fault_of_a_run_is_found(trial: Trial) -> None:
    assert checked(Fault(), trial, [1], RIGHT) == ["exit code 1", "ended in 1"]
    assert checked(FAULTS["driver killed"], trial, [1, 0], RIGHT) == ["exit code 1"]
    (trial.run / "tasks.csv").write_text("task_index,gap\n0,1.0\n1,1.0\n1,1.0\n")
    (trial.run / "quarantine").mkdir()
    (trial.run / "quarantine" / "train-5.json").touch()
    (trial.folder / "messages").write_text("Traceback (most recent call last)")
    found = checked(Fault(), trial, [0], {**RIGHT, "sha": "b"})
    assert found == ["another state", "tasks lost or twice", "quarantine", "a traceback"]
    (trial.run / "summary.json").unlink()
    assert checked(Fault(), trial, [0], RIGHT) == ["no summary"]


@pytest.mark.parametrize(("name", "may_stay"), [("ray::CRPOWorker", 30.0), ("ray::DashboardAgent", 65.0)])
def test_a_process_is_left_when_it_stays_longer_than_its_kind_may(
    name: str, may_stay: float, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, ends = [0.0], [may_stay - 1.0]
    monkeypatch.setattr("benchmarks.chaos.trial.time", SimpleNamespace(monotonic=lambda: now[0], sleep=advance(now)))
    monkeypatch.setattr("benchmarks.chaos.trial.is_left", lambda process, mark: now[0] < ends[0])
    one = SimpleNamespace(info={"name": name})
    monkeypatch.setattr("benchmarks.chaos.trial.psutil", SimpleNamespace(process_iter=lambda attributes: [one]))
    assert trial.left() == []
    now[0], ends[0] = 0.0, may_stay + 1.0
    assert trial.left() == [name]


def advance(now: list[float]) -> Callable[[float], None]:
    """A sleep that takes no time but that of this clock."""

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return sleep


def test_a_run_that_found_no_room_for_ray_is_made_again(tmp_path: Path) -> None:
    answers = iter([f"error: ... {TOO_BUSY}; try again", f"error: ... {TOO_BUSY}", "error: something else"])

    def cell() -> Result:
        text = next(answers)
        (tmp_path / "messages").write_text(text)
        if TOO_BUSY in text:
            raise ValueError("no run directory")
        return {"wrong": ["exit code 1"]}

    assert until_ray_starts(tmp_path, cell) == {"wrong": ["exit code 1"]}, "what else is wrong is kept"
    with pytest.raises(StopIteration):
        until_ray_starts(tmp_path, cell)
    always = {"wrong": ["ended in 2"]}
    (tmp_path / "messages-0").write_text(TOO_BUSY)
    with pytest.raises(RuntimeError, match="Ray did not start 4 times; run fewer cells at once"):
        until_ray_starts(tmp_path, lambda: always)
    assert until_ray_starts(tmp_path, lambda: {"wrong": []}) == {"wrong": []}


def test_the_page_has_a_line_for_each_fault_and_says_what_was_wrong() -> None:
    cells = [
        {"fault": "worker killed", "seed": 0, "codes": [0], "seconds": 25.0, "wrong": []},
        {"fault": "driver killed", "seed": 0, "codes": [-9, 0], "seconds": 45.0, "wrong": ["another state"]},
        {"fault": "driver killed", "seed": 1, "codes": [-9, 0], "seconds": 35.0, "wrong": []},
    ]
    storms = [
        {
            "seed": 4,
            "faults": ["worker killed", "driver killed"],
            "done": [],
            "codes": [-9, 0],
            "seconds": 80.0,
            "wrong": ["left after SIGKILL to the driver: raylet"],
        }
    ]
    text = "\n".join(page(cells, storms, {"seconds": 20.0, "storm_seconds": 50.0}, "make chaos"))
    assert "5 faults in 4 runs; all but 2 of the runs ended as documented" in text
    assert "| worker killed | 1 | 0 | 5 [5, 5] | – |" in text
    assert "| driver killed | 2 | -9 then 0 | 20 [15, 25] | another state |" in text
    assert "Done 2 times in all: worker killed 1, driver killed 1." in text
    assert "| 4 | 2 | -9, 0 | 30 | left after SIGKILL to the driver: raylet |" in text
    again = "\n".join(again_page(storms, {"storm_seconds": 50.0}, "again 4"))
    assert "1 of the storms of [chaos.md](chaos.md)" in again
    assert "0 ended as documented" in again
    assert "| 4 | 2 | -9, 0 | 30 | left after SIGKILL to the driver: raylet |" in again
    assert "5 faults in 4 runs; every run ended as documented" in "\n".join(
        page(
            [{**one, "wrong": []} for one in cells],
            [{**storms[0], "wrong": []}],
            {"seconds": 1.0, "storm_seconds": 1.0},
            "x",
        )
    )


def test_storms_draw_from_faults_that_need_no_cluster_and_no_server_of_their_own() -> None:
    assert "worker killed" in KINDS
    assert "tracking store deleted" in KINDS
    assert "node removed" not in KINDS
    assert not any(name.startswith("environment") for name in KINDS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["worker killed", "meta-learner killed", "driver killed", "raylet killed", "node removed", "joined cluster lost"],
)
def test_a_fault_of_each_process_ends_as_documented(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make chaos` in a small form: real faults in real runs on Ray."""
    monkeypatch.setattr("benchmarks.chaos.__main__.KEPT", tmp_path)
    found = until_ray_starts(tmp_path / f"now-{stem_of(name, 0)}", lambda: cell(name, 0, undisturbed_states(["whole"])))
    assert found["wrong"] == [], found
