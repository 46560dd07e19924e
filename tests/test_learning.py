"""Does it learn? The shipped run files of lakes, with thresholds on the gap and on the violations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distributed.jobs.cells import cell_runner
from distributed.jobs.comparison_cells import Comparison, compare_all
from distributed.settings.console import Console
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import load_config
from meta.judging.claims import DURING, GAP, seed_means
from meta.judging.protocol import judge
from meta.measuring.intervals import Interval, ratio_interval
from meta.measuring.statistics import paired_difference
from meta.training.evaluation_settings import GridPoint, MethodName

RUN_FILES = Path(__file__).resolve().parent.parent / "deploy" / "runs"
ALIKE, MAIN = RUN_FILES / "frozen_lake.yaml", RUN_FILES / "frozen_lake_context.yaml"
SEEDS = tuple(range(400, 410))


def _config(*overrides: tuple[str, str], run_file: Path = ALIKE) -> RunConfig:
    return load_config(run_file, [("tracking.enabled", "false"), ("cluster.dashboard", "false"), *overrides])


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


def _compared(
    folder: Path, methods: tuple[MethodName, ...], *overrides: tuple[str, str], run_file: Path = ALIKE
) -> Comparison:
    names = f"[{', '.join(methods)}]"
    seeds = ("evaluation.seeds", str(list(SEEDS)))
    config = _config(
        seeds, ("evaluation.compared", names), ("output.run_dir", str(folder)), *overrides, run_file=run_file
    )
    with cell_runner(config, Console()) as runner:
        return compare_all([config], runner)[0]


def _ratio(found: Comparison, measure: str) -> Interval:
    chosen = {GAP.key: GAP, DURING.key: DURING}[measure]
    return ratio_interval(
        *(seed_means(found.judged[method], chosen) for method in ("meta_srl", "random"))  # type: ignore[index]
    )


def test_a_small_job_learns_within_seconds() -> None:
    config = _config(("family.num_tasks", "32"), ("evaluation.num_test_tasks", "10"))
    learned = judge(config.experiment, "meta_srl", GridPoint())["test"]
    random = judge(config.experiment, "random", GridPoint(rate=1.0))["test"]
    assert np.mean(learned["gap"]) <= 0.2 * np.mean(random["gap"])
    assert np.mean(learned["violation_during"]) <= 0.3 * np.mean(random["violation_during"])


@pytest.mark.slow
def test_a_small_main_job_keeps_limits_that_a_single_start_breaks() -> None:
    size = (("family.num_tasks", "64"), ("evaluation.num_test_tasks", "10"))
    single = (("meta.context", "none"), ("meta.contexts", "{}"))
    knowing, blind = (
        judge(_config(*size, *changes, run_file=MAIN).experiment, "meta_srl", GridPoint())["test"]
        for changes in ((), single)
    )
    assert np.mean(knowing["violation_during"]) <= 0.5 * np.mean(blind["violation_during"])
    assert np.mean(knowing["gap"]) <= np.mean(blind["gap"]) + 0.02


@pytest.mark.slow
def test_the_main_job_breaks_limits_less_than_simple_starts(tmp_path: Path, no_token: None) -> None:
    """10 seeds, 20 held-out tasks each; intervals of differences over seeds."""
    simple: tuple[MethodName, ...] = ("random", "pretrained", "fal")
    found = _compared(tmp_path, (*simple, "meta_srl"), run_file=MAIN)
    for method in simple:
        during, gap = (
            paired_difference(*(seed_means(found.judged[one], measure) for one in ("meta_srl", method)))  # type: ignore[index]
            for measure in (DURING, GAP)
        )
        assert during.high < 0.0, method
        assert gap.low <= 0.0, method


@pytest.mark.slow
def test_alike_lakes_with_exact_evaluation(tmp_path: Path, no_token: None) -> None:
    """10 seeds, 20 held-out tasks each; intervals over seeds."""
    found = _compared(tmp_path, ("random", "fal", "oracle", "meta_srl"))
    gap, violation = _ratio(found, "gap"), _ratio(found, "violation_during")
    assert gap.mean <= 0.2
    assert violation.mean <= 0.15
    assert gap.high < 1.0
    assert violation.high < 1.0
    for measure in (GAP, DURING):
        ours, other = (seed_means(found.judged[method], measure) for method in ("meta_srl", "fal"))  # type: ignore[index]
        assert paired_difference(ours, other).low <= 0.0
    ours, oracle = (seed_means(found.judged[method], GAP).mean() for method in ("meta_srl", "oracle"))  # type: ignore[index]
    assert ours <= 3.0 * oracle


@pytest.mark.slow
def test_alike_lakes_with_sampled_evaluation(tmp_path: Path, no_token: None) -> None:
    """10 seeds, 20 held-out tasks each; intervals over seeds."""
    found = _compared(tmp_path, ("random", "meta_srl"), ("within_task.evaluation", "sampled"))
    for key in ("gap", "violation_during"):
        ratio = _ratio(found, key)
        assert ratio.mean <= 0.5
        assert ratio.high < 1.0
