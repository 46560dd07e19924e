"""Cells: what names them, that they are computed once, on Ray as here, and again where they are damaged."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ray

from distributed.cluster.calls import Rules, WorkerLostError
from distributed.cluster.shared_progress import Progress, Reporter, SharedProgress
from distributed.jobs.cell_progress import CellProgress, expected_seconds
from distributed.jobs.cells import Cell, CellFolder, CellRunner
from distributed.jobs.comparison_cells import compare_all, methods_of
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import RunConfig
from meta.training.disturbance import Disturbance
from meta.training.evaluation_settings import GridPoint
from tests.distributed.families import notes
from tests.distributed.helpers import noted, parsed, tiny

POINT = GridPoint(rate=1.0)
_JUDGED = (("fal", "judge"), ("meta_srl", "judge"))


class Named(NamedTuple):
    """The part of a cell that its progress needs."""

    name: str
    group: tuple[str, ...]


def small(**evaluation: Any) -> RunConfig:
    given = {"seeds": [3, 4], "compared": ["random", "meta_srl", "reptile"], "rate_grid": [0.3, 1.0], "tuning_tasks": 2}
    return parsed(tiny(evaluation={**given, **evaluation}))


def runner(folder: Path, workers: int = 0, retries: int = 0) -> CellRunner:
    return CellRunner(CellFolder(folder), Console(), workers, Rules(retries))


def test_a_digest_covers_what_decides_the_result_and_nothing_else() -> None:
    base = Cell("judge", small(), "random", POINT)
    same = [
        Cell("judge", small(seeds=[3]), "random", POINT),
        Cell("judge", parsed(tiny(name="other", evaluation={"seeds": [3, 4]})), "random", POINT),
        Cell("judge", small(rate_grid=[5.0]), "random", POINT),
    ]
    assert {cell.digest for cell in same} == {base.digest}
    others = [
        Cell("judge", small(), "random", GridPoint(rate=2.0)),
        Cell("judge", small(), "reptile", GridPoint(rate=1.0, step=0.5)),
        Cell("judge", small(num_test_tasks=3), "random", POINT),
        Cell("judge", small().model_copy(update={"seed": 4}), "random", POINT),
        Cell("judge", small(), "random", POINT, Disturbance(noise=1.0)),
        Cell("tune", small(), "random"),
        Cell("tune", small(rate_grid=[5.0]), "random"),
        Cell("describe", small()),
    ]
    assert len({cell.digest for cell in [base, *others]}) == 1 + len(others)


def test_a_stopped_comparison_resumes(tmp_path: Path) -> None:
    config = small()
    (whole,) = compare_all([config], runner(tmp_path / "whole"))
    files = sorted((tmp_path / "whole" / "tiny").glob("*.json"))
    assert len(files) == len(whole.cells) == 2 + 2 + 3 * 2, "described, two grids tried, judged"
    part = tmp_path / "part"
    (part / "tiny").mkdir(parents=True)
    for file in files[::2]:
        (part / "tiny" / file.name).write_bytes(file.read_bytes())
    damaged = part / "tiny" / files[0].name
    damaged.write_text(damaged.read_text()[:100])
    before = {file.name: file.stat().st_mtime_ns for file in part.glob("tiny/*")}
    (again,) = compare_all([config], runner(part))
    after = {file.name: file.stat().st_mtime_ns for file in part.glob("tiny/*")}
    assert set(after) == {file.name for file in files}
    assert {name for name, time in before.items() if after[name] != time} == {files[0].name}
    assert again.points == whole.points
    assert stripped(again.judged) == stripped(whole.judged)


def stripped(judged: Any) -> Any:
    """Everything except what a clock or the system reported."""
    return {
        method: [{k: v for k, v in cell.items() if k != "cost"} for cell in cells] for method, cells in judged.items()
    }


@pytest.mark.slow
def test_ray_gives_what_this_process_gives(tmp_path: Path, ray_cluster: str) -> None:
    config = small()
    (here,) = compare_all([config], runner(tmp_path / "here"))
    (there,) = compare_all([config], runner(tmp_path / "there", workers=2))
    assert stripped(here.judged) == stripped(there.judged)
    assert here.points == there.points


def test_a_cell_whose_worker_dies_is_computed_again(tmp_path: Path, ray_cluster: str) -> None:
    raw = noted(tmp_path / "notes", family={"kill": 2})
    cell = Cell("judge", parsed(raw), "meta_srl", GridPoint())
    with pytest.raises(WorkerLostError, match=r"tiny-judge-meta_srl-3: its worker died 1 times"):
        runner(tmp_path / "cells", workers=1).run([cell], "work")
    (tmp_path / "notes" / "deaths").unlink()
    found = runner(tmp_path / "cells", workers=1, retries=1).run([cell], "work")
    assert found[cell.digest]["result"]["updates"] == 16
    assert len(notes(tmp_path / "notes", "deaths")) == 1


def test_a_cell_keeps_who_computed_it(tmp_path: Path) -> None:
    cell = Cell("describe", small())
    runner(tmp_path).run([cell], "work")
    (file,) = tmp_path.glob("tiny/*.json")
    reported = json.loads(file.read_text())
    assert reported["digest"] == cell.digest
    assert file.name == f"tiny-describe-3-{cell.digest[:16]}.json"
    assert len(reported["sources"]) == 12
    assert reported["result"]["num_test"] == 2


def test_tuning_seeds_must_differ_from_reported_seeds() -> None:
    with pytest.raises(ConfigurationError, match=r"evaluation.tuning_seeds: \[4\] are among evaluation.seeds"):
        methods_of(small(tuning_seeds=[4, 50]))


def test_methods_without_a_form_are_refused() -> None:
    sampled = parsed(tiny(within_task={"evaluation": "sampled"}, evaluation={"compared": ["multitask"]}))
    with pytest.raises(ConfigurationError, match=r"compared: multitask has no form here; allowed: random"):
        methods_of(sampled)
    assert "maml_penalty" not in methods_of(parsed(tiny(within_task={"evaluation": "sampled"})))
    assert "oracle" in methods_of(parsed(tiny()))


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        ({"random": [{"rate": 1.0}], "fal": [{"rate": 1.0}, {"rate": 2.0}]}, "equally many points for every method"),
        ({"random": [{"rate": 1.0, "step": 0.5}]}, "grids.random: step has no effect there"),
    ],
)
def test_unfair_or_idle_grids_are_refused(grids: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        small(grids=grids)


def test_the_remaining_time_is_estimated_from_similar_cells() -> None:
    seconds = {("a", "judge", "fal"): [2.0, 4.0], ("a", "judge", "random"): [1.0], ("b", "tune", "fal"): [100.0]}
    assert expected_seconds(("a", "judge", "fal"), seconds) == 3.0
    assert expected_seconds(("a", "judge", "reptile"), seconds) == pytest.approx(7.0 / 3.0)
    assert expected_seconds(("c", "judge", "fal"), seconds) == pytest.approx(7.0 / 3.0)
    assert expected_seconds(("a", "tune", "random"), seconds) == 100.0
    assert expected_seconds(("a", "describe", ""), seconds) is None, "cells of other kinds say nothing"
    assert expected_seconds(("a",), {}) is None


def test_the_remaining_time_comes_from_within_a_cell(capsys: pytest.CaptureFixture[str]) -> None:
    described, long, longer = (Named(name, ("a", kind, name)) for name, kind in (("all", "describe"), *_JUDGED))
    seconds = {described.group: [2.0]}
    with CellProgress(Console(), "cells", [long, longer], 1, seconds, 2) as bar:
        assert bar.remaining() == "", "describing the tasks says nothing of judging"
        bar.running({"fal": Progress(0.25, 300.0), "elsewhere": Progress(0.5, 1.0)})
        assert bar.remaining() == ", about 20 min left", "the longest cell of two workers: 1200 s from its beginning"
        bar.running({"fal": Progress(0.75, 900.0), "meta_srl": Progress(0.5, 900.0)})
        assert bar.remaining() == ", about 15 min left", "half of meta_srl"
        bar.finished(long, 1200.0)
        assert bar.remaining() == ", about 15 min left"
    assert "cells 1/2: fal in 1200.0 s, about 15 min left" in " ".join(capsys.readouterr().err.split())


def test_cells_on_ray_tell_how_far_they_are(ray_cluster: str) -> None:
    shared = SharedProgress()
    try:
        assert shared.newest() == {}
        told = ray.remote(num_cpus=0)(_tell).remote(shared.reporter("cell"))
        ray.get(told)
        deadline = time.monotonic() + 30.0
        while not shared.newest() and time.monotonic() < deadline:
            time.sleep(0.05)
        (progress,) = shared.newest().values()
        assert progress.share == 0.25
        assert 0.0 <= progress.seconds < 5.0
    finally:
        shared.end()
    shared.newest()  # a board that is gone disturbs nobody


def _tell(report: Reporter) -> None:
    report("begin", 0.25)
    report("at once", 0.5)  # within a second: left out
