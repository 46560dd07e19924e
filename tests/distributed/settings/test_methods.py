"""within_task.method in run files, and in settings of somebody else, whose code never runs unnamed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributed.settings.admission import admitted
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_file import load_config, parse_config
from distributed.storage.run_directory import RunDirectory
from policies.rules.rule import View
from policies.rules.rule_registry import MethodSettings

ROOT = Path(__file__).resolve().parents[3]
LAKE = ROOT / "deploy" / "runs" / "frozen_lake.yaml"
SMALL: dict[str, Any] = {"name": "own", "family": {"name": "frozen_lake", "num_tasks": 2}}
OWN = """
import pathlib
pathlib.Path({mark!r}).touch()


class Nothing:
    def first(self, num_costs):
        return ()

    def decide(self, view, memory):
        raise NotImplementedError
"""


def _own(folder: Path) -> tuple[str, Path]:
    """The name of a method in a file in ``folder``, and the file that its code makes."""
    folder.mkdir(exist_ok=True)
    mark, file = folder / "ran", folder / "my_method.py"
    file.write_text(OWN.format(mark=str(mark)))
    return f"{file}:Nothing", mark


def test_a_run_file_chooses_a_method_and_its_settings() -> None:
    config = load_config(LAKE, [("within_task.method.name", "p3o"), ("within_task.method.clipped.epochs", "3")])
    assert config.within_task.method == MethodSettings.model_validate({"name": "p3o", "clipped": {"epochs": 3}})
    assert parse_config(config.model_dump(mode="json"), "again").digest() == config.digest()
    assert config.digest() != load_config(LAKE).digest()
    assert load_config(LAKE, [("within_task.method.name", "crpo")]).digest() == load_config(LAKE).digest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "trpo"}, "within_task.method: .*no method is called 'trpo'"),
        ({"name": "cpo", "kappa": 1}, "within_task.method: .*kappa: cpo has no such setting"),
        ({"name": "nowhere.py:Rule"}, "within_task.method.name: there is no file 'nowhere.py'"),
    ],
)
def test_a_wrong_method_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_config({**SMALL, "within_task": {"method": changes}}, "own.yaml")


def test_a_method_of_ones_own_runs_from_ones_own_run_file(tmp_path: Path) -> None:
    name, mark = _own(tmp_path)
    parse_config({**SMALL, "within_task": {"method": {"name": name}}}, "own.yaml")
    assert mark.exists()


@pytest.mark.parametrize(
    ("named", "inside", "message"),
    [
        (None, False, "is code: --method .* runs it, if you trust it"),
        ("other.py:Rule", False, "--method: here names the method .*, not other.py:Rule"),
        ("own", True, "within_task.method.name: .* is inside the run directory"),
    ],
)
def test_a_method_of_somebody_else_does_not_run(tmp_path: Path, named: str, inside: bool, message: str) -> None:
    name, mark = _own(tmp_path / "theirs")
    raw = {**SMALL, "within_task": {"method": {"name": name}}}
    with pytest.raises(ConfigurationError, match=message):
        admitted(raw, "here", None, tmp_path / "theirs" if inside else None, name if named == "own" else named)
    assert not mark.exists()
    assert admitted(raw, "here", None, tmp_path / "elsewhere", name).within_task.method.name == name
    assert mark.exists()


def test_the_examples_in_the_docs_are_rules(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "algorithms.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "greedy.py").write_text(block)
    rule = MethodSettings.model_validate({"name": f"{tmp_path / 'greedy.py'}:Greedy", "price": 2.0}).make()
    view = View(
        np.array([1.0, 3.0]), np.array([2.0]), np.zeros(1), np.full(2, 0.1), lambda: np.eye(2), lambda: np.ones(2)
    )
    memory = rule.first(1)
    for price in (4.0, 8.0):
        decision = rule.decide(view, memory)
        memory = decision.memory
        np.testing.assert_allclose(decision.coefficients, [0.1, -0.1 * price])


def test_the_source_of_a_method_belongs_to_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, _ = _own(tmp_path)
    config = parse_config({**SMALL, "within_task": {"method": {"name": name}}}, "here")
    assert config.code == {"family.name": "frozen_lake", "within_task.method.name": name}
    path = RunDirectory.create(config).path
    RunDirectory.open(path, config)
    (tmp_path / "my_method.py").write_text("class Nothing: ...")
    with pytest.raises(ConfigurationError, match=r"or the method .*my_method.py:Nothing has another source .*changed"):
        RunDirectory.open(path, config)
