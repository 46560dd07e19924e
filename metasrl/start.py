"""Learned starts from run directories, folders and the model registry."""

from __future__ import annotations

from pathlib import Path

from distributed.jobs.adapt import load_source
from distributed.models.meta_policy import MetaPolicy, start_folder
from distributed.models.model_registry import is_model_uri
from distributed.settings.console import Console
from distributed.settings.run_config import RunConfig
from distributed.storage.run_places import fetch
from metasrl.policy import Policy
from metasrl.run import Run


class LearnedStart(Policy):
    """A learned initialisation with the settings for new tasks; of several initialisations the first acts.

    Acting takes observations as the tasks give them, with the normalised context behind them where the start has one.
    """

    def __init__(self, source: str, meta_policy: MetaPolicy, seed: int = 0) -> None:
        super().__init__(meta_policy.policies[0], meta_policy.spaces, seed)
        self.source, self.meta_policy = source, meta_policy

    @property
    def settings(self) -> RunConfig:
        """The settings for new tasks of a built-in family.

        Raises:
            metasrl.errors.ConfigurationError: The family is code; adapting to it needs its name.
        """
        return self.meta_policy.config(source=self.source)


def load(source: str | Path, family: str | None = None, tracking_uri: str | None = None) -> Run | LearnedStart:
    """A finished run, or a learned start without one. Loading runs no code.

    Args:
        source: A run directory, ``latest``, the name or family of runs (the newest), or its URL in an object store: a
            :class:`Run`. A folder with a start, ``models:/NAME@champion`` or ``models:/NAME/VERSION``: a
            :class:`LearnedStart`.
        family: The run's own family, if new tasks of it are to be made; a built-in one needs no naming.
        tracking_uri: The tracking server of ``models:/``; by default that of MLFLOW_TRACKING_URI, else mlflow.db here.

    Raises:
        metasrl.errors.ConfigurationError: There is no such run or start; the message names those that there are.
        metasrl.errors.DamagedFileError: A file is damaged.
    """
    given = str(source)
    if is_model_uri(given) or start_folder(Path(given)) == Path(given):
        return LearnedStart(*load_source(given, tracking_uri, Console()))
    return Run(fetch(given, "runs"), family)
