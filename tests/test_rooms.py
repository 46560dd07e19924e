"""Imports go one way: tasks <- policies <- meta <- distributed <- metasrl."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ABOVE = {
    "tasks": {"policies", "meta", "distributed", "metasrl", "torch", "ray", "mlflow"},
    "policies": {"meta", "distributed", "metasrl", "ray", "mlflow"},
    "meta": {"distributed", "metasrl", "ray", "mlflow"},
    "distributed": {"metasrl"},
}


def _modules(*rooms: str) -> list[str]:
    files = sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))
    assert files
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]


def _imported(source: str, package: str) -> set[str]:
    """Top-level names of every import in ``source``, at whatever depth; relative ones count as ``package``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(package if node.level else str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("room", ABOVE)
def test_no_module_imports_a_room_above_it(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        wrong = _imported(path.read_text(), room) & ABOVE[room]
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_the_check_sees_imports_inside_functions_and_of_parts() -> None:
    source = "import meta.learning.updates as u\ndef f():\n    from ray.util import queue\n    from . import crpo\n"
    assert _imported(source, "policies") == {"meta", "ray", "policies"}


@pytest.mark.parametrize(
    ("rooms", "absent"),
    [(("tasks",), {"torch", "ray", "mlflow", "policies", "meta"}), (("tasks", "policies", "meta"), {"ray", "mlflow"})],
)
def test_importing_the_rooms_loads_nothing_heavier(rooms: tuple[str, ...], absent: set[str]) -> None:
    modules = _modules(*rooms)
    program = f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    assert set(modules) <= loaded
    assert not loaded & absent
