"""The notebooks run from the first cell to the last."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.distributed.helpers import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def test_notebooks_are_kept_without_outputs() -> None:
    assert len(NOTEBOOKS) == 3
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), path.name


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shutil.copy(path, tmp_path)
    notebook = nbformat.read(tmp_path / path.name, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    last = notebook.cells[-1]["outputs"]
    assert last
    assert all(entry["output_type"] != "error" for cell in notebook.cells for entry in cell.get("outputs", []))
    shown = [cell for cell in notebook.cells if re.search(r"\.plot\([^\n]*\)$", cell["source"])]
    for cell in shown:
        kinds = {kind for entry in cell["outputs"] for kind in entry.get("data", {})}
        assert "image/png" in kinds, f"no picture below: {cell['source']}"
