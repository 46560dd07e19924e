"""``summary.json`` is typed: what was written is read back, what does not fit is refused by key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from meta.reporting.summary import SCHEMA_FILE, SummaryError, json_schema, parse_summary
from tests.meta.reporting.test_page import summary

ROOT = Path(__file__).resolve().parents[3]


def content() -> dict[str, Any]:
    return dict(json.loads(summary().to_json()))


def test_a_summary_comes_back_as_it_was_written() -> None:
    assert parse_summary(summary().to_json()) == summary()
    assert content()["schema_version"] == 1
    assert content()["test"]["random"]["cost_curve"] == [[0.5, 0.1], [0.4, 0.2], [0.3, 0.3]]


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("taog", "good", "taog"),
        ("schema_version", 2, "schema_version"),
        ("surprise", 1, "surprise"),
        ("estimates", {"left_out": 1}, "estimates.down_weighted"),
    ],
)
def test_a_summary_that_does_not_fit_is_refused_by_key(key: str, value: object, named: str) -> None:
    with pytest.raises(SummaryError, match=named):
        parse_summary(json.dumps({**content(), key: value}))


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_other_files_are_no_summary(text: str) -> None:
    with pytest.raises(SummaryError):
        parse_summary(text)


def test_the_schema_in_the_documentation_is_up_to_date() -> None:
    assert (ROOT / SCHEMA_FILE).read_text(encoding="utf-8") == json_schema(), "run: make schemas"


def test_a_summary_satisfies_the_schema() -> None:
    schema = json.loads(json_schema())
    jsonschema.validate(content(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content(), "surprise": 1}, schema)
