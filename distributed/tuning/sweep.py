"""``metasrl sweep``: hyper-parameters chosen with Ray Tune, on training tasks alone; resumable, one MLflow parent.

A trial learns a start as ``metasrl train`` does, in one process on one CPU, and is judged by the mean score of the last
half of its training tasks. ASHA ends bad trials early; new ones are drawn by Optuna's TPE or at random.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import yaml
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from distributed.cluster.ray_cluster import cluster
from distributed.tuning.search_space import Varied, with_values
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import parse_config
from distributed.storage.checkpoints import write_atomically
from distributed.storage.object_store import is_url
from distributed.storage.run_directory import RunDirectory, read_rows
from distributed.tracking.events import NOTE_TAG
from distributed.tracking.mlflow_sender import MLflowSender
from distributed.settings.provenance import environment_tags
from distributed.settings.keys import flatten
from distributed.tracking.outbox import Event, Outbox
from meta.learning.kinds import State
from meta.training.loop import Finished
from meta.training.records import Row, column
from policies.common.results import TaskResult

SCORE = "score"
Search = Literal["optuna", "random"]
_FIRST_ROUNDS = 0.25
"""Share of the rounds that every trial gets before ASHA may end it."""


@dataclass(frozen=True)
class SweepSettings:
    """How many trials, drawn how, ended early or not; ``seed`` is that of the search."""

    num_trials: int
    search: Search
    early_stopping: bool
    seed: int


@dataclass(frozen=True)
class Trial:
    """A trial as it ended: its values, scores by round (less is better) and whether it ran to its end."""

    name: str
    values: dict[str, Any]
    scores: list[float]
    complete: bool
    error: str | None

    @property
    def score(self) -> float:
        """The last score; infinite for a trial that failed or was ended early."""
        return self.scores[-1] if self.complete and self.scores else float("inf")


class Reporter:
    """Tells Ray Tune the mean score of the last half of the tasks so far, after every round."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows, self.reported = list(rows), False

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """Nothing."""

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """One more round; of an earlier attempt only those before it count."""
        self._rows = [*self._rows[: state.num_tasks - len(rows)], *rows]
        self._report(state.num_rounds)

    def finish(self, tasks_per_round: int) -> None:
        """Report a trial of which an earlier attempt had finished every round."""
        if not self.reported:
            self._report(-(-len(self._rows) // tasks_per_round))

    def _report(self, num_rounds: int) -> None:
        from ray import tune

        self.reported = True
        tune.report({SCORE: half_score(self._rows), "round": num_rounds, "tasks": len(self._rows)})


def half_score(rows: Sequence[Row]) -> float:
    """Mean score of the last half of the rows."""
    return float(column(list(rows), "score")[len(rows) // 2 :].mean())


class _Silent(Console):
    """A trial's console: nobody reads it."""

    def say(self, message: str) -> None:
        """Not told."""

    def warn(self, message: str) -> None:
        """Not told."""


def run_trial(values: dict[str, Any], raw: dict[str, Any], folder: str) -> None:
    """One trial, in its own process: goes on where an earlier attempt of it stopped.

    ``raw`` is the run file's content; what the trial writes is under ``folder``/<trial>.
    """
    from ray import tune
    from threadpoolctl import threadpool_limits

    from distributed.jobs.training_job import LATEST, run

    config = parse_config(with_values(raw, values), "the trial")
    where = Path(folder) / tune.get_context().get_trial_id()
    config = config.model_copy(
        update={
            "output": config.output.model_copy(update={"run_dir": str(where)}),
            "cluster": config.cluster.model_copy(update={"pool": "local"}),
            "tracking": config.tracking.model_copy(update={"enabled": False}),
            "evaluation": config.evaluation.model_copy(update={"methods": ("meta_srl",)}),
        }
    )
    earlier = RunDirectory.latest(config)
    reporter = Reporter([] if earlier is None else read_rows(earlier / "tasks.csv"))
    with threadpool_limits(1):
        run(config, _Silent(), LATEST, watchers=(reporter,))
    reporter.finish(config.cluster.tasks_per_round)


def sweep(
    config: RunConfig, space: Sequence[Varied], settings: SweepSettings, console: Console, resume: str | None
) -> str:
    """Run the trials; write ``trials.csv``, ``best.yaml`` and a plot; returns a Markdown table.

    Raises:
        ConfigurationError: the settings do not fit, or an earlier sweep was another one.
    """
    if is_url(config.output.run_dir):
        raise ConfigurationError("output.run_dir: a sweep keeps its trials on a path (or NFS), not at a URL")
    told = {"space": [str(item) for item in space], "settings": vars(settings), "digest": config.digest()}
    folder = _folder(config, told, resume)
    console.say(f"sweep directory: {folder}")
    tracker = _SweepTracker(config, folder, told, console) if config.tracking.enabled else None
    try:
        with cluster(config.cluster) as where:
            console.say(f"Ray: {where}")
            trials = _tuned(config, space, settings, folder, console)
    except BaseException:
        if tracker is not None:
            tracker.close("FAILED", "", [])
        raise
    return _conclude(config, folder, trials, tracker, console)


def _conclude(
    config: RunConfig, folder: Path, trials: Sequence[Trial], tracker: _SweepTracker | None, console: Console
) -> str:
    if not any(np.isfinite(trial.score) for trial in trials):
        reasons = {trial.error for trial in trials if trial.error}
        raise ConfigurationError(f"sweep: no trial ran to its end; reasons: {'; '.join(sorted(reasons)) or 'unknown'}")
    best = min(trials, key=lambda trial: trial.score)
    chosen = parse_config(with_values(config.model_dump(mode="json"), best.values), "the best trial")
    write_atomically(folder / "best.yaml", chosen.to_yaml().encode())
    write_atomically(folder / "trials.csv", _csv(trials).encode())
    figure = plot_trials(trials)
    figure.savefig(folder / "trials.png", dpi=120, bbox_inches="tight")
    plt.close(figure)
    table = trials_table(trials)
    if tracker is not None:
        for trial in trials:
            tracker.trial(trial)
        files = [folder / name for name in ("best.yaml", "trials.csv", "trials.png")]
        if tracker.close("FINISHED", table, files):
            console.warn(f"not all was sent to MLflow; the same command with --resume {folder} sends it")
    console.say(f"best settings: {folder / 'best.yaml'} (metasrl train {folder / 'best.yaml'}); plot: trials.png")
    return table


def _folder(config: RunConfig, told: dict[str, Any], resume: str | None) -> Path:
    """A new sweep's folder, or an earlier one's whose settings are the same."""
    parent = Path(config.output.run_dir).resolve() / f"{config.name}-sweep"
    if resume == "latest":
        found = sorted(path.parent for path in parent.glob("*/sweep.json"))
        resume = str(found[-1]) if found else None
    if resume is None:
        folder = parent / datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        try:
            folder.mkdir(parents=True)
            write_atomically(folder / "sweep.json", json.dumps(told, indent=1).encode())
        except OSError as error:
            raise ConfigurationError(f"output.run_dir: {folder} cannot be written: {error.strerror}") from error
        return folder
    folder = Path(resume).resolve()
    if not (folder / "sweep.json").is_file():
        raise ConfigurationError(f"--resume {resume}: is no sweep (it has no sweep.json)")
    earlier = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    different = [name for name in told if earlier.get(name) != told[name]]
    if different:
        raise ConfigurationError(
            f"--resume {resume}: was another sweep; differing: {', '.join(different)} (was {earlier.get(different[0])})"
        )
    return folder


def _tuned(
    config: RunConfig, space: Sequence[Varied], settings: SweepSettings, folder: Path, console: Console
) -> list[Trial]:
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    from ray import tune
    from ray.tune.error import TuneError

    progress = _progress(console, settings.num_trials)
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, raw=config.model_dump(mode="json"), folder=str(folder / "trials")),
        {"cpu": 1},
    )
    state = folder / "tune"
    if (state / "tuner.pkl").is_file():
        console.say("going on with the trials that are not finished")
        tuner = tune.Tuner.restore(str(state), trainable, restart_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={item.key: _domain(item) for item in space} if settings.search == "random" else {},
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode="min",
                num_samples=settings.num_trials,
                search_alg=_searcher(space, settings),
                scheduler=_scheduler(config, settings),
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0, callbacks=[progress]),
        )
    try:
        found = tuner.fit()
    except TuneError as error:
        raise ConfigurationError(f"sweep: {error}") from error
    return [_trial(found[number], config) for number in range(len(found))]


def _trial_name(trial: Any) -> str:
    return str(trial.trial_id)


def _trial(result: Any, config: RunConfig) -> Trial:
    frame = result.metrics_dataframe
    scores = [] if frame is None else [float(value) for value in frame[SCORE]]
    rounds = -(-config.family.num_tasks // config.cluster.tasks_per_round)
    error = None if result.error is None else str(result.error).strip().splitlines()[-1]
    name = Path(result.path).name
    values = {key: value for key, value in result.config.items() if "." in key}
    return Trial(name, values, scores, error is None and (result.metrics or {}).get("round", 0) >= rounds, error)


def _domain(item: Varied) -> Any:
    from ray import tune

    low, *rest = item.values
    if item.kind == "choice":
        return tune.choice(list(item.values))
    if item.kind == "int":
        return tune.randint(low, rest[0] + 1)
    return (tune.loguniform if item.kind == "loguniform" else tune.uniform)(low, rest[0])


def _searcher(space: Sequence[Varied], settings: SweepSettings) -> Any:
    if settings.search == "random":
        from ray.tune.search.basic_variant import BasicVariantGenerator

        return BasicVariantGenerator(random_state=settings.seed)
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError as error:
        raise ConfigurationError("--search optuna: needs the package optuna; pip install 'metasrl[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {item.key: _distribution(optuna.distributions, item) for item in space}
    return OptunaSearch(space=distributions, metric=SCORE, mode="min", seed=settings.seed)


def _distribution(kinds: Any, item: Varied) -> Any:
    if item.kind == "choice":
        return kinds.CategoricalDistribution(item.values)
    low, high = item.values
    if item.kind == "int":
        return kinds.IntDistribution(low, high)
    return kinds.FloatDistribution(low, high, log=item.kind == "loguniform")


def _scheduler(config: RunConfig, settings: SweepSettings) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    rounds = -(-config.family.num_tasks // config.cluster.tasks_per_round)
    if not settings.early_stopping or rounds < 2:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    first = max(1, round(_FIRST_ROUNDS * rounds))
    return ASHAScheduler(time_attr="round", max_t=rounds + 1, grace_period=first, reduction_factor=2)


def _progress(console: Console, total: int) -> Any:
    """A line for every trial that ends."""
    from ray.tune import Callback

    class Progress(Callback):
        """Tells what ended; kept free of the console so that Tune can store it."""

        def __init__(self) -> None:
            self.ended = 0

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            """One more."""
            self._told(trial, f"score {(trial.last_result or {}).get(SCORE, float('nan')):.4g}")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            """One that failed."""
            self._told(trial, "failed")

        def _told(self, trial: Any, what: str) -> None:
            self.ended += 1
            rounds = (trial.last_result or {}).get("round", 0)
            values = ", ".join(f"{key}={_short(value)}" for key, value in trial.config.items() if "." in key)
            Console().say(f"{self.ended}/{total} trials: {what} after {rounds} rounds, {values}")

    del console
    return Progress()


class _SweepTracker:
    """The sweep's MLflow run, and a nested one for every trial."""

    def __init__(self, config: RunConfig, folder: Path, told: dict[str, Any], console: Console) -> None:
        self._key = f"{folder.parent.name}/{folder.name}"
        self._timeout = config.tracking.flush_timeout_seconds
        self._outbox = Outbox(folder / "tracking", MLflowSender(config.tracking), console.say)
        start: Event = {
            "kind": "start",
            "key": self._key,
            "name": self._key,
            "time": _now(),
            "tags": {"metasrl.kind": "sweep"},
            "params": {
                **dict(flatten(config.model_dump(mode="json"))),
                "sweep.space": "; ".join(told["space"]),
                **{f"sweep.{name}": value for name, value in told["settings"].items()},
            },
            "log_tags": environment_tags(),
        }
        resumed: Event = {"kind": "resume", "time": _now(), "log_tags": {}}
        self._outbox.append(start if self._outbox.empty else resumed)

    def trial(self, trial: Trial) -> None:
        """A nested run with the trial's values and its score by round."""
        now = _now()
        state = "complete" if trial.complete else "failed" if trial.error else "ended early"
        self._outbox.append(
            {
                "kind": "task",
                "key": f"{self._key}/{trial.name}",
                "name": f"trial {trial.name}",
                "time": now,
                "end_time": now,
                "tags": {"metasrl.kind": "trial", "trial.state": state, "trial.error": str(trial.error or "")[:500]},
                "params": dict(flatten(trial.values)) if trial.values else {},
                "metrics": [(SCORE, score, number + 1) for number, score in enumerate(trial.scores)],
            }
        )

    def close(self, status: str, description: str, files: Sequence[Path]) -> int:
        """End the parent; how many events were not sent."""
        self._outbox.append(
            {
                "kind": "end",
                "time": _now(),
                "status": status,
                "metrics": [],
                "artifacts": [(str(path), "") for path in files],
                "log_tags": {NOTE_TAG: description} if description else {},
            }
        )
        return self._outbox.close(self._timeout)


def trials_table(trials: Sequence[Trial], most: int = 20) -> str:
    """The best trials as Markdown, best first."""
    ordered = sorted(trials, key=lambda trial: (trial.score, trial.name))
    names = sorted({key for trial in trials for key in trial.values})
    lines = [
        f"| trial | score | rounds | {' | '.join(names)} |",
        f"|---|---|---|{'---|' * len(names)}",
    ]
    for trial in ordered[:most]:
        score = f"{trial.score:.4f}" if np.isfinite(trial.score) else ("failed" if trial.error else "ended early")
        values = " | ".join(_short(trial.values.get(name)) for name in names)
        lines.append(f"| {trial.name} | {score} | {len(trial.scores)} | {values} |")
    complete = sum(np.isfinite(trial.score) for trial in trials)
    lines += ["", f"{len(trials)} trials, {complete} to their end. Score: mean of the last half of the training tasks."]
    return "\n".join(lines)


def plot_trials(trials: Sequence[Trial]) -> Figure:
    """Score against each value, and by round."""
    names = sorted({key for trial in trials for key in trial.values})
    figure, axes = plt.subplots(1, 1 + len(names), figsize=(4.2 * (1 + len(names)), 3.6), squeeze=False)
    for trial in trials:
        style = {"color": "#d62728" if trial.complete else "#bbbbbb", "linewidth": 1.0}
        axes[0, 0].plot(np.arange(1, len(trial.scores) + 1), trial.scores, **style)
    axes[0, 0].set(xlabel="round", ylabel="score (less is better)", title="red: to the end; grey: ended early")
    for axis, name in zip(axes[0, 1:], names, strict=True):
        done = [trial for trial in trials if np.isfinite(trial.score)]
        values = [trial.values[name] for trial in done]
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        axis.plot(values if numbers else [str(value) for value in values], [trial.score for trial in done], "o")
        if numbers and min(values) > 0 and max(values) / min(values) > 30:
            axis.set_xscale("log")
        axis.set(xlabel=name)
    for axis in axes[0]:
        axis.grid(alpha=0.3)
    figure.tight_layout()
    return figure


def _csv(trials: Sequence[Trial]) -> str:
    names = sorted({key for trial in trials for key in trial.values})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", SCORE, "rounds", "complete", *names])
    for trial in sorted(trials, key=lambda trial: (trial.score, trial.name)):
        last = trial.scores[-1] if trial.scores else ""
        writer.writerow([trial.name, last, len(trial.scores), trial.complete, *(trial.values.get(n) for n in names)])
    return text.getvalue()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else yaml.safe_dump(value).split("\n")[0]


def _now() -> int:
    return int(1000 * time.time())
