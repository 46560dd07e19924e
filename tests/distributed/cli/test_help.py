"""What the command line says of itself, and how a newcomer begins."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from distributed.cli.help_commands import EXAMPLES
from distributed.settings.keys import dotted_fields
from distributed.settings.run_file import SHIPPED
from tests.distributed.helpers import ROOT, environment, exit_code, run_file, tiny


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"metasrl {version('metasrl')}\n"


def test_help_is_short_and_cuts_no_description(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("-h") == 0
    short = capsys.readouterr().out
    assert exit_code("--help") == 0
    assert capsys.readouterr().out == short
    assert "..." not in short.split("Commands:")[1]
    assert all(len(line) <= 80 for line in short.splitlines())


def test_a_shell_completes_commands(tmp_path: Path) -> None:
    given = {**environment(), "_METASRL_COMPLETE": "complete_bash", "COMP_WORDS": "metasrl tr", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "distributed.cli"]
    done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["train"]


def test_settings_are_searched_by_key_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("settings") == 0
    listed = capsys.readouterr().out
    assert all(f"| `{key}` |" in listed for key, _, _ in dotted_fields())
    assert exit_code("settings", "Damping") == 0
    found = capsys.readouterr().out
    assert "| `within_task.trust_region.cg_damping` | `0.1` | number, at least 0 |" in found
    assert len(found.splitlines()) < 10
    assert exit_code("settings", "wram_up") == 2
    assert "close ones: meta.warm_up" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["table", "network"])
def test_init_writes_a_family_and_its_run_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code("init", "shop", "--kind", kind) == 0
    told = capsys.readouterr().err
    (family,), (file,) = Path("shop").glob("*.py"), Path("shop").glob("*.yaml")
    assert family.read_bytes() == (ROOT / "docs" / "examples" / family.name).read_bytes()
    assert f"cd shop && metasrl train {file.name}" in told
    assert exit_code("init", "shop", "--kind", kind) == 2
    assert "exists already" in capsys.readouterr().err
    monkeypatch.chdir("shop")
    named = next(word for word in told.split() if word.startswith(f"{family.name}:"))
    assert exit_code("check-family", named, "--seconds", "2") == 0
    assert exit_code("train", file.name, "--dry-run") == 0
    assert exit_code("init", "--kind", "picture") == 2


def test_what_is_shipped_is_what_the_documentation_shows() -> None:
    assert EXAMPLES.resolve() == ROOT / "docs" / "examples"
    assert SHIPPED.resolve() == ROOT / "deploy" / "runs"


def test_a_dry_run_shows_everything_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = run_file(tmp_path, tiny())
    before = set(os.listdir())
    assert exit_code("train", file, "--dry-run", "--family.num_tasks", "10") == 0
    shown = capsys.readouterr().out
    settings = yaml.safe_load(shown.split("```")[1].removeprefix("yaml"))
    assert settings["family"]["num_tasks"] == 10
    assert settings["meta"]["context"] == "none", "defaults are shown too"
    assert "10 training tasks of frozen_lake in 3 rounds, 1 at a time (local pool), 2 policy updates each" in shown
    assert "values are exact: no environment steps" in shown
    assert "then 2 held-out tasks, solved from 2 starts: random, meta_srl" in shown
    assert set(os.listdir()) == before
    assert exit_code("train", "half_cheetah_velocity_context", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "before them 1,800,000 environment steps of direct updates (meta.warm_up)" in shown
    assert "192,000 environment steps" in shown


def test_an_environment_in_place_of_a_family_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("train", "frozen_lake", "--family.name", "docs/examples/own_family.py:Machine", "--dry-run") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "own_family.py:Machine is an environment, not a family of tasks; write a class whose make(" in told
