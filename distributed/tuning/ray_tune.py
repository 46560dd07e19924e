"""Run the trials of a sweep with Ray Tune."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import RunConfig
from distributed.tuning.search_space import Varied, short
from distributed.tuning.trials import SCORE, SweepSettings, Trial, run_trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from ray.tune import Callback, PlacementGroupFactory, Result, Tuner
    from ray.tune.experiment import Trial as TuneTrial
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import SearchAlgorithm, Searcher
    from ray.tune.search.sample import Domain

_FIRST_ROUNDS = 0.25
"""Share of the rounds after which ASHA may first stop a trial."""


def run_trials(
    config: RunConfig, space: Sequence[Varied], settings: SweepSettings, folder: Path, console: Console
) -> list[Trial]:
    """Run all trials, or those that an earlier call did not finish.

    Args:
        config: Settings that the trials vary.
        space: The varied settings.
        settings: Number of trials and search.
        folder: Directory of the sweep.
        console: Shows messages.

    Raises:
        ConfigurationError: Ray Tune cannot run the sweep.
    """
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    from ray.tune.error import TuneError

    try:
        found = _tuner(config, space, settings, folder, console).fit()
    except TuneError as error:
        raise ConfigurationError(f"sweep: {error}") from error
    return [_trial(found[number], config) for number in range(len(found))]


def _tuner(
    config: RunConfig, space: Sequence[Varied], settings: SweepSettings, folder: Path, console: Console
) -> Tuner:
    from ray import tune

    trainable = tune.with_resources(
        tune.with_parameters(run_trial, raw=config.model_dump(mode="json"), folder=str(folder / "trials")),
        resources_of_trial(config),
    )
    state = folder / "tune"
    if (state / "tuner.pkl").is_file():
        console.say("continuing the unfinished trials")
        return tune.Tuner.restore(str(state), trainable, restart_errored=True)
    return tune.Tuner(
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
        run_config=tune.RunConfig(
            name="tune", storage_path=str(folder), verbose=0, callbacks=[_progress(settings.num_trials)]
        ),
    )


def resources_of_trial(config: RunConfig) -> PlacementGroupFactory:
    """What a trial holds: as much as a worker, and a CPU for each environment runner that it starts.

    Ray Tune places what a trial starts into the trial's own share, so a runner that is left out would wait for ever.
    """
    from ray.tune import PlacementGroupFactory

    runners = config.within_task.method.num_cpus - 1
    return PlacementGroupFactory([config.cluster.resources_of_a_worker, *[{"CPU": 1.0}] * runners])


def _trial_name(trial: TuneTrial) -> str:
    return str(trial.trial_id)


def _trial(result: Result, config: RunConfig) -> Trial:
    frame = result.metrics_dataframe
    # a trial that failed before its first round has reported nothing
    scores = [] if frame is None or SCORE not in frame else [float(value) for value in frame[SCORE]]
    rounds = -(-config.family.num_tasks // config.cluster.tasks_per_round)
    error = None if result.error is None else (str(result.error).strip().splitlines() or ["without a message"])[-1]
    values = {key: value for key, value in (result.config or {}).items() if "." in key}
    complete = error is None and (result.metrics or {}).get("round", 0) >= rounds
    return Trial(Path(result.path).name, values, scores, complete, error)


def _domain(item: Varied) -> Domain:
    from ray import tune

    low, *rest = item.values
    if item.kind == "choice":
        return tune.choice(list(item.values))
    if item.kind == "int":
        return tune.randint(low, rest[0] + 1)
    return (tune.loguniform if item.kind == "loguniform" else tune.uniform)(low, rest[0])


def _searcher(space: Sequence[Varied], settings: SweepSettings) -> Searcher | SearchAlgorithm:
    if settings.search == "random":
        from ray.tune.search.basic_variant import BasicVariantGenerator

        return BasicVariantGenerator(random_state=settings.seed)
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError as error:
        raise ConfigurationError("--search optuna: needs the package optuna; pip install 'metasrl[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return OptunaSearch(
        space={item.key: _distribution(item) for item in space}, metric=SCORE, mode="min", seed=settings.seed
    )


def _distribution(item: Varied) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if item.kind == "choice":
        return CategoricalDistribution(item.values)
    low, high = item.values
    if item.kind == "int":
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=item.kind == "loguniform")


def _scheduler(config: RunConfig, settings: SweepSettings) -> TrialScheduler:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    rounds = -(-config.family.num_tasks // config.cluster.tasks_per_round)
    if not settings.early_stopping or rounds < 2:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    first = max(1, round(_FIRST_ROUNDS * rounds))
    return ASHAScheduler(time_attr="round", max_t=rounds + 1, grace_period=first, reduction_factor=2)


def _progress(total: int) -> Callback:
    from ray.tune import Callback

    class Progress(Callback):
        """Prints a line for every trial that ends. Tune serialises it, so it must not hold a console."""

        def __init__(self) -> None:
            self.ended = 0

        def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
            """A trial is complete or was ended early."""
            self._print(trial, f"score {(trial.last_result or {}).get(SCORE, float('nan')):.4g}")

        def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
            """A trial failed."""
            self._print(trial, "failed")

        def _print(self, trial: TuneTrial, outcome: str) -> None:
            self.ended += 1
            rounds = (trial.last_result or {}).get("round", 0)
            values = ", ".join(f"{key}={short(value)}" for key, value in trial.config.items() if "." in key)
            Console().say(f"{self.ended}/{total} trials: {outcome} after {rounds} rounds, {values}")

    return Progress()
