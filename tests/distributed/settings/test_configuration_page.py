"""The tables of the configuration page follow from the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Lt, MinLen
from pydantic import Field

from distributed.settings.configuration_page import PAGE, describe, rendered, tables
from distributed.settings.keys import dotted_fields

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert page == rendered(page), "run: make reference"


def test_every_key_is_in_one_table() -> None:
    own = ("frozen_lake", "method ")  # keys of families and of rules
    lines = [line for name, rows in tables().items() if not name.startswith(own) for line in rows[2:]]
    listed = [line.split("`")[1] for line in lines]
    keys = [key for key, _, _ in dotted_fields()]
    assert set(listed) == set(keys)
    assert {key for key in keys if listed.count(key) > 1} <= {key for key in keys if key.startswith("within_task.")}, (
        "only the two algorithms share keys"
    )


def test_every_table_is_on_the_page() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    for name in tables():
        assert page.count(f"<!-- table: {name} -->") == 1


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="nothing"):
        rendered("<!-- table: nothing -->\n<!-- end -->\n")


@pytest.mark.parametrize(
    ("annotation", "metadata", "words"),
    [
        (int, (Gt(0),), "whole number, above 0"),
        (float | None, (Ge(0.0), Lt(1.0)), "number, at least 0, below 1 or `null`"),
        (tuple[Annotated[int, Field(gt=0)], ...], (MinLen(1),), "list of whole numbers, above 0, not empty"),
        (Literal["a", "b"] | int, (), "`a`, `b` or whole number"),
        (bool, (), "`true`, `false`"),
        (str | None, (), "text or `null`"),
    ],
)
def test_annotations_are_put_into_words(annotation: object, metadata: tuple[object, ...], words: str) -> None:
    assert describe(annotation, metadata) == words
