"""The wings of a room import one way: each only those before it in the list."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.wings import ROOT, imported_modules, wings_of, wrong_imports

ORDER = {
    "tasks": ["contract", "stepping", "lakes", "classic_control", "mujoco", "safety_gymnasium"],
    "policies": [
        "exact",
        "common",
        "rules",
        "networks",
        "steps",
        "tabular",
        "neural",
        "mixtures",
        "solving",
        "checking",
        "filming",
    ],
    "meta": ["offline", "estimators", "learning", "measuring", "training", "methods", "judging", "reporting"],
    "distributed": [
        "settings",
        "storage",
        "models",
        "rllib",
        "tracking",
        "cluster",
        "solvers",
        "jobs",
        "tuning",
        "cli",
    ],
}
"""The wings of every room: each imports only those before it."""
MOST_FILES, MOST_LINES = 12, 300
TWINS = {"tabular", "neural"}
"""Wings whose files of one name are the two forms of one thing; neither imports the other."""
SHARED_NAMES = {"__init__.py", "__main__.py", "conftest.py"}


def test_no_wing_imports_a_later_one() -> None:
    assert wrong_imports(ORDER) == []


def test_tables_and_networks_do_not_import_each_other() -> None:
    before, after = ORDER["policies"][:5], ORDER["policies"][7:]
    apart = {"policies": [*before, "neural", "tabular", *after]}
    assert wrong_imports(apart) == [], "the two could change places"


@pytest.mark.parametrize("room", ORDER)
def test_a_wing_is_small(room: str) -> None:
    for wing in wings_of(ROOT / room):
        files = [path for path in (ROOT / room / wing).glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MOST_FILES, f"{room}/{wing} has {len(files)} files"
        for path in files:
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= MOST_LINES, f"{path.relative_to(ROOT)} has {lines} lines"


def test_no_two_files_have_one_name_for_different_things() -> None:
    places: dict[str, list[str]] = {}
    for room in (*ORDER, "benchmarks", "tests"):
        for path in (ROOT / room).rglob("*.py"):
            wing = "twin" if path.parent.name in TWINS else path.parent.name
            places.setdefault(path.name, []).append(wing)
    twice = {name: wings for name, wings in places.items() if len(wings) > 1 and name not in SHARED_NAMES}
    assert {name: wings for name, wings in twice.items() if set(wings) != {"twin"}} == {}


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A room ``house`` with two wings and an entry point."""
    for wing in ("early", "late"):
        (tmp_path / "house" / wing).mkdir(parents=True)
        (tmp_path / "house" / wing / "__init__.py").touch()
    (tmp_path / "house" / "entry.py").write_text("import house.late.b")
    (tmp_path / "house" / "late" / "b.py").write_text("from house.early import a")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from house.late.b import x", ["house/early/a.py imports house.late"]),
        ("def f():\n    from house import late", ["house/early/a.py imports house.late"]),
        ("import house.entry", ["house/early/a.py imports house.entry"]),
        ("import late, other.late\nfrom house.early import a", []),
    ],
)
def test_the_check_sees_every_form_of_import(room: Path, source: str, found: list[str]) -> None:
    (room / "house" / "early" / "a.py").write_text(source)
    assert wrong_imports({"house": ["early", "late"]}, room) == found


def test_the_check_sees_wings_without_a_place_and_places_without_a_wing(room: Path) -> None:
    assert wrong_imports({"house": ["early", "later"]}, room) == [
        "house/late has no place in the order",
        "house/later does not exist",
    ]


def test_imports_are_read_with_their_parts() -> None:
    assert imported_modules("import a.b as c\nfrom d.e import f, g") == {"a.b", "d.e", "d.e.f", "d.e.g"}
