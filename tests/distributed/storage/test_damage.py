"""Damaged run directories: a clear error, or the undisturbed result from what is left; never a traceback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from distributed.settings.errors import ConfigurationError
from distributed.settings.run_file import load_config
from distributed.storage.run_directory import RunDirectory
from tests.distributed.helpers import (
    exit_code,
    finished,
    learn,
    local,
    parsed,
    run_file,
    summary_of,
    tiny,
    tiny_neural,
    undisturbed_sha,
)
from tests.distributed.storage.test_resume import Crash, CrashAfter

CODES = {0, 1, 2}
"""Exit codes of a command on a damaged directory."""
FULL = os.environ.get("METASRL_FUZZ") == "full"
"""Whether all seeds are tried, as `make fuzz` does; hours on a slow machine."""
SEEDS = [pytest.param(range(8)), pytest.param(range(8, 2000 if FULL else 80), marks=pytest.mark.slow)]
"""A small part in every run of the tests, and the rest."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run."""
    return finished(tmp_path_factory.mktemp("whole"), tiny())


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that ended after a round and two tasks of the next."""
    folder = tmp_path_factory.mktemp("half")
    config = parsed(tiny(output={"run_dir": str(folder)}))
    directory = RunDirectory.create(config)
    with pytest.raises(Crash):
        learn(config, *local(config), directory, CrashAfter(6))
    return directory.path


def _bytes(change: Callable[[bytes, np.random.Generator], bytes]) -> Callable[[Path, np.random.Generator], None]:
    def damage(path: Path, rng: np.random.Generator) -> None:
        path.write_bytes(change(path.read_bytes(), rng))

    return damage


def _flipped(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for place in rng.integers(max(1, len(changed)), size=int(rng.integers(1, 6))):
        changed[place : place + 1] = bytes([int(rng.integers(256))])
    return bytes(changed)


def _odd(rng: np.random.Generator) -> Any:
    values = [None, -1, 1e308, "x" * 300, [], {}, [[[]]], True, "../../x", float("nan"), 10**30, {"a": {"b": [1]}}]
    return values[int(rng.integers(len(values)))]


def _structure(path: Path, rng: np.random.Generator) -> None:
    """Drop or replace a value somewhere in a JSON or YAML file."""
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    node = content
    while isinstance(node, dict) and node:
        key = list(node)[int(rng.integers(len(node)))]
        if not isinstance(node[key], dict) or not node[key] or rng.random() < 0.3:
            if rng.random() < 0.5:
                del node[key]
            else:
                node[key] = _odd(rng)
            break
        node = node[key]
    path.write_text(yaml.safe_dump(content) if path.suffix == ".yaml" else json.dumps(content), encoding="utf-8")


def _other(path: Path, rng: np.random.Generator) -> None:
    """Another file of the directory under this name, or this one under another's."""
    others = [one for one in sorted(path.parent.glob(f"*{path.suffix}")) if one != path]
    if others:
        other = others[int(rng.integers(len(others)))]
        for suffix in {path.suffix, ".safetensors" if path.suffix == ".json" else path.suffix}:
            if other.with_suffix(suffix).is_file():
                shutil.copy(other.with_suffix(suffix), path.with_suffix(suffix))


DAMAGE: list[Callable[[Path, np.random.Generator], None]] = [
    _bytes(lambda content, rng: content[: int(rng.integers(len(content) + 1))]),
    _bytes(_flipped),
    _bytes(lambda content, rng: b"\xff\xfe" + content),
    _bytes(lambda content, rng: b"[" * 5000),
    _bytes(lambda content, rng: b""),
    _bytes(lambda content, rng: content + content),
    lambda path, rng: path.unlink(),
    _structure,
    _structure,
    _other,
]


def _damaged(source: Path, target: Path, seed: int) -> Path:
    """A copy of ``source`` with one file damaged; its name."""
    rng = np.random.default_rng(seed)
    shutil.copytree(source, target)
    files = [path for path in sorted(target.rglob("*")) if path.is_file() and path.suffix not in (".png", ".html")]
    path = files[int(rng.integers(len(files)))]
    damages = [one for one in DAMAGE if one is not _structure or path.suffix in (".json", ".yaml")]
    damages[int(rng.integers(len(damages)))](path, rng)
    return path


@pytest.mark.parametrize("seeds", SEEDS)
def test_no_damage_makes_a_traceback_or_an_unknown_exit_code(
    seeds: range,
    whole: Path,
    half: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for module in ("distributed.jobs.training_job", "meta.reporting.render_matplotlib"):
        monkeypatch.setattr(f"{module}.save_figures", lambda *arguments: [])
    for seed in seeds:
        resumes = seed % 10 == 0
        target = tmp_path / f"run-{seed}" / "20260101T000000"
        path = _damaged(half if resumes else whole, target, seed)
        commands: list[tuple[Any, ...]] = [("report", target), ("inspect", target)]
        if resumes:
            file = run_file(tmp_path, tiny(output={"run_dir": str(half.parent.parent)}))
            commands = [("train", file, "--resume", target)]
        elif seed % 10 == 1:
            commands = [("adapt", target)]
        for words in commands:
            code = exit_code(*words)
            told = capsys.readouterr()
            where = f"seed {seed}: {path.relative_to(target)}: {words[0]}: {told.err}"
            assert code in CODES, where
            assert "Traceback" not in told.err, where
            assert code == 0 or "error: " in told.err, where
            if words[0] == "train" and code == 0:
                assert summary_of(target)["meta_state_sha256"] == undisturbed_sha(), where
        shutil.rmtree(target.parent)


def _resumed(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("distributed.jobs.training_job.save_figures", lambda *arguments: [])
    file = run_file(tmp_path, tiny(output={"run_dir": str(directory.parent.parent)}))
    return exit_code("train", file, "--resume", directory)


@pytest.mark.parametrize("what", ["finished task", "checkpoint"])
def test_a_copied_file_under_another_name_changes_no_result(
    half: Path, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "copied" / "20260101T000000"
    shutil.copytree(half, target)
    source, copied = {
        "finished task": ("finished/task-000004", "finished/task-000006"),
        "checkpoint": ("round-000001", "round-000007"),
    }[what]
    for suffix in (".json", ".safetensors"):
        shutil.copy(target / "checkpoints" / f"{source}{suffix}", target / "checkpoints" / f"{copied}{suffix}")
    assert _resumed(target, tmp_path, monkeypatch) == 0
    assert summary_of(target)["meta_state_sha256"] == undisturbed_sha()
    told = " ".join(capsys.readouterr().err.split())
    assert "as its content says (copied or renamed)" in told
    assert ("finished task 6 will be run again" if what == "finished task" else "skipping a damaged checkpoint") in told


RUN_FILES = [pytest.param(range(150)), pytest.param(range(150, 14_000 if FULL else 1000), marks=pytest.mark.slow)]


@pytest.mark.parametrize("seeds", RUN_FILES)
def test_a_damaged_run_file_is_refused_in_words_or_is_a_run_file(seeds: range, tmp_path: Path) -> None:
    for seed in seeds:
        rng = np.random.default_rng(seed)
        file = run_file(tmp_path, tiny() if seed % 2 else tiny_neural())
        for _ in range(int(rng.integers(1, 4))):
            damages = [one for one in DAMAGE if one is not _other] if seed % 5 == 0 else [_structure]
            with contextlib.suppress(OSError, RecursionError, UnicodeDecodeError, ValueError, yaml.YAMLError):
                damages[int(rng.integers(len(damages)))](file, rng)
        told = ""
        try:
            assert load_config(file).digest()
        except ConfigurationError as error:
            told = str(error)
        assert not told or str(file) in told, f"seed {seed}: {told}"
        assert len(told) < 50_000
