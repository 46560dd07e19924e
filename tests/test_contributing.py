"""docs/contributing.md holds: a toy estimator, method and family, added through the places that it names, work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import meta.methods
from meta.judging.protocol import judge
from meta.learning.settings import MetaSettings
from meta.methods import registry
from meta.methods.registry import METHODS, compared_methods, find_methods, grid_of, require_known_methods
from meta.offline.dice_settings import ESTIMATORS, DICESettings
from meta.training.evaluation_settings import EvaluationSettings, GridPoint
from meta.training.experiment import Experiment, draw
from meta.training.loop import Position, TrainingPlan, train
from meta.training.pool import LocalLearner, LocalPool
from policies.common.results import Start
from policies.rules.rule_registry import RULES, MethodSettings
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.family_registry import BUILT_IN, FamilySpec, make_family

WITHIN = WithinTaskSettings(num_iterations=2, episodes_per_iteration=5, num_copies=5)
EVALUATION = EvaluationSettings(num_test_tasks=2, grid_tasks=2, tuning_tasks=1, rate_grid=(0.1, 1.0))
ESTIMATOR = """
import numpy as np
from meta.offline.offline_data import Fitted

def halves(data, settings, seed):
    ratio = np.full(len(data), 0.5)
    return Fitted(ratio, ratio[data.held_out] if data.has_held_out else None)
"""
METHOD = """
from meta.methods.workbench import Method

def learn(bench, point):
    return bench.learned(bench.supported(bench.solve(bench.tasks[-1:], bench.random)[0].policy), point)

METHOD = Method(name="newest", label="the newest task's policy", place=50, colour="#000000", marker="hexagram",
                forms={"tabular": learn}, in_training=True)
"""


RULE = """
from policies.common.branches import REWARD_BRANCH
from policies.rules.rule import Decision, RuleSettings, View, single

"""
"""What the page's example of a within-task algorithm imports."""


def experiment(**changes: object) -> Experiment:
    spec = FamilySpec("frozen_lake", 1, 4, {"map_size": 4})
    parts = {"dice": DICESettings(), "meta": MetaSettings(), "evaluation": EVALUATION, **changes}
    return Experiment(spec, 2, WITHIN, **parts)  # type: ignore[arg-type]


def test_an_estimator_is_one_file_and_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="must be one of 'dualdice_tabular'"):
        DICESettings(estimator="halves")
    (tmp_path / "toy_estimator.py").write_text(ESTIMATOR)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(ESTIMATORS, "halves", "toy_estimator:halves")
    chosen = experiment(dice=DICESettings(estimator="halves", failed_weight=1.0))
    pool = LocalPool(chosen.family)
    tasks = pool.draw("train", range(2))
    (solved,) = pool.solve(tasks[:1], _start(pool, chosen), WITHIN, collect=True)
    item = LocalLearner(chosen.meta, chosen.dice, 2).estimate(solved.dataset, "task").result()
    assert item.diagnostics is not None
    assert item.diagnostics.mean_correction < 1.0
    assert item.occupancy.sum() == pytest.approx(0.5), "the toy gives every sample half its share"  # type: ignore[union-attr]


def _start(pool: LocalPool, chosen: Experiment) -> object:
    return draw(pool, chosen).initial_state(chosen.meta).start


def test_a_method_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"evaluation\.compared\.0: must be one of 'random', .*; given: 'newest'"):
        require_known_methods(EVALUATION.model_copy(update={"compared": ("newest",)}), WITHIN)
    (tmp_path / "newest.py").write_text(METHOD)
    monkeypatch.setattr(meta.methods, "__path__", [*meta.methods.__path__, str(tmp_path)])
    found = find_methods()
    monkeypatch.delitem(sys.modules, "meta.methods.newest")
    assert list(found) == [*METHODS, "newest"], "it comes after the others, as its place says"
    monkeypatch.setitem(METHODS, "newest", found["newest"])
    chosen = experiment()
    assert "newest" in compared_methods(EVALUATION, WITHIN, has_model=True)
    assert grid_of(EVALUATION, "newest") == (GridPoint(rate=0.1), GridPoint(rate=1.0))
    cell = judge(chosen, "newest", GridPoint(rate=1.0))
    assert len(cell["test"]["gap"]) == 2
    require_known_methods(EVALUATION.model_copy(update={"methods": ("newest",)}), WITHIN)


def test_two_files_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("newest", "newest_again"):
        (tmp_path / f"{file}.py").write_text(METHOD)
    monkeypatch.setattr(meta.methods, "__path__", [*meta.methods.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match="two files define the method 'newest'"):
        registry.find_methods()
    for file in ("newest", "newest_again"):
        monkeypatch.delitem(sys.modules, f"meta.methods.{file}")


def test_a_family_is_one_file_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN, "couriers", "tests.support.user_families:CourierFamily")
    family = make_family("couriers", seed=3, num_tasks=2, parameters={})
    assert family.cost_names == ("fuel", "damage")
    chosen = Experiment(FamilySpec("couriers", 3, 2, {}), 2, WITHIN, DICESettings(), MetaSettings(), EVALUATION)
    pool = LocalPool(chosen.family)
    drawn = draw(pool, chosen)
    plan = TrainingPlan(drawn.train, 2, chosen.training_within)
    learner = LocalLearner(chosen.meta, chosen.dice, 2)
    state = train(plan, pool, learner, [], Position(drawn.initial_state(chosen.meta)))
    assert state.num_tasks == 2
    assert np.isfinite(state.start.learning_rates).all()


def test_a_within_task_algorithm_is_one_file_and_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's own example, on a task: it differs from CRPO, and its settings are checked."""
    page = (Path(__file__).parent.parent / "docs" / "contributing.md").read_text()
    section = page.partition("## A within-task algorithm\n")[2].partition("\n## ")[0]
    names: dict[str, Any] = {}
    exec(RULE + section.partition("```python\n")[2].partition("```")[0], names)
    with pytest.raises(ValidationError, match="no method is called 'last_violated'"):
        MethodSettings(name="last_violated")
    monkeypatch.setitem(RULES, "last_violated", names["LastViolated"])
    with pytest.raises(ValidationError, match="price: last_violated has no such setting"):
        MethodSettings.model_validate({"name": "last_violated", "price": 1.0})
    within = WITHIN.model_copy(update={"num_iterations": 10})
    chosen = within.model_copy(update={"method": MethodSettings(name="last_violated")})
    spec = experiment().family
    pool = LocalPool(spec)
    (task,) = pool.draw("train", range(1))
    start = Start(np.full((16, 4), 0.25), np.array([1.0, 1.0]))
    plain, own = (next(iter(pool.solve([task], start, one, collect=False))).result for one in (within, chosen))
    assert plain.branches[0] == own.branches[0] == 1
    first = int(np.argmin(plain.branches))
    assert own.branches[first] == 1, "one more step on the cost"
    assert own.branches[first + 1] == 0
