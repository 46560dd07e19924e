"""metasrl adapt --confidence and evaluation.safety, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from distributed.settings.errors import ConfigurationError
from tests.distributed.helpers import Raw, exit_code, only_run, parsed, run_file, summary_of, tiny

SMALL = {"confidence": 0.2, "tasks": 3, "descent_tasks": 2, "descent_iterations": 5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of one finished run, made in this process."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert exit_code("train", run_file(folder, tiny())) == 0
    return only_run(folder)


def test_adapt_with_a_confidence_counts_deployed_policies_beside_those_of_crpo(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("adapt", trained, "--task-seed", "3", "--confidence", "0.2") == 0
    reported = capsys.readouterr().out
    assert "meta_srl, no bounds: reward | cost | step" in reported
    assert "- deployed policies over a limit: random " in reported
    assert "of 3" in reported
    assert "may be, at a confidence of 0.2)" in reported


@pytest.mark.parametrize("confidence", ["0", "1", "1.5", "-1"])
def test_a_confidence_is_between_0_and_1(trained: Path, confidence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("adapt", trained, f"--confidence={confidence}") == 2
    assert "--confidence: Input should be" in capsys.readouterr().err


def test_a_start_that_cannot_be_safe_says_so(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("adapt", trained, "--confidence", "0.97") == 2
    assert "evaluation.safety: no start is safe enough" in capsys.readouterr().err


@pytest.mark.slow
def test_train_judges_with_safe_steps_and_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name, changes in (("plain", {}), ("safe", {"safety": SMALL})):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert exit_code("train", run_file(folder, tiny(evaluation=changes))) == 0
        found.append(summary_of(only_run(folder)))
    assert found[0]["meta_state_sha256"] == found[1]["meta_state_sha256"]
    assert found[0]["test"] != found[1]["test"]


@pytest.mark.parametrize(
    ("safety", "message"),
    [
        ({"confidence": 1.0}, "evaluation.safety.confidence"),
        ({"confidence": 0.9, "tasks": 3}, "a confidence of 0.9 needs at least 9 tasks, got 3"),
        ({"tasks": 30}, "evaluation.safety.confidence"),
        ({"confidence": 0.9, "test_episodes": 2}, "evaluation.safety.test_episodes"),
    ],
)
def test_bad_settings_name_the_key(safety: Raw, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parsed(tiny(evaluation={"safety": safety}))
