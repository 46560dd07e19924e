"""The registry: versions, what is asked of a name, and a champion that moves only where it is shown to be better."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from distributed.models.meta_policy import STEM, load_meta_policy, save_meta_policy
from distributed.models.model_registry import connect, register, resolve
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.storage.checkpoints import DamagedFileError
from distributed.storage.run_directory import RunDirectory, load_run_config
from policies.common.results import Start
from tests.distributed.helpers import Raw, command, exit_code, free_port, only_run, run_file, tiny
from tests.distributed.models.test_meta_policy import load_model

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
"""MLflow's own stores run in this process here, as they do for users of SQLite."""
TRACKED: Raw = tiny(
    tracking={"enabled": True, "flush_timeout_seconds": 120.0},
    meta={"learning_rates": {"units": "absolute"}},  # with which two iterations on eight tasks show an improvement
)


@dataclass(frozen=True)
class Trained:
    """A run that was registered as `lakes` by --register."""

    folder: Path
    run: Path
    uri: str
    reported: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("registered")
    done = command(["train", run_file(folder, TRACKED), "--register", "lakes"], folder)
    assert done.returncode == 0, done.stderr
    return Trained(folder, only_run(folder), f"sqlite:///{folder / 'mlflow.db'}", " ".join(done.stderr.split()))


@pytest.fixture
def client(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A copy of the registry, so that a test may change it."""
    shutil.copy(trained.folder / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    earlier = mlflow.get_tracking_uri()
    yield connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.set_tracking_uri(earlier)


def copy_with(trained: Trained, folder: Path, table: Any, rates: Any) -> Path:
    """The run's directory with another start in it."""
    run = folder / "other"
    shutil.copytree(trained.run, run, ignore=shutil.ignore_patterns("model", "tracking"))
    policy = load_meta_policy(run / STEM)
    save_meta_policy(run / STEM, dataclasses.replace(policy, starts=Start(table, rates)))
    return run


@pytest.mark.slow
def test_train_registers_and_the_first_version_is_judged_against_the_random_start(trained: Trained) -> None:
    assert "models:/lakes/1 registered; minus the random start: gap" in trained.reported
    assert "over 20 new tasks" in trained.reported
    assert "champion is now version 1" in trained.reported


def test_code_in_a_run_directory_is_not_registered_as_its_model(trained: Trained, client: Any, tmp_path: Path) -> None:
    start = load_meta_policy(trained.run / STEM).starts.starts[0]
    run = copy_with(trained, tmp_path, start.initialization, start.learning_rates)
    (run / "model").mkdir()
    (run / "model" / "MLmodel").write_text("flavors: {python_function: {loader_module: evil}}\n")
    for folder in (run / "model", run / STEM):
        (folder / "evil.py").write_text("raise SystemExit\n")
    register(client, run, "copied", None, Console(), num_tasks=4)
    source = client.get_model_version("copied", "1").source
    names = {path.name for path in Path(source.removeprefix("file://")).rglob("*")}
    assert {"MLmodel", f"{STEM}.json", "mlflow_code.py"} <= names
    assert "evil.py" not in names


def test_a_version_leads_back_to_its_run_and_holds_its_start(trained: Trained, client: Any) -> None:
    version = client.get_model_version("lakes", "1")
    assert version.run_id == RunDirectory(trained.run, load_run_config(trained.run)).tracked_as()
    assert version.tags["judged_against"] == "the random start"
    assert "Learned on 8 tasks of `frozen_lake`" in version.description
    found = resolve(client, "models:/lakes@champion")
    assert (found.name, found.version) == ("lakes", "1")
    ours = load_meta_policy(trained.run / STEM).starts.starts[0]
    np.testing.assert_array_equal(found.policy.starts.starts[0].initialization, ours.initialization)
    run = client.get_run(version.run_id)
    (output,) = run.outputs.model_outputs
    assert client.get_logged_model(output.model_id).artifact_location == version.source


def test_mlflow_loads_what_is_registered(trained: Trained, client: Any) -> None:
    table = np.asarray(load_meta_policy(trained.run / STEM).policies[0])
    actions = load_model("models:/lakes@champion").predict(np.arange(16))  # type: ignore[arg-type]
    np.testing.assert_array_equal(actions, table.argmax(axis=1))


def test_a_worse_start_becomes_a_version_and_no_champion(trained: Trained, client: Any, tmp_path: Path) -> None:
    worse = copy_with(trained, tmp_path, np.full((16, 4), 0.25), np.array([0.01, 0.01]))
    reported = register(client, worse, "lakes", None, Console(), num_tasks=6)
    assert "models:/lakes/2 registered; minus models:/lakes/1: gap +" in reported
    assert "champion stays version 1" in reported
    assert {name: int(v) for name, v in client.get_registered_model("lakes").aliases.items()} == {"champion": 1}
    assert client.get_model_version("lakes", "2").tags["verdict"].startswith("gap +")


def test_a_better_start_becomes_champion(trained: Trained, client: Any, tmp_path: Path) -> None:
    worse = copy_with(trained, tmp_path, np.full((16, 4), 0.25), np.array([0.01, 0.01]))
    first = register(client, worse, "young", None, Console(), num_tasks=6)
    assert "champion stays unset: not shown to be better than the random start" in first
    client.set_registered_model_alias("young", "champion", "1")
    assert "champion is now version 2" in register(client, trained.run, "young", None, Console(), num_tasks=6)
    assert resolve(client, "models:/young@champion").version == "2"


def test_the_same_start_again_is_no_better(trained: Trained, client: Any) -> None:
    reported = register(client, trained.run, "lakes", None, Console(), num_tasks=4)
    assert "gap +0.0000 [+0.0000, +0.0000]" in reported
    assert "champion stays version 1" in reported


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("models:/lake@champion", "there are: lakes. `metasrl register RUN_DIR lake`"),
        ("models:/lakes@best", "no alias best; aliases: champion, versions: 1"),
        ("models:/lakes/7", "version=7"),
        ("models:/lakes", "must be models:/NAME@champion"),
        ("models:/../etc/1", "must be models:/NAME@champion"),
    ],
)
def test_a_name_that_is_not_in_the_registry_is_reported(client: Any, source: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace("(", r"\(")):
        resolve(client, source)


def test_a_model_of_somebody_else_is_refused_without_running_it(client: Any, tmp_path: Path) -> None:
    """A registered model that is no start of ours: its code never runs, whatever it holds."""
    model = tmp_path / "evil"
    (model / "artifacts" / STEM).mkdir(parents=True)
    (model / "MLmodel").write_text("flavors: {python_function: {loader_module: evil}}\n")
    (model / "evil.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    client.create_registered_model("evil")
    client.create_model_version("evil", source=model.as_uri())
    with pytest.raises((ConfigurationError, DamagedFileError)):
        resolve(client, "models:/evil/1")
    (model / "artifacts" / STEM / f"{STEM}.json").write_text("{}")
    (model / "artifacts" / STEM / f"{STEM}.safetensors").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(DamagedFileError):
        resolve(client, "models:/evil/1")
    assert not (tmp_path / "ran").exists()


def test_an_unreachable_registry_is_reported_before_any_work(
    workplace: Path, no_plots: None, capsys: pytest.CaptureFixture[str]
) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    arguments = ("train", run_file(workplace, TRACKED), "--register", "lakes", "--tracking.uri", away)
    assert exit_code(*arguments) == 2
    assert "no MLflow server answers at" in capsys.readouterr().err
    assert not (workplace / "runs").exists()
    assert exit_code("adapt", "models:/lakes@champion", "--tracking-uri", away) == 2


def test_a_bad_name_and_an_unfinished_run_are_reported(
    workplace: Path, client: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert exit_code("train", run_file(workplace, TRACKED), "--register", "a/b") == 2
    assert "must be letters, digits" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match="holds no finished start"):
        register(client, tmp_path, "lakes", None, Console())


def test_a_registered_start_adapts(trained: Trained, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("adapt", "models:/lakes@champion", "--tracking-uri", trained.uri, "--task-seed", "2") == 0
    assert "meta_srl: reward" in capsys.readouterr().out
    assert list(workplace.glob("runs/adapted/lakes-1/*.png"))
    assert exit_code("export", "models:/lakes/1", workplace / "x.onnx", "--tracking-uri", trained.uri) == 0
    assert (workplace / "x.onnx").is_file()
    assert exit_code("register", trained.run, "lakes", "--tracking-uri", trained.uri, "--tasks", "4") == 0
    assert "models:/lakes/2 registered" in " ".join(capsys.readouterr().out.split())
