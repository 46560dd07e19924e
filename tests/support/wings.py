"""Checks on the syntax tree that imports between the wings of a room go one way."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def imported_modules(source: str) -> set[str]:
    """Dotted names of all modules that ``source`` imports, inside functions too.

    ``from a.b import c`` counts as an import of both ``a.b`` and ``a.b.c``, since c may be a module.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not used"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def wings_of(room: Path) -> set[str]:
    """Sub-packages of a room."""
    return {path.parent.name for path in room.glob("*/__init__.py")}


def wrong_imports(order: Mapping[str, Sequence[str]], root: Path = ROOT) -> list[str]:
    """Violations of the order, as text.

    ``order`` lists the wings of every room: a wing may import itself and earlier wings only. A module at the top of a
    room may import every wing, and no wing may import it. A wing without a place in the order is a violation.
    """
    wrong = []
    for room, wings in order.items():
        folder = root / room
        wrong += [f"{room}/{wing} has no place in the order" for wing in sorted(wings_of(folder) - set(wings))]
        wrong += [f"{room}/{wing} does not exist" for wing in wings if not (folder / wing).is_dir()]
        top = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        for place, wing in enumerate(wings):
            forbidden = {*wings[place + 1 :], *top}
            for path in sorted((folder / wing).rglob("*.py")):
                names = {tuple(name.split(".")[:2]) for name in imported_modules(path.read_text(encoding="utf-8"))}
                later = sorted(name[1] for name in names if name[0] == room and name[-1] in forbidden)
                wrong += [f"{path.relative_to(root)} imports {room}.{name}" for name in later]
    return wrong
