"""The wheel, installed outside the checkout; and what another package of the name of one of ours does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from metasrl.own_rooms import ROOMS, HiddenPackageError, require_own_rooms
from tests.distributed.helpers import ROOT

PACKAGED = (*ROOMS, "metasrl")
FILES = (
    "import sys, json\n"
    "from setuptools import Distribution\n"
    "from setuptools.config.pyprojecttoml import apply_configuration\n"
    "whole = apply_configuration(Distribution({'script_name': 'setup.py'}), 'pyproject.toml')\n"
    "whole.include_package_data = False\n"
    "build = whole.get_command_obj('build_py')\n"
    "build.ensure_finalized()\n"
    "print(json.dumps(build.get_outputs(include_bytecode=False)))\n"
)
"""Lists what a wheel would hold, and builds nothing."""


def _dask(folder: Path) -> Path:
    """A package like Dask's scheduler in ``folder``."""
    package = folder / "distributed"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("raise SystemExit('Dask was imported')\n")
    (package / "scheduler.py").touch()
    return package


def _run(words: list[str], folder: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """A command in ``folder`` that sees nothing of the checkout but what ``path`` holds."""
    given = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    given |= {"PYTHONPATH": os.pathsep.join(map(str, path))} if path else {}
    return subprocess.run(words, cwd=folder, env=given, capture_output=True, text=True, check=False)


def test_everything_in_the_packages_goes_into_the_wheel() -> None:
    done = subprocess.run([sys.executable, "-c", FILES], cwd=ROOT, capture_output=True, text=True, check=True)
    built = {Path(name).relative_to("build/lib").as_posix() for name in json.loads(done.stdout.splitlines()[-1])}
    there = {
        (Path(folder) / name).relative_to(ROOT).as_posix()
        for package in PACKAGED
        for folder, _, names in os.walk(ROOT / package, followlinks=True)
        for name in names
        if "__pycache__" not in folder
    }
    assert "meta/reporting/page.html.j2" in there
    assert there - built == set()


def test_a_package_of_another_that_comes_first_is_named_with_the_cure(tmp_path: Path) -> None:
    _dask(tmp_path / "dask")
    done = _run([sys.executable, "-m", "metasrl", "--version"], tmp_path, tmp_path / "dask", ROOT)
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"`distributed` is {tmp_path}/dask/distributed/__init__.py, which hides metasrl's" in done.stderr
    assert "metasrl-env/bin/pip install" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "tasks.py").touch()
    done = _run([sys.executable, "-c", "import metasrl; metasrl.train('frozen_lake')"], tmp_path, ROOT)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"metasrl.own_rooms.HiddenPackageError: `tasks` is {tmp_path}/tasks.py, which hides")
    assert last.endswith("Rename tasks.py, or start Python from another folder")


def test_a_package_written_over_ours_is_named_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PACKAGED:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text((ROOT / name / "__init__.py").read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ROOMS:
        monkeypatch.delitem(sys.modules, name)
    require_own_rooms(tmp_path)
    _dask(tmp_path)
    with pytest.raises(HiddenPackageError, match=r"was installed over metasrl's, in .*pip uninstall distributed"):
        require_own_rooms(tmp_path)
    (tmp_path / "distributed" / "__init__.py").unlink()
    with pytest.raises(HiddenPackageError, match=r"`distributed` is not installed beside|which hides metasrl's"):
        require_own_rooms(tmp_path)


def test_programs_that_expect_dasks_package_are_told() -> None:
    import distributed

    with pytest.raises(ImportError, match="Client is of Dask's package `distributed`, but this one is metasrl's"):
        from distributed import Client  # type: ignore[attr-defined]  # noqa: F401
    assert not hasattr(distributed, "no_such_part")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment with the wheel, which borrows the other packages of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    packing = subprocess.run(["tar", "c", "-T", "-"], cwd=ROOT, input=names.encode(), capture_output=True, check=True)
    (folder / "source").mkdir()
    subprocess.run(["tar", "x", "-C", folder / "source"], input=packing.stdout, check=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source"]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("metasrl-*.whl")
    home = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    target = ["--python", home / "bin" / "python", "install", "--no-deps", "--no-index", wheel]
    subprocess.run([*pip, *target], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # its own .pth files are not read
    return home / "bin"


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    def metasrl(*words: str) -> str:
        done = _run([str(installed / "metasrl"), *words], tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert metasrl("--version") == "metasrl 0.1.0\n"
    asked = "import metasrl, distributed; print(metasrl.train.__module__, metasrl.__file__, distributed.__file__)"
    name, *places = _run([str(installed / "python"), "-c", asked], tmp_path).stdout.split()
    assert (name, len(places)) == ("metasrl.training", 2)
    assert all(place.startswith(str(installed.parent)) for place in places)
    for name in ("frozen_lake", "half_cheetah_velocity_context", "paper/frozen_lake_high"):
        assert "training tasks of" in metasrl("train", name, "--dry-run")
    small = [
        "--family.num_tasks",
        "8",
        "--evaluation.num_test_tasks",
        "2",
        "--evaluation.methods",
        "[random, meta_srl]",
    ]
    metasrl("train", "frozen_lake", *small, "--tracking.enabled", "false")
    (page,) = tmp_path.glob("runs/frozen_lake/*/report.html")
    assert "</html>" in page.read_text(encoding="utf-8")
    metasrl("adapt", "latest", "--task-index", "1")
    metasrl("init", "shop")
    done = _run([str(installed / "metasrl"), "train", "own_family.yaml", "--dry-run"], tmp_path / "shop")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_wheel_has_its_licence_and_refuses_to_run_below_dask(installed: Path, tmp_path: Path) -> None:
    (site,) = installed.parent.glob("lib/python*/site-packages")
    (licence,) = site.glob("metasrl-*.dist-info/licenses/LICENSE")
    assert licence.read_bytes() == (ROOT / "LICENSE").read_bytes()
    own = (site / "distributed" / "__init__.py").read_bytes()
    try:
        _dask(site)  # as pip does, without a word
        done = _run([str(installed / "metasrl"), "--version"], tmp_path)
    finally:
        (site / "distributed" / "__init__.py").write_bytes(own)
    assert done.returncode == 2
    assert "another package `distributed` was installed over metasrl's" in done.stderr
