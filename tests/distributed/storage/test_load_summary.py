"""A summary is read through its model: what does not fit is an error that names file and key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distributed.settings.errors import ConfigurationError
from distributed.storage.run_directory import RunDirectory, load_summary
from tests.distributed.helpers import parsed, tiny
from tests.meta.reporting.test_page import summary


def test_a_summary_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    RunDirectory(tmp_path, parsed(tiny())).write_summary(summary())
    assert load_summary(tmp_path) == summary()


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [("tacv", "much", "tacv"), ("groups", {"tasks": 3}, "groups.num_initializations"), ("colour", "red", "colour")],
)
def test_a_summary_that_does_not_fit_is_an_error_with_file_and_key(
    tmp_path: Path, key: str, value: object, problem: str
) -> None:
    file = tmp_path / "summary.json"
    file.write_text(json.dumps({**json.loads(summary().to_json()), key: value}))
    with pytest.raises(ConfigurationError, match=problem) as caught:
        load_summary(tmp_path)
    assert str(file) in str(caught.value)
