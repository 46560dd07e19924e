"""Provenance of a run: git commit, package versions, user and Ray job."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

COMMIT_VARIABLE = "METASRL_GIT_COMMIT"
"""Environment variable that carries the commit to a submitted job, whose working directory has no ``.git``."""
_PACKAGES = ("metasrl", "ray", "torch", "gymnasium", "numpy", "scipy", "mlflow")
_UNKNOWN = "unknown"
_ROOT = Path(__file__).resolve().parent.parent.parent


def git_commit(folder: Path = _ROOT, *, ignored: Sequence[str] = ()) -> str:
    """Commit of the code in ``folder``, with the suffix ``-dirty`` after local changes outside the ``ignored`` paths.

    Outside a checkout, as when metasrl is installed: the value of METASRL_GIT_COMMIT (``metasrl submit`` sets it), else
    ``unknown``.
    """
    considered = [".", *(f":(exclude){path}" for path in ignored)]

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)  # noqa: S603, S607
        return done.stdout.strip()

    try:
        if not git("ls-files", "--", "."):  # of an environment that stands in a checkout of something else
            return os.environ.get(COMMIT_VARIABLE, _UNKNOWN)
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", *considered) else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(COMMIT_VARIABLE, _UNKNOWN)


def commit_of_results() -> str:
    """Commit of the code that makes a page of results: the pages themselves, under ``docs/``, do not make it dirty."""
    return git_commit(ignored=("docs",))


def environment_tags() -> dict[str, str]:
    """Git commit, package versions, and the Ray job and submission ids of this process where they exist."""
    tags = {f"version.{name}": version(name) for name in _PACKAGES} | {"git_commit": git_commit()}
    import ray

    if ray.is_initialized():
        tags["ray_job_id"] = ray.get_runtime_context().get_job_id()
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata", {})
    if "job_submission_id" in submitted:
        tags["ray_submission_id"] = submitted["job_submission_id"]
    return tags


def source_tags() -> dict[str, str]:
    """Tags that MLflow's pages show as source, user and commit."""
    tags = {"mlflow.source.name": "distributed/train.py", "mlflow.source.type": "LOCAL", "mlflow.user": _user()}
    commit = git_commit()
    return tags | ({} if commit == _UNKNOWN else {"mlflow.source.git.commit": commit.removesuffix("-dirty")})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user id of a container may have no name
        return str(os.getuid())
