"""Check a family in a process of its own, so that nothing that its code does there reaches the process that asks."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

from threadpoolctl import threadpool_limits

from policies.checking.family_check import check_family
from policies.checking.family_form import Check

LEFT_TO_TRAINING = ("answers", "returned", "observations", "rewards", "costs", "probe")
"""Checks whose faults training finds itself, in the same words, in the tasks that have them."""
_RECORDING_SECONDS = 0.2
_MOST_SECONDS = 300.0
_MARK = "metasrl-checks "
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from policies.checking.separate_check import main; main()"
)


def refusal(name: str, parameters: dict[str, Any], seed: int, num_tasks: int) -> tuple[str | None, list[str]]:
    """Why a run must not begin (None where it may), and warnings to show before it does.

    Args:
        name: of the family.
        parameters: its own parameters.
        seed: of the family.
        num_tasks: length of the training sequence.
    """
    found = checks_apart({"name": name, "parameters": parameters, "seed": seed, "num_tasks": num_tasks})
    if isinstance(found, str):
        return None, [f"the check of the family {found}; the run goes on, metasrl check-family {name} shows more"]
    wrong = [check for check in found if check.verdict == "wrong" and check.name not in LEFT_TO_TRAINING]
    notes = [check.finding for check in found if check.verdict == "warning" and check.name == "making"]
    return (wrong[0].finding if wrong else None), notes


def checks_apart(family: dict[str, Any]) -> tuple[Check, ...] | str:
    """The checks of ``family`` (arguments of :func:`check_family`), or how their process ended without them."""
    words = [sys.executable, "-c", _CODE, json.dumps(sys.path), json.dumps(family)]
    try:
        process = subprocess.run(  # noqa: S603 - our own interpreter and code
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_MOST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"did not end within {_MOST_SECONDS:g} s"
    line = process.stdout.rpartition(_MARK)[2].partition("\n")[0]
    try:
        return tuple(Check(**entry) for entry in json.loads(line))
    except ValueError:
        return f"ended without a result (exit code {process.returncode})"


def checks_here(family: dict[str, Any]) -> tuple[Check, ...]:
    """The checks of ``family`` in this process, without the probe."""
    with threadpool_limits(1):
        return check_family(**family, seconds=0.0, recording_seconds=_RECORDING_SECONDS)


def main() -> None:
    """Check the family that the second argument describes; write the checks to standard output as a marked line."""
    checks = checks_here(json.loads(sys.argv[2]))
    sys.stdout.write(f"\n{_MARK}{json.dumps([dataclasses.asdict(check) for check in checks])}\n")
    sys.stdout.flush()
