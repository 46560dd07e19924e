"""MLflow's model registry: learned starts by name and version, and the alias ``champion``."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from distributed.models.meta_policy import STEM, MetaPolicy, load_meta_policy, save_meta_policy
from distributed.models.mlflow_model import build_model, is_portable, log_model, quiet
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError, first_line
from distributed.settings.run_config import RunConfig
from distributed.settings.tracking_uri import hide_password, made_by_one, tracking_uri
from meta.judging.promotion import Verdict, judge
from meta.training.pool import LocalPool
from policies.common.results import Start
from policies.solving.algorithms import kind_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
FIRST_NEW_INDEX = 2**20
"""First index of tasks drawn for judging or by a seed, so that they differ from every task of a run."""
_URI = re.compile(r"^models:/(?P<name>[^/@]+)(?:/(?P<version>[0-9]+)|@(?P<alias>[^/@]+))$")
_SECONDS_TO_ANSWER = 5.0
_PORTS = {"https": 443, "http": 80, "postgresql": 5432, "mysql": 3306}
_UNTRACKED = "metasrl"
"""Experiment of models from untracked runs."""
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_MODEL_DESCRIPTION = (
    "Policy initialisations and learning rates that metasrl learned: they solve a new task of the family in a few "
    f"updates. The alias `{CHAMPION}` moves to a new version only if that version is better on new tasks with a 95 % "
    "interval in the gap (or reward) or in the violation during adaptation, and worse in neither."
)


def is_model_uri(source: str) -> bool:
    """Whether ``source`` names a registered model rather than a folder."""
    return source.startswith("models:")


@dataclass(frozen=True)
class Registered:
    """A model version and its start."""

    name: str
    version: str
    policy: MetaPolicy

    def __str__(self) -> str:
        return f"models:/{self.name}/{self.version}"


def connect(uri: str | None) -> MlflowClient:
    """A client of the registry at ``uri``, by default the tracking server.

    Raises:
        ConfigurationError: No server answers there.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    import mlflow

    where = tracking_uri(uri)
    try:
        _require_listener(where)
        with made_by_one(where) as address:
            mlflow.set_tracking_uri(address)
            client = mlflow.MlflowClient(tracking_uri=address, registry_uri=address)
            client.search_registered_models(max_results=1)
    except Exception as error:
        raise ConfigurationError(
            f"tracking.uri: no MLflow server answers at {hide_password(where)} ({first_line(error)}); start one, or "
            "give --tracking-uri or MLFLOW_TRACKING_URI"
        ) from error
    return client


def _require_listener(uri: str) -> None:
    """Check that something listens at ``uri``: MLflow itself retries a database for minutes. Raises OSError."""
    place = urlsplit(uri)
    port = place.port or _PORTS.get(place.scheme.split("+")[0])
    if place.hostname is not None and port is not None:
        socket.create_connection((place.hostname, port), timeout=_SECONDS_TO_ANSWER).close()


def resolve(client: MlflowClient, source: str) -> Registered:
    """Look up ``models:/NAME@alias`` or ``models:/NAME/VERSION`` and read its start, without executing its code.

    Raises:
        ConfigurationError: There is no such model, version or alias; the message lists the existing ones.
        DamagedFileError: The model is not a start of metasrl, or is damaged.
    """
    from mlflow.exceptions import MlflowException

    found = _URI.match(source)
    if found is None:
        raise ConfigurationError(
            f"{source}: must be models:/NAME@{CHAMPION}, models:/NAME@ALIAS or models:/NAME/VERSION"
        )
    name, version, alias = found["name"], found["version"], found["alias"]
    try:
        aliases = client.get_registered_model(name).aliases
    except MlflowException as error:
        known = ", ".join(sorted(entry.name for entry in client.search_registered_models())) or "none yet"
        raise ConfigurationError(
            f"{source}: no model of that name is registered; there are: {known}. `metasrl register RUN_DIR {name}` "
            "registers a run's start"
        ) from error
    if alias is not None:
        if alias not in aliases:
            versions = sorted(int(v.version) for v in client.search_model_versions(f"name='{name}'"))
            raise ConfigurationError(
                f"{source}: {name} has no alias {alias}; aliases: {', '.join(sorted(aliases)) or 'none'}, "
                f"versions: {', '.join(map(str, versions))} (models:/{name}/VERSION)"
            )
        version = str(aliases[alias])
    try:
        return Registered(name, version, _download(name, version))
    except MlflowException as error:
        raise ConfigurationError(f"models:/{name}/{version}: {first_line(error)}") from error


def _download(name: str, version: str) -> MetaPolicy:
    """Download only the two files of a start, so that no path inside the model can point elsewhere."""
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory() as folder, quiet():
        for suffix in ("json", "safetensors"):
            path = f"artifacts/{STEM}/{STEM}.{suffix}"
            got = download_artifacts(artifact_uri=f"models:/{name}/{version}/{path}", dst_path=f"{folder}/{suffix}")
            Path(got).rename(Path(folder) / f"{STEM}.{suffix}")
        return load_meta_policy(Path(folder))


def register(
    client: MlflowClient,
    run_dir: Path,
    name: str,
    run_id: str | None,
    console: Console,
    num_tasks: int = 20,
    family: str | None = None,
    method: str | None = None,
) -> str:
    """Register a finished run's start as a new version of ``name`` and compare it with the champion.

    Without a champion the random start is the opponent. The alias moves if the new version is better.

    Args:
        client: Client of the registry.
        run_dir: Directory of the finished run.
        name: Name of the model.
        run_id: MLflow run of the run directory; None if it was not tracked.
        console: Shows progress.
        num_tasks: New tasks for the comparison.
        family: The family that the user or the run file names; a built-in one needs no naming.
        method: The method of ``within_task.method`` that they name, likewise.

    Returns:
        The decision in Markdown.

    Raises:
        ConfigurationError: The name is invalid, or the run has no start yet.
    """
    require_name(name)
    if not (run_dir / STEM / f"{STEM}.json").is_file():
        raise ConfigurationError(
            f"{run_dir}: holds no finished start; finish it first (metasrl train RUN_FILE --resume)"
        )
    policy = load_meta_policy(run_dir / STEM)
    if not is_portable(policy):
        raise ConfigurationError(
            f"{run_dir}: register: a model in MLflow carries its code, and that of a module of torch is not the "
            "project's; share the run directory instead (metasrl adapt RUN_DIR)"
        )
    config = policy.own_config(family, str(run_dir / STEM), run_dir, method)
    version = _new_version(client, name, run_id, policy)
    aliases = client.get_registered_model(name).aliases
    rival = resolve(client, f"models:/{name}@{CHAMPION}") if CHAMPION in aliases else None
    with console.status(f"judging version {version} against {_opponent(rival)} on {num_tasks} new tasks"):
        verdict = judge_against(policy, config, rival, num_tasks)
    return _recorded(client, name, version, policy, rival, verdict)


def _recorded(
    client: MlflowClient, name: str, version: str, policy: MetaPolicy, rival: Registered | None, verdict: Verdict
) -> str:
    """Store the verdict with the version, move the alias if it is better, and return the decision."""
    against = _opponent(rival)
    client.set_model_version_tag(name, version, "judged_against", against)
    client.set_model_version_tag(name, version, "verdict", str(verdict))
    if verdict.better:
        client.set_registered_model_alias(name, CHAMPION, version)
    moved = f"{CHAMPION} is now version {version}" if verdict.better else f"{CHAMPION} stays {_remaining(rival)}"
    client.update_model_version(name, version, description=_description(policy, against, verdict))
    return f"models:/{name}/{version} registered; minus {against}: {verdict}; {moved}"


def _opponent(rival: Registered | None) -> str:
    return "the random start" if rival is None else str(rival)


def _new_version(client: MlflowClient, name: str, run_id: str | None, policy: MetaPolicy) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=_MODEL_DESCRIPTION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model_id, source = _logged(client, run_id, policy)
    with quiet():
        return str(client.create_model_version(name, source=source, run_id=run_id, model_id=model_id).version)


def _remaining(rival: Registered | None) -> str:
    return "unset: not shown to be better than the random start" if rival is None else f"version {rival.version}"


def require_name(name: str) -> None:
    """Check that ``name`` is valid for a model.

    Raises:
        ConfigurationError: It is not.
    """
    if not NAME.match(name):
        raise ConfigurationError(f"register: {name!r} must be letters, digits, dot, dash and underscore")


def judge_against(policy: MetaPolicy, config: RunConfig, rival: Registered | None, num_tasks: int) -> Verdict:
    """Compare ``policy`` with a rival on new tasks of ``config``, its own settings; None is the random start.

    Raises:
        ConfigurationError: The rival does not fit these tasks, or the random start has no learning rates.
    """
    spec, rival_pool = policy.family(config), None
    pool, family = LocalPool(spec), spec.make()
    tasks = pool.draw("test", range(FIRST_NEW_INDEX, FIRST_NEW_INDEX + num_tasks))
    if rival is not None:
        rival_spec = rival.policy.family(config)
        rival_pool = LocalPool(rival_spec)
        rival.policy.require_fit(rival_spec.make(), tasks[0], str(rival))
        other = rival.policy.starts
    else:
        if policy.random_rates is None:
            raise ConfigurationError(
                "evaluation.methods: had no random start to judge the first version against; add random and resume"
            )
        other = Start(
            kind_of(config.within_task).fresh(family, tasks[0], config.within_task, config.seed),
            np.array(policy.random_rates, np.float64),
        )
    return judge(pool, tasks, policy.starts, other, config.experiment.held_out_within, rival_pool)


def _logged(client: MlflowClient, run_id: str | None, policy: MetaPolicy) -> tuple[str, str]:
    """The MLflow model that the run logged, or a newly logged one; returns (model id, location of its files)."""
    if run_id is not None:
        run = client.get_run(run_id)
        outputs = getattr(run.outputs, "model_outputs", None) or []
        if outputs:
            logged = client.get_logged_model(outputs[0].model_id)
            return str(logged.model_id), str(logged.artifact_location)
        experiment_id = run.info.experiment_id
    else:
        found = client.get_experiment_by_name(_UNTRACKED)
        experiment_id = client.create_experiment(_UNTRACKED) if found is None else found.experiment_id
    with tempfile.TemporaryDirectory() as folder:  # a model/ in the directory may hold anybody's code
        save_meta_policy(Path(folder) / STEM, policy)
        model = build_model(Path(folder) / "model", Path(folder) / STEM, policy)
        return log_model(client, experiment_id, run_id, model, 0)


def _description(policy: MetaPolicy, against: str, verdict: Verdict) -> str:
    family = policy.settings["family"]["name"]
    return (
        f"Learned on {policy.facts.get('num_tasks', '?')} tasks of `{family}` ({policy.spaces}; costs: "
        f"{', '.join(policy.cost_names)}), seed {policy.settings['seed']}.\n\nMinus {against}: {verdict}.\n\n"
        "Adapt it to a new task: `metasrl adapt models:/NAME/VERSION`. Actions for observations: "
        "`mlflow.pyfunc.load_model`."
    )
