"""What the documentation says must stay true: examples run, every name is explained, every setting is listed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from distributed.config import dotted_fields
from distributed.run_directory import read_rows

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def example_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documented example of a family of one's own, run as its page says, with fewer tasks."""
    folder = tmp_path_factory.mktemp("example")
    for name in ("own_family.py", "own_family.yaml"):
        (folder / name).write_text((DOCS / "examples" / name).read_text())
    options = ["--cluster.pool", "local", "--family.num_tasks", "8", "--evaluation.num_test_tasks", "3"]
    command = [sys.executable, "-m", "distributed.train", "own_family.yaml", *options, "--tracking.enabled", "false"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = folder.glob("runs/*/*")
    return run


def explained(page: str) -> set[str]:
    """Everything that a page puts in backticks."""
    return set(re.findall(r"`([^`]+)`", (DOCS / page).read_text()))


def test_the_example_family_runs_and_is_short(example_run: Path) -> None:
    summary = json.loads((example_run / "summary.json").read_text())
    assert summary["num_tasks"] == 8
    assert summary["test"]["meta_srl"]["gap"]["mean"] is None, "the example has no exact model"
    code = (DOCS / "examples" / "own_family.py").read_text()
    lines = [line for line in code.splitlines() if line.strip() and not line.strip().startswith(('"""', "#"))]
    assert len(lines) <= 30
    assert code.strip() in (DOCS / "families.md").read_text(), "the page shows the file as it is"


def test_every_column_and_summary_key_is_explained(example_run: Path) -> None:
    names = {re.sub(r"_\d+$", "_i", name) for name in read_rows(example_run / "tasks.csv")[0]}
    names |= set(json.loads((example_run / "summary.json").read_text()))
    assert not names - explained("metrics.md")


def test_every_setting_is_listed() -> None:
    assert not {key for key, _, _ in dotted_fields()} - explained("configuration.md")


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md"), key=str), ids=lambda page: str(page.relative_to(DOCS)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_links_of_the_readme_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text()):
        assert (ROOT / link).exists(), link
