from __future__ import annotations

import json
import re
import subprocess
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private.runtime_env import packaging
from ray.exceptions import AuthenticationError

from distributed.cluster import jobs_client
from distributed.cluster.jobs_client import connect
from distributed.jobs import submission, upload
from distributed.jobs.submission import Submission, follow, job_options, job_rows, require_known
from distributed.settings import handed_over, provenance
from distributed.settings.errors import ConfigurationError
from tests.distributed.helpers import exit_code, run_file, tiny

ROOT = Path(__file__).resolve().parent.parent.parent.parent
SECRET = "do-not-tell-51c2"


@dataclass
class FakeClient:
    """A cluster whose job writes a word a look, and that is away at some looks."""

    words: list[str] = field(default_factory=lambda: ["one\n", "two\n", "three\n"])
    away: tuple[int, ...] = ()
    end: str = "SUCCEEDED"
    code: int | None = 0
    looks: int = 0
    submitted: list[dict[str, Any]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)

    def _do_request(self, method: str, endpoint: str, *, data: bytes) -> Any:
        assert method == "PUT"
        self.stored[endpoint] = data
        return SimpleNamespace(status_code=200)

    def submit_job(self, **options: Any) -> str:
        self.submitted.append(options)
        return "raysubmit_1"

    def get_job_status(self, job_id: str) -> str:
        self.looks += 1
        if self.looks in self.away:
            raise ConnectionError("no route\nto host")
        return self.end if self.looks - len(self.away) >= len(self.words) else "RUNNING"

    def get_job_logs(self, job_id: str) -> str:
        return "".join(self.words[: self.looks])

    def get_job_info(self, job_id: str) -> Any:
        return SimpleNamespace(driver_exit_code=self.code)

    def list_jobs(self) -> list[Any]:
        ours = {"name": "tiny", "git_commit": "abc"}
        return [
            SimpleNamespace(
                submission_id="raysubmit_1", metadata=ours, status="RUNNING", start_time=1e12, end_time=None
            ),
            SimpleNamespace(
                submission_id="raysubmit_2", metadata=ours, status="FAILED", start_time=2e12, end_time=2e12
            ),
            SimpleNamespace(submission_id="other", metadata={}, status="RUNNING", start_time=3e12, end_time=None),
            SimpleNamespace(submission_id=None, metadata=ours, status="RUNNING", start_time=3e12, end_time=None),
        ]

    def stop_job(self, job_id: str) -> bool:
        self.stopped.append(job_id)
        return True


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "old").mkdir(parents=True)
    (tmp_path / "runs" / "old" / "big.bin").write_bytes(b"x" * 10_000)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "large.bin").write_bytes(b"x" * 3000)
    (tmp_path / "own.py").write_text("pass\n")
    return tmp_path


def options_of(folder: Path, environment: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    return job_options(Submission(run_file(folder, tiny()), **more), folder, environment or {})


def test_a_job_may_go_on_with_a_changed_family(project: Path) -> None:
    assert options_of(project, resume="latest", changed_family=True)["entrypoint"].endswith("latest --changed-family")


def test_what_is_submitted(project: Path) -> None:
    environment = {"MLFLOW_TRACKING_URI": "http://mlflow:5000", "MLFLOW_TRACKING_PASSWORD": SECRET, "OTHER": "no"}
    found = options_of(
        project,
        environment,
        overrides=[("seed", "7"), ("output.run_dir", "/shared/a b")],
        resume="latest",
        secrets=["MLFLOW_TRACKING_PASSWORD"],
        packages=["einops==0.8.0"],
        num_cpus=0.5,
    )
    expected = "python -m distributed.train run.yaml --seed 7 --output.run_dir '/shared/a b' --resume latest"
    assert found["entrypoint"] == expected
    variables = found["runtime_env"]["env_vars"]
    assert set(variables) == {"MLFLOW_TRACKING_URI", "METASRL_GIT_COMMIT", "RAY_JOB_STOP_WAIT_TIME_S"}
    assert SECRET not in repr(found)
    assert found["runtime_env"]["pip"] == ["einops==0.8.0"]
    assert found["metadata"] == {"name": "tiny", "family": "frozen_lake", "git_commit": variables["METASRL_GIT_COMMIT"]}
    assert "pip" not in options_of(project)["runtime_env"]


def test_what_is_shipped(project: Path) -> None:
    run_file(project, tiny())
    (project / "deploy" / "runs").mkdir(parents=True)
    (project / "deploy" / "runs" / "one.yaml").write_text("")
    assert {str(path.relative_to(project)) for path, _ in upload.uploaded_files(project)} == {
        "data/large.bin",
        "deploy/runs/one.yaml",
        "own.py",
        "run.yaml",
    }
    upload.require_small(project)
    with pytest.raises(
        ConfigurationError, match=r"0 MB would be uploaded, the maximum is 0.002 MB.*data/large.bin \(0.0"
    ):
        upload.require_small(project, 0.002)


def test_what_is_counted_is_what_ray_packs(project: Path) -> None:
    """Ignore files in any folder, negated patterns, links, secrets: the list is that of the package that Ray makes."""
    (project / ".gitignore").write_text("data/\n*.log\n!kept.log\n")
    for name in (
        "a.log",
        "kept.log",
        "sub/b.log",
        "sub/deep/c.txt",
        "sub/deep/d.txt",
        "server.pem",
        "sub/id_rsa",
        ".netrc",
    ):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("x")
    (project / "sub" / ".rayignore").write_text("deep/c.txt\n")
    (project / "sub" / "credentials.json").write_text("x")
    (project / "linked").symlink_to(project / "sub")
    package = project.parent / "package.zip"
    packaging.create_package(str(project), package, include_gitignore=True, excludes=list(upload.EXCLUDES))
    with zipfile.ZipFile(package) as packed:
        wanted = {name for name in packed.namelist() if not name.endswith("/")}
    counted = {str(path.relative_to(project)) for path, _ in upload.uploaded_files(project)}
    assert counted == wanted
    assert counted >= {"own.py", "kept.log", "sub/deep/d.txt", ".gitignore"}
    assert not {name for name in counted if name.startswith("data/") or name.endswith(("a.log", "c.txt"))}
    upload.require_small(project, 0.002)  # the 3 kB in data/ do not count
    withheld = [str(path.relative_to(project)) for path in upload.withheld_files(project)]
    assert withheld == [
        ".netrc",
        "linked/credentials.json",
        "linked/id_rsa",
        "server.pem",
        "sub/credentials.json",
        "sub/id_rsa",
    ]


@pytest.mark.parametrize(
    ("ignored", "family", "message"),
    [
        ("run.yaml", "frozen_lake", "run.yaml: the run file would not be uploaded"),
        ("own.py", "own.py:Tracks", "own.py: the family's file would not be uploaded"),
        ("own.py", "own:Tracks", "own.py: the family's module would not be uploaded"),
        (
            "other",
            "/somewhere/own.py:Tracks",
            "the cluster has no such path; give it relative to",
        ),
    ],
)
def test_what_the_job_needs_is_shipped_or_the_submission_is_refused(
    project: Path, ignored: str, family: str, message: str
) -> None:
    (project / ".gitignore").write_text(f"{ignored}\n")
    file = run_file(project, tiny())
    with pytest.raises(ConfigurationError, match=message):
        upload.require_shipped(project, file, {"family.name": family})
    (project / ".gitignore").unlink()
    if ignored != "other":
        upload.require_shipped(project, file, {"family.name": family})


def test_the_file_of_a_network_is_shipped_too(project: Path) -> None:
    file = run_file(project, tiny())
    (project / "nets.py").write_text("class Actor: ...")
    upload.require_shipped(project, file, {"within_task.network": "nets.py:Actor"})
    (project / ".gitignore").write_text("nets.py\n")
    with pytest.raises(ConfigurationError, match=r"nets\.py: the network's file would not be uploaded"):
        upload.require_shipped(project, file, {"within_task.network": "nets.py:Actor"})
    with pytest.raises(ConfigurationError, match=r"nets\.py: the method's file would not be uploaded"):
        upload.require_shipped(project, file, {"within_task.method.name": "nets.py:Rule"})
    with pytest.raises(ConfigurationError, match=r"within_task\.network: /x/nets\.py: the cluster has no such path"):
        upload.require_shipped(project, file, {"within_task.network": "/x/nets.py:Actor"})


def test_secrets_are_handed_over_and_in_nothing_that_ray_writes(project: Path) -> None:
    environment = {"TOKEN": SECRET, "MLFLOW_TRACKING_URI": f"http://me:{SECRET}2@mlflow:5000"}
    wanted, client = Submission(run_file(project, tiny()), secrets=["TOKEN"]), FakeClient()
    options = job_options(wanted, project, environment)
    jobs_client.hand_over(client, options, submission.secret_values(wanted, environment))
    assert SECRET not in repr(options) + "".join(client.stored)
    ((path, content),) = client.stored.items()
    assert json.loads(content) == environment
    assert path == f"/api/packages/gcs/{options['runtime_env']['env_vars'][handed_over.VARIABLE]}"


def test_the_checkout_itself_is_small() -> None:
    upload.require_small(ROOT, 5.0)
    shipped = {path.relative_to(ROOT).parts[0] for path, _ in upload.uploaded_files(ROOT)}
    assert {"tasks", "policies", "meta", "distributed", "deploy"} <= shipped
    assert not shipped & {".git", ".venv", "runs", "docs"}


def test_bad_submissions_are_reported_before_anything_is_sent(project: Path, tmp_path_factory: Any) -> None:
    with pytest.raises(ConfigurationError, match="--secret: A, C not set in this shell"):
        options_of(project, {"B": "x", "C": ""}, secrets=["A", "B", "C"])
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with pytest.raises(ConfigurationError, match="must be in the uploaded directory"):
        job_options(Submission(run_file(elsewhere, tiny())), project, {})
    with pytest.raises(ConfigurationError, match="seed"):
        options_of(project, overrides=[("seed", "many")])


def test_the_log_is_followed_to_the_end() -> None:
    written, said = list[str](), list[str]()
    assert follow(FakeClient(), "raysubmit_1", written.append, said.append, every_seconds=0.0) == 0
    assert "".join(written) == "one\ntwo\nthree\n"
    assert said == []


def test_a_lost_connection_is_tried_again_and_nothing_is_written_twice() -> None:
    written, said = list[str](), list[str]()
    client = FakeClient(words=["one\n", "two\n", "three\n", "four\n", "five\n"], away=(2, 3))
    assert follow(client, "raysubmit_1", written.append, said.append, every_seconds=0.0) == 0
    assert "".join(written) == "one\ntwo\nthree\nfour\nfive\n"
    assert said == ["connection lost (no route); reconnecting, the job continues", "connected again"]
    with pytest.raises(ConfigurationError, match="metasrl logs raysubmit_1"):
        follow(
            FakeClient(away=tuple(range(1, 999))),
            "raysubmit_1",
            print,
            print,
            patience_seconds=0.01,
            every_seconds=0.01,
        )


@pytest.mark.parametrize(
    ("end", "code", "expected"), [("FAILED", 2, 2), ("FAILED", None, 1), ("STOPPED", None, 143), ("SUCCEEDED", 0, 0)]
)
def test_the_exit_code_is_the_jobs(end: str, code: int | None, expected: int) -> None:
    assert (
        follow(FakeClient(end=end, code=code), "raysubmit_1", lambda text: None, print, every_seconds=0.0) == expected
    )


def test_jobs_are_listed_newest_first() -> None:
    rows = job_rows(FakeClient())
    assert [row[:3] for row in rows] == [["raysubmit_2", "tiny", "FAILED"], ["raysubmit_1", "tiny", "RUNNING"]]
    require_known(FakeClient(), "raysubmit_2")
    with pytest.raises(ConfigurationError, match="raysubmit_9: no such job; existing jobs: raysubmit_2, raysubmit_1"):
        require_known(FakeClient(), "raysubmit_9")


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (ConnectionError("refused\nmore"), r"no Ray dashboard answers at http://x:1; start a cluster.*\(refused\)"),
        (AuthenticationError("bad token"), r"http://x:1 refuses the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"),
        (
            RuntimeError("Version check returned 404."),
            r"http://x:1 answers, but not as a Ray dashboard; give .*\(Version check returned 404",
        ),
    ],
)
def test_clusters_that_cannot_be_submitted_to(raised: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(address: str) -> None:
        raise raised

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", fail)
    with pytest.raises(ConfigurationError, match=message):
        connect("http://x:1")


def test_another_version_of_ray_is_reported_with_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ray.job_submission.JobSubmissionClient", lambda a: SimpleNamespace(_server_ray_version="2.9.0")
    )
    with pytest.raises(ConfigurationError, match=rf"runs Ray 2.9.0, this is Ray {ray.__version__}"):
        connect("http://x:1")
    mine = SimpleNamespace(_server_ray_version=ray.__version__)
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda a: mine)
    assert connect("http://x:1") is mine


def test_commands(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient(end="FAILED", code=3)
    monkeypatch.setattr(jobs_client, "connect", lambda *arguments: client)
    monkeypatch.setattr(submission.time, "sleep", lambda seconds: None)
    file = run_file(project, tiny())
    assert exit_code("submit", file, "--seed", "5", "--detach") == 0
    assert client.submitted[0]["entrypoint"] == "python -m distributed.train run.yaml --seed 5"
    assert "job raysubmit_1; metasrl logs raysubmit_1 follows it" in capsys.readouterr().err
    assert exit_code("submit", file) == 3
    assert capsys.readouterr().out == "one\ntwo\nthree\n"
    assert exit_code("jobs") == 0
    assert "raysubmit_2" in capsys.readouterr().out
    assert exit_code("stop", "raysubmit_1") == 0
    assert client.stopped == ["raysubmit_1"]
    assert exit_code("stop", "raysubmit_9") == 2
    assert exit_code("submit", file, "--secret", "NOT_THERE") == 2
    assert "NOT_THERE not set in this shell" in capsys.readouterr().err


def test_a_job_knows_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_git(*arguments: Any, **options: Any) -> None:
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(provenance.subprocess, "run", no_git)
    assert provenance.git_commit() == "unknown"
    monkeypatch.setenv("METASRL_GIT_COMMIT", "abc")
    assert provenance.git_commit() == "abc"


NAMED = {"entrypoint": "x", "metadata": {"name": "low lakes"}}


def test_a_job_is_named_after_its_run() -> None:
    client = FakeClient()
    for _ in range(2):
        jobs_client.send(client, NAMED)
    first, second = (options["submission_id"] for options in client.submitted)
    assert re.fullmatch(r"low_lakes-\d{8}T\d{6}-[0-9a-f]{4}", first)
    assert first != second


def test_a_job_that_has_not_begun_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Queued(FakeClient):
        def get_job_status(self, job_id: str) -> str:
            self.looks += 1
            return "PENDING" if self.looks < 200 else "SUCCEEDED"

        def get_job_logs(self, job_id: str) -> str:
            return ""

    now = iter(range(10_000))
    monkeypatch.setattr(submission.time, "monotonic", lambda: float(next(now)))
    said: list[str] = []
    assert follow(Queued(), "tiny-1", lambda text: None, said.append, every_seconds=0.0) == 0
    assert said[0] == "tiny-1 has not begun after 60 s: it waits for its environment or for free CPUs"
    assert len(said) == 3


def test_a_cluster_without_an_agent_yet_is_waited_for() -> None:
    class Young(FakeClient):
        def submit_job(self, **options: Any) -> str:
            self.looks += 1
            if self.looks < 3:
                raise RuntimeError("Request failed with status code 500: No available agent to submit job, try later.")
            return super().submit_job(**options)

    assert jobs_client.send(Young(), NAMED, every_seconds=0.0) == "raysubmit_1"
    with pytest.raises(ConfigurationError, match=r"not ready after -1 s \(--wait\): its head has no agent for jobs"):
        jobs_client.send(Young(), NAMED, patience_seconds=-1.0)


def test_a_cluster_that_is_not_ready_is_named_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(FakeClient):
        def submit_job(self, **options: Any) -> str:
            raise RuntimeError("Request failed with status code 500: ClientResponseError: 401, message='Unauthorized'")

    said: list[str] = []
    with pytest.raises(ConfigurationError, match=r"not ready after 0.01 s .* another cluster on that machine"):
        jobs_client.send(Other(), NAMED, patience_seconds=0.01, every_seconds=0.02, say=said.append)
    assert len(said) == 1
    assert "belongs to another cluster" in said[0]

    class Rejects(FakeClient):
        def submit_job(self, **options: Any) -> str:
            raise RuntimeError("Request failed with status code 400: Job with submission_id x already exists.")

    with pytest.raises(ConfigurationError, match=r"rejects the job: .*already exists"):
        jobs_client.send(Rejects(), NAMED, patience_seconds=60.0)

    tries = iter([ConnectionError("refused"), ConnectionError("refused"), None])

    def late(address: str) -> Any:
        error = next(tries)
        if error is not None:
            raise error
        return SimpleNamespace(_server_ray_version=ray.__version__)

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", late)
    monkeypatch.setattr(submission.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(jobs_client.time, "sleep", lambda seconds: None)
    connect("http://x:1", 60.0, said.append)
    assert said[1:] == ["no Ray dashboard answers at http://x:1 yet; waiting up to 60 s (--wait)"]
