"""The page of the paper's experiments: its verdicts follow from the data, broken bounds stop it, and it can be made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.paper.experiments import configs, main
from benchmarks.paper.paper_page import family_section, verdicts
from benchmarks.paper.paper_theory import BoundBrokenError, bounds_section, noticed_by
from distributed.jobs.comparison_cells import Comparison, methods_of
from meta.methods.registry import grid_of
from meta.training.evaluation_settings import GridPoint
from tests.distributed.helpers import parsed, tiny

RUN = parsed(tiny(name="paper_tiny", family={"similarity": "high"}, evaluation={"rate_grid": [1.0, 2.0]}))


def judged(gaps: np.ndarray[Any, Any], during: np.ndarray[Any, Any], *, held: int = 6) -> list[dict[str, Any]]:
    """Cells of a method with these gaps and violations [seeds, tasks]."""
    return [
        {
            "test": {
                "gap": gap.tolist(),
                "relative_gap": gap.tolist(),
                "reward": (1.0 - gap).tolist(),
                "violation": np.zeros(gap.size).tolist(),
                "violation_during": cost.tolist(),
                "relative_violation_during": cost.tolist(),
            },
            "bounds": {
                "checked": 6,
                "held": held,
                "excess": -0.1,
                "tightness": [0.5, 0.7],
                "gap_bound": [1.0],
                "mean_gap": [0.5],
            },
        }
        for gap, cost in zip(gaps, during, strict=True)
    ]


def comparison(methods: dict[str, list[dict[str, Any]]]) -> Comparison:
    count = len(next(iter(methods.values())))
    described = [{"similarity": {"task_similarity": 0.1}, "limits_mean": [0.5]} for _ in range(count)]
    points = {method: GridPoint(rate=1.0) for method in methods}
    return Comparison(RUN, tuple(range(count)), described, {}, points, methods, [])  # type: ignore[arg-type]


@pytest.fixture
def found() -> Comparison:
    """Ten seeds of five tasks: far better than random in both, like pretrained in the gap, worse than fal in it."""
    rng = np.random.default_rng(0)
    shared, noise = rng.normal(0.0, 0.02, (10, 1)), lambda: rng.normal(0.0, 0.01, (10, 5))
    ours = 0.1 + shared + noise()
    return comparison(
        {
            "random": judged(0.5 + shared + noise(), 0.4 + noise()),
            "pretrained": judged(ours + noise(), 0.2 + noise()),
            "fal": judged(0.05 + shared + noise(), 0.02 + noise()),
            "meta_srl": judged(ours, 0.02 + noise()),
        }
    )


def row_of(lines: list[str], *words: str) -> str:
    (row,) = [line for line in lines if line.startswith("|") and all(word in line for word in words)]
    return row


def test_verdicts_follow_from_the_differences(found: Comparison) -> None:
    lines = verdicts([found])
    assert re.search(r"-0\.40\d \[.*\]: better \| -0\.3[78]\d \[.*\]: better \|", row_of(lines, "| gap | `random` |"))
    assert "no difference shown | -0.1" in row_of(lines, "| gap | `pretrained` |")
    assert ": worse |" in row_of(lines, "| gap | `fal` |")
    assert "| no | random better, pretrained no difference shown |" in row_of(lines, "| `tiny` | gap | no")
    assert "| yes | random better, pretrained better |" in row_of(lines, "| `tiny` | violation during adaptation | yes")
    assert "| `random` | 1 | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] |" in lines
    assert "| `fal` | 1 | 0.0" in "\n".join(lines)


def test_a_settings_tables_have_every_method(found: Comparison) -> None:
    lines = family_section(found, ["![a](b.png)"])
    for method in found.judged:
        assert sum(line.startswith(f"| `{method}` |") for line in lines) == 3
    assert "nan" not in "\n".join(lines)


def test_a_broken_bound_stops_the_page(found: Comparison, tmp_path: Path) -> None:
    assert "**240 checks, all hold**" in "\n".join(bounds_section([found], tmp_path))
    broken = dict(found.judged) | {"fal": judged(np.full((10, 5), 0.1), np.full((10, 5), 0.1), held=5)}
    with pytest.raises(BoundBrokenError, match="tiny, fal: 10 of 60 bounds are broken"):
        bounds_section([comparison(broken)], tmp_path)  # type: ignore[arg-type]


def test_a_signature_warns_where_nothing_improves_or_something_rises() -> None:
    good = {"improved": True, "rising": False, "improvement_p": 0.01}
    assert not noticed_by({"gap": good, "violation_during": None})
    assert noticed_by({"gap": good, "violation_during": {**good, "rising": True}})
    assert noticed_by({"gap": {**good, "improved": False}})


def test_the_run_files_are_fair() -> None:
    """Equal grids, seeds that do not choose, the same budget for every method, and all methods that there are."""
    for config in configs("local", 1, quick=False):
        evaluation = config.evaluation
        methods = methods_of(config)
        assert len({len(grid_of(evaluation, method)) for method in methods}) == 1
        assert evaluation.pretrain_iterations is None
        assert len(methods) == 9
        assert len(evaluation.seeds) >= 10
        assert max(evaluation.tuning_seeds) < 100
        assert evaluation.grid_tasks + evaluation.tuning_tasks <= config.family.num_tasks


@pytest.mark.slow
def test_the_quick_page_is_made_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path.cwd()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deploy").symlink_to(root / "deploy")
    arguments = ["--quick", "--pool", "local"]
    main(arguments)
    text = (tmp_path / "runs" / "quick" / "paper.md").read_text()
    for title in ("Protocol", "Does it beat", "Bounds", "TAOG and TACV", "Unlike tasks", "Sensitivity", "Which part"):
        assert f"\n## {title}" in text
    for picture in re.findall(r"\]\((paper/\S+\.png)\)", text):
        assert (tmp_path / "runs" / "quick" / picture).is_file()
    assert "all hold" in text
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs" / "cells").rglob("*.json")}
    main(arguments)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "runs" / "cells").rglob("*.json")} == times
