"""Every check finds what it is for: families that break one rule each, and the built-in ones, which break none."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from policies.checking.family_check import NAMES, broken, check_family, table
from policies.checking.family_form import Check
from policies.checking.limit_probe import Probe, discounted, told_by_model, told_by_probe
from tasks.contract.family_registry import BUILT_IN
from tasks.contract.task import Parameters, Split
from tasks.lakes.frozen_lake import FrozenLake
from tests.support.few_variants import few

HERE = "tests.policies.checking.test_family_check"
_COUNTER = itertools.count()


class Track(gymnasium.Env[Any, Any]):
    """A point on a line; it earns what it moves to the right and pays for pushing. ``fault`` is what goes wrong."""

    metadata: dict[str, Any] = {}  # noqa: RUF012 - Gymnasium's own

    def __init__(self, slope: float, fault: str) -> None:
        self.slope, self.fault, self.step_number = slope, fault, 0
        bound = 60.0 if fault == "spaces differ" and slope > 0.5 else 50.0
        self.observation_space: Any = gymnasium.spaces.Box(-bound, bound, (2,), np.float32)
        self.action_space: Any = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        if fault == "space of words":
            self.observation_space = gymnasium.spaces.Text(5)
        if fault == "whole actions":
            self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if self.fault == "signed seeds" and seed is not None and seed >= 2**31:
            raise OverflowError("too large to convert to C int")
        super().reset(seed=0 if self.fault == "seed ignored" else seed)
        if self.fault == "one generator":
            np.random.seed(seed)  # noqa: NPY002 - the mistake
        if self.fault == "state left over":
            self.place = np.float32(getattr(self, "place", 0.0))
        elif self.fault == "other random numbers":
            self.place = np.float32(next(_COUNTER) % 7 * 0.01)
        else:
            self.place = np.float32(self.np_random.normal() * 0.1)
        self.step_number = 0
        return self._seen() if self.fault == "reset gives one value" else (self._seen(), {})

    def _seen(self) -> Any:
        seen = np.array([self.place, self.slope], np.float32)
        if self.step_number == 3:
            return {
                "float64": seen.astype(np.float64),
                "list": seen.tolist(),
                "flat": seen[:1],
                "too large": seen + 90.0,
                "nan": seen * np.nan,
            }.get(self.fault, seen)
        return seen

    def step(self, action: Any) -> Any:
        self.step_number += 1
        push = float(action[0])
        self.place += np.float32(0.1 * push)
        if self.fault == "one generator":
            self.place += np.float32(np.random.normal())  # noqa: NPY002 - the mistake
        cost: Any = [push**2, float(push > 0.0)]
        reward: Any = push + self.slope
        if self.step_number == 4:
            if self.fault == "raises":
                raise ZeroDivisionError("flat")
            if self.fault == "quits":
                sys.exit()
            while self.fault == "hangs":
                time.sleep(0.01)
            if self.fault == "space changes":
                self.observation_space = gymnasium.spaces.Box(-9.0, 9.0, (2,), np.float32)
            reward = {"reward nan": np.nan, "reward text": "much"}.get(self.fault, reward)
            cost = {
                "one cost": 1.0,
                "three costs": [0.0, 0.0, 0.0],
                "negative cost": [-0.5, 0.0],
                "infinite cost": [np.inf, 0.0],
            }.get(self.fault, cost)
        if self.fault == "never costs":
            cost[1] = 0.0
        info = {} if self.fault == "no cost" else {"cost": cost}
        if self.fault == "six values":
            return self._seen(), reward, cost, False, False, {}
        if self.fault == "four values":
            return self._seen(), reward, False, info
        return self._seen(), reward, False, "no" if self.fault == "end in words" else False, info


_ONE = Track(0.0, "")


@dataclass(frozen=True)
class Tracks:
    """A family that breaks the rule called ``fault``; every fault below is one."""

    seed: int
    num_tasks: int
    fault: str = ""
    horizon: Any = 10
    discount: Any = 0.8
    costs: Any = ("effort", "haste")
    given: Any = (0.7, 1.2)
    step_seconds: float = 60.0

    @property
    def cost_names(self) -> Any:
        return self.costs

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        key = {"index ignored": [0], "one task for both": [index]}.get(self.fault, [split == "test", index, attempt])
        slope = np.random.default_rng([self.seed, *key]).uniform(0.0, 1.0)
        if self.fault == "draws differ":
            slope += 1e-9 * next(_COUNTER)
        if self.fault == "numpy parameters":
            return {"slope": np.float32(slope)}
        if self.fault == "keys are numbers":
            return {1: slope, "slope": slope}  # type: ignore[dict-item]
        if self.fault == "draw raises":
            raise KeyError("no slope")
        return {"slope": slope}

    def make(self, parameters: Parameters) -> Any:
        if self.fault == "no environment":
            return self
        if self.fault == "make raises":
            raise OSError("no track")
        if self.fault == "one for all":
            _ONE.slope = parameters["slope"]
            return _ONE
        return Track(parameters["slope"], self.fault)

    def close(self) -> None:
        """For the fault of being no environment."""

    def model(self, parameters: Parameters) -> None:
        return None

    def limits(self, parameters: Parameters) -> Any:
        return self.given


class BatchedTracks(Tracks):
    """With a batch of its own, which is that of another track for the fault "another batch"."""

    def batch(self, parameters: Parameters, num_copies: int, label: str = "") -> Any:
        from tasks.stepping.batch import GymnasiumBatch

        slope = parameters["slope"] + 0.5 * (self.fault == "another batch")
        return GymnasiumBatch(lambda: Track(slope, ""), num_copies, 2, self.horizon, label)


def found(name: str = "Tracks", seconds: float = 200.0, **parameters: Any) -> dict[str, Check]:
    """The checks of a family of this module, by name."""
    checks = check_family(f"{HERE}:{name}", parameters, 0, seconds)
    assert [check.name for check in checks if check.name in NAMES] == [check.name for check in checks]
    assert len(checks) == len(NAMES)
    return {check.name: check for check in checks}


BROKEN: list[tuple[str, str, dict[str, Any]]] = [
    ("numbers", "cost_names must be a tuple of at least one name, got 'effort'", {"costs": "effort"}),
    ("numbers", "cost_names must differ from each other", {"costs": ("a", "a")}),
    ("numbers", "discount must lie strictly between 0 and 1, got 1.0", {"discount": 1.0}),
    ("numbers", "horizon must be a whole number of steps of at least 1, got 0", {"horizon": 0}),
    ("parameters", "no NumPy numbers or arrays", {"fault": "numpy parameters"}),
    ("parameters", "comes back from JSON as", {"fault": "keys are numbers"}),
    ("parameters", "the family raised KeyError: 'no slope'", {"fault": "draw raises"}),
    ("drawing", "differ the second time; draw from a generator made of", {"fault": "draws differ"}),
    ("drawing", "are all alike; the draw must use the index", {"fault": "index ignored"}),
    ("limits", "1 limit(s) for 2 cost(s) (effort, haste); give one for each", {"given": (1.0,)}),
    ("limits", "must be finite and not negative, got [1.0, -1.0]", {"given": (1.0, -1.0)}),
    ("limits", "a limit fraction needs an exact model; give the limits themselves instead", {"given": 0.3}),
    ("making", "make must return a gymnasium.Env, got Tracks", {"fault": "no environment"}),
    ("making", "make raised OSError: no track", {"fault": "make raises"}),
    ("making", "the observation space must be Discrete", {"fault": "space of words"}),
    ("making", "the action space must be Discrete or a Box of reals", {"fault": "whole actions"}),
    ("answers", "step 4: step raised ZeroDivisionError: flat; reset and step must return", {"fault": "raises"}),
    ("answers", "step 4: step: no answer within 1 seconds", {"fault": "hangs", "step_seconds": 1.0}),
    ("returned", "reset must return (observation, info), got", {"fault": "reset gives one value"}),
    ("returned", "step 1: step must return (observation, reward, terminated", {"fault": "four values"}),
    ("returned", "with ends that are True or False and a dictionary, got", {"fault": "end in words"}),
    ("spaces", "all need the same", {"fault": "spaces differ"}),
    ("spaces", "became Box(-9.0, 9.0, (2,), float32) during an episode; spaces must stay", {"fault": "space changes"}),
    (
        "observations",
        "step 3: the observation must be float32 of shape [2] as its space defines, got float64",
        {"fault": "float64"},
    ),
    (
        "observations",
        "float32 of shape [2] as its space defines, got list",
        {"fault": "list"},
    ),
    ("observations", "got float32 of shape [1]", {"fault": "flat"}),
    ("observations", "step 3: observation[0] is 9", {"fault": "too large"}),
    ("observations", "observation[0] is nan, not a number in [-50.0, 50.0]", {"fault": "nan"}),
    ("rewards", "step 4: the reward is nan; it must be finite", {"fault": "reward nan"}),
    ("rewards", "step 4: the reward must be a number, got 'much'", {"fault": "reward text"}),
    ("costs", 'step 1: step reports no info["cost"]; it must hold 2 number(s) (effort, haste)', {"fault": "no cost"}),
    ("costs", 'step 4: info["cost"] must hold 2 number(s), got 1.0', {"fault": "one cost"}),
    ("costs", "must hold 2 number(s), got [0.0, 0.0, 0.0]", {"fault": "three costs"}),
    ("costs", 'step 4: info["cost"] is [-0.5, 0.0]; a cost must be at least 0', {"fault": "negative cost"}),
    ("costs", 'info["cost"] is inf; it must be finite', {"fault": "infinite cost"}),
    ("seeding", "another result after another episode; draw every random number", {"fault": "state left over"}),
    ("seeding", "step 0: the same seed and actions give another result", {"fault": "other random numbers"}),
    ("making", "make gave one Track for copies 0 and 1; copies are stepped in turn", {"fault": "one for all"}),
    ("copies", "step 1: the same seed and actions give another result while another copy", {"fault": "one generator"}),
    ("answers", "a simulator with signed 32-bit seeds can take seed % 2**31)", {"fault": "signed seeds"}),
    ("answers", "step 4: step called sys.exit(); reset and step must return", {"fault": "quits"}),
    ("batch", "the environment of make", {"fault": "another batch", "name": "BatchedTracks"}),
]


@pytest.mark.parametrize(
    ("name", "reported", "parameters"), BROKEN, ids=[f"{name}: {reported[:30]}" for name, reported, _ in BROKEN]
)
def test_a_broken_rule_is_found_by_its_check_and_by_no_other(
    name: str, reported: str, parameters: dict[str, Any]
) -> None:
    checks = found(**parameters)
    assert reported in checks[name].finding
    assert [check.name for check in checks.values() if check.verdict == "wrong"] == [name]
    assert checks["probe"].verdict == "skipped"
    if NAMES.index(name) > NAMES.index("limits"):
        assert f"{HERE}:{parameters.get('name', 'Tracks')}/" in checks[name].finding or "raised" in checks[name].finding


@pytest.mark.parametrize(
    ("name", "reported", "parameters"),
    few(
        [
            ("numbers", "the horizon cuts off 82% of the discounted steps", {"discount": 0.98}),
            ("drawing", "training and held-out tasks share", {"fault": "one task for both"}),
            ("costs", "random actions never cost any haste", {"fault": "never costs"}),
            ("seeding", "another seed gives it too: right only if nothing is random", {"fault": "seed ignored"}),
            ("probe", "did not bind in this probe for effort, haste", {"given": (9.0, 9.0), "seconds": 200.0}),
            ("probe", "the limits were NOT reached; they may be out of reach", {"given": (0.0, 0.0)}),
        ],
        1,
        2,
        -1,
    ),
)
def test_what_may_be_intended_is_a_warning(name: str, reported: str, parameters: dict[str, Any]) -> None:
    checks = found(**{"seconds": 3.0, **parameters})  # what needs its time has it, however busy the machine is
    assert checks[name].verdict == "warning"
    assert reported in checks[name].finding
    assert not broken(tuple(checks.values()))


@pytest.mark.parametrize("parameters", few([{}, {"fault": "six values"}, {"name": "BatchedTracks"}], 0))
def test_a_good_family_is_found_good_and_its_limits_reachable(parameters: dict[str, Any]) -> None:
    checks = found(**parameters)
    wanted = {"batch": "ok" if "name" in parameters else "skipped"}
    assert {name: check.verdict for name, check in checks.items()} == {**dict.fromkeys(NAMES, "ok"), **wanted}
    assert "reachable" in checks["probe"].finding
    assert ("6 from step" if "fault" in parameters else "5 from step") in checks["returned"].finding
    assert "3 episodes of 10 to 10 steps" in checks["speed"].finding


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("no_such_module:Family", "module 'no_such_module' does not import"),
        ("none.py:Family", "there is no file 'none.py'"),
        (f"{HERE}:Nothing", "has no class 'Nothing'; its classes: Track, Tracks, BatchedTracks"),
        (f"{HERE}:Track", "Track is an environment, not a family of tasks"),
    ],
)
def test_a_family_that_does_not_load_is_reported_and_the_rest_is_skipped(name: str, reported: str) -> None:
    first, *rest = check_family(name, {}, 0, 1.0)
    assert (first.name, first.verdict) == ("loads", "wrong")
    assert reported in first.finding
    assert {check.verdict for check in rest} == {"skipped"}
    assert [check.name for check in rest] == list(NAMES[1:])


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_family_satisfies_the_contract(name: str) -> None:
    checks = check_family(name, {"horizon": 30}, 0, 1.0)
    assert not broken(checks), table(checks)
    reported = {check.name: check for check in checks}
    assert reported["seeding"].verdict == "ok"
    assert reported["batch"].verdict == ("skipped" if name == "frozen_lake" else "ok")


def _of_its_map(family: FrozenLake, parameters: Parameters) -> dict[str, float]:
    """A context with other entries for other maps."""
    return dict.fromkeys(parameters["desc"], 1.0)


@pytest.mark.parametrize(
    ("own", "reported"),
    [
        ({"context": lambda self, parameters: {"hole": "yes"}}, "the context's entry hole must be a number, got 'yes'"),
        ({"context": lambda self, parameters: {"hole": np.nan}}, "the context's entry hole is nan; it must be finite"),
        ({"context": lambda self, parameters: {}}, "its parameters hold no numbers to make a context of"),
        ({"context": _of_its_map}, "all tasks of a family need the same"),
        ({"context_distance": "far"}, "context_distance must be one of differing, euclidean, got 'far'"),
        ({"context_effects": lambda self: np.array([[0, 4, 0, 0]])}, "row 0 names action 4; there are 4"),
        ({"context_effects": lambda self: [[0.5, 0, 0, 0]]}, "context_effects must be whole numbers [E, 4], got float"),
        ({"context": "of my own"}, "the family raised TypeError: 'str' object is not callable"),
    ],
)
def test_a_context_that_train_would_refuse_is_found(
    own: dict[str, Any], reported: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in own.items():
        monkeypatch.setattr(FrozenLake, name, value)
    checks = {check.name: check for check in check_family("frozen_lake", {}, 0, 1.0)}
    assert not broken(tuple(checks.values())), "runs without contexts need none"
    assert checks["context"].verdict == "warning"
    assert reported in checks["context"].finding


def test_the_context_of_a_family_is_described() -> None:
    assert found()["context"].finding == "the numbers among the parameters: slope"
    lake = {check.name: check for check in check_family("frozen_lake", {"horizon": 30}, 0, 1.0)}["context"]
    assert lake.finding.startswith("hole[0][0], hole[0][1], hole[0][2], hole[0][3] and 60 more; ")
    assert lake.finding.endswith(" effects with 28 weights")


def test_a_table_is_probed_too() -> None:
    """Couriers: driving costs fuel, crossing the lawn damage; walking neither, so that any limit can be kept."""
    parameters = {"with_model": False, "limit": [0.5, 0.5]}
    reported = {
        check.name: check for check in check_family("tests.support.user_families:CourierFamily", parameters, 0, 12.0)
    }
    assert reported["probe"].verdict == "ok"
    assert "; reachable" in reported["probe"].finding
    modelled = check_family("tests.support.user_families:CourierFamily", {}, 0, 12.0)[-1]
    assert "by the exact model, some policy keeps them all" in modelled.finding
    assert "fuel: limit" in modelled.finding


def test_the_probe_takes_no_longer_than_it_may() -> None:
    began = time.monotonic()
    checks = found(seconds=1.0, given=(0.0, 0.0))
    assert "NOT reached" in checks["probe"].finding
    assert time.monotonic() - began < 6.0
    assert "not enough time" in found(seconds=1.0, horizon=300_000)["probe"].finding


def test_a_probe_in_words() -> None:
    p = np.array
    probe = Probe(p([12.3, 2.0]), p([1.0, 0.1]), p([8.1, 1.0]), 6, True, p([14.0, 3.0]))
    reported = told_by_probe(("effort", "noise"), p([10.0, 1.5]), probe)
    assert reported.verdict == "ok"
    assert reported.finding == (
        "effort: random actions 12.3 ± 1, after 6 iterations of CRPO 8.1, after 6 on the reward alone 14; limit 10; "
        "noise: random actions 2 ± 0.1, after 6 iterations of CRPO 1, after 6 on the reward alone 3; limit 1.5; "
        "reachable"
    )
    assert told_by_probe(("effort", "noise"), p([10.0, 3.0]), probe).verdict == "warning"
    untried = told_by_probe(("effort", "noise"), p([10.0, 3.0]), dataclasses.replace(probe, greedy=None))
    assert untried.verdict == "ok", "how a limit binds is no matter of the machine's speed"
    assert "no time to see whether the limit binds for noise (--seconds)" in untried.finding
    loose = told_by_model(("effort",), p([5.0]), p([1.0]), p([4.0]))
    assert (loose.verdict, "no limit binds" in loose.finding) == ("warning", True)
    assert told_by_model(("effort",), p([3.0]), p([1.0]), p([4.0])).verdict == "ok"


def test_the_discounted_sum() -> None:
    np.testing.assert_allclose(discounted(np.array([[1.0, 2.0], [1.0, 0.0], [4.0, 0.0]]), 0.5), [2.5, 2.0])


def test_a_file_is_checked_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lane.py").write_text(f"from {HERE} import Tracks\n\n\nclass Lanes(Tracks):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    assert not broken(check_family("lane.py:Lanes", {"horizon": 5, "discount": 0.5}, 3, 2.0))


def test_the_table_ends_with_the_outcome() -> None:
    checks = (Check("loads", "ok", "a | b"), Check("costs", "wrong", "none\nat all"), Check("x", "warning", "?"))
    lines = table(checks).splitlines()
    assert lines[2] == "| loads | ok | a \\| b |"
    assert lines[3] == "| costs | wrong | none at all |"
    assert lines[-1] == "1 wrong; 1 warning(s)."
    assert table(checks[:1]).endswith("The family satisfies the contract.")
