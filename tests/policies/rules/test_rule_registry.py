"""within_task.method: its settings, files from before it existed, and classes of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest

from policies.exact.solver import ExactModel
from policies.neural.neural_settings import NeuralSettings
from policies.rules.c_trpo import CTRPO
from policies.rules.rule_registry import CRPO_METHOD, RULES, MethodSettings
from policies.rules.switching import CRPO
from policies.tabular.crpo import ExactEvaluator, WithinTaskSettings, solve
from tests.support.problems import interior_limits, random_cmdp

OWN = '''
import numpy as np
from policies.rules.rule import Decision


class Half:
    """Half of CRPO's step on the reward, and none on costs; counts its steps."""

    def __init__(self, share=0.5):
        self.share = share

    def first(self, num_costs):
        return 0

    def decide(self, view, memory):
        coefficients = np.zeros(view.values.size)
        coefficients[0] = self.share * view.rates[0] / (1 + memory)
        return Decision(coefficients, 0, memory + 1)


class Broken:
    def first(self, num_costs):
        return ()
'''


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_made_with_its_defaults(name: str) -> None:
    settings = MethodSettings(name=name)
    assert type(settings.make()) is RULES[name]
    assert settings.built_in
    assert settings.make() == settings.make()


def test_settings_of_a_rule_are_keys_of_the_section() -> None:
    given: dict[str, Any] = {"name": "c_trpo", "recover_to": 0.9, "barrier": "logarithm"}
    assert MethodSettings(**given).make() == CTRPO(recover_to=0.9, barrier="logarithm")
    assert MethodSettings.model_validate(MethodSettings(**given).model_dump(mode="json")) == MethodSettings(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "cpo", "penalty": 2.0}, "penalty: cpo has no such setting .allowed: none.; given: 2.0"),
        ({"name": "p3o", "penalty": -1.0}, "penalty: Input should be greater than 0; given: -1.0"),
        ({"name": "p3o", "clipped": {"clip": 2.0}}, "clipped.clip: Input should be less than 1"),
        ({"name": "pcpo"}, "no method is called 'pcpo'; known: crpo, npg_primal_dual, cpo"),
        ({"tolerance": 1.0}, "tolerance: crpo has no such setting"),
    ],
)
def test_wrong_settings_are_named(given: dict[str, Any], message: str) -> None:
    for model in (WithinTaskSettings, NeuralSettings):
        with pytest.raises(pydantic.ValidationError, match=message):
            model.model_validate({"method": given})


def test_clipped_steps_refuse_to_keep_costs() -> None:
    for name in ("p3o", "ppo_lagrangian"):
        with pytest.raises(pydantic.ValidationError, match=f"keep_satisfied: has no effect on the clipped .* {name}"):
            NeuralSettings.model_validate({"method": {"name": name}, "trust_region": {"keep_satisfied": True}})
    NeuralSettings.model_validate({"method": {"name": "pcrpo"}, "trust_region": {"keep_satisfied": True}})


@pytest.mark.parametrize("model", [WithinTaskSettings, NeuralSettings])
def test_files_and_digests_from_before_the_setting_stay_valid(model: Any) -> None:
    plain = model()
    assert "method" not in plain.model_dump(mode="json")
    assert plain.method == CRPO_METHOD == model.model_validate({"method": {"name": "crpo"}}).method
    assert "method" not in model.model_validate({"method": {"name": "crpo"}}).model_dump()
    chosen = model.model_validate({"method": {"name": "p3o", "penalty": 3.0}})
    assert chosen.model_dump(mode="json")["method"] == {"name": "p3o", "penalty": 3.0}
    assert model.model_validate(chosen.model_dump(mode="json")) == chosen
    assert isinstance(plain.method.make(), CRPO)


def test_a_class_of_the_users_is_a_method(tmp_path: Path) -> None:
    """It sees every iterate, keeps its memory over the task, and is made anew for the next task."""
    file = tmp_path / "own_rule.py"
    file.write_text(OWN)
    model = ExactModel(random_cmdp(0, 4, 3, 1, 0.8))
    limits = interior_limits(model.tabular, 0.5)
    settings = WithinTaskSettings.model_validate(
        {"num_iterations": 3, "method": {"name": f"{file}:Half", "share": 0.25}}
    )
    for _ in range(2):
        given = (np.zeros(model.shape), np.full(2, 0.4), limits, settings, 0.8, np.random.default_rng(0))
        np.testing.assert_allclose(solve(ExactEvaluator(model), *given).steps, [0.1, 0.05, 0.1 / 3.0])


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("nothing.py:Half", {}, "within_task.method.name: there is no file 'nothing.py'"),
        ("{file}:Whole", {}, "within_task.method.name: module .* has no class 'Whole'; its classes: Half, Broken"),
        ("{file}:Half", {"shares": 1}, "within_task.method: .*:Half could not be made: TypeError: .*shares"),
        ("{file}:Broken", {}, "within_task.method.name: .*:Broken lacks decide"),
    ],
)
def test_what_is_wrong_with_a_class_of_the_users(
    tmp_path: Path, name: str, parameters: dict[str, Any], message: str
) -> None:
    """Naming it runs nothing; making it says what is wrong."""
    file = tmp_path / "own_rule.py"
    file.write_text(OWN)
    settings = MethodSettings.model_validate({"name": name.format(file=file), **parameters})
    with pytest.raises(ValueError, match=message):
        settings.make()
