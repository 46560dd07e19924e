"""Before every test: shapes in the signatures of the equations are checked at run time, and Ctrl-C interrupts.

The tests of one room stay together, so that what they share is started once.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

EQUATIONS = (
    "policies.exact.softmax",
    "policies.exact.solver",
    "policies.neural.advantages",
    "policies.steps.natural_gradient",
    "meta.estimators.closed_form",
    "meta.estimators.estimation",
    "meta.learning.updates",
    "meta.learning.bounds",
)
"""Modules of equations, whose signatures carry shapes."""

install_import_hook(EQUATIONS, "beartype.beartype")

os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's default of 15 its workers wait for the tests

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell does for a job in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

_TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The room with a cluster first, then the long tests of pages and notebooks; short ones fill up the end."""
    items.sort(key=lambda item: _place(item.path.relative_to(_TESTS)))


def _place(file: Path) -> int:
    if file.parts[0] == "distributed":
        return 0
    return 1 if len(file.parts) == 1 else 2
