"""Submit runs to a Ray cluster through its Jobs API: submit, list, follow and stop."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ray

from distributed.jobs.upload import EXCLUDES
from distributed.settings.errors import ConfigurationError
from distributed.settings.provenance import COMMIT_VARIABLE, git_commit
from distributed.settings.run_file import load_config
from distributed.settings.stopping import STOPPED_EXIT_CODE

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobStatus

STOP_SECONDS = 30
"""Seconds between SIGTERM and SIGKILL when a job is stopped; a checkpoint takes less."""
SUCCEEDED, FAILED, STOPPED = "SUCCEEDED", "FAILED", "STOPPED"
_ENDS = (SUCCEEDED, FAILED, STOPPED)


class Client(Protocol):
    """The part of Ray's ``JobSubmissionClient`` that is used here."""

    def submit_job(self, **options: Any) -> str:
        """Submit a job; return its id."""

    def get_job_status(self, job_id: str) -> JobStatus:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""

    def get_job_info(self, job_id: str) -> JobDetails:
        """Details of a job."""

    def get_job_logs(self, job_id: str) -> str:
        """The log so far."""

    def list_jobs(self) -> list[JobDetails]:
        """Details of every job."""

    def stop_job(self, job_id: str) -> bool:
        """Request a stop; return False if the job has ended already."""


@dataclass(frozen=True)
class Submission:
    """A run to submit.

    ``secrets``: names of environment variables to pass to the job. ``packages``: pip requirements. ``num_cpus`` and
    ``resources``: requests of the driver. ``register``: model of which the start becomes a version.
    """

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
        ConfigurationError: Nothing answers, the token is wrong, or the cluster runs another version of Ray.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)  # it logs a line for every .gitignore
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


def job_options(submission: Submission, root: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of ``submit_job``. Neither the entry point nor the metadata contains a secret's value.

    Args:
        submission: The run.
        root: Working directory to upload.
        environment: Environment variables of this process.

    Raises:
        ConfigurationError: The run file is invalid or outside ``root``, or a secret is not set.
    """
    file = submission.run_file.resolve()
    if not file.is_relative_to(root.resolve()):
        raise ConfigurationError(f"{submission.run_file}: must be in the uploaded directory, {root}")
    config = load_config(file, submission.overrides)
    variables = _variables(submission, environment)
    runtime: dict[str, Any] = {"working_dir": str(root), "excludes": list(EXCLUDES), "env_vars": variables}
    if submission.packages:
        runtime["pip"] = list(submission.packages)
    return {
        "entrypoint": shlex.join(_words(submission, str(file.relative_to(root.resolve())))),
        "runtime_env": runtime,
        "metadata": {"name": config.name, "family": config.family.name, "git_commit": variables[COMMIT_VARIABLE]},
        "entrypoint_num_cpus": submission.num_cpus,
        "entrypoint_resources": dict(submission.resources) or None,
    }


def _variables(submission: Submission, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of the job: tracking server, secrets, commit."""
    missing = [name for name in submission.secrets if not environment.get(name)]
    if missing:
        raise ConfigurationError(f"--secret: {', '.join(missing)} not set in this shell; export it, then submit again")
    names = ("MLFLOW_TRACKING_URI", *submission.secrets)
    passed = {name: environment[name] for name in names if name in environment}
    return passed | {COMMIT_VARIABLE: git_commit(), "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}


def _words(submission: Submission, run_file: str) -> list[str]:
    """The command of the job."""
    words = ["python", "-m", "distributed.train", run_file]
    words += [word for key, value in submission.overrides for word in (f"--{key}", value)]
    words += ["--resume", submission.resume] if submission.resume else []
    return words + (["--register", submission.register] if submission.register else [])


def send(
    client: Client, options: Mapping[str, Any], *, patience_seconds: float = 60.0, every_seconds: float = 1.0
) -> str:
    """Submit a job and return its id. A cluster that has just started has no agent yet; wait for one.

    Args:
        client: Client of the cluster.
        options: Arguments of ``submit_job``.
        patience_seconds: How long to wait for an agent.
        every_seconds: Seconds between attempts.

    Raises:
        ConfigurationError: The cluster rejects the job.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return client.submit_job(**options)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise ConfigurationError(f"the cluster rejects the job: {_last_line(error)}") from error
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
    """Follow a job's log until the job ends; return its exit code. Reconnects after a lost connection.

    Args:
        client: Client of the cluster.
        job_id: Id of the job.
        write: Receives new text of the log.
        say: Receives messages about the connection.
        patience_seconds: How long a lost connection is tolerated.
        every_seconds: Seconds between polls.

    Raises:
        ConfigurationError: The cluster did not answer for ``patience_seconds``.
    """
    polls, written = _polls(client, job_id, say, patience_seconds, every_seconds), 0
    while True:
        status, log = next(polls)
        write(log[written:])
        written = len(log)
        if status in _ENDS:
            return exit_code(client, job_id, status)


def _polls(
    client: Client, job_id: str, say: Callable[[str], None], patience_seconds: float, every_seconds: float
) -> Iterator[tuple[str, str]]:
    """Yield a job's status and log again and again; reconnect after a lost connection."""
    lost_since = None
    while True:
        try:
            polled = str(client.get_job_status(job_id)), client.get_job_logs(job_id)
        except Exception as error:  # requests, Ray and sockets raise their own types
            now = time.monotonic()
            if lost_since is None:
                lost_since = now
                say(f"connection lost ({_first_line(error)}); reconnecting, the job continues")
            _require_patience(job_id, now - lost_since, patience_seconds, error)
        else:
            if lost_since is not None:
                say("connected again")
                lost_since = None
            yield polled
        time.sleep(every_seconds)


def _require_patience(job_id: str, lost_seconds: float, patience_seconds: float, error: Exception) -> None:
    if lost_seconds > patience_seconds:
        raise ConfigurationError(
            f"the cluster has not answered for {patience_seconds:g} s; `metasrl logs {job_id}` tries again"
        ) from error


def exit_code(client: Client, job_id: str, status: str) -> int:
    """0 for a job that succeeded, 143 for one that was stopped, else its driver's exit code (1 if unknown)."""
    if status == SUCCEEDED:
        return 0
    if status == STOPPED:
        return STOPPED_EXIT_CODE
    return int(getattr(client.get_job_info(job_id), "driver_exit_code", None) or 1)


def job_rows(client: Client) -> list[list[str]]:
    """Id, name, status, start time and duration of metasrl's jobs, newest first."""
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
    """Check that a job exists.

    Raises:
        ConfigurationError: It does not; the message lists the existing jobs.
    """
    known = [row[0] for row in job_rows(client)]
    if job_id not in known:
        raise ConfigurationError(f"{job_id}: no such job; existing jobs: {', '.join(known) or 'none'} (metasrl jobs)")
