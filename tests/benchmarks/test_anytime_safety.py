"""The bench of anytime-safe adaptation: its run files, its numbers, and rows of unfinished cells."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.safety.anytime_safety import SETTINGS, lake_sampled
from benchmarks.safety.anytime_safety_page import errors, excess, lost, records_of, section, share_over, verdict
from meta.training.held_out_tasks import held_out_settings

RECORD: dict[str, Any] = {
    "over": [[True, False], [False, False]],
    "rewards": [[0.1, 0.3], [0.2, 0.5]],
    "costs": [[1.5, 0.5], [0.9, 0.8]],
    "outputs": [1, 0],
    "optima": [0.5, 0.4],
    "env_steps": [10, 10],
    "shares": [[0.0], [1.0]],
    "margins": [[0.0], [0.0]],
}
PLAIN = {**RECORD, "shares": [None, None], "margins": [None, None]}


def cells(count: int) -> list[dict[str, Any]]:
    row = {"note": "", "safe": RECORD, "plain": PLAIN, "seconds": 1.0}
    found = {"random": PLAIN, "crpo": PLAIN, "0.5": row, "0.8": row, "0.9": row, "0.95": row, "0.99": {"error": "none"}}
    return [{"commit": "a", "seed": seed, "found": found} for seed in range(count)]


def test_numbers_of_a_record() -> None:
    assert share_over(RECORD) == 0.25
    assert excess(RECORD) == pytest.approx(0.5 / 4)
    assert lost(RECORD) == pytest.approx(0.2), "0.5 - 0.3 and 0.4 - 0.2"
    assert lost({**RECORD, "optima": [None, None]}) == pytest.approx(-0.25)


def test_rows_and_verdict_of_finished_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.safety.anytime_safety_page.save", lambda *given: None)
    lakes = SETTINGS[0]
    found = verdict(lakes, cells(3))
    assert "at 95% asked, 25.0% of the deployed policies are over the limit, more than the 5% that were asked" in found
    lines = section(lakes, cells(3))
    assert any(line.startswith("| 99%, safe | 0 | - |") for line in lines)
    assert any("| 0.50, 0.50 |" in line for line in lines), "half of the steps taken, half not at all"
    assert errors(cells(3))[0] == "Seeds without a start that is safe enough: 3 at 99% (an error says so)."
    assert records_of(cells(3), "0.99", "safe") == []


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda one: one.name)
def test_every_setting_is_a_valid_run_file_and_lakes_are_known_from_episodes(setting: Any) -> None:
    for confidence in (None, *setting.confidences):
        config = setting.config(setting.seeds[0], confidence)
        assert (config.evaluation.safety is None) == (confidence is None)
        experiment = lake_sampled(config)
        assert held_out_settings(experiment.within, experiment.evaluation).evaluation == "sampled"
    assert setting.path(1) != setting.path(2)
