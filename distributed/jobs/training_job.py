"""The training job: draw tasks, meta-train, evaluate on held-out tasks, write the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from distributed.cluster.workplace import Workplace, workplace
from distributed.jobs.trackers import trackers_of
from distributed.models.meta_policy import STEM, meta_policy_of, save_meta_policy
from distributed.models.model_registry import connect, require_name
from distributed.models.model_registry import register as register_start
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import RunConfig
from distributed.settings.stopping import Stopped, stop_on_sigterm
from distributed.storage.checkpoints import storing
from distributed.storage.run_directory import RunDirectory
from distributed.storage.run_page import PLOTS_SHARE, write_run_page
from distributed.storage.run_places import fetch, url_of
from distributed.tracking.run_tracker import RunContext, RunStart, RunTracker, Trackers
from distributed.tracking.work_progress import WorkProgress
from meta.judging.held_out import compare_starts
from meta.judging.task_records import held_out_rows
from meta.learning.online import State
from meta.methods.registry import chosen_methods
from meta.reporting.figures import run_figures
from meta.reporting.render_matplotlib import save_figures
from meta.reporting.summarising import run_summary, set_aside_summary
from meta.reporting.summary import RunFacts, RunSummary
from meta.training.experiment import Drawn, draw_tasks, measure_similarity, observed
from meta.training.loop import train, training_plan
from policies.exact.horizon import horizon_warning
from policies.neural.neural_settings import NeuralSettings
from tasks.contract.task import TaskError

LATEST = Path("latest")
"""Value of ``resume`` for the newest run with the same name and settings, or a new run without one."""
_MODEL_FACTS = ("taog", "mean_reward", "tacv", "num_tasks", "meta_state_sha256", "similarity", "test")


def earlier_run(resume: str | None, config: RunConfig) -> Path | None:
    """What ``--resume`` names: a run directory, :data:`LATEST`, or None for a new run.

    Raises:
        ConfigurationError: There is no such run.
    """
    if resume is None or resume == str(LATEST):
        return None if resume is None else LATEST
    return fetch(resume, config.output.local_dir)


class Trained(NamedTuple):
    """A finished run: its ``summary``, and its directory ``path``."""

    summary: RunSummary
    path: Path


def run(
    config: RunConfig,
    console: Console,
    resume: Path | None = None,
    register: str | None = None,
    trackers: Sequence[RunTracker] = (),
    *,
    changed_family: bool = False,
) -> Trained:
    """Train, evaluate and report; the summary, and the directory that it is in.

    Args:
        config: Settings of the run.
        console: Shows progress and messages.
        resume: Run directory to continue, or :data:`LATEST`; None starts a new run.
        register: Name of the model of which the learned start becomes a version.
        trackers: Trackers in addition to those of the settings.
        changed_family: The source of the family may differ from the one that the resumed run began with.

    Raises:
        ConfigurationError: The settings are unusable; raised before any work is done.
        TaskError: A task is infeasible, or the environments of too many tasks fail.
        Stopped: SIGTERM arrived.
    """
    if register is not None:
        require_name(register)
        connect(config.tracking.uri)
    if resume == LATEST:
        resume = _latest(config, console)
    directory = _directory(config, resume, console, changed_family=changed_family)
    directory.own(console.say)
    try:
        summary = _tracked(RunContext(config, directory, console), trackers)
    except ConfigurationError:
        if resume is None:
            directory.discard_if_untouched()
        raise
    except Stopped:
        console.say(f"stopped; finished tasks are saved, --resume {directory.path} continues the run")
        raise
    finally:
        directory.release()
    if register is not None:
        client, run_id = connect(config.tracking.uri), directory.tracked_as()
        named = config.family.name, config.within_task.method.name
        given = client, directory.path, register, run_id, console
        console.say(register_start(*given, family=named[0], method=named[1]))
    return Trained(summary, shown(directory.path))


def _latest(config: RunConfig, console: Console) -> Path | None:
    found = RunDirectory.latest(config)
    message = "no earlier run with these settings: starting a new one"
    console.say(message if found is None else f"continuing {found}")
    return found


def _directory(config: RunConfig, resume: Path | None, console: Console, *, changed_family: bool) -> RunDirectory:
    if resume is None:
        directory = RunDirectory.create(config)
    else:
        directory = RunDirectory.open(resume, config, changed_family=changed_family)
    url = url_of(config, directory.path)
    console.say(f"run directory: {shown(directory.path)}" + ("" if url is None else f", copied to {url}"))
    return directory


def shown(path: Path) -> Path:
    """``path`` as it is shown: relative to the working directory where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _tracked(context: RunContext, more: Sequence[RunTracker]) -> RunSummary:
    """The run, on one thread of linear algebra as its workers: more wait for each other, and bits may depend on it."""
    quarantine = context.directory.open_quarantine(context.config, context.console.say)
    with stop_on_sigterm(), threadpool_limits(1), trackers_of(context, more) as trackers:
        with workplace(context.config, context.console.say, quarantine) as place:
            summary = _train_and_evaluate(context, place, trackers)
        trackers.finished(summary)
        return summary


def _train_and_evaluate(context: RunContext, place: Workplace, trackers: Trackers) -> RunSummary:
    config, directory, console = context.config, context.directory, context.console
    experiment = config.experiment
    with console.status("drawing tasks and checking their limits with the linear program"):
        try:
            drawn = draw_tasks(place.pool, experiment)
        except TaskError as error:
            raise ConfigurationError(str(error)) from error
    for warning in (rates_warning(config), horizon_warning(experiment.family.make(), drawn.train[0])):
        if warning is not None:
            console.warn(warning)
    with console.status("measuring what a fresh policy earns and pays"):
        position = directory.position(
            lambda: observed(place.pool, experiment, drawn).initial_state(experiment.meta), console.say
        )
    drawn = drawn.continued(position.state)
    if position.state.num_tasks:
        console.say(f"continuing after {position.state.num_tasks} tasks and {len(position.finished)} of the next round")
    trackers.started(RunStart(place.pool, place.learner, drawn, position))
    plan = training_plan(experiment, drawn)
    state = train(plan, place.pool, place.learner, trackers.members, position)
    summary = _evaluated(context, place, drawn, state)
    _write_results(context, summary, state, drawn)
    return summary


def rates_warning(config: RunConfig) -> str | None:
    """What to say where rates are learned that no step takes; None elsewhere."""
    within = config.within_task
    if config.meta.learning_rates.method == "fixed" or not isinstance(within, NeuralSettings) or not within.clipped:
        return None
    return (
        f"meta.learning_rates: the clipped steps of {within.method.name} take no learning rate, so what is learned of "
        "them changes nothing; within_task.method.clipped sets these steps, and meta.learning_rates.method: fixed "
        "learns no rates"
    )


def _evaluated(context: RunContext, place: Workplace, drawn: Drawn, state: State) -> RunSummary:
    """Compare the learned start with the baselines on held-out tasks."""
    config, directory = context.config, context.directory
    experiment, within = config.experiment, config.experiment.within
    with WorkProgress(context.console, "comparing starts on new tasks") as bar:
        bar.report("similarity of the training tasks", 0.0)
        similar = measure_similarity(place.pool, experiment, drawn)
        methods = chosen_methods(experiment.evaluation, within)
        given = place.pool, place.learner, experiment, drawn, methods
        held_out = compare_starts(*given, experiment.held_out_starts(state.start), similar, bar.report)
    directory.write_held_out(held_out_rows({name: entry.records for name, entry in held_out.items()}))
    facts = RunFacts(
        name=config.name,
        family=experiment.family.name,
        seed=config.seed,
        num_iterations=within.num_iterations,
        algorithm=within.algorithm,
        evaluation=within.evaluation,
        pool=config.cluster.pool,
        num_workers=place.pool.num_workers,
        tasks_per_round=experiment.tasks_per_round,
        warm_up_steps=experiment.warm_up_steps,
        context_errors=_context_errors(drawn, state),
        rates_at_bounds=_rates_at_bounds(config, drawn, state),
    )
    quarantine = place.pool.quarantine
    limits = np.array([task.limits for task in quarantine.without(drawn.test)])
    summary = run_summary(facts, directory.rows, state, similar, limits, dict(held_out), directory.wall_seconds)
    return summary.model_copy(update={"set_aside": tuple(map(set_aside_summary, quarantine))})


def _rates_at_bounds(config: RunConfig, drawn: Drawn, state: State) -> dict[str, float]:
    """The learned rates that lie on a bound, by objective."""
    settings, names = config.meta.learning_rates, ("reward", *drawn.family.make().cost_names)
    if settings.method == "fixed":
        return {}
    units = np.ones(len(names)) if drawn.units is None else drawn.units
    return {
        name: rate
        for start in state.starts
        for name, rate, unit in zip(names, start.learning_rates.tolist(), units.tolist(), strict=True)
        if not settings.minimum / unit < rate < settings.maximum / unit
    }


def _context_errors(drawn: Drawn, state: State) -> dict[str, float] | None:
    contexts, regression = drawn.family.contexts, state.starts[0].regression
    if contexts is None or regression is None:
        return None
    return dict(zip(contexts.space.names, regression.errors.tolist(), strict=True))


def _write_results(context: RunContext, summary: RunSummary, state: State, drawn: Drawn) -> None:
    """Write the summary and the learned start, then the plots and the page, which `metasrl report` can draw again."""
    config, directory = context.config, context.directory
    directory.write_summary(summary)
    content, random = summary.model_dump(mode="json"), summary.test.get("random")
    rates = None if random is None else tuple(np.ravel(random.learning_rates).tolist())
    facts = {name: content[name] for name in _MODEL_FACTS}
    policy = meta_policy_of(config, state, drawn.test[0], rates, facts, drawn.family)
    with storing(directory.path / STEM):
        save_meta_policy(directory.path / STEM, policy)
    again = f"all results are saved; `metasrl report {directory.path}` draws them again"
    with storing(directory.path, again), WorkProgress(context.console, "drawing the results") as bar:
        save_figures(directory.path / "plots", run_figures(summary, directory.rows), bar.part(0.0, PLOTS_SHARE))
        bar.report("the page", PLOTS_SHARE)
        write_run_page(directory.path, config, summary, directory.rows)
        bar.report("done", 1.0)
