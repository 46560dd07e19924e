"""The documentation site builds without a warning, holds every page, and loads nothing from other places."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.helpers import ROOT, environment

PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_there_and_found_by_the_search(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    for page in PAGES:
        name = page.relative_to(ROOT / "docs").with_suffix("")
        assert (site / f"{name}.html").is_file(), name
        assert f'"{name}"' in index


@pytest.mark.slow
def test_no_page_loads_anything_from_other_places(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]*\bsrc="([^"]+)"|<link[^>]*rel="stylesheet"[^>]*href="([^"]+)"', text
        )
        assert not [url for pair in loaded for url in pair if "://" in url], page.name


@pytest.mark.slow
def test_the_python_reference_has_signatures_and_docstrings(site: Path) -> None:
    text = (site / "reference.html").read_text(encoding="utf-8")
    for name in ("train", "load", "adapt", "Run", "Adapted", "Policy", "LearnedStart", "Family"):
        assert f'id="metasrl.{name}"' in text or f'id="tasks.contract.family.{name}"' in text, name
    assert "deterministic" in text
