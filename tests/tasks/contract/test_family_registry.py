from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.family_registry import BUILT_IN, FamilyError, FamilySpec, family_class, make_family
from tasks.contract.task import TaskFamily
from tasks.lakes.frozen_lake import FrozenLake
from tests.support.user_families import CourierFamily

USER = "tests.support.user_families"


def _make(name: str, **parameters: Any) -> TaskFamily:
    return make_family(name, seed=3, num_tasks=7, parameters=parameters)


def _error(name: str, **parameters: Any) -> FamilyError:
    with pytest.raises(FamilyError) as caught:
        _make(name, **parameters)
    assert str(caught.value).startswith(f"family.{caught.value.field}: ")
    return caught.value


def test_a_built_in_family_is_found_by_name() -> None:
    assert _make("frozen_lake", map_size=4) == FrozenLake(seed=3, num_tasks=7, map_size=4)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_family_satisfies_the_contract(name: str) -> None:
    family = _make(name)
    assert isinstance(family, TaskFamily)
    drawn = family.parameters("train", 0, 0)
    assert json.loads(json.dumps(drawn)) == drawn
    limits = family.limits(drawn)
    assert isinstance(limits, float) or len(limits) == len(family.cost_names)


def test_a_spec_makes_the_same_family_after_travelling() -> None:
    spec = FamilySpec("frozen_lake", 3, 7, {"map_size": 4})
    assert pickle.loads(pickle.dumps(spec)).make() == _make("frozen_lake", map_size=4)


def test_a_users_family_is_found_by_module_and_class() -> None:
    family = _make(f"{USER}:CourierFamily", toll=0.5)
    assert family == CourierFamily(3, 7, toll=0.5)
    assert isinstance(family, TaskFamily)


def test_a_module_in_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "family_in_this_folder.py").write_text(
        "from tests.support.user_families import CourierFamily as Mine\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    assert family_class("family_in_this_folder:Mine") is CourierFamily


@pytest.mark.parametrize("name", ["frozen_pond", "", "frozen_lake:", ":FrozenLake"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    error = _error(name)
    assert error.field == "name"
    assert repr(name) in error.message
    assert (
        f"known: {', '.join(BUILT_IN)}, or give package.module:ClassName or path/to/file.py:ClassName" in error.message
    )


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("no_such_module:Family", "module 'no_such_module' does not import: ModuleNotFoundError"),
        (f"{USER}:Missing", "module 'tests.support.user_families' has no class 'Missing'"),
        (f"{USER}:Unmakeable", "could not be made: RuntimeError: no such road"),
        (f"{USER}:Incomplete", "lacks horizon, parameters, make, model, limits; see tasks.contract.task.TaskFamily"),
        (f"{USER}:NOT_A_CLASS", "NOT_A_CLASS"),
    ],
)
def test_a_family_that_cannot_be_made_reports_why(name: str, reported: str) -> None:
    error = _error(name)
    assert error.field == "name"
    assert reported in error.message


def test_a_module_that_fails_while_importing_reports_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "family_that_fails.py").write_text("raise OSError('no disk')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "does not import: OSError: no disk" in _error("family_that_fails:Family").message


@pytest.mark.parametrize(
    ("name", "allowed"), [("frozen_lake", "cluster_distance, discount"), (f"{USER}:CourierFamily", "discount, fault")]
)
def test_an_unknown_parameter_lists_the_allowed_ones(name: str, allowed: str) -> None:
    error = _error(name, speed=3)
    assert error.field == "speed"
    assert f"no such parameter; allowed: {allowed}" in error.message


@pytest.mark.parametrize(
    ("parameter", "value", "reported"),
    [
        ("map_size", 2, "greater than or equal to 4 (given: 2)"),
        ("drift", 0, "greater than or equal to 1 (given: 0)"),
        ("sequence", "random", "'iid', 'drifting' or 'clustered' (given: 'random')"),
        ("similarity", 0, "must be at least 1 (given: 0)"),
        ("similarity", "medium", "'high' or 'low' (given: 'medium')"),
    ],
)
def test_a_bad_value_names_its_field_and_what_is_allowed(parameter: str, value: object, reported: str) -> None:
    error = _error("frozen_lake", **{parameter: value})
    assert error.field == parameter
    assert reported in error.message


def test_values_that_do_not_fit_together_are_reported() -> None:
    error = _error("frozen_lake", map_size=4, sequence="clustered")
    assert "16 tiles cannot change on a map with 14 tiles" in error.message


FILE = """
import dataclasses
from helper_beside_it import TOLL
from tests.support.user_families import CourierFamily

@dataclasses.dataclass(frozen=True)
class Mine(CourierFamily):
    toll: float = TOLL
"""


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A family in a file whose name is no module's, with a helper beside it; the working directory is above."""
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.delitem(sys.modules, "helper_beside_it", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my families"
    folder.mkdir()
    (folder / "helper_beside_it.py").write_text("TOLL = 0.25\n")
    (folder / "2nd-try.py").write_text(FILE)
    return folder / "2nd-try.py"


def test_a_family_is_found_by_the_path_of_its_file(own_file: Path) -> None:
    family = _make("my families/2nd-try.py:Mine")
    assert family.toll == 0.25  # type: ignore[attr-defined]
    assert type(_make(f"{own_file}:Mine")) is type(family), "one file is imported once"
    spec = FamilySpec("my families/2nd-try.py:Mine", 3, 7, {"toll": 0.5})
    assert pickle.loads(pickle.dumps(spec)).make().toll == 0.5


def test_files_of_one_name_in_two_folders_are_two_modules(own_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "2nd-try.py").write_text(FILE.replace("= TOLL", "= 2 * TOLL"))
    tolls = [_make(f"{folder}/2nd-try.py:Mine").toll for folder in ("my families", "other")]  # type: ignore[attr-defined]
    assert tolls == [0.25, 0.5]


def test_a_file_that_is_missing_or_does_not_import_is_reported(own_file: Path) -> None:
    assert "there is no file 'none.py' in " in _error("none.py:Mine").message
    assert "has no class 'Theirs'; its classes: Mine" in _error(f"{own_file}:Theirs").message
    own_file.with_name("torn.py").write_text("import no_such_thing\n")
    for _ in range(2):
        assert "does not import: ModuleNotFoundError: No module named 'no_such_thing'" in (
            _error("my families/torn.py:Mine").message
        )


CHEETAHS = """
import gymnasium
from tasks.contract.family import Family

class Cheetahs(Family):
    cost_names = ("effort",)
    cost_limits: tuple[float, ...] = (1.0,)

    def draw(self, rng):
        return {"gravity": rng.uniform(8.0, 11.0)}

    def make(self, parameters):
        return gymnasium.make("HalfCheetah-v5")
"""


@pytest.mark.parametrize("before", ["", "import mujoco"])
def test_an_own_family_with_mujoco_writes_no_log_here(before: str, tmp_path: Path) -> None:
    """Gymnasium's model has an attribute that MuJoCo warns of whenever it is compiled."""
    (tmp_path / "cheetahs.py").write_text(CHEETAHS)
    program = (
        f"{before}\nfrom tasks.contract.family_registry import make_family\n"
        "family = make_family('cheetahs.py:Cheetahs', seed=0, num_tasks=2, parameters={})\n"
        "family.make({}).reset(seed=0)\nimport sys\nassert 'mujoco' in sys.modules"
    )
    root = str(Path(__file__).resolve().parents[3])
    words = [sys.executable, "-c", program]
    given = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(words, cwd=tmp_path, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    assert {file.name for file in tmp_path.iterdir()} <= {"cheetahs.py", "__pycache__"}
