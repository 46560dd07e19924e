"""The wings of a room import one way: each only those before it in the list."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.wings import imported_modules, wings_of, wrong_imports

ORDER = {
    "distributed": ["settings", "storage", "models", "tracking", "cluster", "jobs", "tuning", "cli"],
}
MOST_FILES = 12


def test_no_wing_imports_a_later_one() -> None:
    assert wrong_imports(ORDER) == []


@pytest.mark.parametrize("room", ORDER)
def test_a_wing_is_small(room: str) -> None:
    root = Path(__file__).resolve().parents[2] / room
    sizes = {wing: len(list((root / wing).glob("*.py"))) for wing in wings_of(root)}
    assert {wing: size for wing, size in sizes.items() if size > MOST_FILES} == {}


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
