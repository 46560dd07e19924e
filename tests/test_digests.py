"""What is learned stays the same to the last bit: digests of small runs of every kind, recorded once.

Bits depend on the processor and on the linear algebra libraries. The digests are recorded for some kinds of machine
(:func:`fingerprint`). On a recorded processor they must agree. Another one with the same libraries may agree with any
of theirs; where it does not, nobody can tell a change from a processor's own bits: the test is skipped, and
``python -m tests.test_digests`` prints what to record.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from distributed.settings.run_file import load_config
from meta.training.experiment import draw
from meta.training.loop import Position, train, training_plan
from meta.training.pool import LocalLearner, LocalPool

ROOT = Path(__file__).resolve().parent.parent
FILE = Path(__file__).parent / "data" / "digests.json"
CPU = Path("/proc/cpuinfo")
SHORT = {
    "within_task.num_iterations": "2",
    "within_task.steps_per_iteration": "800",
    "within_task.num_copies": "4",
    "cluster.tasks_per_round": "2",
}
CASES: dict[str, tuple[str, dict[str, str]]] = {
    "exact lakes": ("frozen_lake", {"family.num_tasks": "24"}),
    "sampled lakes": ("frozen_lake", {"family.num_tasks": "8", "within_task.evaluation": "sampled"}),
    "networks": (
        "half_cheetah_velocity",
        {**SHORT, "family.num_tasks": "4", "meta.learning_rates.method": "ftl"},
    ),
    "networks that remember": (
        "half_cheetah_velocity",
        {**SHORT, "family.num_tasks": "4", "meta.neural.method": "ftl"},
    ),
    "networks that know their task": (
        "half_cheetah_velocity_context",
        {**SHORT, "family.num_tasks": "2", "meta.warm_up.rounds": "3", "meta.warm_up.tasks": "4"},
    ),
    "networks that keep their function": (
        "half_cheetah_velocity",
        {**SHORT, "family.num_tasks": "2", "within_task.keep_function": "true", "within_task.method.name": "c_trpo"},
    ),
    "networks of robots that fall": (
        "hopper_velocity_context",
        {**SHORT, "family.num_tasks": "2", "meta.warm_up.rounds": "3", "meta.warm_up.tasks": "4"},
    ),
    "lakes that know their holes": (
        "frozen_lake_context",
        {"family.num_tasks": "8", "within_task.num_iterations": "5"},
    ),
    "grouped lakes": ("frozen_lake_clustered", {"family.num_tasks": "24"}),
    "alike lakes": ("frozen_lake", {}),
}
SLOW = {"alike lakes", "grouped lakes"}


def processor() -> str:
    """Vendor, family and model: two that use the same kernels can differ in float64, as an AMD one does on lakes."""
    told = CPU.read_text() if CPU.exists() else ""
    found = [re.search(rf"^{key}\s*: (.+)$", told, re.MULTILINE) for key in ("vendor_id", "cpu family", "model")]
    return " ".join("unknown" if one is None else one[1] for one in found)


def libraries() -> str:
    """The architecture and the linear algebra that bits depend on; thread pools of other libraries do not count."""
    blas = sorted(
        f"{one['internal_api']} {one['version']} {one.get('architecture', '')}"
        for one in threadpool_info()
        if one["user_api"] == "blas" and "numpy.libs" in one["filepath"]
    )
    return "; ".join([platform.machine(), f"numpy {np.__version__}", *dict.fromkeys(blas)])


def fingerprint() -> str:
    """The kind of machine that bits depend on."""
    return f"{libraries()}; {processor()}"


def digest(case: str) -> str:
    """Digest of the meta-learner's state after training, in this process."""
    name, overrides = CASES[case]
    config = load_config(ROOT / "deploy" / "runs" / f"{name}.yaml", list(overrides.items()))
    experiment = config.experiment
    pool = LocalPool(experiment.family)
    learner = LocalLearner(experiment.meta, experiment.dice, experiment.within.num_iterations)
    with threadpool_limits(1):
        drawn = draw(pool, experiment)
        return train(
            training_plan(experiment, drawn), pool, learner, [], Position(drawn.initial_state(experiment.meta))
        ).sha256()


def recorded() -> dict[str, dict[str, str]]:
    """The digests of all kinds of machine."""
    known: dict[str, dict[str, str]] = json.loads(FILE.read_text())
    return known


def check(case: str, compute: Callable[[], str], known: dict[str, dict[str, str]], kind: str, libraries: str) -> None:
    """Compare with the digest of this ``kind`` of machine, else with all of its ``libraries``; skip unknown bits."""
    own = known.get(kind, {})
    if case in own:
        assert compute() == own[case], f"{case}: the bits of {kind!r} have changed"
        return
    others = {digests[case] for name, digests in known.items() if name.startswith(libraries) and case in digests}
    if not others or compute() not in others:
        pytest.skip(f"{case!r} is not recorded for {kind!r}; python -m tests.test_digests prints it")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES]
)
def test_the_learned_state_is_the_recorded_one(case: str) -> None:
    check(case, lambda: digest(case), recorded(), fingerprint(), libraries())


def test_a_changed_bit_fails_on_a_recorded_processor_and_never_on_another() -> None:
    known = {"blas A; one": {"lakes": "1"}, "blas A; two": {"lakes": "2"}, "blas B; one": {"lakes": "3"}}
    check("lakes", lambda: "1", known, "blas A; one", "blas A")
    with pytest.raises(AssertionError, match="have changed"):
        check("lakes", lambda: "2", known, "blas A; one", "blas A")
    check("lakes", lambda: "2", known, "blas A; three", "blas A")
    with pytest.raises(pytest.skip.Exception, match="not recorded"):
        check("lakes", lambda: "3", known, "blas A; three", "blas A")
    with pytest.raises(pytest.skip.Exception, match="not recorded"):
        check("lakes", lambda: pytest.fail("computed for nothing"), known, "blas C; one", "blas C")


if __name__ == "__main__":
    print(json.dumps({fingerprint(): {case: digest(case) for case in CASES}}, indent=1))
