"""Starts with contexts from the command line: train, resume, adapt, files, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnxruntime
import pytest

from distributed.jobs import training_job
from distributed.models.meta_policy import STEM, load_meta_policy, save_meta_policy
from distributed.models.mlflow_model import build_model, input_example, quiet
from distributed.settings.console import Console
from distributed.storage.checkpoints import DamagedFileError, load_arrays
from distributed.storage.csv_tables import read_rows
from distributed.storage.run_directory import load_run_config
from distributed.tracking.run_tracker import RunTracker
from meta.training.experiment import family_of
from meta.training.pool import LocalPool
from policies.neural.policy_state import PolicyState, policy_from_arrays
from policies.tabular.kernel_table import ContextTable, KernelTable
from policies.tabular.log_linear_table import LogLinearTable
from tasks.lakes.frozen_lake import FrozenLake
from tests.distributed.helpers import (
    Raw,
    changed,
    exit_code,
    finished,
    parsed,
    run_file,
    summary_of,
    tiny,
    tiny_neural,
)
from tests.support.few_variants import few

GOALS = "tests.support.goal_family:GoalFamily"
NAMED = ["--family", GOALS]
WARM = {"rounds": 6, "teams": 2, "tasks": 5, "distinct_tasks": 12}


def goals(context: str = "probed", **changes: Any) -> Raw:
    """The run file of goals that are the context of their tasks."""
    raw = changed(tiny_neural(meta={"context": context, "warm_up": WARM}), changes)
    return {**raw, "family": {"name": GOALS, "num_tasks": 8, **changes.get("family", {})}}


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("probed"), goals())


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("given"), goals("given"))


def test_held_out_tasks_are_solved_with_the_context_that_was_found(probed: Path) -> None:
    rows = read_rows(probed / "held_out.csv")
    assert {row["probe_steps"] for row in rows} == {80}
    summary = summary_of(probed)
    assert summary["num_tasks"] == 8
    assert summary["warm_up_steps"] == 11 * 5 * 20
    assert summary["env_steps"] == 11 * 5 * 20 + 8 * 3 * 80


def test_a_task_by_its_parameters_shows_its_context(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("adapt", given, *NAMED, "--parameters", '{"goal": 0.25, "kind": "mine"}') == 0
    out = capsys.readouterr().out
    assert "- context: goal 0.25" in out
    assert "found by" not in out


def test_a_hidden_context_is_found_and_shown(probed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("adapt", probed, *NAMED, "--parameters", '{"goal": 0.25, "kind": "mine"}') == 0
    assert "found by a first batch of 80 steps" in capsys.readouterr().out


def test_learned_contexts_go_where_the_start_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path, goals("learned", meta={"contexts": {"latent_size": 2}}))
    steps = {(row["method"], row["probe_steps"]) for row in read_rows(run / "held_out.csv")}
    assert steps == {("random", 0), ("meta_srl", 80)}
    policy = load_meta_policy(run / STEM)
    assert policy.contexts is not None
    assert policy.contexts.latent
    assert policy.contexts.known.shape == (12, 2)
    np.testing.assert_allclose(policy.contexts.known.std(axis=0), 1.0)
    task = '{"goal": 0.25, "kind": "mine"}'
    assert exit_code("adapt", run, *NAMED, "--parameters", task) == 0
    of_run = capsys.readouterr().out
    assert "- context: latent 1 " in of_run
    assert "found by a first batch of 80 steps" in of_run
    assert exit_code("adapt", run / STEM, *NAMED, "--parameters", task) == 0
    of_files = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| meta_srl")]
    assert of_files == [line for line in of_run.splitlines() if line.startswith("| meta_srl")]
    observations = np.zeros((1, 1), np.float32)
    low, high = (
        exported(run / STEM, tmp_path / f"{z}.onnx", observations, "--context", f'{{"latent 1": {z}, "latent 2": 0}}')
        for z in (-2, 2)
    )
    assert not np.array_equal(low, high)


def test_an_inferred_context_is_reported_with_its_error_and_goes_where_the_start_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "tests.support.strength_family:StrengthFamily"
    raw = goals("inferred", meta={"contexts": {"observed_rounds": 8}})
    run = finished(tmp_path, {**raw, "family": {"name": name, "num_tasks": 8}})
    error = summary_of(run)["context_errors"]["strength"]
    assert 0.0 < error < 0.5
    printed = capsys.readouterr()
    assert (
        f"error of inferred contexts on tasks left out (0 exact, 1 as poor as the mean): strength {error:.2f}"
        in " ".join(printed.out.split())
    )
    rounds = re.findall(r"(\d+)/(\d+) warm-up rounds", printed.err + printed.out)
    assert rounds[-1] == (str(raw["meta"]["warm_up"]["rounds"] + 8),) * 2, "rounds that observe tasks count too"
    regression = load_meta_policy(run / STEM).starts.starts[0].regression
    assert regression is not None
    assert regression.errors[0] == error
    for part, damage in (("weights", np.zeros((2, 1))), ("errors", np.array([np.nan])), ("largest_error", np.zeros(1))):
        start = dataclasses.replace(
            load_meta_policy(run / STEM).starts.starts[0],
            regression=dataclasses.replace(regression, **{part: damage}),
        )
        save_meta_policy(tmp_path / part, dataclasses.replace(load_meta_policy(run / STEM), starts=start))
        with pytest.raises(DamagedFileError, match=rf"regression\.{part} must "):
            load_meta_policy(tmp_path / part)
    task = ["--family", name, "--parameters", '{"strength": 0.4}']
    assert exit_code("adapt", run, *task) == 0
    of_run = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| meta_srl", "- context"))]
    assert exit_code("adapt", run / STEM, *task) == 0
    of_files = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| meta_srl", "- context"))]
    assert of_files == of_run
    assert "found by a first batch of 80 steps" in of_run[-1] + of_run[0]


def test_a_context_outside_the_training_range_is_a_warning_with_the_range(
    given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("adapt", given, *NAMED, "--parameters", '{"goal": 4.5, "kind": "mine"}') == 0
    reported = " ".join(capsys.readouterr().err.split())
    assert "its context lies outside the training tasks' range: goal 4.5 (trained on -" in reported


def test_the_adapted_network_takes_plain_observations(given: Path) -> None:
    assert exit_code("adapt", given, *NAMED, "--task-index", "1") == 0
    arrays, facts = load_arrays(given / "adapt" / "test-1-policy")
    assert facts["kind"] == "neural"
    assert policy_from_arrays(arrays).statistics.mean.size == 1
    start = load_meta_policy(given / STEM).policies[0]
    assert isinstance(start, PolicyState)
    assert start.statistics.mean.size == 2


def test_a_start_is_adapted_from_its_files_as_from_its_run(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = '{"goal": -0.5, "kind": "mine"}'
    assert exit_code("adapt", given, *NAMED, "--parameters", task) == 0
    of_run = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert exit_code("adapt", given / STEM, *NAMED, "--parameters", task) == 0
    of_files = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert of_files == of_run
    policy = load_meta_policy(given / STEM)
    assert policy.contexts is not None
    assert policy.contexts.space.names == ("goal",)
    assert input_example(policy).shape == (2, 2)
    build_model(tmp_path / "model", given / STEM, policy)
    names = [param.name for param in mlflow.models.get_model_info(str(tmp_path / "model")).signature.params]
    assert names == ["start", "stochastic", "seed", "context"]
    save_meta_policy(tmp_path, policy)
    assert load_meta_policy(tmp_path).contexts == policy.contexts


def test_damaged_contexts_of_a_start_are_reported(given: Path, tmp_path: Path) -> None:
    policy = load_meta_policy(given / STEM)
    assert policy.contexts is not None
    broken = dataclasses.replace(policy.contexts, known=np.zeros((3, 2)))
    save_meta_policy(tmp_path, dataclasses.replace(policy, contexts=broken))
    with pytest.raises(DamagedFileError, match="known contexts must be finite numbers"):
        load_meta_policy(tmp_path)


def test_a_start_with_contexts_does_not_fit_a_family_of_other_entries(
    given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        exit_code("adapt", given / STEM, "--family", "half_cheetah", "--family-parameters", '{"variant": "velocity"}')
        == 2
    )
    reported = " ".join(capsys.readouterr().err.split())
    assert "its context lacks goal; training tasks have goal" in reported


class Stopping(RunTracker):
    """Ends the run in the middle of the warm-up."""

    def warmed_up(self, state: Any, steps: Any) -> None:
        if state.warm_up_rounds == 4:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("workplace")
def test_a_run_that_ended_in_the_warm_up_resumes_to_the_same_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distributed.storage.run_directory._WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr("distributed.jobs.training_job.save_figures", lambda *arguments: [])
    config, console = parsed(goals()), Console()
    undisturbed = training_job.run(config, console).summary.meta_state_sha256
    with pytest.raises(KeyboardInterrupt):
        training_job.run(changed_name(config, "cut"), console, trackers=[Stopping()])
    (cut,) = Path("runs/cut").iterdir()
    assert sorted(path.stem for path in (cut / "checkpoints").glob("round-*.json"))[-1] == "round-000004"
    resumed = training_job.run(changed_name(config, "cut"), console, resume=cut).summary
    assert resumed.meta_state_sha256 == undisturbed


def changed_name(config: Any, name: str) -> Any:
    return config.model_copy(update={"name": name})


MAPS: dict[str, type[ContextTable]] = {"kernel": KernelTable, "log_linear": LogLinearTable}


@pytest.mark.parametrize("kind", few(MAPS, 1))
def test_lakes_start_from_the_table_of_their_map(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path, tiny(meta={"context": "given", "contexts": {"map": kind}}))
    capsys.readouterr()
    (start,) = load_meta_policy(run / STEM).policies
    assert isinstance(start, MAPS[kind])
    assert start.contexts.shape == (8, 16)
    found = summary_of(run)["similarity"]
    assert found["conditional_similarity"] <= found["task_similarity"]
    assert exit_code("adapt", run, "--task-index", "0") == 0
    of_run = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert exit_code("adapt", run / STEM, "--task-index", "0") == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")] == of_run


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            tiny(meta={"context": "probed"}),
            "meta.context: probed needs within_task.algorithm neural_crpo; tables take given",
        ),
        (tiny(meta={"warm_up": WARM}), "meta.warm_up.rounds: direct steps need within_task.algorithm neural_crpo"),
        (
            tiny(meta={"context": "given", "initialization": {"method": "ogd"}}),
            "meta.initialization.method: must be ftl where meta.context is given",
        ),
        (goals("guessed"), "meta.context"),
        (goals(family={"widest": 0.0}), "the context's entry goal is 0 in all 12 training tasks"),
        (goals(meta={"num_initializations": 2}), "meta.context: needs num_initializations 1"),
        (changed(tiny_neural(), {"meta": {"contexts": {"limits": True}}}), "meta.contexts: needs meta.context given"),
        (
            goals("given", meta={"contexts": {"map": "log_linear"}}),
            "meta.contexts.map: log_linear needs within_task.alg",
        ),
        (tiny(meta={"context": "given", "contexts": {"ridges": [1.0]}}), "meta.contexts.ridges: has no effect where"),
        (
            tiny(meta={"context": "given", "contexts": {"map": "log_linear", "bandwidths": [1.0]}}),
            "meta.contexts.bandwidths: has no effect where meta.contexts.map is log_linear",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    raw: Raw, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code("train", run_file(tmp_path, raw)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


def predicted(folder: Path, observations: Any, **params: Any) -> Any:
    with quiet():
        from distributed.models.mlflow_code import Actions

    return Actions(folder)(observations, params)


def exported(start: Path, target: Path, observations: Any, *context: str) -> Any:
    assert exit_code("export", start, target, *context) == 0
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    return session.run(None, {"observations": observations})[0]


def test_networks_are_served_and_exported_with_their_context(given: Path, tmp_path: Path) -> None:
    policy = load_meta_policy(given / STEM)
    assert policy.contexts is not None
    normalized = policy.contexts.space.normalized({"goal": 0.4}, "task")
    plain = np.zeros((3, 1), np.float32)
    joined = np.column_stack([plain, np.full((3, 1), normalized, np.float32)])
    served = predicted(given / STEM, joined)
    np.testing.assert_allclose(predicted(given / STEM, plain, context='{"goal": 0.4}'), served)
    np.testing.assert_allclose(exported(given, tmp_path / "all.onnx", joined), served, atol=1e-6)
    own = exported(given, tmp_path / "own.onnx", plain, "--context", '{"goal": 0.4}')
    np.testing.assert_allclose(own, served, atol=1e-5)
    with pytest.raises(ValueError, match="must be a JSON object with the entries goal"):
        predicted(given / STEM, plain, context='{"speed": 0.4}')


def test_effects_that_do_not_fit_are_reported_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FrozenLake, "context_effects", lambda self: np.array([[0, 0, 99, 0]]))
    raw = tiny(meta={"context": "given", "contexts": {"map": "log_linear"}})
    assert exit_code("train", run_file(tmp_path, raw)) == 2
    message = "context_effects: row 0 names entry 99; there are 16, counted from 0"
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("kind", "warned"), [("kernel", True), ("log_linear", False)])
def test_holes_in_new_places_are_a_guess_only_where_weights_are_not_shared(
    kind: str, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path, tiny(meta={"context": "given", "contexts": {"map": kind}}))
    experiment = load_run_config(run).experiment
    contexts = family_of(LocalPool(experiment.family), experiment).contexts
    assert contexts is not None
    tiles = np.array(list("SFFFFFFFFFFFFFFG"))
    tiles[np.flatnonzero((contexts.space.high == 0.0) & (tiles == "F"))[0]] = "H"
    task = json.dumps({"desc": ["".join(row) for row in tiles.reshape(4, 4)]})
    assert exit_code("adapt", run, "--parameters", task) == 0
    reported = " ".join(capsys.readouterr().err.split())
    assert ("outside the training tasks' range: hole[" in reported) == warned


@pytest.mark.parametrize("kind", few(MAPS, 0))
def test_tables_are_served_and_exported_for_a_context(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path, tiny(meta={"context": "given", "contexts": {"map": kind}}))
    policy = load_meta_policy(run / STEM)
    build_model(tmp_path / "model", run / STEM, policy)  # which MLflow tries with its input example
    (table,) = policy.policies
    assert isinstance(table, MAPS[kind])
    assert policy.contexts is not None
    states = np.arange(16)
    np.testing.assert_array_equal(predicted(run / STEM, states), table.plain.argmax(axis=1))
    entries = policy.contexts.space.entries(policy.contexts.known[3])
    own = table.at(policy.contexts.space.normalized(entries, "task"))
    np.testing.assert_array_equal(predicted(run / STEM, states, context=json.dumps(entries)), own.argmax(axis=1))
    found = exported(run, tmp_path / "lake.onnx", states, "--context", json.dumps(entries))
    np.testing.assert_array_equal(found, own.argmax(axis=1))
    capsys.readouterr()
    assert exit_code("export", run, tmp_path / "lake.onnx") == 2
    assert "--context: a table by context needs one; give its entries (hole[0][0]" in capsys.readouterr().err
    assert exit_code("export", run, tmp_path / "lake.onnx", "--context", '{"hole[0][0]": "x"}') == 2
    assert "--context: its context lacks hole[0][1]" in " ".join(capsys.readouterr().err.split())
