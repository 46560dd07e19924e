"""Cells that lie in the repository: each belongs to a row of its page, as its settings are today."""

from __future__ import annotations

from benchmarks.learning import contexts, within_task

NAMES = [algorithm.name for algorithm in within_task.ALGORITHMS]


def test_every_cell_of_a_robot_is_one_of_its_page() -> None:
    parts = [*within_task.ROBOTS, *within_task.RUN_FILES]
    jobs = within_task.jobs_of(parts, NAMES, within_task.ROBOT_STEPS)
    found = {path for part in parts for path in (within_task.CELLS / part).glob("*/*.json")}
    assert found
    assert not sorted(found - {job.path for job in jobs}), "cells of settings that have changed: remove them"


def test_every_cell_of_the_contexts_is_one_of_their_page() -> None:
    paths = {
        contexts.path_of(setting, variant, seed)
        for setting in contexts.SETTINGS
        for variant in setting.variants
        for seed in setting.seeds
    }
    found = {path for path in contexts.CELLS.glob("*/*/*.json") if not path.name.startswith("point-")}
    assert found
    assert not sorted(found - paths), "cells of settings that have changed: remove them"
