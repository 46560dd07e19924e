"""Settings of the two algorithms that do not belong together are reported before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distributed.settings.keys import dotted_fields
from distributed.settings.run_file import load_config
from policies.neural.neural_settings import NeuralSettings
from policies.tabular.crpo import WithinTaskSettings
from tests.distributed.helpers import (
    Raw,
    exit_code,
    parsed,
    run_file,
    sha_of,
    tiny,
    tiny_neural,
    undisturbed_neural_sha,
    undisturbed_sha,
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(workplace: Path, no_plots: None) -> None:
    pass


def refused(folder: Path, raw: Raw, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The error message for a run file that is refused, without a trace left behind."""
    file = run_file(folder, raw)
    assert exit_code("train", file, *options) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert list(folder.iterdir()) == [file], "no run directory is left behind"
    return text


NEURAL_DICE = "dice.estimator: dualdice_tabular needs a table; with within_task.algorithm neural_crpo it must be one of"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (tiny_neural(dice={"estimator": "dualdice_tabular"}), NEURAL_DICE),
        (
            tiny(dice={"estimator": "dualdice_linear", "linear": {"features": "last_layer"}}),
            "dice.linear.features: last_layer needs within_task.algorithm neural_crpo",
        ),
        (
            tiny_neural(dice={"linear": {"features": "one_hot"}}),
            "dice.linear.features: one_hot needs a table; use random_fourier or last_layer",
        ),
        (
            tiny_neural(dice={"estimator": "none", "failed_weight": 0.5}),
            "dice.failed_weight: has no effect where dice.estimator is none; within_task.algorithm is neural_crpo",
        ),
        (
            tiny_neural(within_task={"dataset_transitions": 0}),
            "within_task.dataset_transitions: must be above 0 where dice.estimator is dualdice_linear",
        ),
        (
            tiny_neural(dice={"ridge": 0.1}),
            "dice.ridge: applies to dualdice_tabular only; within_task.algorithm is neural_crpo",
        ),
        (
            tiny_neural(meta={"initialization": {"method": "fal"}}),
            "meta.initialization: has no effect where within_task.algorithm is neural_crpo; meta.neural is its section",
        ),
        (
            tiny(meta={"neural": {"steps": 7}}),
            "meta.neural: has no effect where within_task.algorithm is crpo; meta.initialization is its section",
        ),
        (
            tiny_neural(meta={"learning_rates": {"curvature": "worst_case"}}),
            "meta.learning_rates.curvature: worst_case counts states and actions",
        ),
        *(
            (
                tiny_neural(evaluation={"methods": ["random", method]}),
                f"evaluation.methods: {method} has no form for within_task.algorithm neural_crpo; "
                "allowed: random, pretrained, simple_average, fal, meta_srl",
            )
            for method in ("oracle",)
        ),
        (
            tiny(within_task={"algorithm": "ppo"}),
            "within_task.algorithm: must be crpo or neural_crpo; given: 'ppo'",
        ),
        (
            tiny_neural(within_task={"algorithm": None}),
            "within_task.algorithm: must be crpo or neural_crpo; given: None",
        ),
    ],
    ids=[
        "tabular estimator",
        "last layer of a table",
        "indicators of a network",
        "no estimator",
        "no transitions",
        "ridge",
        "tabular start",
        "neural start",
        "worst case",
        "oracle",
        "unknown algorithm",
        "no algorithm",
    ],
)
def test_settings_that_do_not_belong_together_are_reported(
    raw: Raw, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(tmp_path, raw, capsys)


@pytest.mark.parametrize(
    ("raw", "key", "right", "wrong"),
    [
        (tiny_neural(within_task={"xyz": 5}), "xyz", NeuralSettings, "episodes_per_iteration"),
        (tiny_neural(within_task={"evaluation": "exact"}), "evaluation", NeuralSettings, "episodes_per_iteration"),
        (tiny(within_task={"xyz": 5}), "xyz", WithinTaskSettings, "steps_per_iteration"),
        (tiny(within_task={"steps_per_iteration": 5}), "steps_per_iteration", WithinTaskSettings, "evaluate_last"),
    ],
    ids=["neural xyz", "neural evaluation", "crpo xyz", "crpo steps"],
)
def test_an_unknown_key_is_reported_with_those_of_its_own_algorithm(
    raw: Raw, key: str, right: Any, wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(tmp_path, raw, capsys)
    allowed = ", ".join(right.model_fields)
    given = raw["within_task"][key]
    assert f"run.yaml: within_task.{key}: unknown key (allowed here: {allowed}); given: {given!r}" in text
    assert wrong not in allowed


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"trust_region": {"delta_max": -1}}, ["within_task.trust_region.delta_max: ", "greater than 0", "given: -1"]),
        ({"trust_region": {"delta": 1}}, ["within_task.trust_region.delta: unknown key", "delta_max", "cg_damping"]),
        ({"trust_region": {"cg_damping": 0.0}}, ["within_task.trust_region: ", "kronecker needs cg_damping above 0"]),
        ({"critic": {"epochs": 0}}, ["within_task.critic.epochs: ", "greater than 0", "given: 0"]),
        ({"critic": 5}, ["within_task.critic: ", "given: 5"]),
        ({"safety_margin": 1.0}, ["within_task.safety_margin: ", "less than 1", "given: 1.0"]),
        ({"hidden": [8, "x"]}, ["within_task.hidden.1: ", "integer", "given: 'x'"]),
        ({"hidden": [8, -3]}, ["within_task.hidden.1: ", "greater than 0", "given: -3"]),
        ({"critic_hidden": [0]}, ["within_task.critic_hidden.0: ", "greater than 0", "given: 0"]),
        ({"initial_log_std": float("inf")}, ["within_task.initial_log_std: ", "finite", "given: inf"]),
        ({"tolerance": -0.5}, ["within_task.tolerance: ", "greater than or equal to 0", "given: -0.5"]),
        ({"tolerance": [0.1, 0.1]}, ["within_task.tolerance: 2 numbers given for 1 cost"]),
        ({"num_copies": 7}, ["within_task: ", "steps_per_iteration 80 is not a multiple of num_copies 7"]),
        ({"num_copies": 8}, ["10 steps per copy do not hold an episode of 20", "set num_copies to at most 4"]),
        ({"steps_per_iteration": 40}, ["do not hold an episode of 20", "steps_per_iteration to at least 80"]),
    ],
    ids=lambda value: None if isinstance(value, list) else str(value),
)
def test_a_wrong_value_of_a_neural_key_is_reported(
    changes: dict[str, Any], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(tmp_path, tiny_neural(within_task=changes), capsys)
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--within_task.trust_region.delta_max", "-1"], "within_task.trust_region.delta_max: "),
        (["--within_task.hidden", "8"], "within_task.hidden: "),
        (["--meta.neural.steps", "0"], "meta.neural.steps: "),
        (["--meta.neural.method", "fal"], "meta.neural.method: "),
        (["--evaluation.num_iterations", "0"], "evaluation.num_iterations: "),
        (["--within_task.algorithm", "crpo"], "within_task.steps_per_iteration: unknown key"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_wrong_overrides_are_reported(
    options: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert part in refused(tmp_path, tiny_neural(), capsys, *options)


def test_a_family_that_an_algorithm_cannot_take_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = tiny_neural()
    lake["family"] = {"name": "frozen_lake", "num_tasks": 8, "map_size": 4, "horizon": 20}
    text = refused(tmp_path, lake, capsys)
    assert "frozen_lake/train/0: observations must come from a Box space, got Discrete(16)" in text
    table = tiny(within_task={"evaluation": "sampled"})
    table["family"] = {"name": "acrobot", "num_tasks": 8}
    text = refused(tmp_path, table, capsys)
    assert (
        "acrobot/train/0: with discrete observations the observation space must be Discrete(n) starting at 0, got Box"
        in text
    )


def test_the_default_estimator_may_be_named() -> None:
    assert sha_of(parsed(tiny_neural(dice={"estimator": "dualdice_linear"}))) == undisturbed_neural_sha()
    raw = tiny_neural()
    raw["dice"] = {"estimator": "none"}
    assert sha_of(parsed(raw)) != undisturbed_neural_sha()
    assert sha_of(parsed(tiny(dice={"estimator": "dualdice_tabular"}))) == undisturbed_sha()


def test_keys_that_both_algorithms_have_are_listed_once_with_both_defaults() -> None:
    listed = [key for key, _, _ in dotted_fields()]
    assert len(listed) == len(set(listed))
    reported = {key: (default, meaning) for key, default, meaning in dotted_fields()}
    assert reported["within_task.num_iterations"][0] == "5 or 10"
    assert reported["within_task.algorithm"][0] == '"crpo" or "neural_crpo"'
    assert reported["within_task.tolerance"][0] == "0.0"


def test_nested_settings_can_be_overridden(tmp_path: Path) -> None:
    options = [("within_task.trust_region.delta_max", "0.05"), ("within_task.critic.epochs", "3")]
    config = load_config(run_file(tmp_path, tiny_neural()), options)
    assert isinstance(config.within_task, NeuralSettings)
    assert (config.within_task.trust_region.delta_max, config.within_task.critic.epochs) == (0.05, 3)
    assert config.within_task.trust_region.cg_iterations == 10
    assert config.digest() != parsed(tiny_neural()).digest()


def test_episodic_returns_beside_a_limit_on_discounted_sums_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tiny_neural(within_task={"returns": "episodic", "steps_per_iteration": 40_000})
    raw["family"] = {"name": "half_cheetah", "num_tasks": 4}
    text = refused(tmp_path, raw, capsys)
    assert "within_task.returns: episodic compares plain sums of costs with the limits" in text
    assert "give family.limit for plain sums (a steady cost in all 200 steps is 2.31 times as large" in text
    raw["family"]["limit"] = 25.0
    parsed(raw)
