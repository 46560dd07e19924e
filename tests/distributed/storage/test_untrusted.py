"""Run directories from somebody else execute nothing, and runs keep secrets to themselves."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save

from distributed.settings.errors import ConfigurationError
from distributed.storage import checkpoints
from distributed.storage.checkpoints import CheckpointFolder, DamagedFileError, _facts_sha256
from distributed.storage.run_directory import RunDirectory, load_run_config
from tests.distributed.helpers import (
    command,
    exit_code,
    learn,
    local,
    only_run,
    parsed,
    run_file,
    tiny,
    undisturbed_sha,
)

SECRET = "do-not-tell-7f3a9c"


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._file}",)


def planted(folder: Path, content: bytes, **facts: Any) -> CheckpointFolder:
    """A checkpoint whose checksums are right, as an attacker would make them."""
    made = CheckpointFolder(folder, "digest", 2)
    (folder / "round-000001.safetensors").write_bytes(content)
    reported = {"schema_version": checkpoints.SCHEMA_VERSION, "sha256": hashlib.sha256(content).hexdigest(), **facts}
    reported = {"kind": "tabular", "values": {}, "digest": "digest", **reported}
    reported["facts_sha256"] = _facts_sha256(reported)
    (folder / "round-000001.json").write_text(json.dumps(reported))
    return made


def refusal(folder: CheckpointFolder) -> str:
    said: list[str] = []
    try:
        folder.load_state(said.append)
    except DamagedFileError as error:
        said.append(str(error))
    return " ".join(said)


def test_a_pickle_under_the_name_of_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "run"))
    assert "is not a safetensors file" in refusal(planted(tmp_path / "checkpoints", bomb))
    assert not (tmp_path / "run").exists()
    pickle.loads(bomb)
    assert (tmp_path / "run").exists(), "the bomb itself works"


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 4 * 2**30) + b"{",
        struct.pack("<Q", 2) + b"{}" + b"x" * 10,
        struct.pack("<Q", 66) + b'{"a":{"dtype":"F64","shape":[1073741824],"data_offsets":[0,8]}}  ',
        struct.pack("<Q", 64) + b'{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,99999999999]}}',
        b"",
    ],
    ids=["endless header", "header of gigabytes", "bytes left over", "shape too large", "offsets outside", "empty"],
)
def test_headers_that_lie_are_refused_at_once(content: bytes, tmp_path: Path) -> None:
    began = time.monotonic()
    assert "is not a safetensors file" in refusal(planted(tmp_path, content))
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize(
    ("facts", "arrays"),
    [
        ({"kind": "os.system"}, {}),
        ({"kind": "tabular", "values": {"num_rounds": 1, "__class__": "x"}}, {}),
        ({"kind": "neural", "values": {"num_rounds": 1}}, {"initialization.actor.weights_0": np.zeros((2, 2))}),
        ({"kind": "tabular", "values": [1, 2]}, {}),
    ],
    ids=["unknown kind", "unknown field", "parts missing", "no mapping"],
)
def test_checkpoints_that_describe_something_else_are_refused(
    facts: dict[str, Any], arrays: dict[str, Any], tmp_path: Path
) -> None:
    folder = planted(tmp_path, save({"x": np.zeros(1), **arrays}), **facts)
    assert "round-000001.json: does not match its arrays" in refusal(folder)


def test_yaml_that_makes_objects_is_refused(tmp_path: Path) -> None:
    text = f"name: a\nfamily: !!python/object/apply:os.system ['touch {tmp_path / 'run'}']\n"
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"config\.yaml"):
        load_run_config(tmp_path)
    assert not (tmp_path / "run").exists()
    yaml.unsafe_load(text)
    assert (tmp_path / "run").exists(), "the bomb itself works"


def test_a_full_disk_leaves_the_last_checkpoint_and_the_message_explains_what_to_do(
    workplace: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written, fsync = [0], os.fsync

    def full(descriptor: int) -> None:
        written[0] += 1
        if written[0] > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.os, "fsync", full)
        assert exit_code("train", run_file(workplace, tiny())) == 1
    reported = " ".join(capsys.readouterr().err.split())
    assert "No space left on device; free some space" in reported
    assert "Traceback" not in reported
    run = only_run(workplace)
    assert not list(run.rglob("*.tmp"))
    assert list((run / "checkpoints").rglob("*.safetensors"))
    config = parsed(tiny())
    assert learn(config, *local(config), RunDirectory.open(run, config))[0].sha256() == undisturbed_sha()


@pytest.mark.slow
def test_a_secret_of_the_environment_is_written_nowhere(tmp_path: Path) -> None:
    """Not by a run that ends well, nor by one whose tracking server refuses it."""
    names = ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "SOME_TOKEN")
    secrets = {"MLFLOW_TRACKING_USERNAME": "somebody", **dict.fromkeys(names, SECRET)}
    raw = tiny()
    raw["tracking"] = {"enabled": True, "flush_timeout_seconds": 120.0}
    reported = ""
    for uri in (f"sqlite:///{tmp_path / 'mlflow.db'}", "http://127.0.0.1:9"):
        raw["tracking"]["flush_timeout_seconds"] = 120.0 if uri.startswith("sqlite") else 0.5
        done = command(["train", run_file(tmp_path, raw)], tmp_path, MLFLOW_TRACKING_URI=uri, **secrets)
        assert done.returncode == 0, done.stderr
        reported += done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"mlflow.db", "config.yaml", "summary.json", "outbox.jsonl"} <= {path.name for path in files}
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in reported


def test_a_run_directory_cannot_bring_its_own_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "theirs"
    run.mkdir()
    (run / "code.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    for name in (f"{run / 'code.py'}:Family", "theirs/code.py:Family", "theirs/../theirs/code.py:Family"):
        (run / "config.yaml").write_text(f"name: x\nfamily: {{name: '{name}'}}\n")
        assert exit_code("adapt", run) == 2
        assert "is inside the run directory" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "ran").exists()
