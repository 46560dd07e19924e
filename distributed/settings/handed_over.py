"""Secrets of a submitted job: handed over through the cluster's key-value store, so that no log of Ray shows a value.

Ray writes a job's environment variables into logs that everybody on the machine can read. So only the name of an entry
in the store of the cluster's head (which asks for the cluster's token) is such a variable; the driver and its workers
read the entry into their own environment, and the driver deletes it when it ends.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from distributed.settings.errors import ConfigurationError, first_line

VARIABLE = "METASRL_HANDED_OVER"
"""Environment variable of a job with the name of the entry that holds its secrets."""
_PROTOCOL = "gcs"


def entry_name() -> str:
    """A new name that nobody can guess; the form is that of Ray's packages."""
    return f"_ray_pkg_metasrl{secrets.token_hex(24)}.zip"


def path_of(name: str) -> str:
    """Where the cluster's dashboard takes the entry ``name``."""
    return f"/api/packages/{_PROTOCOL}/{name}"


def content(values: Mapping[str, str]) -> bytes:
    """The entry of ``values``, variable -> value."""
    return json.dumps(dict(values)).encode()


@contextmanager
def taken_over(environment: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Set the variables that were handed over to this job; delete their entry at the end.

    Raises:
        ConfigurationError: The entry is not there, or the head does not answer.
    """
    if VARIABLE not in environment:
        yield
        return
    take_over(environment)
    try:
        yield
    finally:
        _client(environment).internal_kv_del(_key(environment), False, None)


def take_over(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables that were handed over to this job, if any were.

    Raises:
        ConfigurationError: As :func:`taken_over`.
    """
    if VARIABLE not in environment:
        return
    try:
        found = _client(environment).internal_kv_get(_key(environment), None)
    except Exception as error:  # Ray's own types
        raise ConfigurationError(f"--secret: the cluster's head does not answer: {first_line(error)}") from error
    if found is None:
        raise ConfigurationError(
            "--secret: the values handed over with this job are gone (it has run before); submit again"
        )
    environment.update(json.loads(found))


def _key(environment: Mapping[str, str]) -> bytes:
    return f"{_PROTOCOL}://{environment[VARIABLE]}".encode()


def _client(environment: Mapping[str, str]) -> Any:
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    address = ray.get_runtime_context().gcs_address if ray.is_initialized() else environment.get("RAY_ADDRESS")
    return GcsClient(address=address)
