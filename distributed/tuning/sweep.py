"""``metasrl sweep``: choose hyper-parameters with Ray Tune on training tasks alone; resumable, one MLflow run.

A trial learns a start as ``metasrl train`` does, in one process on one CPU. Its score is the mean score of the last
half of its training tasks. Optuna's TPE sampler or random search draws the trials, and ASHA stops bad ones early.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from distributed.cluster.health import asking
from distributed.cluster.ray_cluster import cluster
from distributed.settings.bounded_reading import RefusedFileError, read_json, shown
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import parse_config
from distributed.storage.checkpoints import write_atomically
from distributed.storage.object_store import is_url
from distributed.storage.owner import own
from distributed.tuning.ownership import mark_of, require_own
from distributed.tuning.ray_tune import run_trials
from distributed.tuning.search_space import Varied, with_values
from distributed.tuning.sweep_report import trials_table, write_trials
from distributed.tuning.sweep_tracker import SweepTracker
from distributed.tuning.trials import SweepSettings, Trial


def sweep(
    config: RunConfig,
    space: Sequence[Varied],
    settings: SweepSettings,
    console: Console,
    resume: str | None,
    *,
    trusted: bool = False,
) -> str:
    """Run the trials, write ``trials.csv``, ``best.yaml`` and a plot, and return a Markdown table.

    Args:
        config: Settings that the trials vary.
        space: The varied settings.
        settings: Number of trials and search.
        console: Shows messages.
        resume: Directory of an earlier sweep, ``latest``, or None for a new one.
        trusted: The user trusts the earlier sweep, wherever it was begun.

    Raises:
        ConfigurationError: The settings are unusable, or the earlier sweep had other settings or is somebody else's.
    """
    if is_url(config.output.run_dir):
        raise ConfigurationError("output.run_dir: a sweep keeps its trials on a path (or NFS), not at a URL")
    texts = [str(item) for item in space]
    content = {"space": texts, "settings": vars(settings), "digest": config.digest()}
    folder = _folder(config, content, resume, trusted=trusted)
    console.say(f"sweep directory: {folder}")
    owner = own(folder, console.say)
    try:
        tracker = SweepTracker(config, folder, texts, settings, console) if config.tracking.enabled else None
        return _conclude(config, folder, _trials(config, space, settings, folder, tracker, console), tracker, console)
    finally:
        owner.release()


def _trials(
    config: RunConfig,
    space: Sequence[Varied],
    settings: SweepSettings,
    folder: Path,
    tracker: SweepTracker | None,
    console: Console,
) -> list[Trial]:
    """Run the trials on the cluster; the tracker learns of a failure."""
    try:
        with cluster(config.cluster, config.within_task.method.num_cpus) as where:
            console.say(f"Ray: {where}")
            with asking():  # Ray Tune waits by itself: a cluster that is gone ends the process
                return run_trials(config, space, settings, folder, console)
    except BaseException:
        if tracker is not None:
            tracker.close("FAILED", "", [])
        raise


def _conclude(
    config: RunConfig, folder: Path, trials: Sequence[Trial], tracker: SweepTracker | None, console: Console
) -> str:
    files, table = write_trials(folder, trials), trials_table(trials)
    if tracker is not None:
        for trial in trials:
            tracker.trial(trial)
    if not any(np.isfinite(trial.score) for trial in trials):
        reasons = {trial.error for trial in trials if trial.error}
        if tracker is not None:
            tracker.close("FAILED", table, files)
        raise ConfigurationError(f"sweep: no trial is complete; reasons: {'; '.join(sorted(reasons)) or 'unknown'}")
    best = min(trials, key=lambda trial: trial.score)
    chosen = parse_config(with_values(config.model_dump(mode="json"), best.values), "the best trial")
    write_atomically(folder / "best.yaml", chosen.to_yaml().encode())
    if tracker is not None and tracker.close("FINISHED", table, [folder / "best.yaml", *files]):
        console.warn(f"some results were not sent to MLflow; the same command with --resume {folder} sends them")
    failed = [trial for trial in trials if trial.state == "failed"]
    if failed:
        console.warn(f"{len(failed)} of {len(trials)} trials failed (trials.csv has each reason): {failed[0].error}")
    console.say(f"best settings: {folder / 'best.yaml'} (metasrl train {folder / 'best.yaml'}); plot: trials.png")
    return table


def _folder(config: RunConfig, content: dict[str, Any], resume: str | None, *, trusted: bool) -> Path:
    """Directory of a new sweep, or of an earlier one whose ``sweep.json`` equals ``content``."""
    parent = Path(config.output.run_dir).resolve() / f"{config.name}-sweep"
    if resume == "latest":
        found = sorted(path.parent for path in parent.glob("*/sweep.json"))
        resume = str(found[-1]) if found else None
    if resume is None:
        folder = parent / datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        try:
            folder.mkdir(parents=True)
            write_atomically(folder / "sweep.json", json.dumps({**content, "mark": mark_of(folder)}, indent=1).encode())
        except OSError as error:
            raise ConfigurationError(f"output.run_dir: {folder} cannot be written: {error.strerror}") from error
        return folder
    folder = Path(resume).resolve()
    if not (folder / "sweep.json").is_file():
        raise ConfigurationError(f"--resume {resume}: is not a sweep (it has no sweep.json)")
    earlier = _earlier(folder / "sweep.json")
    different = [name for name in content if earlier.get(name) != content[name]]
    if different:
        was = shown(earlier.get(different[0]))
        raise ConfigurationError(f"--resume {resume}: is another sweep; differing: {', '.join(different)} (was {was})")
    require_own(folder, earlier.get("mark"), trusted=trusted)
    return folder


def _earlier(file: Path) -> dict[str, Any]:
    try:
        earlier = read_json(file)
    except (OSError, RefusedFileError) as error:
        raise ConfigurationError(f"--resume {file.parent}: {error}") from error
    if not isinstance(earlier, dict):
        raise ConfigurationError(f"--resume {file.parent}: is not a sweep (its sweep.json is no JSON object)")
    return earlier
