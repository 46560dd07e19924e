"""Wrong settings of a method of RLlib are found before a task is solved, by their keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distributed.settings.admission import admitted
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import load_config
from distributed.storage.family_sources import sources_of
from meta.methods.registry import compared_methods
from policies.rules.rule_registry import MethodSettings
from tests.distributed.helpers import changed, run_file, tiny, tiny_neural
from tests.distributed.solvers.test_rllib_solver import CRPO, PPO, own

FIXED = {"learning_rates": {"initial": 0.3, "method": "fixed", "units": "absolute"}}


def raw(method: dict[str, Any], within: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A run on points with this method."""
    given = tiny_neural(within_task={"method": method, **(within or {})}, cluster={"pool": "ray"}, meta=FIXED)
    return changed(given, changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (raw({"name": "rllib:Own"}), "method.name: rllib:Own: must be rllib:CRPO or rllib:package.module:Class"),
        (raw({"name": "rllib:"}), "method.name: rllib:: must be rllib:CRPO or"),
        (
            raw({"name": "rllib:nowhere.at:All"}),
            "method.name: rllib:nowhere.at:All: module 'nowhere.at' does not import",
        ),
        (raw(own("Nobody")), "method.name: .* has no class 'Nobody'"),
        (raw(own("PPOConfig")), "PPOConfig is not an Algorithm of RLlib"),
        (raw(own("OldStack")), "runs on RLlib's old API stack; the new one is needed"),
        (
            raw({**PPO, "name": "rllib:ray.rllib.algorithms.sac:SAC", "training": {}}),
            "its loss needs more than a policy",
        ),
        (raw({**PPO, "name": "rllib:ray.rllib.algorithms.bc:BC", "training": {}}), "bc:BC: its loss needs more"),
        (
            raw({**PPO, "costs": None}),
            "method.costs: rllib:ray.*PPO takes no cost limits and maximises the reward alone",
        ),
        (raw({**PPO, "costs": "penalised"}), "method.costs: rllib:ray.*PPO: Input should be 'ignored'"),
        (raw({**CRPO, "costs": "ignored"}), "method.costs: has no effect where rllib:CRPO takes cost limits"),
        (
            raw({**CRPO, "runners": 2}),
            "method.runners: rllib:CRPO: is no setting of it .allowed: costs, num_env_runners",
        ),
        (raw({**CRPO, "training": {"gamma": 0.9}}), "training.gamma: is not set here: it is the family's discount"),
        (
            raw({**PPO, "training": {"learner_class": "os.path:join"}}),
            "training.learner_class: must be a number, a word",
        ),
        (raw({**PPO, "training": {"speed": 3}}), "method.training: rllib:ray.*PPO: TypeError: .*speed"),
        (raw({**CRPO, "num_env_runners": 3}), "num_env_runners: 3 runners cannot share the 4 copies"),
        (
            raw(CRPO, {"trust_region": {"delta_last": 0.1}}),
            "trust_region.delta_last: has no effect where .* rllib:CRPO",
        ),
        (raw(CRPO, {"final_log_std": -2.0}), r"within_task\.final_log_std: has no effect where .* rllib:CRPO"),
        (raw(PPO, {"reward_trace": 0.5}), "within_task.reward_trace: has no effect where within_task.method.name is"),
        (raw(PPO, {"trust_region": {"delta_max": 0.5}}), "within_task.trust_region: has no effect"),
        (raw(PPO, meta={"learning_rates": {"method": "ftl"}}), "meta.learning_rates.method: must be fixed where .*PPO"),
        (raw(CRPO, cluster={"pool": "local"}), "cluster.pool: must be ray where within_task.method.name is rllib:CRPO"),
        (raw(CRPO, evaluation={"safety": {"confidence": 0.9}}), "evaluation.safety: the steps of rllib:CRPO cannot be"),
        (tiny(within_task={"method": CRPO}), "method.name: rllib:CRPO needs algorithm neural_crpo"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_wrong_setting_is_refused_by_its_key(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_config(run_file(tmp_path, content))


@pytest.mark.parametrize("method", [CRPO, PPO])
def test_a_right_setting_is_taken(method: dict[str, Any], tmp_path: Path) -> None:
    config = load_config(run_file(tmp_path, raw({**method, "num_env_runners": 2})))
    assert config.within_task.method.num_cpus == 3
    assert "multitask" not in compared_methods(config.evaluation, config.within_task, has_model=False)


def test_a_single_step_needs_a_rule() -> None:
    with pytest.raises(ValueError, match="rllib:CRPO solves whole tasks; single steps need a rule, such as crpo"):
        MethodSettings(name="rllib:CRPO").make()
    with pytest.raises(ValueError, match=r"multitask has no form for .* neural_crpo with method rllib:CRPO"):
        RunConfig.model_validate(raw(CRPO, evaluation={"methods": ["multitask"]}))


def test_a_class_that_a_run_directory_names_runs_only_if_the_user_names_it(tmp_path: Path) -> None:
    family = "tests.distributed.families:NotedPoints"
    name = own("Twice")["name"]
    with pytest.raises(ConfigurationError, match=f"with the method {name}, which is code: --method {name} runs it"):
        admitted(raw(own("Twice")), "the run", family)
    config = admitted(raw(own("Twice")), "the run", family, method=name)
    assert config.within_task.method.name == name
    kept = set(sources_of(*config.code.values()))
    assert {"tests/distributed/families.py", "tests/support/rllib_classes.py"} <= kept, "a resume sees changes of both"
    assert sources_of("ray.rllib.algorithms.ppo:PPO") == {}
    inside = tmp_path / "evil.py"
    inside.write_text("raise SystemExit(3)")
    given = raw({"name": f"rllib:{inside}:Evil"})
    with pytest.raises(ConfigurationError, match="is inside the run directory"):
        admitted(given, "the run", family, tmp_path, method=f"rllib:{inside}:Evil")
    assert admitted(raw(CRPO), "the run", family).code == {"family.name": family}, "our own class is not code of others"
