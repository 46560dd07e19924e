"""Submit runs to a Ray cluster through its Jobs API: submit, list, follow and stop."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from distributed.cluster.exposure import require_token
from distributed.cluster.jobs_client import Client, first_line_of
from distributed.jobs.upload import EXCLUDES, require_shipped
from distributed.settings.errors import ConfigurationError
from distributed.settings.provenance import COMMIT_VARIABLE, git_commit
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import load_config
from distributed.settings.stopping import STOPPED_EXIT_CODE
from distributed.settings.tracking_uri import hide_password

STOP_SECONDS = 30
"""Seconds between SIGTERM and SIGKILL when a job is stopped; a checkpoint takes less."""
PENDING = "PENDING"
_PENDING_SECONDS = 60.0
"""Between two messages about a job that has not begun."""
SUCCEEDED, FAILED, STOPPED = "SUCCEEDED", "FAILED", "STOPPED"
_ENDS = (SUCCEEDED, FAILED, STOPPED)
_TRACKING = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Submission:
    """A run to submit.

    ``secrets``: names of environment variables to pass to the job. ``packages``: pip requirements. ``num_cpus`` and
    ``resources``: requests of the driver. ``register``: model of which the start becomes a version.
    ``changed_family``: the resumed run may go on with another source of the user's family.
    """

    run_file: Path
    overrides: Sequence[tuple[str, str]] = ()
    resume: str | None = None
    secrets: Sequence[str] = ()
    packages: Sequence[str] = ()
    num_cpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    register: str | None = None
    changed_family: bool = False

    @cached_property
    def config(self) -> RunConfig:
        """The settings of the run.

        Raises:
            ConfigurationError: The run file is invalid.
        """
        return load_config(self.run_file.resolve(), self.overrides)


def job_options(submission: Submission, root: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of ``submit_job``. Neither the entry point nor the metadata contains a secret's value.

    Args:
        submission: The run.
        root: Working directory to upload.
        environment: Environment variables of this process.

    Raises:
        ConfigurationError: The run file is invalid, it or the family is not among the uploaded files, or a secret is
            not set.
    """
    file = submission.run_file.resolve()
    if not file.is_relative_to(root.resolve()):
        raise ConfigurationError(f"{submission.run_file}: must be in the uploaded directory, {root}")
    config = submission.config
    require_shipped(root, file, config.code)
    secret_values(submission, environment)
    variables = _variables(environment)
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


def require_protected(submission: Submission, address: str) -> None:
    """Check that the cluster at ``address`` asks for a token, is of this machine, or is allowed by the settings.

    Raises:
        ConfigurationError: It does not, is not, and is not.
    """
    require_token(address, unauthenticated=submission.config.cluster.unauthenticated)


def secret_values(submission: Submission, environment: Mapping[str, str]) -> dict[str, str]:
    """The secrets of the job, variable -> value: those named, and the tracking server's address if it has a password.

    Raises:
        ConfigurationError: One is not set.
    """
    missing = [name for name in submission.secrets if not environment.get(name)]
    if missing:
        raise ConfigurationError(f"--secret: {', '.join(missing)} not set in this shell; export it, then submit again")
    found = {name: environment[name] for name in submission.secrets}
    tracking = environment.get(_TRACKING, "")
    return found | ({_TRACKING: tracking} if hide_password(tracking) != tracking else {})


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of the job, which Ray's logs show: tracking server and commit."""
    tracking = environment.get(_TRACKING)
    known = {_TRACKING: tracking} if tracking and hide_password(tracking) == tracking else {}
    return known | {COMMIT_VARIABLE: git_commit(), "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}


def _words(submission: Submission, run_file: str) -> list[str]:
    """The command of the job."""
    words = ["python", "-m", "distributed.train", run_file]
    words += [word for key, value in submission.overrides for word in (f"--{key}", value)]
    words += ["--resume", submission.resume] if submission.resume else []
    words += ["--changed-family"] if submission.changed_family else []
    return words + (["--register", submission.register] if submission.register else [])


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
    began = told = time.monotonic()
    while True:
        status, log = next(polls)
        now = time.monotonic()
        if status == PENDING and now - told >= _PENDING_SECONDS:
            told = now
            say(f"{job_id} has not begun after {now - began:.0f} s: it waits for its environment or for free CPUs")
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
                say(f"connection lost ({first_line_of(error)}); reconnecting, the job continues")
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
