"""Does it learn? The main job's own run file, with thresholds on the gap and on the violations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distributed.compare import one_seed, summarise
from distributed.config import RunConfig, load_config
from distributed.train import Workplace, workplace
from meta.comparison_settings import Method

RUN_FILE = Path(__file__).resolve().parent.parent / "deploy" / "runs" / "frozen_lake.yaml"
SEEDS = tuple(range(400, 410))


def _config(*overrides: tuple[str, str]) -> RunConfig:
    return load_config(RUN_FILE, [("tracking.enabled", "false"), ("cluster.dashboard", "false"), *overrides])


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


def _compared(config: RunConfig, methods: tuple[Method, ...]) -> dict[str, Any]:
    with workplace(config, print) as place:
        cells = [one_seed(config.model_copy(update={"seed": seed}), place, methods) for seed in SEEDS]
    return summarise(cells, config.model_copy(update={"seed": SEEDS[0]}))["test"]  # type: ignore[no-any-return]


def test_a_small_job_learns_within_seconds() -> None:
    config = _config(("family.num_tasks", "32"), ("evaluation.num_test_tasks", "10"), ("cluster.pool", "local"))
    with workplace(config, print) as place:
        assert isinstance(place, Workplace)
        test = one_seed(config, place, ("random", "meta_srl"))["test"]
    learned, random = test["meta_srl"], test["random"]
    assert learned["gap"]["mean"] <= 0.2 * random["gap"]["mean"]
    key = "violation_during_adaptation"
    assert learned[key]["mean"] <= 0.3 * random[key]["mean"]


@pytest.mark.slow
def test_main_job_with_exact_evaluation(no_token: None) -> None:
    """10 seeds, 20 held-out tasks each; intervals over seeds."""
    test = _compared(_config(), ("random", "fal", "oracle", "meta_srl"))
    learned = test["meta_srl"]
    gap, violation = (learned["ratio_to_random"][key] for key in ("gap", "violation_during_adaptation"))
    assert gap["mean"] <= 0.2
    assert violation["mean"] <= 0.15
    assert gap["ci95"][1] < 1.0
    assert violation["ci95"][1] < 1.0
    assert learned["minus_fal"]["gap"]["ci95"][0] <= 0.0
    assert learned["minus_fal"]["violation_during_adaptation"]["ci95"][0] <= 0.0
    assert learned["gap"]["mean"] <= 3.0 * test["oracle"]["gap"]["mean"]


@pytest.mark.slow
def test_main_job_with_sampled_evaluation(no_token: None) -> None:
    """10 seeds, 20 held-out tasks each; intervals over seeds."""
    learned = _compared(_config(("within_task.evaluation", "sampled")), ("random", "meta_srl"))["meta_srl"]
    for key in ("gap", "violation_during_adaptation"):
        ratio = learned["ratio_to_random"][key]
        assert ratio["mean"] <= 0.5
        assert ratio["ci95"][1] < 1.0
