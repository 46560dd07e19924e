"""A learned start on its own: the same bits read back, damaged or foreign files refused, the policy's own actions."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnxruntime
import pytest

from distributed.models.meta_policy import STEM, MetaPolicy, Spaces, load_meta_policy, meta_policy_of, save_meta_policy
from distributed.models.mlflow_model import build_model, input_example
from distributed.models.onnx_export import export_onnx
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import FamilySettings
from distributed.storage.checkpoints import DamagedFileError, load_arrays, save_arrays
from distributed.storage.inspection import inspect
from meta.training.experiment import draw
from policies.common.results import Candidates, Start
from policies.neural.policy_state import PolicyState, new_policy
from policies.neural.rollouts import to_bounds
from policies.solving.acting import act
from tasks.stepping.batch import make_batch
from tests.distributed.helpers import Raw, exit_code, local, parsed, run_file, tiny, tiny_neural
from tests.distributed.storage.test_checkpoints import flip, truncate

ACROBOT: Raw = {
    "name": "swing",
    "family": {"name": "acrobot", "num_tasks": 2},
    "within_task": {"algorithm": "neural_crpo", "num_iterations": 2, "num_copies": 8},
    "evaluation": {"methods": ["random", "meta_srl"], "num_test_tasks": 2},
}
CHEETAH: Raw = {**ACROBOT, "name": "cheetah", "family": {"name": "half_cheetah", "num_tasks": 2}}


def start_of(raw: Raw, seed: int = 1) -> MetaPolicy:
    """A start of a run file's family with arbitrary numbers."""
    config = parsed(raw)
    drawn = draw(local(config)[0], config.experiment)
    rng = np.random.default_rng(seed)
    policy = meta_policy_of(
        config,
        drawn.initial_state(config.meta),
        drawn.test[0],
        (0.1,) * (1 + drawn.num_costs),
        {},
    )
    (start,) = policy.starts.starts
    return dataclasses.replace(policy, starts=Start(_arbitrary(start.initialization, rng), start.learning_rates))


def _arbitrary(initial: Any, rng: np.random.Generator) -> Any:
    if not isinstance(initial, PolicyState):
        return rng.dirichlet(np.ones(initial.shape[1]), size=initial.shape[0])
    actor = initial.actor
    vector = (actor.vector + 0.5 * rng.standard_normal(actor.vector.size)).astype(actor.vector.dtype)
    size = actor.network.sizes[0]
    statistics = dataclasses.replace(
        initial.statistics, mean=rng.standard_normal(size), variance=rng.random(size) + 0.1, count=10.0
    )
    return dataclasses.replace(initial, actor=dataclasses.replace(actor, vector=vector), statistics=statistics)


def observations_of(policy: MetaPolicy, count: int = 40) -> Any:
    """Arbitrary observations of the policy's kind."""
    rng = np.random.default_rng(7)
    if policy.spaces.tabular:
        return rng.integers(policy.spaces.observation, size=count)
    return (2.0 * rng.standard_normal((count, policy.spaces.observation))).astype(np.float32)


def expected_mode(policy: MetaPolicy, raw: Raw, observations: Any) -> Any:
    """Most probable actions (within bounds) by the policy's own code."""
    (initial,) = policy.policies
    if not isinstance(initial, PolicyState):
        return initial[observations].argmax(axis=1)
    outputs, _ = initial.act(observations)
    if policy.spaces.actions:
        return outputs.argmax(axis=1)
    experiment = parsed(raw).experiment
    (task,) = local(parsed(raw))[0].draw("test", [0])
    batch = make_batch(experiment.family.make(), task, 1)
    try:
        return to_bounds(batch)(outputs)
    finally:
        batch.close()


KINDS = pytest.mark.parametrize("raw", [tiny(), ACROBOT, CHEETAH], ids=["table", "categorical", "gaussian"])


@KINDS
def test_a_start_is_read_back_bit_for_bit(tmp_path: Path, raw: Raw) -> None:
    policy = start_of(raw)
    save_meta_policy(tmp_path, policy)
    found = load_meta_policy(tmp_path)
    assert (found.settings, found.spaces, found.cost_names) == (policy.settings, policy.spaces, policy.cost_names)
    assert found.random_rates == policy.random_rates
    ours, theirs = policy.starts.starts[0], found.starts.starts[0]
    np.testing.assert_array_equal(ours.learning_rates, theirs.learning_rates)
    if isinstance(ours.initialization, PolicyState):
        assert isinstance(theirs.initialization, PolicyState)
        for name, array in ours.initialization.to_arrays().items():
            np.testing.assert_array_equal(array, theirs.initialization.to_arrays()[name])
    else:
        np.testing.assert_array_equal(ours.initialization, theirs.initialization)
    assert found.config().experiment.family == parsed(raw).experiment.family


def test_several_starts_stay_several(tmp_path: Path) -> None:
    policy = start_of(tiny())
    one = policy.starts.starts[0]
    other = Start(np.asarray(one.initialization)[::-1].copy(), 2.0 * one.learning_rates)
    save_meta_policy(tmp_path, dataclasses.replace(policy, starts=Candidates((one, other), "round_robin", 5)))
    found = load_meta_policy(tmp_path)
    assert isinstance(found.starts, Candidates)
    assert (found.starts.selection, found.starts.probe_episodes) == ("round_robin", 5)
    np.testing.assert_array_equal(found.policies[1], np.asarray(one.initialization)[::-1])


@KINDS
def test_mlflow_and_onnx_give_the_policys_own_actions(tmp_path: Path, raw: Raw) -> None:
    policy = start_of(raw)
    save_meta_policy(tmp_path / STEM, policy)
    build_model(tmp_path / "model", tmp_path / STEM, policy)
    observations = observations_of(policy)
    expected = expected_mode(policy, raw, observations)
    model = load_model(tmp_path / "model")
    np.testing.assert_allclose(model.predict(observations), expected, rtol=1e-5, atol=1e-6)

    export_onnx(policy, tmp_path / "start.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "start.onnx")
    (actions,) = session.run(["actions"], {"observations": observations})
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)
    assert len(np.unique(np.round(expected, 3), axis=0)) > 1


@KINDS
def test_what_mlflow_draws_has_the_policys_distribution(tmp_path: Path, raw: Raw) -> None:
    policy = start_of(raw)
    save_meta_policy(tmp_path / STEM, policy)
    build_model(tmp_path / "model", tmp_path / STEM, policy)
    one = observations_of(policy, 1)
    many = np.repeat(one, 4000, axis=0)
    drawn = load_model(tmp_path / "model").predict(many, params={"stochastic": True, "seed": 5})
    again = load_model(tmp_path / "model").predict(many, params={"stochastic": True, "seed": 5})
    np.testing.assert_array_equal(drawn, again)
    own = act(policy.policies[0], many, np.random.default_rng(1))
    if policy.spaces.actions:
        shares = [np.bincount(actions, minlength=policy.spaces.actions) / 4000 for actions in (drawn, own)]
        np.testing.assert_allclose(shares[0], shares[1], atol=0.05)
    else:
        assert np.abs(drawn).max() <= 1.0
        inside = np.abs(own).max(axis=0) < 1.0
        bounded = np.clip(own, -1.0, 1.0)
        np.testing.assert_allclose(drawn.mean(axis=0), bounded.mean(axis=0), atol=0.06)
        np.testing.assert_allclose(drawn.std(axis=0), bounded.std(axis=0), atol=0.06)
        assert inside.shape == (6,)


def load_model(folder: Path) -> Any:
    """The model as MLflow's users load it; its remark on type hints is none of ours."""
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        return mlflow.pyfunc.load_model(str(folder))


def test_the_model_has_no_pickle_and_a_signature(tmp_path: Path) -> None:
    policy = start_of(CHEETAH)
    save_meta_policy(tmp_path / STEM, policy)
    build_model(tmp_path / "model", tmp_path / STEM, policy)
    suffixes = {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert suffixes == {"", ".py", ".txt", ".yaml", ".json", ".safetensors"}
    info = mlflow.models.get_model_info(str(tmp_path / "model"))
    assert info.signature.inputs.inputs[0].shape == (-1, 17)
    assert info.signature.outputs.inputs[0].shape == (-1, 6)
    assert [param.name for param in info.signature.params] == ["start", "stochastic", "seed"]
    assert input_example(policy).shape == (2, 17)
    model = load_model(tmp_path / "model")
    with pytest.raises(ValueError, match="start: must be from 0 to 0"):
        model.predict(input_example(policy), params={"start": 1})
    with pytest.raises(mlflow.exceptions.MlflowException, match="17"):
        model.predict(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("damage", [truncate, flip])
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_damaged_start_is_refused(tmp_path: Path, damage: Any, suffix: str) -> None:
    save_meta_policy(tmp_path, start_of(tiny()))
    damage(tmp_path / f"{STEM}{suffix}")
    with pytest.raises(DamagedFileError):
        load_meta_policy(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "tabular"}, "kind"),
        ({"num_starts": 0}, "holds no start"),
        ({"num_starts": 2}, "learning_rates"),
        ({"cost_names": ["a", "b"]}, "3 positive numbers"),
        ({"spaces": {"tabular": True, "observation": 9, "actions": 4, "low": [], "high": []}}, r"shape \[9, 4\]"),
        ({"spaces": {"tabular": False, "observation": 9, "actions": 4, "low": [], "high": []}}, "not part of a policy"),
        ({"spaces": {"code": "x"}}, "code"),
    ],
)
def test_a_start_whose_description_contradicts_its_content_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    save_meta_policy(tmp_path, start_of(tiny()))
    arrays, facts = load_arrays(tmp_path / STEM)
    del facts["sha256"], facts["schema_version"]
    save_arrays(tmp_path / STEM, arrays, {**facts, **change})
    with pytest.raises(DamagedFileError, match=message):
        load_meta_policy(tmp_path)


def test_rates_and_probabilities_must_be_such(tmp_path: Path) -> None:
    policy = start_of(tiny())
    (start,) = policy.starts.starts
    table = np.asarray(start.initialization).copy()
    table[3] *= 1.5
    for wrong in (Start(table, start.learning_rates), Start(start.initialization, -start.learning_rates)):
        save_meta_policy(tmp_path, dataclasses.replace(policy, starts=wrong))
        with pytest.raises(DamagedFileError, match="must be"):
            load_meta_policy(tmp_path)


def test_somebody_elses_family_is_not_run_unless_named(tmp_path: Path) -> None:
    """A start may name any code as its family: it is run only when the user names it."""
    code = tmp_path / "evil.py"
    code.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    policy = start_of(tiny())
    settings = {**policy.settings, "family": {"name": f"{code}:Family"}}
    folder = tmp_path / "start"
    save_meta_policy(folder, dataclasses.replace(policy, settings=settings))
    with pytest.raises(ConfigurationError, match=r"is code: choose by --family"):
        load_meta_policy(folder).config()
    assert exit_code("adapt", folder) == 2
    assert not (tmp_path / "ran").exists()
    chosen = FamilySettings.model_validate({"name": "frozen_lake", "map_size": 4})
    assert load_meta_policy(folder).config(chosen).family.name == "frozen_lake"


def test_a_start_that_does_not_fit_a_family_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_meta_policy(tmp_path, start_of(tiny()))
    assert exit_code("adapt", tmp_path, "--family", "frozen_lake", "--family-parameters", '{"map_size": 5}') == 2
    reported = " ".join(capsys.readouterr().err.split())
    assert "was learned on 16 states, 4 actions; tasks of frozen_lake have 25 states, 4 actions" in reported
    assert exit_code("adapt", tmp_path, "--family", "acrobot") == 2
    assert "which does not fit" in capsys.readouterr().err


def test_a_start_adapts_to_a_family_of_the_same_spaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_meta_policy(tmp_path, start_of(tiny()))
    parameters = json.dumps({"map_size": 4, "horizon": 30, "similarity": "low"})
    assert (
        exit_code("adapt", tmp_path, "--family", "frozen_lake", "--family-parameters", parameters, "--task-seed", "3")
        == 0
    )
    assert "| updates | random: reward" in capsys.readouterr().out
    assert list((tmp_path / "adapt").glob("*-policy.csv"))


def test_inspect_describes_a_folder_and_a_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_meta_policy(tmp_path / "good", start_of(tiny()))
    save_meta_policy(tmp_path / "bad", start_of(tiny()))
    truncate(tmp_path / "bad" / f"{STEM}.safetensors")
    reported = inspect(tmp_path)
    assert f"| {tmp_path / 'good' / STEM} | meta_policy | 2 | 0.001 | intact |" in reported
    assert f"| {tmp_path / 'bad' / STEM} | – | – | – | damaged" in reported
    pair = inspect(tmp_path / "good" / f"{STEM}.safetensors")
    assert "| start_0.probabilities | [16, 4] | float64 |" in pair
    assert '| cost_names | ["holes_entered"] |' in pair
    for wrong in (tmp_path / "none.json", tmp_path / "x.csv"):
        assert exit_code("inspect", wrong) == 2
    (tmp_path / "empty").mkdir()
    assert exit_code("inspect", tmp_path / "empty") == 2
    assert exit_code("inspect", tmp_path / "bad" / f"{STEM}.json") == 1
    capsys.readouterr()


def test_export_reports_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_meta_policy(tmp_path, start_of(tiny()))
    assert exit_code("export", tmp_path, tmp_path / "x.onnx") == 0
    assert (tmp_path / "x.onnx").is_file()
    assert exit_code("export", tmp_path, tmp_path / "x.pt") == 2
    assert exit_code("export", tmp_path, tmp_path / "x.onnx", "--start", "1") == 2
    assert "--start: must be from 0 to 0, got 1" in capsys.readouterr().err
    assert exit_code("export", tmp_path / "nothing", tmp_path / "x.onnx") == 2
    assert "nothing: is not a run directory" in capsys.readouterr().err


def test_unbounded_actions_stay_as_they_are(tmp_path: Path) -> None:
    """One bound alone clips; only two make a range that actions are in units of."""
    spaces = Spaces(tabular=False, observation=3, actions=0, low=(None, -2.0, 1.0), high=(None, None, 5.0))
    network = new_policy(3, 3, 1, continuous=True, seed=4)
    base = start_of(CHEETAH)
    policy = dataclasses.replace(
        base, starts=Start(_arbitrary(network, np.random.default_rng(3)), np.ones(2)), spaces=spaces
    )
    observations = 3.0 * np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    outputs, _ = policy.policies[0].act(observations)  # type: ignore[union-attr]
    expected = np.stack(
        [outputs[:, 0], np.maximum(outputs[:, 1], -2.0), np.clip(3.0 + 2.0 * outputs[:, 2], 1.0, 5.0)], axis=1
    )
    save_meta_policy(tmp_path / STEM, policy)
    build_model(tmp_path / "model", tmp_path / STEM, policy)
    np.testing.assert_allclose(load_model(tmp_path / "model").predict(observations), expected, rtol=1e-5, atol=1e-6)
    export_onnx(policy, tmp_path / "start.onnx")
    (actions,) = onnxruntime.InferenceSession(tmp_path / "start.onnx").run(None, {"observations": observations})
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)


def test_a_neural_run_leaves_a_start_that_fits_its_family(workplace: Path, no_plots: None) -> None:
    raw = tiny_neural()
    assert exit_code("train", run_file(workplace, raw)) == 0
    (folder,) = workplace.glob(f"runs/*/*/{STEM}")
    policy = load_meta_policy(folder)
    assert isinstance(policy.policies[0], PolicyState)
    assert policy.policies[0].statistics.count > 0
    assert policy.facts["num_tasks"] == 8
