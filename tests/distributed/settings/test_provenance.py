"""The commit that a page of results names."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from distributed.settings.provenance import git_commit


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    (tmp_path / "docs").mkdir()
    (tmp_path / "code.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "docs" / "page.md").write_text("1\n", encoding="utf-8")
    git("init")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-m", "first")
    return tmp_path


def test_a_clean_checkout_has_a_plain_commit(checkout: Path) -> None:
    assert len(git_commit(checkout)) == 40


@pytest.mark.parametrize("changed", ["docs/page.md", "docs/new_page.md"])
def test_pages_do_not_make_the_commit_of_results_dirty(checkout: Path, changed: str) -> None:
    (checkout / changed).write_text("2\n", encoding="utf-8")
    assert git_commit(checkout).endswith("-dirty")
    assert not git_commit(checkout, ignored=("docs",)).endswith("-dirty")


def test_changed_code_makes_the_commit_of_results_dirty(checkout: Path) -> None:
    (checkout / "docs" / "page.md").write_text("2\n", encoding="utf-8")
    (checkout / "code.py").write_text("x = 2\n", encoding="utf-8")
    assert git_commit(checkout, ignored=("docs",)).endswith("-dirty")


def test_an_environment_inside_another_checkout_is_of_no_commit(checkout: Path) -> None:
    inside = checkout / ".venv" / "lib" / "site-packages"
    inside.mkdir(parents=True)
    (inside / "code.py").write_text("x = 1\n", encoding="utf-8")
    assert git_commit(inside) == "unknown"
