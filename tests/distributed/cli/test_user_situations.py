"""Whatever train refuses, check-family refuses before with the same words, and the other way round."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from distributed.settings.errors import ConfigurationError
from distributed.settings.run_file import require_sound_family
from policies.checking import separate_check
from policies.checking.family_check import broken, check_family
from tests.distributed.helpers import exit_code, only_run, parsed, run_file, summary_of, tiny_neural

HERE = "tests.support.situations"
RUNS, BEFORE, WITHIN = 0, 2, 1
"""Exit codes of train: it runs, it refuses before any work, a task fails."""
WIDE = "too wide to scale actions to (at most 1e+30); give -np.inf and np.inf where there are no bounds"
TURN = "another result while another copy is stepped in turn; keep all state and random numbers in the environment"
DISCOUNT = (
    "discount must lie strictly between 0 and 1, got {}; for limits on plain sums of costs set within_task.returns"
)
ONE = "make gave one Cart for copies 0 and 1; copies are stepped in turn, so make must return a new environment"
SITUATIONS: list[tuple[str, dict[str, Any], int, str]] = [
    ("Carts", {}, RUNS, ""),
    ("StrictCarts", {}, RUNS, ""),
    ("Units", {"cost_limits": [2e-9]}, RUNS, ""),
    ("ElsewhereCarts", {}, RUNS, ""),
    ("Spaces", {"kind": "unbounded"}, RUNS, ""),
    ("Spaces", {"kind": "half bounded"}, RUNS, ""),
    ("Spaces", {"kind": "integers from -1"}, RUNS, ""),
    ("Spaces", {"kind": "float64"}, RUNS, ""),
    ("Spaces", {"kind": "image"}, RUNS, "an observation has 2187 numbers: 4,000 steps take 35 MB"),
    ("Spaces", {"kind": "too wide"}, BEFORE, WIDE),
    ("Spaces", {"kind": "no observation"}, BEFORE, "the observation space holds no number, got Box"),
    ("Spaces", {"kind": "words"}, BEFORE, "the observation space must be Discrete (a table is learned) or a Box"),
    ("Spaces", {"kind": "differ"}, BEFORE, "all need the same"),
    ("OneCart", {}, BEFORE, ONE),
    ("OneCartWrapped", {}, BEFORE, ONE),
    ("ModuleCarts", {}, BEFORE, TURN),
    ("GlobalCarts", {}, BEFORE, TURN),
    ("Carts", {"discount": 1.0}, BEFORE, DISCOUNT.format("1.0")),
    ("Carts", {"discount": 0.0}, BEFORE, DISCOUNT.format("0.0")),
    ("Carts", {"horizon": 0}, BEFORE, "horizon must be a whole number of steps of at least 1, got 0"),
    ("Carts", {"cost_limits": [1.0, 2.0]}, BEFORE, "2 limit(s) for 1 cost(s) (effort); give one for each"),
    ("Carts", {"cost_limits": [-1.0]}, BEFORE, "limits must be finite and not negative, got [-1.0]"),
    ("SignedCarts", {}, WITHIN, "a simulator with signed 32-bit seeds can take seed % 2**31"),
    ("PaidCarts", {}, WITHIN, "a cost must be at least 0"),
    ("FreeCarts", {}, WITHIN, 'step reports no info["cost"]; it must hold 1 number(s)'),
]


def run_of(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    family = {"name": f"{HERE}:{name}", "num_tasks": 2, **parameters}
    return {
        **tiny_neural(within_task={"steps_per_iteration": 120, "num_copies": 4}, evaluation={"methods": ["meta_srl"]}),
        "family": family,
        "check_family": True,
    }


IN_EVERY_RUN = ("StrictCarts", "ElsewhereCarts")
"""Of the families that run; the others take seconds each and are slow tests."""


@pytest.mark.parametrize(
    ("name", "parameters", "code", "words"),
    [
        pytest.param(
            *one,
            id=f"{one[0]}-{'-'.join(map(str, one[1].values()))}",
            marks=[pytest.mark.slow] if one[2] == RUNS and one[0] not in IN_EVERY_RUN else [],
        )
        for one in SITUATIONS
    ],
)
def test_check_family_and_train_say_the_same(
    name: str,
    parameters: dict[str, Any],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("distributed.jobs.training_job.save_figures", lambda *arguments: [])
    monkeypatch.setattr(separate_check, "checks_apart", separate_check.checks_here)  # a process each would take minutes
    checks = check_family(f"{HERE}:{name}", parameters, 0, 0.5)
    assert Path.cwd() == tmp_path
    assert broken(checks) == (code != RUNS), checks
    said = " ".join(check.finding for check in checks if check.verdict in ("wrong", "warning"))
    assert words in said

    assert exit_code("train", run_file(tmp_path, run_of(name, parameters))) == code
    told = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert words in told
    assert "Traceback" not in told
    if code == RUNS:
        assert summary_of(only_run(tmp_path))["num_tasks"] == 2
    if code == BEFORE:
        assert not (tmp_path / "runs").exists(), "refused before any work"


def test_the_check_before_a_run_is_made_in_a_process_of_its_own(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(
        ConfigurationError, match=r"family.name: .*ModuleCarts: .*another copy is stepped in turn.*check-family"
    ):
        require_sound_family(parsed(run_of("ModuleCarts", {})), said.append)
    require_sound_family(parsed(run_of("DyingCarts", {})), said.append)
    assert len(said) == 1
    assert "the check of the family ended without a result (exit code -9); the run goes on" in said[0]
    require_sound_family(parsed({**run_of("ModuleCarts", {}), "check_family": False}), said.append)
    assert len(said) == 1
