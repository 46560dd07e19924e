"""The run file: every key in one place, overrides before it, and it comes back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distributed.settings.errors import ConfigurationError
from distributed.settings.keys import dotted_fields, flatten
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import load_config, parse_config
from distributed.storage.run_directory import RunDirectory, load_run_config
from tests.distributed.helpers import ROOT, Raw, courier, noted, parsed, run_file, tiny

RUN_FILES = sorted((ROOT / "deploy" / "runs").glob("*.yaml"))


def test_there_are_run_files() -> None:
    assert "frozen_lake.yaml" in {path.name for path in RUN_FILES}


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.name)
def test_every_run_file_loads_and_its_first_task_can_be_drawn(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    family = config.experiment.family.make()
    assert family.parameters("train", 0, 0)


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.name)
def test_the_resolved_configuration_of_a_run_loads_to_the_same(path: Path, workplace: Path) -> None:
    config = load_config(path)
    directory = RunDirectory.create(config)
    again = load_run_config(directory.path)
    assert again == config
    assert again.digest() == config.digest()


@pytest.mark.parametrize("raw", [courier(limit=[0.5, 0.25]), tiny(within_task={"tolerance": [0.1]})])
def test_lists_and_user_families_survive_the_run_directory(raw: Raw, workplace: Path) -> None:
    config = parsed(raw)
    again = load_run_config(RunDirectory.create(config).path, raw["family"]["name"])
    assert again.digest() == config.digest()
    assert again.experiment == config.experiment


def test_the_file_is_used_before_defaults_and_overrides_before_the_file(tmp_path: Path) -> None:
    file = run_file(tmp_path, {"name": "a", "family": {"name": "frozen_lake", "num_tasks": 8}, "seed": 1})
    overrides = [("seed", "2"), ("family.map_size", "4"), ("meta.learning_rates.initial", "[1, 2e-1]"), ("seed", "5")]
    config = load_config(file, overrides)
    assert (config.seed, config.family.num_tasks, config.within_task.num_iterations) == (5, 8, 5)
    assert config.experiment.family.parameters == {"map_size": 4}
    assert config.meta.learning_rates.initial == (1.0, 0.2)


def test_overrides_do_not_change_the_file(tmp_path: Path) -> None:
    file = run_file(tmp_path, tiny())
    before = file.read_bytes()
    load_config(file, [("cluster.num_workers", "7")])
    assert file.read_bytes() == before


def test_an_override_makes_a_section_that_the_file_lacks(tmp_path: Path) -> None:
    file = run_file(tmp_path, {"name": "a", "family": {"name": "frozen_lake"}})
    assert load_config(file, [("tracking.enabled", "false")]).tracking.enabled is False


def test_an_override_fills_a_section_that_the_file_leaves_empty(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("name: a\nfamily: {name: frozen_lake}\ntracking:\n")
    assert load_config(file, [("tracking.enabled", "false")]).tracking.enabled is False


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("name: a\nfamily: {name: frozen_lake}\nmeta: {initialization: {shrinkage: 1e-3}}\n")
    assert load_config(file).meta.initialization.shrinkage == 0.001


def test_every_key_is_explained_and_can_be_overridden(tmp_path: Path) -> None:
    listed = {key: (default, meaning) for key, default, meaning in dotted_fields()}
    assert all(meaning for _, meaning in listed.values())
    resolved = dict(flatten(load_config(run_file(tmp_path, tiny())).model_dump(mode="json")))
    own = {"family.map_size", "family.horizon"}
    only_neural = {key for key in listed if key.startswith("within_task.") and key not in resolved}
    left_out = {
        key for key in listed if any(key.startswith(f"{empty}.") for empty, text in resolved.items() if text == "null")
    }
    assert left_out == {key for key in listed if key.startswith("evaluation.safety.")}, "sections that may be empty"
    assert set(resolved) - own - {"evaluation.safety"} == set(listed) - only_neural - left_out
    assert {"within_task.evaluate_last", "within_task.trust_region.delta_max"} <= only_neural
    for key in set(listed) - only_neural - left_out:
        if resolved[key] != "null":
            config = load_config(run_file(tmp_path, tiny()), [(key, resolved[key])])
            assert dict(flatten(config.model_dump(mode="json"))) == resolved


@pytest.mark.parametrize(
    ("changes", "matters"),
    [
        ({"seed": 4}, True),
        ({"family": {"map_size": 5}}, True),
        ({"family": {"horizon": 31}}, True),
        ({"within_task": {"tolerance": 0.1}}, True),
        ({"dice": {"failed_weight": 0.5}}, True),
        ({"meta": {"learning_rates": {"initial": 3.0}}}, True),
        ({"cluster": {"tasks_per_round": 2}}, True),
        ({"cluster": {"pool": "ray", "num_workers": 7, "task_retries": 0}}, False),
        ({"tracking": {"enabled": True, "uri": "http://127.0.0.1:1"}}, False),
        ({"output": {"run_dir": "elsewhere"}}, False),
        ({"name": "another"}, False),
    ],
)
def test_the_digest_changes_with_what_is_learned_and_nothing_else(changes: dict[str, Any], matters: bool) -> None:
    assert (parsed(tiny(**changes)).digest() != parsed(tiny()).digest()) is matters


def test_the_digest_is_that_of_earlier_versions(tmp_path: Path) -> None:
    """A run started before can be resumed: two loads of the same file agree, whatever the order of its keys."""
    raw = tiny()
    turned = {key: dict(reversed(value.items())) if isinstance(value, dict) else value for key, value in raw.items()}
    assert parsed(dict(reversed(turned.items()))).digest() == parsed(raw).digest()


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parsed(tiny()).seed = 5  # type: ignore[misc]


def test_errors_of_several_keys_are_reported_together(tmp_path: Path) -> None:
    raw = tiny(cluster={"num_workers": 0, "task_retries": -1}, seed=-1)
    with pytest.raises(ConfigurationError) as error:
        parse_config(raw, "file.yaml")
    lines = str(error.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["seed", "cluster.num_workers", "cluster.task_retries"]
    assert all(line.startswith("file.yaml: ") for line in lines)


def test_the_run_file_of_a_run_is_plain_yaml(tmp_path: Path) -> None:
    config = parsed(noted(tmp_path / "notes"))
    assert RunConfig.model_validate(yaml.safe_load(config.to_yaml())) == config
