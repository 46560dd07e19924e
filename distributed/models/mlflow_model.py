"""A learned start as an MLflow model of safetensors and code, without pickle."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distributed.models.meta_policy import STEM, MetaPolicy
from policies.networks.module_network import modules_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.types import TensorSpec

MODEL_NAME = "meta_policy"
CODE = Path(__file__).with_name("mlflow_code.py")
_REQUIREMENTS = ("mlflow", "numpy", "safetensors")


def is_portable(policy: MetaPolicy) -> bool:
    """Whether MLflow's copy of :mod:`distributed.models.mlflow_code` can compute it: a table, or networks in NumPy."""
    return not modules_of(policy.settings.get("within_task") or {})


def input_example(policy: MetaPolicy) -> np.ndarray[Any, Any]:
    """Two valid observations: the first states [2], or zeros [2, d]."""
    if policy.spaces.tabular:
        return np.arange(2, dtype=np.int64) % policy.spaces.observation
    return np.zeros((2, policy.spaces.observation), np.float32)


def build_model(folder: Path, policy_folder: Path, policy: MetaPolicy) -> Path:
    """Write an MLflow model with signature and input example to ``folder``; return ``folder``.

    ``policy_folder`` contains the files of ``policy``.
    """
    spaces = policy.spaces
    defaults: list[tuple[str, str, object]] = [
        ("start", "long", 0),
        ("stochastic", "boolean", False),
        ("seed", "long", 0),
    ]
    if policy.contexts is not None:
        defaults.append(("context", "string", ""))
    shutil.rmtree(folder, ignore_errors=True)
    with quiet():
        import mlflow
        from mlflow.models import ModelSignature
        from mlflow.types import ParamSchema, ParamSpec, Schema

        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(CODE),
            artifacts={STEM: str(policy_folder)},
            signature=ModelSignature(
                Schema([_tensor(() if spaces.tabular else (spaces.observation,), integers=spaces.tabular)]),
                Schema([_tensor(() if spaces.actions else (len(spaces.low),), integers=bool(spaces.actions))]),
                ParamSchema([ParamSpec(*default) for default in defaults]),
            ),
            input_example=input_example(policy),
            pip_requirements=[f"{name}=={version(name)}" for name in _REQUIREMENTS],
        )
    return folder


def log_model(client: MlflowClient, experiment_id: str, run_id: str | None, folder: Path, step: int) -> tuple[str, str]:
    """Log the MLflow model in ``folder``; return (model id, location of its files).

    Args:
        client: An ``mlflow.MlflowClient``.
        experiment_id: Experiment of the model.
        run_id: Run that produced the model; None without one.
        folder: The model, as :func:`build_model` wrote it.
        step: Step of the run at which the model was made.
    """
    from mlflow.entities import LoggedModelOutput

    logged = client.create_logged_model(experiment_id, name=STEM, source_run_id=run_id, model_type="meta_policy")
    with quiet():
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    if run_id is not None:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step)])
    return str(logged.model_id), str(logged.artifact_location)


def _tensor(shape: tuple[int, ...], *, integers: bool) -> TensorSpec:
    from mlflow.types import TensorSpec

    return TensorSpec(np.dtype(np.int64 if integers else np.float32), (-1, *shape))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress MLflow's log lines and progress bars on standard error, which would disrupt our own."""
    logger, bar = logging.getLogger("mlflow"), "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
    level, earlier = logger.level, os.environ.get(bar)
    logger.setLevel(logging.ERROR)
    os.environ[bar] = "false"
    try:
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        os.environ.pop(bar)
        if earlier is not None:
            os.environ[bar] = earlier
