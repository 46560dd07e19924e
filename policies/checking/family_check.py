"""Check a user's family against the contract and explain every violation: ``metasrl check-family``."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from policies.checking.context_check import check_context
from policies.checking.evidence import check_answers, check_making
from policies.checking.family_form import FORM_CHECKS, Check, Form, check_tasks, ok, wrong
from policies.checking.family_steps import STEP_CHECKS, check_returned
from policies.checking.limit_probe import check_probe
from policies.checking.recording import Bounds
from tasks.contract.family_registry import FamilyError, make_family
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.contract.timeout import code_of_others, step_seconds
from tasks.stepping.copies import WorkingDirectory

NUM_TASKS = 16
"""Length of the training sequence of the family that is checked."""
_RECORDING = 0.04
"""Share of the time that one recording may take."""
_STEP_SECONDS = 5.0
"""Time limit of one reset or step in a check, unless the family allows less."""


def check_family(
    name: str,
    parameters: dict[str, Any],
    seed: int,
    seconds: float,
    num_tasks: int = NUM_TASKS,
    recording_seconds: float | None = None,
) -> tuple[Check, ...]:
    """Every check of the family that ``name`` and its ``parameters`` make, in about ``seconds``.

    Where something is wrong, the checks that build on it are skipped. One recording takes ``recording_seconds`` at most
    (None: a share of ``seconds``). The working directory is afterwards what it was.
    """
    recording = _RECORDING * seconds if recording_seconds is None else recording_seconds
    before = WorkingDirectory()
    try:
        found = tuple(_checks(name, parameters, seed, num_tasks, recording, time.monotonic() + seconds))
    finally:
        before.restore()
    names = {check.name for check in found}
    waiting = (Check(one, "skipped", "runs once the error above is fixed") for one in NAMES if one not in names)
    return (*found, *waiting)


def table(checks: tuple[Check, ...]) -> str:
    """The checks as a Markdown table, and a last line."""
    rows = [f"| {check.name} | {check.verdict} | {_cell(check.finding)} |" for check in checks]
    counts = {verdict: sum(check.verdict == verdict for check in checks) for verdict in ("wrong", "warning")}
    last = "The family satisfies the contract" if not counts["wrong"] else f"{counts['wrong']} wrong"
    if counts["warning"]:
        last += f"; {counts['warning']} warning(s)"
    return "\n".join(["| check | result | what was found |", "|---|---|---|", *rows, "", f"{last}."])


def broken(checks: tuple[Check, ...]) -> bool:
    """Whether anything is wrong."""
    return any(check.verdict == "wrong" for check in checks)


def _checks(
    name: str, parameters: dict[str, Any], seed: int, num_tasks: int, recording: float, deadline: float
) -> Iterator[Check]:
    try:
        family, again = (make_family(name, seed=seed, num_tasks=num_tasks, parameters=parameters) for _ in range(2))
    except FamilyError as error:
        yield wrong("loads", str(error))
        return
    yield ok("loads", f"class {type(family).__name__} in {Path(inspect.getfile(type(family))).name}")
    form = Form(name, family, again, seed)
    for check in FORM_CHECKS:
        result, _ = _guarded(check, form)
        yield result
        if result.verdict == "wrong":
            return
    result, tasks = _guarded(check_tasks, form)
    yield result
    if tasks:
        yield from _with_tasks(family, tasks, recording, deadline)


def _with_tasks(family: TaskFamily, tasks: tuple[Task, ...], recording: float, deadline: float) -> Iterator[Check]:
    result, _ = _guarded(check_making, family, tasks)
    yield result
    if result.verdict == "wrong":
        return
    yield _guarded(check_context, family, tasks)[0]
    bounds = Bounds(family.horizon, recording, min(_STEP_SECONDS, step_seconds(family)))
    result, evidence = _guarded(check_answers, family, tasks, bounds)
    yield result
    if evidence is None:
        return
    result, _ = _guarded(check_returned, evidence)
    yield result
    if result.verdict == "wrong":
        return
    stage = tuple(_guarded(check, evidence)[0] for check in STEP_CHECKS)
    yield from stage
    if broken(stage):
        return
    took = min(episode.seconds / len(episode.steps) for episode in evidence.episodes)  # others met a busy machine
    yield _guarded(check_probe, family, tasks[0], max(deadline - time.monotonic(), 0.0), took)[0]


def _guarded(check: Callable[..., Any], *subjects: Any) -> tuple[Check, Any]:
    """The result of ``check``, and what it passes to later checks; an exception in the family is a finding too."""
    try:
        with code_of_others(lambda: "the family"):
            found = check(*subjects)
    except TaskError as error:
        return wrong(_name(check), str(error)), None
    except Exception as error:
        return wrong(_name(check), f"the family raised {type(error).__name__}: {error}"), None
    return found if isinstance(found, tuple) else (found, None)


def _name(check: Callable[..., Any]) -> str:
    return check.__name__.removeprefix("check_")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


NAMES = (
    "loads",
    *(_name(check) for check in FORM_CHECKS),
    _name(check_tasks),
    _name(check_making),
    _name(check_context),
    _name(check_answers),
    _name(check_returned),
    *(_name(check) for check in STEP_CHECKS),
    _name(check_probe),
)
"""All checks, in their order."""
