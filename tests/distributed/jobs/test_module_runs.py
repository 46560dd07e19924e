"""Runs whose networks are modules of torch: learned, resumed, adapted, and never run from files of others unnamed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from distributed.cluster.calls import Rules
from distributed.cluster.meta_learner import RayLearner
from distributed.cluster.ray_pool import RayPool
from distributed.models.meta_policy import STEM, load_meta_policy, save_meta_policy
from distributed.models.model_registry import register
from distributed.models.onnx_export import export_onnx
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.storage.checkpoints import DamagedFileError, load_arrays, save_arrays
from distributed.storage.run_directory import RunDirectory, load_final_state, load_run_config
from meta.learning.neural import NeuralMetaState
from policies.networks.module_network import MODULE, NETWORKS, ModuleError
from tests.distributed.helpers import (
    POINTS,
    Raw,
    exit_code,
    finished,
    learn,
    local,
    parsed,
    run_file,
    sha_of,
    tiny_neural,
)
from tests.distributed.storage.test_resume import Crash, CrashAfter

NETS = """
from torch import nn
class Actor(nn.Module):
    def __init__(self, inputs, outputs, width=6):
        super().__init__()
        self.body, self.head = nn.Linear(inputs, width), nn.Linear(width, outputs)
    def forward(self, observations):
        return self.head(self.body(observations).tanh())
"""
MODULES = {
    "network": "my_nets.py:Actor",
    "network_arguments": {"width": 5},
    "critic_network": "my_nets.py:Actor",
    "trust_region": {"preconditioner": "none"},
}


def with_modules(**changes: Any) -> Raw:
    """The tiny run with modules instead of mlps."""
    raw = tiny_neural(**changes)
    for key in ("hidden", "critic_hidden"):
        del raw["within_task"][key]
    raw["within_task"] |= MODULES
    return raw


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in a folder that holds the file of the networks."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "my_nets.py").write_text(NETS)
    return finished(folder, with_modules())


@pytest.fixture
def beside(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, from the folder with the file of the networks."""
    monkeypatch.chdir(trained.parents[2])
    monkeypatch.delenv(NETWORKS, raising=False)
    return trained


def test_a_module_is_learned_and_kept_in_files(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parsed(with_modules())
    state = load_final_state(beside, config, lambda message: None)
    assert isinstance(state, NeuralMetaState)
    assert state.sha256() == sha_of(config), "what undisturbed training in this process gives"
    (start,) = load_meta_policy(beside / STEM).policies
    inputs = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
    with pytest.raises(ModuleError, match=f"come from a file that names this class, .* by {NETWORKS}=my_nets.py:Actor"):
        start.act(inputs)  # type: ignore[union-attr]
    monkeypatch.setenv(NETWORKS, "my_nets.py:Actor")
    np.testing.assert_array_equal(start.act(inputs)[0], state.initialization.act(inputs)[0])  # type: ignore[union-attr]
    arrays = load_file(beside / STEM / f"{STEM}.safetensors")
    assert {f"start_0.actor.{name}" for name in (MODULE, "body.weight", "head.bias", "log_std", "input_scale")} <= set(
        arrays
    )
    assert json.loads((beside / "family_sources.json").read_text())["files"].keys() >= {"my_nets.py"}
    summary = json.loads((beside / "summary.json").read_text())
    assert summary["num_tasks"] == 8


def test_a_resumed_run_ends_in_the_same_bits(beside: Path, tmp_path: Path) -> None:
    config = parsed(with_modules(output={"run_dir": str(tmp_path)}))
    directory = RunDirectory.create(config)
    with pytest.raises(Crash):
        learn(config, *local(config), directory, CrashAfter(5))
    again = RunDirectory.open(directory.path, config)
    state, _ = learn(config, *local(config), again)
    assert state.sha256() == load_final_state(beside, config, lambda message: None).sha256()


@pytest.mark.slow
def test_local_pool_and_ray_pool_give_the_same_bits(ray_cluster: str, workplace: Path) -> None:
    raw = with_modules()
    raw["within_task"] |= {"network": "tests.support.modules:Normed", "critic_network": "tests.support.modules:Tanh"}
    config = parsed(raw)
    experiment = config.experiment
    learner = RayLearner(experiment.meta, experiment.dice, experiment.within.num_iterations, Rules(3))
    state, _ = learn(config, RayPool(experiment.family, 2, Rules(3), 120.0), learner)
    assert state.sha256() == sha_of(config)


def test_a_changed_file_of_a_network_is_noticed_on_a_resume(beside: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(beside.parents[2], folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "my_nets.py").write_text(NETS.replace("tanh", "sigmoid"))
        run = folder / beside.relative_to(beside.parents[2])
        with pytest.raises(ConfigurationError, match=r"or the network my_nets.py:Actor has another source .*changed"):
            RunDirectory.open(run, parsed(with_modules()))


def test_code_of_a_network_runs_only_where_the_user_names_it(
    beside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("adapt", beside, "--family", POINTS) == 2
    assert f"name it by {NETWORKS}=my_nets.py:Actor" in capsys.readouterr().err
    monkeypatch.setenv(NETWORKS, "other.py:Actor,my_nets.py:Actor")
    assert exit_code("adapt", beside, "--family", POINTS) == 0
    assert load_run_config(beside, POINTS).within_task.network == "my_nets.py:Actor"  # type: ignore[union-attr]


def test_code_inside_a_run_directory_never_runs(beside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    shutil.copytree(beside, run)
    marker = tmp_path / "ran"
    (run / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n{NETS}")
    text = (run / "config.yaml").read_text().replace("my_nets.py:Actor", f"{run}/evil.py:Actor")
    (run / "config.yaml").write_text(text)
    monkeypatch.setenv(NETWORKS, f"{run}/evil.py:Actor")
    with pytest.raises(ConfigurationError, match="is inside the run directory"):
        load_run_config(run, POINTS)
    assert not marker.exists()


def test_parameters_that_name_another_module_are_refused(beside: Path, tmp_path: Path) -> None:
    """The settings of a start are what the user reads; its arrays cannot bring another class in."""
    folder = tmp_path / STEM
    save_meta_policy(folder, load_meta_policy(beside / STEM))
    arrays, facts = load_arrays(folder / STEM)
    content = json.loads(arrays[f"start_0.actor.{MODULE}"].tobytes()) | {"name": "evil.py:Actor"}
    arrays[f"start_0.actor.{MODULE}"] = np.frombuffer(json.dumps(content).encode(), np.uint8)
    save_arrays(folder / STEM, arrays, {key: facts[key] for key in facts if key not in ("sha256", "schema_version")})
    with pytest.raises(DamagedFileError, match=r"of the module evil\.py:Actor .* which its settings do not name"):
        load_meta_policy(folder)
    run = tmp_path / "run"
    shutil.copytree(beside, run)
    stem = RunDirectory.newest_checkpoint(run).with_suffix("")
    arrays, facts = load_arrays(stem)
    arrays[f"initialization.critic.{MODULE}"] = np.frombuffer(json.dumps(content).encode(), np.uint8)
    save_arrays(stem, arrays, {key: facts[key] for key in facts if key not in ("sha256", "schema_version")})
    said = list[str]()
    load_final_state(run, parsed(with_modules()), said.append)
    assert "its parameters are of the module evil.py:Actor" in said[0]


def test_what_a_module_cannot_do_says_so(beside: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"only networks of within_task\.network mlp are written as ONNX"):
        export_onnx(load_meta_policy(beside / STEM), tmp_path / "start.onnx")
    server: Any = None  # not asked
    with pytest.raises(ConfigurationError, match="that of a module of torch is not the project's"):
        register(server, beside, "points", None, Console(), family=POINTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta": {"context": "given"}}, "meta.context: given needs within_task.network mlp, got my_nets.py:Actor"),
        ({"dice": {"linear": {"features": "last_layer"}}}, "last_layer needs within_task.network mlp"),
        (
            {"within_task": {"device": "cuda"}, "cluster": {"pool": "local"}},
            "within_task.device: cuda: torch finds no GPU",
        ),
        (
            {"within_task": {"device": "cuda"}, "cluster": {"pool": "ray"}},
            r"within_task.device: cuda needs cluster.worker_resources.GPU, .* such as 0.5 for two workers on one",
        ),
    ],
)
def test_settings_that_need_an_mlp_are_refused(beside: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parsed(with_modules(**changes))


def test_names_that_are_no_class_are_refused(
    workplace: Path, no_plots: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "my_nets.py").write_text(NETS)
    file = run_file(workplace, with_modules())
    for name, message in (
        ("torch_thing", "within_task.network: torch_thing: must be mlp, package.module:ClassName or path/to/file.py"),
        ("my_nets.py:Critic", "has no class 'Critic'; its classes: Actor"),
        ("their_nets.py:Actor", "there is no file 'their_nets.py'"),
        ("collections:OrderedDict", "collections:OrderedDict: is not a torch.nn.Module"),
    ):
        assert exit_code("train", file, "--within_task.network", name) == 2
        text = capsys.readouterr().err
        assert message in text
        assert "Traceback" not in text
    assert not (workplace / "runs").exists()


def test_settings_without_modules_keep_their_digest() -> None:
    """Of runs that began before there were modules: the keys at their defaults are not part of it."""
    plain = parsed(tiny_neural())
    content = plain.within_task.model_dump(mode="json")
    assert {"network", "device"} <= content.keys()
    given = tiny_neural(within_task={"network": "mlp", "network_arguments": {}, "device": "cpu"})
    before = "034bafe17282b8f5908dda1c7614d4535bf00c0f5b9393c4b2fce182d3e0cd91"
    assert parsed(given).digest() == plain.digest() == before
