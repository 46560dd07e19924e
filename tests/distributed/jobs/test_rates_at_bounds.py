"""A learned rate on a bound of the settings is said at the end of the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.helpers import finished, summary_of, tiny


def test_a_rate_on_its_bound_is_a_warning_that_names_the_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path, tiny(meta={"learning_rates": {"units": "absolute", "minimum": 0.999, "maximum": 1.001}}))
    found = summary_of(run)["rates_at_bounds"]
    assert found
    assert set(found.values()) <= {0.999, 1.001}
    told = " ".join(capsys.readouterr().err.split())
    assert "learned rates lie on a bound: " in told
    assert "meta.learning_rates.units to observed" in told


def test_rates_between_their_bounds_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path, tiny())
    assert summary_of(run)["rates_at_bounds"] == {}
    assert "on a bound" not in capsys.readouterr().err
