"""Rates that are scaled for new tasks of fewer updates: in the run, its start's files, and every new task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distributed.models.meta_policy import STEM, load_meta_policy
from distributed.storage.csv_tables import read_rows
from tests.distributed.helpers import exit_code, finished, summary_of, tiny


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with eight updates of a training task and two of a new one."""
    raw = tiny(
        within_task={"num_iterations": 8},
        evaluation={"num_iterations": 2},
        meta={"learning_rates": {"new_tasks": "scaled"}},
    )
    return finished(tmp_path_factory.mktemp("deep"), raw)


def test_held_out_tasks_and_the_starts_files_have_twice_the_rates_of_a_fourth_of_the_updates(deep: Path) -> None:
    summary = summary_of(deep)
    learned = np.array(summary["learning_rates"])
    np.testing.assert_array_equal(summary["test"]["meta_srl"]["learning_rates"], 2.0 * learned)
    (start,) = load_meta_policy(deep / STEM).starts.starts
    np.testing.assert_array_equal(start.learning_rates, 2.0 * learned)


@pytest.mark.parametrize("of", ["run", "files"])
def test_a_new_task_is_solved_as_in_the_run(deep: Path, of: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("adapt", deep if of == "run" else deep / STEM, "--task-index", "1") == 0
    told = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    rows = [row for row in read_rows(deep / "held_out.csv") if row["method"] == "meta_srl" and row["task_index"] == 1]
    assert [(cells[5].strip(), cells[6].strip()) for cells in told] == [
        (f"{float(row['reward']):.4f}", f"{float(row['cost_1']):.4f}") for row in rows
    ]
    assert len(rows) == 3
