"""Pages of results: each says which command made it, at which commit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.result_page import RESULTS

PAGES = sorted(RESULTS.glob("*.md"))
UNCOMMITTED = {"corrections.md"}
"""Pages that were made while sources were changed: to be made again. No page may join them."""
MADE = re.compile(r"^`(make|python|metasrl) .+?` at commit `[0-9a-f]{40}(?P<dirty>-dirty)?`[ .]")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_it_names_its_command_and_a_commit_that_has_its_sources(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    found = [made for made in map(MADE.match, lines[:6]) if made]
    assert len(found) == 1
    assert (found[0]["dirty"] is not None) == (page.name in UNCOMMITTED)
