"""The client of a cluster's Jobs API: connect to a cluster that may not be ready yet, hand over secrets, send a job."""

from __future__ import annotations

import http
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import ray

from distributed.settings import handed_over
from distributed.settings.errors import ConfigurationError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobStatus

_NOT_READY = ("No available agent", "Cannot connect to host", "Server disconnected", "Connection refused", "TimeoutErr")
"""Of answers of a head whose agent for jobs does not run yet."""
_OTHER_AGENT = ("Unauthorized", "status code 401", "status code 403", "Forbidden")
"""Of answers of an agent that belongs to another cluster."""


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

    def _do_request(self, method: str, endpoint: str, *, data: bytes) -> Any:
        """A request to the dashboard, with the client's token."""


def connect(address: str, patience_seconds: float = 0.0, say: Callable[[str], None] = lambda message: None) -> Client:
    """A client of the cluster whose dashboard is at ``address`` (http://host:8265).

    Args:
        address: of the dashboard.
        patience_seconds: how long to wait for a dashboard that does not answer yet.
        say: receives a message before waiting.

    Raises:
        ConfigurationError: Nothing or something else answers, the token is wrong, or the cluster runs another version
            of Ray.
    """
    deadline, told = time.monotonic() + patience_seconds, False
    while True:
        try:
            return _connect(address)
        except NotReadyError:
            if time.monotonic() >= deadline:
                raise
        if not told:
            say(f"no Ray dashboard answers at {address} yet; waiting up to {patience_seconds:g} s (--wait)")
            told = True
        time.sleep(1.0)


class NotReadyError(ConfigurationError):
    """Nothing answers at an address yet."""


def _connect(address: str) -> Client:
    logging.getLogger("ray").setLevel(logging.ERROR)  # it logs a line for every .gitignore
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, ValueError) as error:
        kind = NotReadyError if isinstance(error, ConnectionError) else ConfigurationError
        raise kind(
            f"--address: no Ray dashboard answers at {address}; start a cluster there (ray start --head) or give the "
            f"address of its dashboard, http://host:8265 ({first_line_of(error)})"
        ) from error
    except AuthenticationError as error:
        raise ConfigurationError(
            f"--address: {address} refuses the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or "
            f"RAY_AUTH_TOKEN_PATH) to the cluster's, which is in ~/.ray/auth_token of its head ({first_line_of(error)})"
        ) from error
    except RuntimeError as error:
        raise ConfigurationError(
            f"--address: {address} answers, but not as a Ray dashboard; give that of the cluster's dashboard, "
            f"http://host:8265 ({first_line_of(error)})"
        ) from error
    theirs = getattr(client, "_server_ray_version", None)
    if theirs is not None and theirs != ray.__version__:
        raise ConfigurationError(
            f"--address: the cluster at {address} runs Ray {theirs}, this is Ray {ray.__version__}; install the same "
            "here, or submit from the cluster's image"
        )
    return client  # type: ignore[return-value]


def first_line_of(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0]


def hand_over(client: Client, options: dict[str, Any], values: Mapping[str, str]) -> None:
    """Store ``values`` on the cluster and name their entry in the job's ``options``, which hold no value themselves.

    Raises:
        ConfigurationError: The cluster does not take them.
    """
    if not values:
        return
    name = handed_over.entry_name()
    reply = client._do_request("PUT", handed_over.path_of(name), data=handed_over.content(values))
    if reply.status_code != http.HTTPStatus.OK:
        raise ConfigurationError(f"--secret: the cluster does not take the values (status {reply.status_code})")
    options["runtime_env"]["env_vars"][handed_over.VARIABLE] = name


def send(
    client: Client,
    options: Mapping[str, Any],
    *,
    patience_seconds: float = 60.0,
    every_seconds: float = 1.0,
    say: Callable[[str], None] = lambda message: None,
) -> str:
    """Submit a job and return its id. A cluster that has just started has no agent yet; wait for one.

    Args:
        client: Client of the cluster.
        options: Arguments of ``submit_job``, with the run's name in ``metadata``.
        patience_seconds: How long to wait for an agent.
        every_seconds: Seconds between attempts.
        say: Receives a message before waiting.

    Raises:
        ConfigurationError: The cluster rejects the job, or is not ready in time.
    """
    deadline, told = time.monotonic() + patience_seconds, False
    while True:
        try:
            return client.submit_job(**options, submission_id=job_id(options["metadata"]["name"]))
        except RuntimeError as error:
            why = _not_ready(str(error))
            if why is None:
                raise ConfigurationError(f"the cluster rejects the job: {last_line_of(error)}") from error
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"the cluster is not ready after {patience_seconds:g} s (--wait): {why} ({last_line_of(error)})"
                ) from error
        if not told:
            say(f"the cluster is not ready yet: {why}; waiting up to {patience_seconds:g} s (--wait)")
            told = True
        time.sleep(every_seconds)


def job_id(name: str) -> str:
    """A new id of a job, by which dashboards and commands name it: the run's name, the time (UTC) and four digits."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return f"{plain}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def _not_ready(answer: str) -> str | None:
    """Why a cluster that gave this answer to a job may take it later; None for one that rejects the job."""
    if any(part in answer for part in _OTHER_AGENT):
        return (
            "the agent that its head asks belongs to another cluster on that machine; start each with a "
            "--dashboard-agent-listen-port of its own"
        )
    if any(part in answer for part in _NOT_READY):
        return "its head has no agent for jobs (it has just started, or no node is left)"
    return None


def last_line_of(error: Exception) -> str:
    """The last line of an error's message."""
    return str(error).strip().rpartition("\n")[2]
