"""The main job: ``python -m distributed.train RUN_FILE`` (or ``metasrl train RUN_FILE``)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from distributed.cluster.meta_learner import RayLearner
from distributed.cluster.ray_cluster import cluster
from distributed.cluster.ray_metrics import RayMetricsTracker
from distributed.cluster.ray_pool import RayPool
from distributed.jobs.run_page import PAGE, write_run_page
from distributed.models.meta_policy import STEM, load_meta_policy, meta_policy_of, save_meta_policy
from distributed.models.mlflow_model import build_model
from distributed.models.model_registry import connect, require_name
from distributed.models.model_registry import register as register_start
from distributed.settings.console import Console
from distributed.tracking.progress_bar import ProgressTracker
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import RunConfig
from distributed.storage.object_store import Mirror
from distributed.storage.run_directory import RunDirectory, url_of
from distributed.tracking.mlflow_tracker import MLflowTracker, describe_tasks
from meta.learning.kinds import State
from meta.reporting.report import (
    SCHEMA_VERSION,
    held_out_json,
    markdown_table,
    similarity_json,
    training_summary,
    warnings_of,
    write_plots,
)
from meta.training.evaluation_settings import chosen_methods
from meta.training.experiment import Drawn, compare_starts, draw, evaluation_of, measure_similarity
from meta.training.loop import Tracker, TrainingPlan, train
from meta.training.pool import Learner, LocalLearner, LocalPool, Pool
from tasks.contract.task import TaskError

STOPPED_EXIT_CODE = 143
"""Exit code after SIGTERM (128 + 15), as a shell reports it."""
_SECONDS_TO_EXIT = 2.0


class Stopped(BaseException):
    """SIGTERM arrived. Everything finished is on disk already; what is left is to leave quickly."""


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into :class:`Stopped`, and leave for good if cleaning up takes longer than a stopped Ray job has.

    The clock is started by a thread that the interpreter wakes at the signal itself: the main thread may sit in a long
    call, and Ray puts a handler of its own in place while it starts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopped = threading.Event()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def watch() -> None:
        with ours:
            while received := ours.recv(64):
                if signal.SIGTERM in received:
                    stopped.set()
                    # Ray's C++ code may hold the interpreter's lock: then only the kernel's own alarm ends the process.
                    signal.setitimer(signal.ITIMER_REAL, _SECONDS_TO_EXIT + 0.5)
                    time.sleep(_SECONDS_TO_EXIT)
                    leave()

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        raise Stopped(number)

    threading.Thread(target=watch, name="stop-watch", daemon=True).start()
    earlier = signal.signal(signal.SIGTERM, handle), signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield
    except SystemExit as error:
        if error.code in (1, signal.SIGTERM) and stopped.wait(0.5):
            raise Stopped(signal.SIGTERM) from error
        raise
    finally:
        signal.set_wakeup_fd(earlier[1])
        signal.signal(signal.SIGTERM, earlier[0])
        theirs.close()


def leave() -> None:
    """End this process now: at an ordinary exit, tearing down Ray and torch takes seconds more."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(STOPPED_EXIT_CODE)


@dataclass(frozen=True)
class Workplace:
    """A pool and a meta-learner that belong together."""

    pool: Pool
    learner: Learner


@contextlib.contextmanager
def workplace(config: RunConfig, say: Callable[[str], None]) -> Iterator[Workplace]:
    """The pool and the learner that ``cluster.pool`` asks for; whatever was started is stopped on leaving."""
    experiment = config.experiment
    arguments = (experiment.meta, experiment.dice, experiment.within.num_iterations)
    if config.cluster.pool == "local":
        yield Workplace(LocalPool(experiment.family), LocalLearner(*arguments))
        return
    settings = config.cluster
    with cluster(settings) as where:
        say(f"Ray: {where}")
        learner = RayLearner(*arguments, retries=settings.task_retries)
        pool = RayPool(
            experiment.family, settings.num_workers, settings.task_retries, settings.start_timeout_seconds, say
        )
        yield Workplace(pool, learner)


LATEST = Path("latest")
"""As ``resume``: the newest run of the same name and settings, or a new one where there is none."""


def run(
    config: RunConfig,
    console: Console,
    resume: Path | None = None,
    register: str | None = None,
    watchers: Sequence[Tracker] = (),
) -> dict[str, Any]:
    """Train, evaluate and report; returns the summary.

    ``resume`` goes on with an earlier run directory, ``register`` names the model that the learned start becomes a
    version of, and ``watchers`` are told of every task and round too.

    Raises:
        ConfigurationError: before any work is done.
        TaskError: a task is infeasible or its environment breaks the contract.
    """
    if register is not None:
        require_name(register)
        connect(config.tracking.uri)
    if resume == LATEST:
        resume = RunDirectory.latest(config)
        console.say("no earlier run of these settings: a new one" if resume is None else f"going on with {resume}")
    directory = RunDirectory.create(config) if resume is None else RunDirectory.open(resume, config)
    url = url_of(config, directory.path)
    console.say(f"run directory: {directory.path}" + ("" if url is None else f", copied to {url}"))
    try:
        with (
            stop_on_sigterm(),
            _mirrored(config, directory, url, console) as mirrors,
            workplace(config, console.say) as place,
        ):
            summary = _run(config, console, directory, place, [*mirrors, *watchers])
        if register is not None:
            _register(config, console, directory, register)
        return summary
    except ConfigurationError:
        if resume is None:
            directory.discard_if_untouched()
        raise
    except Stopped:
        console.say(f"stopped; every finished task is kept, --resume {directory.path} goes on with it")
        raise


@contextlib.contextmanager
def _mirrored(config: RunConfig, directory: RunDirectory, url: str | None, console: Console) -> Iterator[list[Mirror]]:
    """Copies of the run directory at ``url``, if any, until the end: all of it is there then, or it is said."""
    if url is None:
        yield []
        return
    mirror, patience = Mirror(directory.path, url, console.say), config.output.flush_timeout_seconds
    try:
        yield [mirror]
    except Stopped:  # little time is left; what is not copied yet is whole here
        patience = 0.5
        raise
    finally:
        if not mirror.close(patience):
            console.warn(f"{url} lacks the end of the run; it is whole in {directory.path}, which --resume copies")


def _register(config: RunConfig, console: Console, directory: RunDirectory, name: str) -> None:
    """Make the learned start a version of a registered model; the run is finished, whatever comes of it."""
    told = register_start(connect(config.tracking.uri), directory.path, name, directory.tracked_as(), console)
    console.say(told)


def _run(
    config: RunConfig, console: Console, directory: RunDirectory, place: Workplace, watchers: Sequence[Tracker]
) -> dict[str, Any]:
    experiment = config.experiment
    with console.status("drawing tasks and checking their limits with the linear programme"):
        try:
            drawn = draw(place.pool, experiment)
        except TaskError as error:
            raise ConfigurationError(str(error)) from error
    position = directory.position(drawn.initial_state(experiment.meta), console.say)
    if position.state.num_tasks:
        console.say(f"going on after {position.state.num_tasks} tasks, {len(position.finished)} more of the next round")
    mlflow = MLflowTracker(config, directory.path, directory.rows, console.say) if config.tracking.enabled else None
    if mlflow is not None:
        family = config.family.model_dump(mode="json")
        splits = (("training", drawn.train), ("held-out", drawn.test))
        mlflow.datasets([describe_tasks(config.family.name, name, tasks, family) for name, tasks in splits])
    try:
        with ProgressTracker(console, len(drawn.train), directory.rows, len(position.finished)) as progress:
            trackers: list[Tracker] = [directory, progress, *watchers]
            if isinstance(place.pool, RayPool) and isinstance(place.learner, RayLearner):
                pool, learner = place.pool, place.learner
                trackers.append(
                    RayMetricsTracker(config.name, experiment.tasks_per_round, lambda: pool.retried, learner.seconds)
                )
            if mlflow is not None:  # first: an event that is kept twice has the same key, one that is lost is lost
                trackers.insert(0, mlflow)
            plan = TrainingPlan(drawn.train, experiment.tasks_per_round, experiment.training_within)
            state = train(plan, place.pool, place.learner, trackers, position)
        summary = _conclude(config, console, directory, place, drawn, state)
    except BaseException as error:
        if mlflow is not None:
            if isinstance(error, Stopped):
                mlflow.interrupt()
            else:
                mlflow.finish("FAILED", {}, [])
        raise
    if mlflow is not None:
        _hand_over(mlflow, directory, summary, console)
    return summary


def _conclude(
    config: RunConfig, console: Console, directory: RunDirectory, place: Workplace, drawn: Drawn, state: State
) -> dict[str, Any]:
    experiment = config.experiment
    with console.status("comparing starts on held-out tasks"):
        similar = measure_similarity(place.pool, experiment, drawn)
        methods = chosen_methods(experiment.evaluation, experiment.within)
        held_out = compare_starts(place.pool, place.learner, experiment, drawn, methods, state.start, similar)
    summary: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": config.name,
        "family": experiment.family.name,
        "seed": config.seed,
        "num_iterations": experiment.within.num_iterations,
        "algorithm": experiment.within.algorithm,
        "evaluation": evaluation_of(experiment.within),
        "pool": config.cluster.pool,
        "num_workers": place.pool.num_workers,
        "tasks_per_round": experiment.tasks_per_round,
        **training_summary(directory.rows, state, experiment.tasks_per_round),
        "similarity": similarity_json(similar),
        "limits_mean": np.mean([task.limits for task in drawn.test], axis=0).tolist(),
        "wall_seconds": directory.wall_seconds,
        "test": {name: held_out_json(entry) for name, entry in held_out.items()},
    }
    directory.write_summary(summary)
    write_plots(directory.path / "plots", directory.rows, summary["test"], summary["limits_mean"][0])
    save_meta_policy(directory.path / STEM, meta_policy_of(config, state, drawn.test[0], summary))
    write_run_page(directory.path, config, summary, directory.rows)
    return summary


def _hand_over(mlflow: MLflowTracker, directory: RunDirectory, summary: dict[str, Any], console: Console) -> None:
    """Send final metrics and artifacts: plots, tables, configuration and the learned start."""
    metrics = {
        f"final/{name}": float(summary[name])
        for name in ("mean_reward", "taog", "taog_last_half", "env_steps", "wall_seconds")
        if summary[name] is not None
    }
    for method, entry in summary["test"].items():
        for key in ("gap", "reward", "violation", "violation_during_adaptation"):
            if entry[key]["mean"] is not None:
                metrics[f"test/{method}/{key}"] = entry[key]["mean"]
    newest = sorted((directory.path / "checkpoints").glob("round-*.json"))[-1]
    files: Sequence[tuple[Path, str]] = [
        *((path, "plots") for path in sorted((directory.path / "plots").glob("*.png"))),
        *((directory.path / name, "") for name in (PAGE, "summary.json", "tasks.csv", "config.yaml")),
        *((path, "checkpoint") for path in (newest, newest.with_suffix(".safetensors"))),
    ]
    policy_folder = directory.path / STEM
    with console.status("sending the last results to MLflow"):
        model = build_model(directory.path / "model", policy_folder, load_meta_policy(policy_folder))
        unsent = mlflow.finish("FINISHED", metrics, files, run_description(summary), model)
    if unsent:
        console.warn(
            f"{unsent} tracking events were not sent; `metasrl train ... --resume {directory.path}` sends them"
        )


def run_description(summary: dict[str, Any]) -> str:
    """What MLflow shows on the run's page, in Markdown."""
    warnings = "\n".join(f"- **Note**: {text}" for text in warnings_of(summary))
    return (
        f"Meta-training on `{summary['family']}`, seed {summary['seed']}. {report_lines(summary)}\n\n{warnings}\n\n"
        f"Artifact `{PAGE}` has interactive plots and every task; the nested runs are the training tasks; the model "
        f"`{STEM}` gives actions for observations and starts `metasrl adapt`."
    )


def report_lines(summary: dict[str, Any]) -> str:
    """The end of a run in a few lines of Markdown."""
    taog = summary["taog"]
    learned = f"Mean reward {summary['mean_reward']:.4f}" if taog is None else f"TAOG {taog:.4f}"
    lines = [
        f"{learned}, TACV {[round(v, 4) for v in summary['tacv']]} over {summary['num_tasks']} training tasks; "
        f"learned rates {np.round(summary['learning_rates'], 3).tolist()}",
        "",
        markdown_table(summary["test"]),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    from distributed.cli.main import main

    main(["train", *sys.argv[1:]])
