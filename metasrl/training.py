"""Meta-train across the tasks of a family."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distributed.jobs.training_job import earlier_run
from distributed.jobs.training_job import run as run_job
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_file import (
    load_config,
    parse_config,
    require_sound_family,
    run_file_named,
    with_overrides,
)
from meta.reporting.tables import warnings_of
from metasrl.run import Run


def train(
    run_file: str | Path | Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    resume: str | Path | None = None,
    register: str | None = None,
    changed_family: bool = False,
) -> Run:
    """Learn a start across the training tasks and judge it on held-out ones, as ``metasrl train`` does.

    Progress and warnings go to standard error. The run writes its directory below ``output.run_dir``, runs/ by default.

    Args:
        run_file: The name of a shipped run file (``frozen_lake``), the path of a run file, or its content.
        settings: Settings in place of those of the run file: nested, or by dotted keys such as ``"family.num_tasks"``.
        resume: A run directory to continue, or ``latest`` for the newest with these settings.
        register: Name of the model in MLflow's registry of which the learned start becomes a version.
        changed_family: Whether the source of your own family may differ from the one that ``resume`` began with.

    Raises:
        metasrl.errors.ConfigurationError: A setting is wrong; the message names it and what would be right. Nothing was
            computed.
        metasrl.errors.TaskError: A task is infeasible, or the environments of too many tasks fail.
    """
    overrides = list(_overrides(settings or {}))
    if isinstance(run_file, Mapping):
        config = parse_config(with_overrides(dict(run_file), overrides), "run_file")
    else:
        config = load_config(run_file_named(str(run_file)), overrides)
    console = Console()
    require_sound_family(config, console.say)
    earlier = earlier_run(None if resume is None else str(resume), config)
    summary, path = run_job(config, console, earlier, register, changed_family=changed_family)
    for warning in warnings_of(summary):
        console.warn(warning)
    return Run(path, config.family.name)


def _overrides(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and their values as YAML, of which JSON is a part."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _overrides(value, f"{prefix}{name}.")
            continue
        try:
            yield f"{prefix}{name}", json.dumps(value)
        except TypeError:
            raise ConfigurationError(
                f"{prefix}{name}: must be a number, a text, a list or a mapping of them, got {type(value).__name__}"
            ) from None
