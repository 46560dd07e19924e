"""No command runs code that somebody's run directory, start or model names; the user's own runs where it is named."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from distributed.jobs import adapt as adapt_job
from distributed.models.meta_policy import STEM, load_meta_policy, save_meta_policy
from distributed.models.model_registry import Registered, register
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.storage.object_store import Entry, files_of, object_name
from distributed.storage.run_directory import load_run_config, stored_config
from tasks.contract.family_registry import FamilyError, family_class
from tests.distributed.helpers import command, exit_code, finished, only_run, run_file, tiny

STAMP = "20260101T000000"
PLACE = Path("runs") / "tiny" / STAMP
"""Of the planted run directory, below the working directory."""
Plant = Callable[[Path, str], str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on small lakes."""
    return finished(tmp_path_factory.mktemp("trained"), tiny())


@pytest.fixture(autouse=True)
def imports(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The import path and the modules of a fresh process, as far as planted code is concerned."""
    elsewhere = [entry for entry in sys.path if not entry.startswith(str(workplace.parent))]
    monkeypatch.setattr(sys, "path", elsewhere)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("runs", "link_into", "linked_package", "my_lakes"):
            del sys.modules[name]


@pytest.fixture
def marker(workplace: Path) -> Path:
    """The file that planted code writes."""
    return workplace / "ran"


@pytest.fixture
def evil(marker: Path) -> str:
    """Planted code: it writes the marker when it is imported, and defines a class."""
    return f"from pathlib import Path\nPath({str(marker)!r}).touch()\nclass X: ...\nFrozenLake = X\n"


def written(path: Path, code: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    return path


def plant_file(run: Path, code: str) -> str:
    written(run / "evil.py", code)
    return f"{PLACE}/evil.py:X"


def plant_absolute_file(run: Path, code: str) -> str:
    return f"{written(run / 'evil.py', code)}:X"


def plant_roundabout_file(run: Path, code: str) -> str:
    written(run / "evil.py", code)
    return f"runs/../{PLACE}/plots/../evil.py:X"


def plant_dotted(run: Path, code: str) -> str:
    written(run / "evil.py", code)
    return f"runs.tiny.{STAMP}.evil:X"


def plant_package(run: Path, code: str) -> str:
    written(run / "pkg" / "__init__.py", code)
    written(run / "pkg" / "inner.py", "class X: ...")
    return f"runs.tiny.{STAMP}.pkg.inner:X"


def plant_directory_as_package(run: Path, code: str) -> str:
    written(run / "__init__.py", code)
    written(run / "inner.py", "class X: ...")
    return f"runs.tiny.{STAMP}.inner:X"


def plant_link_into(run: Path, code: str) -> str:
    Path("link_into.py").symlink_to(written(run / "evil.py", code))
    return "link_into:X"


def plant_linked_file(run: Path, code: str) -> str:
    Path("linked_file.py").symlink_to(written(run / "evil.py", code))
    return "linked_file.py:X"


def plant_linked_package(run: Path, code: str) -> str:
    Path("linked_package").symlink_to(written(run / "pkg" / "__init__.py", code).parent)
    return "linked_package:X"


def plant_link_out_of(run: Path, code: str) -> str:
    (run / "out.py").symlink_to(written(Path("elsewhere") / "evil.py", code).resolve())
    return f"{PLACE}/out.py:X"


def plant_in_another_run(run: Path, code: str) -> str:
    written(run.parent / "20260101T000001" / "evil.py", code)
    return "runs.tiny.20260101T000001.evil:X"


def plant_elsewhere(run: Path, code: str) -> str:
    del run
    return f"{written(Path('elsewhere') / 'evil.py', code).resolve()}:X"


def plant_a_built_ins_module(run: Path, code: str) -> str:
    written(run / "tasks" / "lakes" / "frozen_lake.py", code)
    return f"runs.tiny.{STAMP}.tasks.lakes.frozen_lake:FrozenLake"


INSIDE: list[Plant] = [
    plant_file,
    plant_absolute_file,
    plant_roundabout_file,
    plant_dotted,
    plant_package,
    plant_directory_as_package,
    plant_link_into,
    plant_linked_file,
    plant_linked_package,
    plant_a_built_ins_module,
]
"""Families whose code is in the run directory itself: they never run, whatever is named."""
OUTSIDE: list[Plant] = [plant_link_out_of, plant_in_another_run, plant_elsewhere]
"""Families elsewhere on this machine: they run only where they are named."""


QUICK = (plant_file, plant_dotted, plant_package, plant_link_into, plant_elsewhere)
EVERY_PLANT = [
    plant if plant in QUICK else pytest.param(plant, marks=pytest.mark.slow) for plant in (*INSIDE, *OUTSIDE)
]
"""One of each sort in every run of the tests, and all."""


def named_by(plant: Any) -> str:
    return str(getattr(plant, "__name__", plant)).removeprefix("plant_")


def planted(trained: Path, plant: Plant, code: str) -> str:
    """Copy the run into the working directory, plant a family in all its files, and return the family's name."""
    run = PLACE.resolve()
    shutil.copytree(trained, run)
    name = plant(run, code)
    raw = yaml.safe_load((run / "config.yaml").read_text())
    raw["family"] = {"name": name, "num_tasks": 8}
    (run / "config.yaml").write_text(yaml.safe_dump(raw))
    policy = load_meta_policy(run / STEM)
    settings = {**policy.settings, "family": raw["family"]}
    save_meta_policy(run / STEM, dataclasses.replace(policy, settings=settings))
    return name


RUNNING = [
    ["adapt", str(PLACE)],
    ["adapt", str(PLACE / STEM)],
    ["watch", str(PLACE)],
    ["report", str(PLACE), "--video"],
    ["register", str(PLACE), "lakes"],
]
"""Commands that make tasks, and so need the family."""
READING = [
    ["report", str(PLACE)],
    ["inspect", str(PLACE)],
    ["inspect", str(PLACE / STEM / f"{STEM}.json")],
    ["export", str(PLACE), "start.onnx"],
]
"""Commands that only read."""
CONTINUING = [
    ["train", "run.yaml", "--resume", str(PLACE)],
    ["sweep", "run.yaml", "--vary", "dice.failed_weight=uniform(0.1, 0.9)", "--resume", str(PLACE)],
]
"""Commands whose family is that of the run file."""


@pytest.mark.parametrize("plant", EVERY_PLANT, ids=named_by)
def test_no_command_runs_what_a_run_directory_names(
    plant: Plant, trained: Path, evil: str, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = planted(trained, plant, evil)
    run_file(Path.cwd(), tiny())
    for arguments in RUNNING:
        assert exit_code(*arguments) == 2, arguments
        told = " ".join(capsys.readouterr().err.split())
        assert "is inside the run directory" in told or f"choose by --family {name}" in told, arguments
    for arguments in READING:
        assert exit_code(*arguments) == 0, arguments
    for arguments in CONTINUING:
        assert exit_code(*arguments) == 2, arguments
        assert str(PLACE) in capsys.readouterr().err
    assert not marker.exists()
    with contextlib.suppress(FamilyError):
        family_class(name)
    assert marker.exists(), "the plant itself works"


@pytest.mark.parametrize("plant", INSIDE, ids=named_by)
def test_code_inside_the_run_directory_does_not_run_even_if_it_is_named(
    plant: Plant, trained: Path, evil: str, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = planted(trained, plant, evil)
    for arguments in RUNNING:
        if arguments[1] == str(PLACE):
            assert exit_code(*arguments, "--family", name) == 2, arguments
            assert "is inside the run directory; read it, and move it out" in " ".join(capsys.readouterr().err.split())
    assert not marker.exists()


def test_another_family_than_the_directorys_is_not_run_in_its_place(
    trained: Path, evil: str, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = planted(trained, plant_elsewhere, evil)
    for arguments in RUNNING[2:]:
        assert exit_code(*arguments, "--family", "frozen_lake") == 2
        told = " ".join(capsys.readouterr().err.split())
        assert f"--family: {PLACE}/config.yaml names the family {name}, not frozen_lake: name that one" in told
    assert not marker.exists()


def test_resuming_the_newest_run_makes_no_family_but_the_run_files(
    trained: Path, evil: str, marker: Path, no_plots: None, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(trained, plant_elsewhere, evil)
    assert exit_code("train", run_file(Path.cwd(), tiny()), "--resume", "latest") == 0
    assert "no earlier run with these settings" in capsys.readouterr().err
    assert not marker.exists()


def stored(run: Path, place: Path) -> str:
    """Copy a run directory as an object store holds it; its URL."""
    files = {}
    for path in files_of(run):
        content, name = path.read_bytes(), path.relative_to(run).as_posix()
        entry = Entry(hashlib.sha256(content).hexdigest(), len(content))
        target = place / object_name(name, entry)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        files[name] = dataclasses.asdict(entry)
    (place / "manifest.json").write_text(json.dumps({"schema_version": 1, "files": files}))
    return f"file://{place}"


@pytest.mark.parametrize("plant", [plant_file, plant_dotted, plant_elsewhere], ids=named_by)
def test_a_run_directory_in_an_object_store_runs_nothing(
    plant: Plant, trained: Path, evil: str, marker: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(trained, plant, evil)
    url = stored(PLACE, workplace / "store" / "tiny" / STAMP)
    for arguments in (["adapt"], ["watch"], ["report", "--video"]):
        shutil.rmtree(PLACE)
        assert exit_code(arguments[0], url, *arguments[1:]) == 2
        assert "family" in capsys.readouterr().err
    raw = tiny(output={"run_dir": f"file://{workplace / 'store'}"})
    assert exit_code("train", run_file(workplace, raw), "--resume", url) == 2
    assert "leads to another result than the run file" in " ".join(capsys.readouterr().err.split())
    assert not marker.exists()


def test_a_registered_model_runs_nothing(
    trained: Path, evil: str, marker: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = planted(trained, plant_elsewhere, evil)
    found = Registered("lakes", "1", load_meta_policy(PLACE / STEM))
    monkeypatch.setattr(adapt_job, "connect", lambda uri: None)
    monkeypatch.setattr(adapt_job, "resolve", lambda client, source: found)
    assert exit_code("adapt", "models:/lakes@champion") == 2
    assert f"choose by --family {name}" in " ".join(capsys.readouterr().err.split())
    assert exit_code("export", "models:/lakes@champion", "start.onnx") == 0
    assert not marker.exists()


def test_a_start_that_names_another_family_than_its_run_is_not_registered(
    trained: Path, evil: str, marker: Path
) -> None:
    planted(trained, plant_elsewhere, evil)
    shutil.copy(trained / "config.yaml", PLACE / "config.yaml")
    nobody: Any = None
    with pytest.raises(ConfigurationError, match="choose by --family"):
        register(nobody, PLACE, "lakes", None, Console())
    with pytest.raises(ConfigurationError, match="not frozen_lake: name that one"):
        register(nobody, PLACE, "lakes", None, Console(), family="frozen_lake")
    assert not marker.exists()


def test_modules_beside_a_run_directory_do_not_replace_those_of_a_built_in_family(
    trained: Path, evil: str, marker: Path
) -> None:
    """In a process that starts inside the directory, whose modules would come first on the import path."""
    run = PLACE.resolve()
    shutil.copytree(trained, run)
    for name in ("gymnasium", "scipy", "pygame", "conftest", "sitecustomize", "tasks/lakes/frozen_lake"):
        written(run / f"{name}.py", evil)
    done = command(["adapt", "."], run)
    assert done.returncode == 0, done.stderr
    assert not marker.exists()


OWN = """
from tasks.lakes.frozen_lake import FrozenLake

class Lakes(FrozenLake):
    "Lakes of the user."
"""


@pytest.mark.parametrize("name", [pytest.param("my_lakes:Lakes", marks=pytest.mark.slow), "my_lakes.py:Lakes"])
def test_an_own_family_is_adapted_watched_and_reported_where_it_is_named(
    name: str, workplace: Path, no_plots: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Directly after the user's own training, in the same folder."""
    written(workplace / "my_lakes.py", OWN)
    raw = tiny(family={"name": name})
    assert exit_code("train", run_file(workplace, raw)) == 0
    run = only_run(workplace)
    assert exit_code("adapt", run) == 2
    assert f"choose by --family {name}" in " ".join(capsys.readouterr().err.split())
    tables = []
    for place in (run, run / STEM):
        assert exit_code("adapt", place, "--family", name) == 0
        tables.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("|")])
    assert tables[0] == tables[1], "the start keeps the parameters of its family"
    assert exit_code("report", run) == 0
    assert exit_code("watch", run, "--family", name, "--output", "film.gif") == 0
    assert f"metasrl adapt {run} --family {name}" in (run / "report.html").read_text().replace("&#x27;", "'")
    assert load_run_config(run, name) == stored_config(run)
    assert exit_code("train", "run.yaml", "--resume", run) == 0, "a run file names its family itself"
