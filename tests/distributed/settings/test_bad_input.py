"""Bad input ends with exit code 2 (1 in a run), a message that says what is wrong, and nothing half-made."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distributed.storage.run_directory import RunDirectory
from tests.distributed.helpers import Raw, command, courier, exit_code, free_port, parsed, run_file, tiny, tiny_neural

FAMILIES = "tests.distributed.families"
TRACKS = "tests.policies.checking.test_family_check:Tracks"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(workplace: Path, no_plots: None) -> None:
    pass


def reported(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed to standard error; a message is never a traceback."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert "error: " in text
    return text


def family(**keys: Any) -> Raw:
    """A run file with another family section."""
    return {**tiny(), "family": {"name": "frozen_lake", "num_tasks": 8, **keys}}


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        (tiny(sed=1), ["sed: unknown key", "allowed here: name, seed, family"]),
        (tiny(cluster={"workers": 2}), ["cluster.workers: unknown key", "num_workers", "given: 2"]),
        (tiny(cluster={"num-workers": 2}), ["cluster.num-workers: unknown key", "num_workers"]),
        (
            tiny(meta={"learning_rates": {"initail": 1.0}}),
            ["meta.learning_rates.initail: unknown key", "initial", "minimum"],
        ),
        (family(map_siz=4), ["family.map_siz", "allowed: ", "map_size"]),
        (family(map_size=3), ["family.map_size", "greater than or equal to 4", "3"]),
        (family(similarity="medium"), ["family.similarity", "'high'", "'low'", "'medium'"]),
        (family(similarity=99, map_size=4), ["family", "99 tiles cannot change on a map with 14 tiles"]),
        (tiny(name="a/b"), ["name", "a/b"]),
        (tiny(seed="one"), ["seed", "integer", "'one'"]),
        (tiny(seed=-1), ["seed", "greater than or equal to 0", "-1"]),
        (tiny(within_task={"evaluation": "guessed"}), ["within_task.evaluation", "'exact' or 'sampled'", "guessed"]),
        (tiny(within_task=5), ["within_task", "given: 5"]),
        (tiny(cluster={"pool": "cloud"}), ["cluster.pool", "'local' or 'ray'", "'cloud'"]),
        (tiny(meta={"learning_rates": {"initial": -1.0}}), ["meta.learning_rates.initial", "greater than", "-1.0"]),
        (
            tiny(meta={"learning_rates": {"initial": [1.0, -0.5]}}),
            ["meta.learning_rates.initial.1", "greater than", "-0.5"],
        ),
        (tiny(within_task={"tolerance": -0.1}), ["within_task.tolerance", "greater than or equal to 0", "-0.1"]),
        (tiny(within_task={"tolerance": [0.1, 0.1]}), ["within_task.tolerance: 2 numbers given for 1 cost"]),
        (
            tiny(meta={"learning_rates": {"initial": [1.0, 1.0, 1.0]}}),
            ["meta.learning_rates.initial: 3 rates given; 1 + 1 are needed"],
        ),
        (tiny(evaluation={"methods": ["magic"]}), ["evaluation.methods.0", "'random'", "'meta_srl'", "'magic'"]),
        (tiny(evaluation={"rate_grid": []}), ["evaluation.rate_grid"]),
        (tiny(evaluation={"tasks": []}), ["evaluation.tasks", "at least 1 item"]),
        (tiny(evaluation={"tasks": "all"}), ["evaluation.tasks", "given: 'all'"]),
        (tiny(evaluation={"tasks": [5]}), ["evaluation.tasks.0", "given: 5"]),
        (tiny(evaluation={"tasks": [{"limits": [1.0]}]}), ["evaluation.tasks.0.parameters: is missing"]),
        (
            tiny(evaluation={"tasks": [{"parameters": {}, "limit": 1.0}]}),
            ["evaluation.tasks.0.limit: unknown key (allowed here: parameters, limits)"],
        ),
        (
            tiny(evaluation={"tasks": [{"parameters": {}, "limits": ["low"]}]}),
            ["evaluation.tasks.0.limits.0", "valid number", "'low'"],
        ),
        (
            tiny(evaluation={"tasks": [{"desc": []}] * 3, "num_test_tasks": 4}),
            ["evaluation: ", "num_test_tasks is 4, but tasks holds 3: leave num_test_tasks out"],
        ),
        (
            tiny(evaluation={"steps_per_iteration": 60}),
            ["evaluation.steps_per_iteration: has no effect where within_task.algorithm is crpo; leave it out"],
        ),
        (
            tiny(evaluation={"trust_region": {"delta_max": 0.1}}),
            ["evaluation.trust_region: has no effect where within_task.algorithm is crpo; leave it out"],
        ),
        (
            tiny(evaluation={"trust_region": {"delta_max": 0.0}}),
            ["evaluation.trust_region.delta_max", "greater than 0"],
        ),
        (
            tiny_neural(evaluation={"steps_per_iteration": 81}),
            ["evaluation.steps_per_iteration: 81 is no multiple of within_task.num_copies 4"],
        ),
        (
            tiny_neural(evaluation={"steps_per_iteration": 76}),
            [
                "evaluation.steps_per_iteration: 76 steps in 4 copies do not hold an episode of 20 steps",
                "at least 80 do",
            ],
        ),
        (tiny(evaluation={"seeds": []}), ["evaluation.seeds"]),
        (
            family(name="frozen_pond"),
            ["family.name", "'frozen_pond'", "known: frozen_lake", "package.module:ClassName"],
        ),
        (family(name="no.such.module:Family"), ["family.name", "'no.such.module' does not import"]),
        (family(name=f"{FAMILIES}:NoSuchFamily"), ["family.name", "has no class 'NoSuchFamily'"]),
        (family(name=f"{FAMILIES}:note"), ["family"]),
        (family(name="tests.support.user_families:Incomplete"), ["family.name", "lacks", "horizon", "limits"]),
        (family(name="tests.support.user_families:Unmakeable"), ["family.name", "could not be made", "no such road"]),
        (courier(tole=1.0), ["family.tole", "allowed: ", "toll"]),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[0],
)
def test_a_wrong_run_file_is_reported_before_anything_is_made(
    raw: Raw, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(tmp_path, raw)
    assert exit_code("train", file) == 2
    text = reported(capsys)
    assert text.startswith(f"error: {file}: ")
    for part in parts:
        assert part in text
    assert list(tmp_path.iterdir()) == [file]


def test_a_missing_key_is_named_with_what_is_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tiny()
    del raw["name"], raw["family"]["name"]
    file = run_file(tmp_path, raw)
    assert exit_code("train", file) == 2
    text = reported(capsys)
    assert f"{file}: name: is missing (allowed here: name, seed" in text
    assert f"{file}: family.name: is missing" in text


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        (family(map_size=4, limit=0.0), ["frozen_lake/train/", "holes_entered: limit 0, least reachable cost 0."]),
        (courier(name=f"{FAMILIES}:LongLimits"), ["LongLimits/train/0", "3 limit(s) for 2 cost(s) (fuel, damage)"]),
        (courier(limit=[-1.0, 1.0]), ["CourierFamily/train/0", "not negative", "-1.0"]),
        (courier(with_model=False, limit=[5.0, 5.0]), ["CourierFamily/train/0", "within_task.evaluation to sampled"]),
        (courier(with_model=False, limit=0.5), ["CourierFamily/train/0", "limit fraction needs an exact model"]),
        (
            courier(name=f"{FAMILIES}:NeverBinds"),
            ["NeverBinds/train/0", "no limits were found that restrict the reward"],
        ),
        (courier(name=f"{FAMILIES}:BrokenModel"), ["BrokenModel/train/0", "reward holds a value that is not finite"]),
        (
            courier(name="tests.support.user_families:WrongSpaces", fault="action_space/box"),
            ["WrongSpaces/train/0", "the action space must be Discrete(n) starting at 0", "Box"],
        ),
    ],
    ids=[
        "infeasible",
        "too many limits",
        "negative limit",
        "no model",
        "no model for limits",
        "never binds",
        "broken model",
        "spaces",
    ],
)
def test_unusable_tasks_are_reported_before_a_run_begins(
    raw: Raw, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(tmp_path, raw)
    assert exit_code("train", file) in {1, 2}
    text = reported(capsys)
    for part in parts:
        assert part in text
    assert list(tmp_path.iterdir()) == [file], "no run directory is left behind"


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("reward_not_a_number", "the reward is nan; it must be finite"),
        ("cost_not_a_number", "it must be finite (fuel, damage)"),
        ("infinite_cost", "it must be finite (fuel, damage)"),
        ("no_cost", 'step reports no info["cost"]; it must hold 2 number(s) (fuel, damage)'),
        ("one_cost", "must hold 2 number(s), got 1.0 (fuel, damage)"),
        ("three_costs", "must hold 2 number(s), got [1.0, 1.0, 1.0] (fuel, damage)"),
        ("cost_is_text", "must be a number, got"),
        ("observation_too_large", "not a state in 0..5"),
    ],
)
def test_an_environment_that_breaks_its_contract_ends_a_run_that_sets_no_task_aside(
    fault: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(tmp_path, courier(name=f"{FAMILIES}:FaultyAt", fault=fault))
    assert exit_code("train", file, "--cluster.set_aside_share", "0") == 1
    text = reported(capsys)
    assert part in text
    assert "FaultyAt/train/2, iteration 0, episode 0, step 2" in text
    assert not list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("raises", "step 4, copy 0: step raised ZeroDivisionError: flat"),
        ("hangs", "step 4, copy 0: step: no answer within 0.3 seconds"),
        ("four values", "step 1, copy 0: step must return (observation, reward, terminated"),
        ("one cost", 'step 4, copy 0: info["cost"] must hold 2 number(s), got 1.0'),
        ("no cost", 'step 1, copy 0: step reports no info["cost"]'),
        ("reward nan", "step 4, copy 0: the reward is nan; it must be finite"),
        ("float64", "step 3, copy 0: the observation must be float32 of shape [2] as its space defines, got float64"),
        ("too large", "step 3, copy 0: observation[0] is"),
        ("space changes", "copy 0: the space was Box(-50.0, 50.0, (2,), float32) and has become"),
    ],
)
def test_a_continuous_environment_that_breaks_its_contract_ends_the_run(
    fault: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tiny(meta={"learning_rates": {"initial": 0.1}})
    raw["family"] = {"name": TRACKS, "num_tasks": 4, "fault": fault, "step_seconds": 0.3}
    raw["within_task"] = {
        "algorithm": "neural_crpo",
        "num_iterations": 1,
        "steps_per_iteration": 40,
        "num_copies": 2,
        "hidden": [4],
        "critic_hidden": [4],
    }
    assert exit_code("train", run_file(tmp_path, raw)) == 1
    text = reported(capsys)
    assert f"{TRACKS}/train/0, " in text
    assert part in text
    assert not list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize("content", ["name: [1", "\tname: a", "name: \x00"])
def test_a_run_file_that_is_not_yaml(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text(content)
    assert exit_code("train", "run.yaml") == 2
    assert "run.yaml: is not valid YAML" in reported(capsys)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "5"])
def test_a_run_file_without_sections(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text(content)
    assert exit_code("train", "run.yaml") == 2
    assert "run.yaml: must hold the sections name, seed, family" in reported(capsys)


def test_a_run_file_that_is_not_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00name")
    assert exit_code("train", "run.yaml") == 2
    assert "run.yaml: is not valid YAML" in reported(capsys)


EVIL = "!!python/object/apply:os.mkdir [made]"


def test_a_run_file_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text(f"name: {EVIL}\n")
    assert exit_code("train", "run.yaml") == 2
    assert "is not valid YAML" in reported(capsys)
    assert not (tmp_path / "made").exists()


def test_an_override_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run_file(tmp_path, tiny())
    assert exit_code("train", file, "--name", EVIL) == 2
    assert "--name" in reported(capsys)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("command", ["adapt", "report"])
def test_a_tampered_run_directory_runs_no_code(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(f"name: {EVIL}\n")
    assert exit_code(command, run) == 2
    assert str(run) in reported(capsys)
    assert not (tmp_path / "made").exists()


def test_a_family_beside_a_run_file_of_another_folder_is_found_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("init", "shop") == 0
    assert exit_code("train", "shop/own_family.yaml", "--family.name", "own_family_of_nobody:Machines") == 2
    assert "lies beside" not in reported(capsys)
    (Path("shop") / "own_machines.py").write_bytes((Path("shop") / "own_family.py").read_bytes())
    assert exit_code("train", "shop/own_family.yaml", "--family.name", "own_machines:Machines") == 2
    help_with = "own_machines.py lies beside the run file: cd shop, or give --family.name shop/own_machines.py:Machines"
    assert help_with in reported(capsys)


def test_a_run_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("train", "none.yaml") == 2
    assert "none.yaml: cannot be read: No such file or directory" in reported(capsys)
    assert exit_code("train", tmp_path) == 2
    assert "cannot be read: Is a directory" in reported(capsys)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--cluster.workers", "3"], "cluster.workers: unknown key"),
        (["--speed", "3"], "--speed: unknown option; settings are --section.key value, sections: name, seed, family"),
        (["--seed"], "--seed: needs a value"),
        (["--seed", "--cluster.num_workers", "2"], "--seed: needs a value"),
        (["--seed=[1"], "--seed: '[1' is not a YAML value"),
        (["--seed.more", "1"], "--seed.more: seed is a value, not a section"),
        (["--seed", "x"], "seed: "),
        (["--", "more"], "more: unknown option"),
        (["-q"], "-q: unknown option"),
        (["--resume"], "--resume"),
        (["--meta.learning_rates.initial", "-2"], "meta.learning_rates.initial"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_options_are_reported(
    arguments: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(tmp_path, tiny())
    assert exit_code("train", file, *arguments) == 2
    assert part in reported(capsys)
    assert list(tmp_path.iterdir()) == [file]


def test_settings_may_precede_the_run_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run_file(tmp_path, tiny())
    if exit_code("train", "--seed", "5", file):
        assert "RUN_FILE" in reported(capsys), "or else the message says that the run file comes first"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["train"], "run_file"),
        (["fly"], "No such command 'fly'"),
        (["adapt"], "source"),
        (["adapt", ".", "--task-index", "-1"], "--task-index"),
        (["adapt", ".", "--task-index", "[1]"], "--task-index"),
        (["adapt", ".", "--parameters", "{}", "--task-seed", "2"], "give --task-seed or --parameters, not both"),
        (["adapt", ".", "--family-parameters", '{"map_size": 4}'], "--family-parameters: need --family"),
        (["adapt", ".", "--task-index", "1", "--task-seed", "2"], "give --task-index or --task-seed, not both"),
        (["adapt", "."], ".: is not a run directory (it has no config.yaml)"),
        (["adapt", "nowhere"], "nowhere: is not a run directory"),
        (["report", "."], ".: "),
        (["report", "nowhere"], "nowhere: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_is_reported(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*arguments) == 2
    assert part in reported(capsys)


def test_resuming_a_directory_that_is_not_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run_file(tmp_path, tiny())
    assert exit_code("train", file, "--resume", tmp_path / "nowhere") == 2
    assert f"{tmp_path / 'nowhere'}: is not a run directory" in reported(capsys)
    assert list(tmp_path.iterdir()) == [file]


def test_an_unfinished_run_cannot_be_adapted_or_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDirectory.create(parsed(tiny())).path
    assert exit_code("adapt", run) == 2
    assert f"{run}: has no checkpoint yet" in reported(capsys)
    assert exit_code("report", run) == 2
    assert f"{run}: has no summary.json; finish it first: metasrl train RUN_FILE --resume {run}" in reported(capsys)


@pytest.mark.parametrize("where", ["file", "file/below", "file/below/deeper"])
def test_a_run_directory_that_cannot_be_made(where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    file = run_file(tmp_path, tiny())
    assert exit_code("train", file, "--output.run_dir", where) == 2
    text = reported(capsys)
    assert "output.run_dir: " in text
    assert where in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run.yaml"]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_dashboard_port_that_is_taken(taken: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run_file(tmp_path, tiny(cluster={"pool": "ray", "dashboard": True, "dashboard_port": taken}))
    assert exit_code("train", file) == 2
    text = reported(capsys)
    assert f"cluster.dashboard_port: port {taken} on 127.0.0.1 is in use" in text
    assert "cluster.dashboard to false" in text
    assert list(tmp_path.iterdir()) == [file], "no run directory is left behind"


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1"])
def test_an_invalid_address(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run_file(tmp_path, tiny(cluster={"pool": "ray", "address": address}))
    assert exit_code("train", file) == 2
    text = reported(capsys)
    assert "cluster.address: " in text
    assert address in text
    assert list(tmp_path.iterdir()) == [file], "no run directory is left behind"


@pytest.mark.slow
def test_a_cluster_that_does_not_answer(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    file = run_file(tmp_path, tiny(cluster={"pool": "ray", "address": address}))
    done = command(["train", file], tmp_path)
    assert done.returncode == 2, done.stderr
    assert re.search(rf"cluster.address: .*{address}", done.stderr)
    assert list(tmp_path.iterdir()) == [file]
