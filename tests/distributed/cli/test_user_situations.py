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
from tests.support.odd_carts import ODD

HERE, ODD_CARTS = "tests.support.situations", "tests.support.odd_carts"
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
ACTIONS, OBSERVATIONS = "the action space must be Discrete or a Box of reals, got", "as its space defines, got"
KINDS = "the observation space must be Discrete (a table is learned) or a Box (a network is), got"
MISSING, PAIR = 'step reports no info["cost"]; it must hold 1 number(s)', "reset must return (observation, info), got"
FIVE, ENDS = "step must return (observation, reward, terminated, truncated, info)", "with ends that are True or False"
REPEATS = "the same seed and actions give another result after another episode"
ENVIRONMENT = "make must return a gymnasium.Env, got"
REFUSED: dict[str, tuple[int, str]] = {
    "action: whole numbers": (BEFORE, ACTIONS),
    "action: several choices": (BEFORE, ACTIONS),
    "action: bits": (BEFORE, ACTIONS),
    "action: text": (BEFORE, ACTIONS),
    "action: a tuple": (BEFORE, ACTIONS),
    "observation: bits": (BEFORE, KINDS),
    "observation: counts": (BEFORE, KINDS),
    "observation: no dimension": (WITHIN, f"{OBSERVATIONS} float32"),
    "observation: a list": (WITHIN, f"{OBSERVATIONS} list"),
    "observation: outside its bounds": (WITHIN, "fix the observation or widen the space"),
    "observation: another length": (WITHIN, f"{OBSERVATIONS} float32 of shape [1]"),
    "observation: text": (WITHIN, f"{OBSERVATIONS} str"),
    "observation: nothing": (WITHIN, f"{OBSERVATIONS} NoneType"),
    "observation: objects": (WITHIN, f"{OBSERVATIONS} object of shape [1]"),
    "observation: another dtype": (WITHIN, f"{OBSERVATIONS} float64 of shape [1]"),
    "observation: not a number": (WITHIN, "observation[0] is nan, not a number in"),
    "observation: infinite": (WITHIN, "observation[0] is inf, not a number in"),
    "observation: grows": (WITHIN, f"{OBSERVATIONS} float32 of shape [2]"),
    "reward: two": (WITHIN, "the reward must be a number, got array("),
    "reward: text": (WITHIN, "the reward must be a number, got 'much'"),
    "reward: a number as text": (WITHIN, "the reward must be a number, got '0.5'"),
    "reward: nothing": (WITHIN, "the reward must be a number, got None"),
    "reward: not a number": (WITHIN, "the reward is nan; it must be finite"),
    "reward: infinite": (WITHIN, "the reward is -inf; it must be finite"),
    "reward: complex": (WITHIN, "the reward must be a number, got ("),
    "cost: named": (WITHIN, 'info["cost"] must be a number, got {'),
    "cost: of another name": (WITHIN, 'info["cost"] must be a number, got {'),
    "cost: two": (WITHIN, 'info["cost"] must hold 1 number(s), got [0.1, 0.2]'),
    "cost: none of them": (WITHIN, 'info["cost"] must hold 1 number(s), got []'),
    "cost: text": (WITHIN, 'info["cost"] must be a number, got'),
    "cost: nothing": (WITHIN, 'info["cost"] must be a number, got None'),
    "cost: not a number": (WITHIN, 'info["cost"] is nan; it must be finite'),
    "cost: infinite": (WITHIN, 'info["cost"] is inf; it must be finite'),
    "cost: negative": (WITHIN, 'info["cost"] is -1.0; a cost must be at least 0'),
    "cost: sometimes negative": (WITHIN, 'info["cost"] is -0.001; a cost must be at least 0'),
    "cost: under another key": (WITHIN, MISSING),
    "cost: cost_sum": (WITHIN, MISSING),
    "cost: missing at the end": (WITHIN, MISSING),
    "cost: missing now and then": (WITHIN, MISSING),
    "cost: info is nothing": (WITHIN, FIVE),
    "episode: numbers as truths": (WITHIN, ENDS),
    "episode: truth in an array": (WITHIN, ENDS),
    "episode: end is nothing": (WITHIN, ENDS),
    "episode: old step": (WITHIN, FIVE),
    "episode: step returns nothing": (WITHIN, FIVE),
    "episode: old reset": (WITHIN, PAIR),
    "episode: reset returns nothing": (WITHIN, PAIR),
    "episode: never reset itself": (BEFORE, REPEATS),
    "seed: not taken": (WITHIN, "got an unexpected keyword argument 'seed'"),
    "seed: ignored": (BEFORE, REPEATS),
    "seed: the clock": (BEFORE, REPEATS),
    "seed: options wanted": (WITHIN, "missing 1 required keyword-only argument: 'options'"),
    "code: raises on close": (BEFORE, "the family raised RuntimeError: already closed"),
    "code: raises in reset": (WITHIN, "reset raised ValueError: no such level"),
    "code: raises a stop": (WITHIN, "step raised StopIteration"),
    "code: recurses": (WITHIN, "step raised RecursionError"),
    "code: no environment": (BEFORE, f"{ENVIRONMENT} NoneType"),
    "code: the class": (BEFORE, f"{ENVIRONMENT} type"),
    "code: no spaces": (BEFORE, f"{ACTIONS} None"),
    "code: a vector environment": (BEFORE, f"{ENVIRONMENT} SyncVectorEnv"),
    "code: normalised by gymnasium": (BEFORE, REPEATS),
}
"""Of the odd carts, those that are refused; all others run."""
SITUATIONS += [(f"{ODD_CARTS}:OddCarts", {"kind": kind}, *REFUSED.get(kind, (RUNS, ""))) for kind in ODD]


def full(name: str) -> str:
    """The name of the family with its module."""
    return name if ":" in name else f"{HERE}:{name}"


def run_of(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    family = {"name": full(name), "num_tasks": 2, **parameters}
    return {
        **tiny_neural(within_task={"steps_per_iteration": 120, "num_copies": 4}, evaluation={"methods": ["meta_srl"]}),
        "family": family,
        "check_family": True,
    }


IN_EVERY_RUN = ("StrictCarts", "ElsewhereCarts")
OFTEN = ("cost: negative", "observation: a list", "seed: ignored", "episode: old step")

"""Of the families that run; the others take seconds each and are slow tests, as are most odd carts."""


def is_slow(name: str, parameters: dict[str, Any], code: int) -> bool:
    """Whether a situation is left to the slow tests."""
    return parameters["kind"] not in OFTEN if name.startswith(ODD_CARTS) else code == RUNS and name not in IN_EVERY_RUN


@pytest.mark.parametrize(
    ("name", "parameters", "code", "words"),
    [
        pytest.param(
            *one,
            id=f"{one[0].rpartition(':')[2]}-{'-'.join(map(str, one[1].values()))}",
            marks=[pytest.mark.slow] if is_slow(*one[:3]) else [],
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
    checks = check_family(full(name), parameters, 0, 0.5)
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
