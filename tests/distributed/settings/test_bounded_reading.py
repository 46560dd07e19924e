"""What others give us is bounded: files that never end, YAML that expands, JSON without a bottom, endless settings."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from distributed.models.meta_policy import STEM, load_meta_policy, save_meta_policy
from distributed.settings import bounded_reading
from distributed.settings.admission import admitted
from distributed.settings.bounded_reading import (
    RefusedFileError,
    parse_json,
    parse_yaml,
    read_bytes,
    read_json,
    shortened,
    shown,
)
from distributed.settings.errors import ConfigurationError
from distributed.storage.checkpoints import DamagedFileError, load_arrays, save_arrays
from distributed.storage.object_store import files_of
from tests.distributed.helpers import (
    COURIER,
    changed,
    courier,
    exit_code,
    finished,
    run_file,
    tiny,
    tiny_neural,
)

AT_MOST_SECONDS = 20.0
MOST_TOLD = 20_000


@pytest.fixture
def quickly() -> Iterator[None]:
    """The body takes little time, and no pipe holds it up."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < AT_MOST_SECONDS


def bomb(levels: int, width: int = 9) -> str:
    """YAML in which every level repeats the one before ``width`` times."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


MERGES = "\n".join(["m0: &m0 {k: 1}", *(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}" for n in range(1, 40))])
YAML_BOMBS = {
    "aliases": bomb(9),
    "600 bytes": bomb(7, 12),
    "merged": MERGES,
    "contains itself": "a: &a [*a]",
    "contains itself by a key": "a: &a {b: *a}",
    "deep lists": "a: " + "[" * 100_000,
    "deep mappings": "a: " + "{b: " * 5000 + "}" * 5000,
    "many values": "a: [" + "1," * 400_000 + "]",
    "many aliases": "a: &a 1\nb: [" + "*a ," * 5000 + "]",
    "larger than any": "a: '" + "x" * (2**20) + "'",
}


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("text", YAML_BOMBS.values(), ids=YAML_BOMBS)
def test_a_run_file_that_expands_is_refused_at_once_and_in_few_words(
    text: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "run.yaml").write_text(text)
    assert exit_code("train", "run.yaml") == 2
    told = capsys.readouterr().err
    assert "run.yaml: " in told
    assert "Traceback" not in told
    assert len(told) < MOST_TOLD


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("value", [bomb(9), "{" * 5000, "a: &a [*a]"], ids=["aliases", "deep", "itself"])
def test_a_value_on_the_command_line_is_bounded_too(
    value: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("train", run_file(workplace, tiny()), "--family.map_size", value) == 2
    assert len(capsys.readouterr().err) < MOST_TOLD


def test_yaml_within_the_bounds_is_what_it_is() -> None:
    text = "a: &a {x: 1.5, y: [1, 2]}\nb: *a\nc: {<<: *a, x: 2}\nd: 2001-01-01\n"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml("") is None
    with pytest.raises(yaml.YAMLError, match="month must be in"):
        parse_yaml("a: 2001-99-99")


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": "x" * 10**6},
        {"seed": [[[[["x" * 10**4] * 50] * 50]]]},
        {"x" * 10**5: 1},
        {"family": {"name": "x" * 10**5, "num_tasks": 8}},
        {"family": {"name": "frozen_lake", "map_size": "x" * 10**5}},
        {"family": {"name": "frozen_lake", "num_tasks": 8, "x" * 10**5: 1}},
        {"within_task": {"algorithm": "x" * 10**5}},
        {f"key_{number}": 1 for number in range(5000)},
    ],
    ids=["text", "nested", "key", "family", "parameter", "parameter's name", "algorithm", "many keys"],
)
def test_a_message_shows_long_values_in_part(
    changes: dict[str, Any], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("train", run_file(workplace, {**tiny(), **changes})) == 2
    told = capsys.readouterr().err
    assert "run.yaml: " in told
    assert len(told) < MOST_TOLD


def test_values_are_shown_as_they_are_if_they_are_short() -> None:
    for value in ("x", 3, [1, 2], {"a": 1.5}, None):
        assert shown(value) == repr(value)
    assert shortened("x" * 300) == "x" * 200 + " ... (300 characters)"


JSON_BOMBS = {
    "deep lists": "[" * 200_000,
    "deep objects": '{"a":' * 5000 + "1" + "}" * 5000,
    "digits": "9" * 10_000,
    "no end of text": '{"a": "' + "\\" * 100_001,
    "cut": '{"a": ',
}


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("text", JSON_BOMBS.values(), ids=JSON_BOMBS)
def test_json_without_a_bottom_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(RefusedFileError, match=r"x\.json") as told:
        read_json(tmp_path / "x.json")
    assert len(str(told.value)) < 1000


def test_brackets_in_text_are_no_levels() -> None:
    value = {"a": "[" * 1000 + '"{\\', "b": [[["]"]]]}
    assert parse_json(json.dumps(value), "here") == value


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def endless(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


IRREGULAR: list[Callable[[Path], None]] = [fifo, device, endless]


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("make", IRREGULAR)
def test_only_regular_files_of_some_size_are_read(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "x")
    (tmp_path / "link").symlink_to(tmp_path / "x")
    for name in ("x", "link"):
        with pytest.raises(RefusedFileError, match=r"must be a regular file|at most 1000 are read"):
            read_bytes(tmp_path / name, 1000)


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "x")
    (tmp_path / "y").touch()
    regular = (tmp_path / "y").stat()
    monkeypatch.setattr(Path, "stat", lambda self: regular)
    with pytest.raises(RefusedFileError, match="must be a regular file"):
        read_bytes(tmp_path / "x", 1000)


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("x")
    assert read_bytes(tmp_path / "link", 3) == b"abc"
    with pytest.raises(RefusedFileError, match="has 3 bytes; at most 2 are read"):
        read_bytes(tmp_path / "link", 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on small lakes."""
    return finished(tmp_path_factory.mktemp("bounded"), tiny())


@pytest.fixture
def copy(trained: Path, workplace: Path) -> Path:
    """A copy of the run that a test may spoil."""
    return Path(shutil.copytree(trained, workplace / "theirs"))


FILES = {
    "config.yaml": [["adapt"], ["report"], ["watch"]],
    "summary.json": [["adapt"], ["report"]],
    "tasks.csv": [["report"]],
    "held_out.csv": [["report"]],
    f"{STEM}/{STEM}.json": [["export"], ["inspect"]],
    f"{STEM}/{STEM}.safetensors": [["export"], ["inspect"]],
}
"""Files of a run directory, and commands that read them."""


@pytest.mark.parametrize("make", IRREGULAR)
@pytest.mark.parametrize("name", FILES)
def test_no_command_hangs_on_a_file_that_is_none(
    name: str, make: Callable[[Path], None], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / name).unlink()
    make(copy / name)
    for (command,) in FILES[name]:
        capsys.readouterr()
        code = exit_code(command, copy, *(["x.onnx"] if command == "export" else []))
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        if command == "inspect":
            assert "damaged" in told.out
        else:
            assert code in (1, 2)
            assert Path(name).name in told.err or "is not a run directory" in told.err or "has no summary" in told.err


def test_inspect_does_not_wait_for_a_pipe_that_it_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fifo(tmp_path / "x.safetensors")
    (tmp_path / "x.json").write_text("{}")
    assert exit_code("inspect", tmp_path / "x.safetensors") == 1
    assert "must be a regular file" in capsys.readouterr().err
    with pytest.raises(DamagedFileError, match="must be a regular file"):
        load_arrays(tmp_path / "x")


def test_links_in_a_run_directory_show_no_other_file(copy: Path, workplace: Path) -> None:
    """Neither on its page nor in its copy in an object store."""
    (workplace / "secret").write_bytes(b"do not show this to anybody")
    (copy / "adapt").mkdir()
    (copy / "adapt" / "link.mp4").symlink_to(workplace / "secret")
    (copy / "adapt" / "own.mp4").write_bytes(b"a film")
    fifo(copy / "adapt" / "pipe.mp4")
    assert exit_code("report", copy) == 0
    page = (copy / "report.html").read_text()
    assert base64.b64encode(b"a film").decode() in page
    assert base64.b64encode((workplace / "secret").read_bytes()).decode() not in page
    assert "link.mp4" not in page
    names = {path.name for path in files_of(copy)}
    assert {"own.mp4", "config.yaml"} <= names
    assert not {"link.mp4", "pipe.mp4"} & names


def test_files_with_other_names_are_no_checkpoints(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("round-x", "round-", "round-" + "9" * 100):
        (copy / "checkpoints" / f"{name}.json").write_text("{}")
    assert exit_code("adapt", copy) == 0
    arrays, facts = load_arrays(copy / STEM / STEM)
    save_arrays(copy / STEM / STEM, arrays, {"x" * 10**5: 1, "kind": "k" * 10**5})
    assert set(facts) >= {"kind"}
    capsys.readouterr()
    for place in (copy, copy / STEM / f"{STEM}.json"):
        assert exit_code("inspect", place) == 0
        assert len(capsys.readouterr().out) < MOST_TOLD


ENDLESS = [
    ({"within_task": {"num_iterations": 10**12}}, "within_task.num_iterations: 1000000000000 is more than 100000"),
    ({"within_task": {"episodes_per_iteration": 10**12}}, "within_task.episodes_per_iteration: 1000000000000 is more"),
    ({"evaluation": {"num_iterations": 10**12}}, "evaluation.num_iterations: 1000000000000 is more than 100000"),
    ({"family": {"num_tasks": 10**12}}, "family.num_tasks: 1000000000000 is more than 100000"),
    ({"family": {"horizon": 10**12}}, "family.horizon: 1000000000000 is more than 10000000"),
    (
        {"within_task": {"num_iterations": 10**5, "episodes_per_iteration": 10**4}},
        "within_task: 100000 iterations are 30000000000 environment steps of one task",
    ),
]


def with_settings(run: Path, changes: dict[str, Any]) -> None:
    """Change the settings in all files of a run directory, with the right checksums."""
    raw = changed(yaml.safe_load((run / "config.yaml").read_text()), changes)
    (run / "config.yaml").write_text(yaml.safe_dump(raw))
    policy = load_meta_policy(run / STEM)
    save_meta_policy(run / STEM, dataclasses.replace(policy, settings=changed(policy.settings, changes)))


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize(("changes", "message"), ENDLESS, ids=lambda value: None)
def test_settings_of_others_ask_for_no_endless_work(
    changes: dict[str, Any], message: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_settings(copy, changes)
    for arguments in (["adapt", copy], ["adapt", copy / STEM], ["watch", copy], ["register", copy, "lakes"]):
        assert exit_code(*arguments) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_networks_of_others_are_of_a_size_that_fits() -> None:
    for wide in ({"hidden": [10**6, 10**6]}, {"critic_hidden": [5000]}, {"dataset_size": 10**8}):
        raw = tiny_neural(within_task=wide, family={"name": "half_cheetah"})
        with pytest.raises(ConfigurationError, match="is more than"):
            admitted(raw, "here", None)


@pytest.mark.parametrize(
    ("warm_up", "message"),
    [
        ({"distinct_tasks": 10**12}, r"meta\.warm_up\.distinct_tasks: 1000000000000 is more than 100000"),
        ({"rounds": 10**6, "teams": 10**3}, r"meta\.warm_up: its steps are those of \d+ training tasks"),
    ],
)
def test_a_warm_up_of_others_has_a_number_of_tasks_that_can_be_drawn(warm_up: dict[str, int], message: str) -> None:
    raw = tiny_neural(meta={"context": "given", "warm_up": {"rounds": 6, "teams": 2, "tasks": 5, **warm_up}})
    with pytest.raises(ConfigurationError, match=message):
        admitted(raw, "here", raw["family"]["name"])


def test_a_seed_may_be_any_number() -> None:
    raw = {**tiny(), "seed": 2**40}
    raw["evaluation"] = {**raw["evaluation"], "tuning_seeds": [2**41], "seeds": [2**42]}
    assert admitted(raw, "here", None).seed == 2**40


def test_an_own_family_bounds_its_parameters_itself() -> None:
    raw = courier(limit=[1e9, 10**9])
    assert admitted(raw, "here", COURIER).family.model_extra == {"limit": [1e9, 10**9]}
    with pytest.raises(ConfigurationError, match=r"family\.num_tasks: 1000000 is more than 100000"):
        admitted({**raw, "family": {"name": COURIER, "num_tasks": 10**6}}, "here", COURIER)


@pytest.mark.usefixtures("quickly")
def test_a_family_that_the_start_does_not_fit_is_refused_before_a_task_is_drawn(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_settings(copy, {"family": {"map_size": 64}})
    monkeypatch.setattr("distributed.jobs.chosen_task.chosen_task", None)
    monkeypatch.setattr("meta.training.pool.draw_task", None)
    for path in sorted((copy / "checkpoints").glob("round-*.json")):
        rewrite_digest(path, copy)
    for arguments in (["adapt", copy], ["watch", copy], ["adapt", copy / STEM]):
        assert exit_code(*arguments) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "does not fit the tasks of frozen_lake" in told or "tasks of frozen_lake have 4096 states" in told


def rewrite_digest(path: Path, run: Path) -> None:
    """Make a checkpoint belong to the settings beside it, as an attacker would."""
    from distributed.storage.run_directory import stored_config

    arrays, facts = load_arrays(path.with_suffix(""))
    kept = {name: value for name, value in facts.items() if name not in ("schema_version", "sha256")}
    save_arrays(path.with_suffix(""), arrays, {**kept, "digest": stored_config(run).digest()})


def test_every_reader_of_files_goes_through_the_bounds() -> None:
    """The rooms' code reads what others may have written in one place only."""
    root = Path(bounded_reading.__file__).parent.parent
    allowed = {
        "settings/bounded_reading.py": "the place itself",
        "settings/configuration_page.py": "writes a page of ours",
        "models/mlflow_code.py": "is copied into a model, whose code it is",
        "storage/mirror.py": "copies the run's own files",
        "storage/exclusive.py": "copies a file that the same process has just written",
        "storage/family_sources.py": "hashes sources, of ours and of the family that the user names",
        "storage/owner.py": "asks the machine under /proc",
    }
    for path in sorted(root.rglob("*.py")):
        text = path.read_text()
        if any(word in text for word in (".read_text(", ".read_bytes(", "yaml.safe_load(", "yaml.load(")):
            assert path.relative_to(root).as_posix() in allowed, path
