"""The source of a user's family is kept with what it computed: a change is an error that names the files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distributed.jobs.cells import Cell, CellFolder
from distributed.settings.errors import ConfigurationError
from distributed.storage.checkpoints import DamagedFileError
from distributed.storage.family_sources import SOURCES, differing, sources_of
from distributed.storage.run_directory import RunDirectory
from tests.distributed.helpers import Raw, command, parsed, run_file, tiny

FAMILY = """
import slippery
from tasks.lakes.frozen_lake import FrozenLake


class Lakes(FrozenLake):
    def parameters(self, split, index, attempt):
        return {**super().parameters(split, index, attempt), "note": slippery.NOTE}
"""
CHANGED = FAMILY.replace("slippery.NOTE", "'other'")


@pytest.fixture
def folder(workplace: Path) -> Iterator[Path]:
    """A family in two files, beside a file that it does not import."""
    (workplace / "fam.py").write_text(FAMILY)
    (workplace / "slippery.py").write_text("NOTE = 'ice'\n")
    (workplace / "unused.py").write_text("")
    before, path = set(sys.modules), list(sys.path)
    yield workplace
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith(("fam_", "slippery")):
            del sys.modules[name]


def lakes() -> Raw:
    return tiny(family={"name": "fam.py:Lakes"})


def test_sources_are_the_module_and_what_it_imports_beside_it(folder: Path) -> None:
    assert set(sources_of("fam.py:Lakes")) == {"fam.py", "slippery.py"}
    assert sources_of("frozen_lake") == {}
    before = sources_of("fam.py:Lakes")
    (folder / "unused.py").write_text("changed")
    assert sources_of("fam.py:Lakes") == before
    (folder / "slippery.py").write_text("import unused\n")
    assert differing(before, sources_of("fam.py:Lakes")) == "slippery.py (changed), unused.py (new)"


def test_sources_of_a_package_are_found_by_every_form_of_import(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative and absolute ones, inside functions, in a circle, and through a file with an error."""
    inner = folder / "pack" / "inner"
    inner.mkdir(parents=True)
    (folder / "pack" / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("from . import lakes")
    (inner / "lakes.py").write_text("from ..maps import draw\ndef f():\n    import pack.late\nclass Lakes: pass")
    (folder / "pack" / "maps.py").write_text("from .inner import broken\ndraw = 1")
    (inner / "broken.py").write_text("if:")
    (folder / "pack" / "late.py").write_text("from slippery import NOTE\nfrom pack import maps")
    module = type(sys)("pack.inner.lakes")
    module.__file__ = str(inner / "lakes.py")
    monkeypatch.setitem(sys.modules, "pack.inner.lakes", module)
    assert set(sources_of("pack.inner.lakes:Lakes")) == {
        "pack/inner/lakes.py",
        "pack/maps.py",
        "pack/__init__.py",
        "pack/inner/__init__.py",
        "pack/inner/broken.py",
        "pack/late.py",
        "slippery.py",
    }


def test_the_rooms_of_this_project_are_not_a_users_source() -> None:
    import tests.distributed.families  # noqa: F401

    found = set(sources_of("tests.distributed.families:NotedLake"))
    assert {"tests/distributed/families.py", "tests/support/point_batch.py"} <= found
    assert not [name for name in found if not name.startswith("tests/")]


def test_a_resume_under_another_source_is_refused_and_possible_on_request(folder: Path) -> None:
    config = parsed(lakes())
    path = RunDirectory.create(config).path
    RunDirectory.open(path, config)
    (folder / "slippery.py").write_text("NOTE = 'mud'\n")
    with pytest.raises(ConfigurationError, match=r"another source .*: slippery.py \(changed\); .*--changed-family"):
        RunDirectory.open(path, config)
    RunDirectory.open(path, config, changed_family=True)
    RunDirectory.open(path, config)


def test_a_run_of_an_earlier_version_is_resumed_as_it_is(folder: Path) -> None:
    config = parsed(lakes())
    path = RunDirectory.create(config).path
    (path / SOURCES).unlink()
    RunDirectory.open(path, config)
    (path / SOURCES).write_text("[1]")
    with pytest.raises(DamagedFileError, match="does not say which source"):
        RunDirectory.open(path, config)


def test_a_run_of_a_built_in_family_keeps_no_source(workplace: Path) -> None:
    assert not (RunDirectory.create(parsed(tiny())).path / SOURCES).exists()


def test_a_cell_of_another_source_is_refused_or_computed_again(folder: Path) -> None:
    cell = Cell("describe", parsed(lakes()))
    CellFolder(folder / "cells").save(cell, {"seed": 3}, 1.0)
    assert CellFolder(folder / "cells").load(cell, print) is not None
    (folder / "fam.py").write_text(CHANGED)
    with pytest.raises(ConfigurationError, match=r"another source .*: fam.py \(changed\); .*--changed-family"):
        CellFolder(folder / "cells").load(cell, print)
    assert CellFolder(folder / "cells", changed_family=True).load(cell, print) is None
    path = CellFolder(folder / "cells").file(cell)
    content = json.loads(path.read_text())
    del content["family"]
    path.write_text(json.dumps(content))
    assert CellFolder(folder / "cells").load(cell, print) is not None, "of an earlier version, which does not say"


@pytest.mark.slow
def test_compare_and_train_refuse_a_changed_family_and_go_on_deliberately(folder: Path) -> None:
    raw = lakes()
    raw["evaluation"] |= {"compared": ["random", "meta_srl"], "seeds": [0], "tuning_seeds": [90], "tuning_tasks": 2}
    file = run_file(folder, raw)
    for arguments in (["train", file], ["compare", file]):
        assert command(arguments, folder).returncode == 0
    (folder / "fam.py").write_text(CHANGED)
    for arguments in (["train", file, "--resume", "latest"], ["compare", file]):
        refused = command(arguments, folder)
        assert refused.returncode == 2
        assert "fam.py (changed)" in " ".join(refused.stderr.split())
        assert "Traceback" not in refused.stderr
        done = command([*arguments, "--changed-family"], folder)
        assert done.returncode == 0, done.stderr
        assert command(arguments, folder).returncode == 0
    kept = json.loads((folder / "runs" / "cells" / "tiny").glob("*.json").__iter__().__next__().read_text())
    assert set(kept["family"]) == {"fam.py", "slippery.py"}
