"""A run computes on one thread of linear algebra, in its own process too, whatever the machine offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from distributed.jobs import training_job
from tests.distributed.helpers import exit_code, run_file, tiny

PARTS = ("draw_tasks", "observed", "train", "compare_starts", "measure_similarity", "run_summary", "run_figures")
"""What a run calls in its own process, from its first task to its plots."""


def threads() -> int:
    """The most threads that any library of linear algebra would use."""
    return max(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")


def test_every_part_of_a_run_has_one_thread(workplace: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, int] = {}

    def watched(name: str) -> Any:
        original = getattr(training_job, name)

        def call(*arguments: Any, **more: Any) -> Any:
            seen[name] = threads()
            return original(*arguments, **more)

        return call

    for name in PARTS:
        monkeypatch.setattr(training_job, name, watched(name))
    with threadpool_limits(2):
        if threads() == 1:
            pytest.skip("linear algebra has one thread on this machine")
        assert exit_code("train", run_file(workplace, tiny())) == 0
        assert threads() == 2, "as before the run"
    assert seen == dict.fromkeys(PARTS, 1)
