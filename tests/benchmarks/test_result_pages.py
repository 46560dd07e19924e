"""Pages of results: each says which command made it, at which commit; none was made while sources were changed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.result_page import RESULTS

PAGES = sorted(RESULTS.glob("*.md"))
MADE = re.compile(r"^`(make|python|metasrl) .+?` at commit `[0-9a-f]{40}`[ .]")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_it_names_its_command_and_a_commit_that_has_its_sources(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert sum(MADE.match(line) is not None for line in lines[:6]) == 1
