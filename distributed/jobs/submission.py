"""Submit runs to a Ray cluster through its Jobs API, and look after them: submit, jobs, logs, stop."""

from __future__ import annotations

import fnmatch
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ray

from distributed.settings.errors import ConfigurationError
from distributed.settings.run_file import load_config
from distributed.settings.provenance import COMMIT_VARIABLE, git_commit

EXCLUDES = (
    *("/runs", "/mlruns", "/mlflow.db", "/build", "/dist", "/docs", "/tests", "/benchmarks"),
    *(
        ".git",
        ".venv",
        "venv",
        "__pycache__",
        "*.egg-info",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".hypothesis",
    ),
    *("secrets", ".env"),
)
"""What is not shipped to the cluster, as in a .gitignore: with a slash at the root alone, else anywhere in the tree."""
MOST_MEGABYTES = 100.0
"""Largest working directory that is shipped; Ray itself refuses 500 MB after having packed it."""
STOP_SECONDS = 30
"""Between SIGTERM and SIGKILL when a job is stopped: what a checkpoint needs, with room."""
SUCCEEDED, FAILED, STOPPED = "SUCCEEDED", "FAILED", "STOPPED"
_ENDS = (SUCCEEDED, FAILED, STOPPED)
STOPPED_JOB_EXIT_CODE = 143


class Client(Protocol):
    """The part of Ray's ``JobSubmissionClient`` that is used."""

    def submit_job(self, **options: Any) -> str:
        """Submit; the id."""

    def get_job_status(self, job_id: str) -> Any:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""

    def get_job_info(self, job_id: str) -> Any:
        """Details."""

    def get_job_logs(self, job_id: str) -> str:
        """All that the job has written so far."""

    def list_jobs(self) -> list[Any]:
        """Details of every job."""

    def stop_job(self, job_id: str) -> bool:
        """Ask it to stop; False where it has ended."""


@dataclass(frozen=True)
class Submission:
    """What is submitted. ``secrets`` name variables of this shell that the job gets; ``packages`` is a pip list."""

    run_file: Path
    overrides: Sequence[tuple[str, str]] = ()
    resume: str | None = None
    secrets: Sequence[str] = ()
    packages: Sequence[str] = ()
    num_cpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    register: str | None = None


def connect(address: str) -> Client:
    """A client of the cluster whose dashboard is at ``address`` (http://host:8265).

    Raises:
        ConfigurationError: nobody answers, the token is wrong, or the cluster runs another version of Ray.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)  # else: a line for every .gitignore that it honours
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, ValueError) as error:
        raise ConfigurationError(
            f"--address: no Ray dashboard answers at {address}; start a cluster there (ray start --head) or give the "
            f"address of its dashboard, http://host:8265 ({_first_line(error)})"
        ) from error
    except AuthenticationError as error:
        raise ConfigurationError(
            f"--address: {address} refuses the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or "
            f"RAY_AUTH_TOKEN_PATH) to the cluster's, which is in ~/.ray/auth_token of its head ({_first_line(error)})"
        ) from error
    except RuntimeError as error:
        raise ConfigurationError(f"--address: {address}: {_first_line(error)}") from error
    theirs = getattr(client, "_server_ray_version", None)
    if theirs is not None and theirs != ray.__version__:
        raise ConfigurationError(
            f"--address: the cluster at {address} runs Ray {theirs}, this is Ray {ray.__version__}; install the same "
            "here, or submit from the cluster's image"
        )
    return client  # type: ignore[return-value]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def shipped_files(root: Path) -> Iterator[tuple[Path, int]]:
    """Files under ``root`` that would be shipped, with their sizes in bytes."""
    for folder, names, files in os.walk(root):
        at_root = Path(folder) == root
        names[:] = [name for name in sorted(names) if not excluded(name, at_root=at_root)]
        for name in sorted(files):
            path = Path(folder) / name
            if not excluded(name, at_root=at_root) and path.is_file():
                yield path, path.stat().st_size


def excluded(name: str, *, at_root: bool) -> bool:
    """Whether a file or folder of that name stays at home."""
    return any(
        fnmatch.fnmatch(name, pattern.removeprefix("/"))
        for pattern in EXCLUDES
        if at_root or not pattern.startswith("/")
    )


def require_small(root: Path, most_megabytes: float = MOST_MEGABYTES) -> None:
    """Check the size of what would be shipped.

    Raises:
        ConfigurationError: it is too large; the largest files are named.
    """
    files = sorted(shipped_files(root), key=lambda entry: entry[1], reverse=True)
    megabytes = sum(size for _, size in files) / 1e6
    if megabytes > most_megabytes:
        largest = ", ".join(f"{path.relative_to(root)} ({size / 1e6:.1f} MB)" for path, size in files[:5])
        raise ConfigurationError(
            f"working directory {root}: {megabytes:.0f} MB would be shipped, at most {most_megabytes:g} MB may be; the "
            f"largest files: {largest}. Move them out, or put them on storage that the cluster sees"
        )


def job_options(submission: Submission, root: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of ``submit_job``. No value of a secret is in the entry point or in the metadata.

    Raises:
        ConfigurationError: the run file is wrong or outside ``root``, or a secret is not set.
    """
    file = submission.run_file.resolve()
    if not file.is_relative_to(root.resolve()):
        raise ConfigurationError(f"{submission.run_file}: must be in the directory that is shipped, {root}")
    config = load_config(file, submission.overrides)
    missing = [name for name in submission.secrets if not environment.get(name)]
    if missing:
        raise ConfigurationError(f"--secret: {', '.join(missing)} not set in this shell; export it, then submit again")
    variables = {
        name: environment[name] for name in ("MLFLOW_TRACKING_URI", *submission.secrets) if name in environment
    }
    variables |= {COMMIT_VARIABLE: git_commit(), "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    words = ["python", "-m", "distributed.train", str(file.relative_to(root.resolve()))]
    words += [word for key, value in submission.overrides for word in (f"--{key}", value)]
    words += ["--resume", submission.resume] if submission.resume else []
    words += ["--register", submission.register] if submission.register else []
    runtime: dict[str, Any] = {"working_dir": str(root), "excludes": list(EXCLUDES), "env_vars": variables}
    if submission.packages:
        runtime["pip"] = list(submission.packages)
    return {
        "entrypoint": shlex.join(words),
        "runtime_env": runtime,
        "metadata": {"name": config.name, "family": config.family.name, "git_commit": variables[COMMIT_VARIABLE]},
        "entrypoint_num_cpus": submission.num_cpus,
        "entrypoint_resources": dict(submission.resources) or None,
    }


def send(
    client: Client, options: Mapping[str, Any], *, patience_seconds: float = 60.0, every_seconds: float = 1.0
) -> str:
    """Submit; the job's id. A cluster that has just been started has no agent to run a job yet: that is waited for.

    Raises:
        ConfigurationError: the cluster refuses the job.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return client.submit_job(**options)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise ConfigurationError(f"the cluster refuses the job: {_last_line(error)}") from error
        time.sleep(every_seconds)


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]


def follow(
    client: Client,
    job_id: str,
    write: Callable[[str], None],
    say: Callable[[str], None],
    *,
    patience_seconds: float = 300.0,
    every_seconds: float = 1.0,
) -> int:
    """Write a job's log as it grows until it ends; the job's exit code. A lost connection is tried again.

    Raises:
        ConfigurationError: the cluster did not answer for ``patience_seconds``.
    """
    written, lost_since = 0, None
    while True:
        try:
            status = str(client.get_job_status(job_id))
            log = client.get_job_logs(job_id)
        except Exception as error:  # whatever the connection raises: requests, Ray, the socket
            now = time.monotonic()
            if lost_since is None:
                lost_since = now
                say(f"connection lost ({_first_line(error)}); trying again, the job goes on")
            if now - lost_since > patience_seconds:
                raise ConfigurationError(
                    f"the cluster has not answered for {patience_seconds:g} s; `metasrl logs {job_id}` looks again"
                ) from error
            time.sleep(every_seconds)
            continue
        if lost_since is not None:
            say("connected again")
            lost_since = None
        write(log[written:])
        written = len(log)
        if status in _ENDS:
            return exit_code(client, job_id, status)
        time.sleep(every_seconds)


def exit_code(client: Client, job_id: str, status: str) -> int:
    """0 for a job that succeeded, 143 for one that was stopped, else its driver's code (1 where that is not known)."""
    if status == SUCCEEDED:
        return 0
    if status == STOPPED:
        return STOPPED_JOB_EXIT_CODE
    return int(getattr(client.get_job_info(job_id), "driver_exit_code", None) or 1)


def job_rows(client: Client) -> list[list[str]]:
    """Id, name, status, when it began and how long it took, newest first; runs of metasrl only."""
    rows = []
    for job in client.list_jobs():
        metadata = job.metadata or {}
        if "git_commit" not in metadata or job.submission_id is None:
            continue
        began, ended = (job.start_time or 0) / 1000.0, (job.end_time or 0) / 1000.0
        spent = (ended or time.time()) - began if began else 0.0
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began)) if began else ""
        rows.append([job.submission_id, metadata.get("name", ""), str(job.status), when, f"{spent:.0f} s"])
    return sorted(rows, key=lambda row: row[3], reverse=True)


def require_known(client: Client, job_id: str) -> None:
    """Check that there is such a job.

    Raises:
        ConfigurationError: there is none; those that there are are named.
    """
    known = [row[0] for row in job_rows(client)]
    if job_id not in known:
        raise ConfigurationError(f"{job_id}: no such job; there are {', '.join(known) or 'none'} (metasrl jobs)")
