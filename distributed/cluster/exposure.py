"""What a Ray cluster exposes: one of this machine listens on the loopback interface, and its token is private."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from ray._private import ray_constants

from distributed.settings.errors import ConfigurationError
from distributed.storage.exclusive import write_private_once

_MULTI_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch for clusters of several machines; it is read on Linux too."""
_TOKEN_BYTES = 32


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Let Ray start a cluster of one machine, as it does on macOS: every process of it listens on 127.0.0.1 only.

    Otherwise Ray replaces 127.0.0.1 by the machine's address, and its servers listen on all addresses.
    """
    earlier, variable = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(_MULTI_MACHINE)
    ray_constants.ENABLE_RAY_CLUSTER = False  # Ray has read its variable when it was imported
    os.environ[_MULTI_MACHINE] = "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = earlier
        if variable is None:
            del os.environ[_MULTI_MACHINE]
        else:
            os.environ[_MULTI_MACHINE] = variable


def keep_token_private() -> None:
    """Make Ray's token before Ray does, readable for its user only; take other users' rights to an older one away.

    Raises:
        ConfigurationError: The file cannot be made or protected.
    """
    if os.environ.get("RAY_AUTH_MODE") == "disabled" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private_once(path, secrets.token_hex(_TOKEN_BYTES).encode())
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise ConfigurationError(
            f"{path}: Ray's token cannot be kept private ({error.strerror or error}); make the file yours, or set "
            "RAY_AUTH_TOKEN_PATH to one that is"
        ) from error


def require_token(address: str, *, unauthenticated: bool) -> None:
    """Check that a cluster on other machines is not used without a token, unless the settings ask for it.

    Raises:
        ConfigurationError: ``RAY_AUTH_MODE`` is disabled, and ``address`` is not of this machine.
    """
    if os.environ.get("RAY_AUTH_MODE") != "disabled" or unauthenticated or is_loopback(address):
        return
    raise ConfigurationError(
        f"RAY_AUTH_MODE=disabled: {address} is not the loopback interface, and whoever reaches a Ray port without a "
        "token runs code as you; unset it and give the cluster's token as RAY_AUTH_TOKEN, or set "
        "cluster.unauthenticated to true where a network of your own protects the ports"
    )


def is_loopback(address: str) -> bool:
    """Whether ``address`` (host:port, ray://host:port, http://host:port, auto or local) is of this machine alone."""
    if address in ("auto", "local"):
        return True
    host = urlsplit(address if "://" in address else f"ray://{address}").hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
