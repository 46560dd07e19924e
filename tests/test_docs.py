"""What the documentation says must stay true: examples run, every name is explained, every setting is listed."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from distributed.settings.keys import dotted_fields
from distributed.settings.run_file import load_config
from distributed.storage.csv_tables import read_rows
from policies.checking.family_check import NAMES, check_family, table
from policies.exact.drawing import draw_task
from policies.neural.crpo import fresh_policy, solve_neural
from policies.neural.neural_settings import NeuralSettings
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.family_registry import make_family
from tasks.stepping.batch import make_batch
from tests.support.few_variants import few

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def example_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documented example of a family of one's own, run as its page says, with fewer tasks."""
    folder = tmp_path_factory.mktemp("example")
    for name in ("own_family.py", "own_family.yaml"):
        (folder / name).write_text((DOCS / "examples" / name).read_text())
    options = ["--cluster.pool", "local", "--family.num_tasks", "8", "--evaluation.num_test_tasks", "3"]
    options += ["--evaluation.grid_tasks", "2"]
    command = [sys.executable, "-m", "distributed.train", "own_family.yaml", *options, "--tracking.enabled", "false"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = folder.glob("runs/*/*")
    return run


@pytest.fixture(scope="module")
def neural_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run file of a robot, with few and short tasks."""
    folder = tmp_path_factory.mktemp("robot")
    small = {
        "cluster.pool": "local",
        "cluster.tasks_per_round": "2",
        "family.num_tasks": "4",
        "within_task.num_iterations": "2",
        "within_task.steps_per_iteration": "400",
        "within_task.num_copies": "2",
        "evaluation.num_test_tasks": "2",
        "evaluation.num_iterations": "3",
        "evaluation.rate_grid": "[0.1]",
        "evaluation.grid_tasks": "1",
        "tracking.enabled": "false",
    }
    options = [f"--{key}={value}" for key, value in small.items()]
    file = ROOT / "deploy" / "runs" / "half_cheetah_velocity.yaml"
    command = [sys.executable, "-m", "distributed.train", str(file), *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = folder.glob("runs/*/*")
    return run


def explained(page: str) -> set[str]:
    """Everything that a page puts in backticks, outside its blocks of code."""
    text = re.sub(r"^```.*?^```", "", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    return set(re.findall(r"`([^`]+)`", text))


def test_the_example_family_runs_and_is_short(example_run: Path) -> None:
    summary = json.loads((example_run / "summary.json").read_text())
    assert summary["num_tasks"] == 8
    assert summary["test"]["meta_srl"]["gap"]["mean"] is None, "the example has no exact model"
    code = (DOCS / "examples" / "own_family.py").read_text()
    lines = [line for line in code.splitlines() if line.strip() and not line.strip().startswith(('"""', "#"))]
    assert len(lines) <= 30
    assert code.strip() in (DOCS / "families.md").read_text(), "the page shows the file as it is"


CONTINUOUS = "own_continuous_family"


def test_the_continuous_example_is_shown_verbatim_and_is_short() -> None:
    page = (DOCS / "families_continuous.md").read_text()
    code, run_file = ((DOCS / "examples" / f"{CONTINUOUS}{suffix}").read_text() for suffix in (".py", ".yaml"))
    assert code.strip() in page
    assert run_file.strip() in page
    assert len(code.splitlines()) <= 30


def test_the_continuous_example_satisfies_the_contract() -> None:
    checks = check_family(str(DOCS / "examples" / f"{CONTINUOUS}.py:Pendulums"), {}, 0, 40.0)
    assert {check.verdict for check in checks} == {"ok", "skipped"}, table(checks)
    assert [check.name for check in checks if check.verdict == "skipped"] == ["batch"]
    assert "; reachable" in checks[-1].finding


def test_the_example_of_an_own_robot_is_shown_verbatim_and_its_batch_agrees() -> None:
    assert (DOCS / "examples" / "own_robot.py").read_text().strip() in (DOCS / "families_continuous.md").read_text()
    checks = check_family(str(DOCS / "examples" / "own_robot.py:Hoppers"), {}, 0, 1.0)
    assert {check.verdict for check in checks} <= {"ok", "skipped"}, table(checks)
    assert next(check.verdict for check in checks if check.name == "batch") == "ok"


@pytest.mark.slow
def test_the_continuous_example_comes_under_its_limit() -> None:
    family = make_family(str(DOCS / "examples" / f"{CONTINUOUS}.py:Pendulums"), seed=0, num_tasks=2, parameters={})
    task = draw_task(family, "pendulums", 0, "train", 0)
    settings = NeuralSettings(num_iterations=5, steps_per_iteration=2000, num_copies=10)
    batch, limits = make_batch(family, task, 10), np.array(task.limits)
    start = fresh_policy(batch, settings, seed=0)
    solution = solve_neural(
        batch, start, np.ones(2), limits, settings, task.seed, discount=family.discount, label=task.label
    )
    assert solution.values[0, 1] > 1.4 * limits[0]
    assert solution.values[:, 1].min() < 1.1 * limits[0]


def test_the_continuous_examples_run_file_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DOCS / "examples")
    config = load_config(Path(f"{CONTINUOUS}.yaml"))
    assert config.within_task.algorithm == "neural_crpo"
    assert config.experiment.family.make().limits({}) == (15.0,)


@pytest.mark.slow
def test_the_continuous_example_runs(tmp_path: Path) -> None:
    for suffix in (".py", ".yaml"):
        (tmp_path / f"{CONTINUOUS}{suffix}").write_text((DOCS / "examples" / f"{CONTINUOUS}{suffix}").read_text())
    options = ["--family.num_tasks", "4", "--evaluation.num_test_tasks", "2", "--tracking.enabled", "false"]
    command = [sys.executable, "-m", "distributed.train", f"{CONTINUOUS}.yaml", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (summary,) = tmp_path.glob("runs/*/*/summary.json")
    assert json.loads(summary.read_text())["num_tasks"] == 4


def test_every_check_of_a_family_is_explained() -> None:
    assert not set(NAMES) - explained("families.md")


@pytest.mark.parametrize("made", few(["example_run", "neural_run"], 0))
def test_every_column_and_summary_key_is_explained(made: str, request: pytest.FixtureRequest) -> None:
    run: Path = request.getfixturevalue(made)
    summary = json.loads((run / "summary.json").read_text())
    names = {re.sub(r"_\d+$", "_i", name) for name in read_rows(run / "tasks.csv")[0]}
    names |= {re.sub(r"_\d+$", "_i", name) for name in read_rows(run / "held_out.csv")[0]}
    names |= {key for part in (summary, *summary["test"].values()) for key in part}
    assert not names - explained("metrics.md")


def test_the_run_file_of_a_robot_runs(neural_run: Path) -> None:
    summary = json.loads((neural_run / "summary.json").read_text())
    assert (summary["algorithm"], summary["num_tasks"], summary["num_iterations"]) == ("neural_crpo", 4, 2)
    assert [len(entry["reward_curve"]) for entry in summary["test"].values()] == [4, 4]
    assert len(read_rows(neural_run / "tasks.csv")) == 4


def test_every_setting_is_listed() -> None:
    assert not {key for key, _, _ in dotted_fields()} - explained("configuration.md")


@pytest.mark.parametrize(
    ("heading", "model"),
    [("With `algorithm: crpo`", WithinTaskSettings), ("With `algorithm: neural_crpo`", NeuralSettings)],
)
def test_the_tables_of_an_algorithm_have_its_keys_and_defaults(heading: str, model: type[BaseModel]) -> None:
    page = (DOCS / "configuration.md").read_text()
    section = re.split(r"^##", page.partition(f"### {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| `(within_task\.[\w.]+)` \| (\S.*?) \| .*? \| (.*) \|$", section, re.MULTILINE)
    reported = {key: (default.strip("`"), meaning.replace("\\|", "|")) for key, default, meaning in rows}
    expected = {key: (value.strip('"'), meaning) for key, value, meaning in dotted_fields(model, "within_task.")}
    if model is NeuralSettings:  # its name must be given: the other algorithm is the default
        expected["within_task.algorithm"] = ("required", expected["within_task.algorithm"][1])
    assert reported == expected


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md"), key=str), ids=lambda page: str(page.relative_to(DOCS)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


ROOMS = ("tasks", "policies", "meta", "distributed", "benchmarks", "tests")
"""Rooms whose files a page may name only if they exist."""
WRITTEN = sorted((page for page in DOCS.rglob("*.md") if page.parent != DOCS / "results"), key=str)
"""The pages that are written by hand; generated ones name the files of an earlier commit."""


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(DOCS)))
def test_files_that_pages_name_exist(page: Path) -> None:
    for name in re.findall(rf"\b((?:{'|'.join(ROOMS)})/[\w/.]+\.py)\b", page.read_text()):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_links_of_the_readme_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text()):
        assert "://" in link or (ROOT / link).exists(), link


_KEYS_OF_CELLS = {"test_seconds", "test_env_steps"}
"""Keys that look like tests."""


def test_tests_that_pages_name_exist() -> None:
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in [path.stem, *re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)]
    }
    for page in WRITTEN:
        named = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))) - _KEYS_OF_CELLS
        assert named <= there, f"{page.name} names tests that are not there: {sorted(named - there)}"


def test_every_line_of_security_and_of_the_failure_table_names_its_test() -> None:
    """The table of what listens is compared with real sockets by the test that the text above it names."""
    security = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    architecture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    before, listening = security.split("## What listens")
    of_sockets, after = listening.split("## Files from others")
    assert "`test_a_run_listens_on_the_loopback_interface_only`" in of_sockets
    failures = architecture.split("## When something dies")[1].split("\n## ")[0]
    for text in (before, after, failures):
        rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("|---")]
        headings = [above for above, line in itertools.pairwise(text.splitlines()) if line.startswith("|---")]
        assert len(rows) > len(headings) > 0
        for row in rows:
            assert row in headings or re.search(r"`test_\w+`", row), f"no test is named for: {row}"
