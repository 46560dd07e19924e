"""Commands that run or show experiments: train, compare, sweep, report, watch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from threadpoolctl import threadpool_limits

from distributed.cli.app import (
    EPILOG,
    OVERRIDES,
    ChangedFamily,
    DryRun,
    NamedFamily,
    NamedMethod,
    OwnLimits,
    OwnParameters,
    RunDir,
    RunFile,
    app,
    fetched,
    given_task,
    overrides_of,
)
from distributed.cli.dry_run import dry_run
from distributed.settings.console import Console
from distributed.settings.errors import SET_ASIDE_EXIT_CODE, ConfigurationError
from distributed.settings.run_file import load_config, require_sound_family, run_file_named


@app.command(
    context_settings=OVERRIDES, epilog=EPILOG, short_help="Meta-train across tasks, then judge the start on new ones."
)
def train(
    context: typer.Context,
    run_file: RunFile,
    resume: Annotated[
        str | None,
        typer.Option(help="Continue an earlier run: its directory, its URL, or latest for the newest with these keys."),
    ] = None,
    register: Annotated[
        str | None, typer.Option(help="Register the learned start as a version of this model in MLflow.")
    ] = None,
    changed_family: ChangedFamily = False,
    only_plan: DryRun = False,
) -> None:
    """Meta-train over the tasks of a run file, then compare starts on held-out tasks."""
    from distributed.jobs.training_job import earlier_run, run
    from distributed.storage.csv_tables import read_rows
    from distributed.storage.run_page import next_steps
    from meta.reporting.tables import report_lines, spent_line, warnings_of

    console = Console()
    config = load_config(run_file_named(run_file), overrides_of(context))
    require_sound_family(config, console.say)
    if only_plan:
        console.result(dry_run(config))
        return
    earlier = earlier_run(resume, config)
    summary, path = run(config, console, earlier, register, changed_family=changed_family)
    console.result(report_lines(summary))
    for warning in warnings_of(summary):
        console.warn(warning)
    console.say(spent_line(summary, read_rows(path / "tasks.csv")))
    console.say(next_steps(path, config.family.name))
    if summary.set_aside:
        raise typer.Exit(SET_ASIDE_EXIT_CODE)


@app.command(context_settings=OVERRIDES, epilog=EPILOG, short_help="Compare all methods on the same tasks, over seeds.")
def compare(
    context: typer.Context,
    run_file: RunFile,
    results: Annotated[Path | None, typer.Option(help="Also write a page (Markdown) and its plots here.")] = None,
    changed_family: ChangedFamily = False,
) -> None:
    """Compare all baselines and meta_srl on the same tasks, for every seed of evaluation.seeds."""
    from distributed.jobs.compare import compare as run_comparison

    console = Console()
    config = load_config(run_file_named(run_file), overrides_of(context))
    require_sound_family(config, console.say)
    console.result(run_comparison(config, console, results, f"metasrl {' '.join(sys.argv[1:])}", changed_family))


@app.command(context_settings=OVERRIDES, epilog=EPILOG, short_help="Choose hyper-parameters with Ray Tune.")
def sweep(
    context: typer.Context,
    run_file: RunFile,
    vary: Annotated[
        list[str] | None,
        typer.Option(help="KEY=uniform(a, b), loguniform(a, b), int(a, b) or choice(a, b, ...); once for every KEY."),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Number of trials.")] = 16,
    search: Annotated[str, typer.Option(help="optuna (its TPE sampler) or random.")] = "optuna",
    early_stopping: Annotated[bool, typer.Option(help="End bad trials early (ASHA).")] = True,
    search_seed: Annotated[int, typer.Option(min=0, help="Seed of the search.")] = 0,
    resume: Annotated[
        str | None, typer.Option(help="Continue an earlier sweep: its directory, or latest for the newest.")
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust", help="Continue a sweep that was not begun here by you: Ray Tune's state in it can run any code."
        ),
    ] = False,
) -> None:
    """Choose hyper-parameters of the meta-learner with Ray Tune, by the score on training tasks."""
    from typing import cast, get_args

    from distributed.tuning.search_space import parse_space
    from distributed.tuning.sweep import sweep as run_sweep
    from distributed.tuning.trials import Search, SweepSettings

    config = load_config(run_file_named(run_file), overrides_of(context))
    if search not in get_args(Search):
        raise ConfigurationError(f"--search: must be {' or '.join(get_args(Search))}, got {search!r}")
    space = parse_space(vary or (), config)
    settings = SweepSettings(trials, cast("Search", search), early_stopping, search_seed)
    console = Console()
    require_sound_family(config, console.say)
    console.result(run_sweep(config, space, settings, console, resume, trusted=trust))


@app.command(short_help="Film the learned start and the adapted policy.")
def watch(
    run_dir: RunDir,
    task_index: Annotated[int | None, typer.Option(min=0, help="Index of a held-out task; 0 by default.")] = None,
    output: Annotated[Path | None, typer.Option(help="The video, FILE.mp4 or FILE.gif; by default in adapt/.")] = None,
    parameters: OwnParameters = None,
    limits: OwnLimits = None,
    family: NamedFamily = None,
    method: NamedMethod = None,
) -> None:
    """Film an episode of the learned start and of the policy adapted from it, side by side, with their costs."""
    from distributed.jobs.watch import watch as run_watch

    console, given = Console(), given_task(parameters, limits)
    if given is not None and task_index is not None:
        raise ConfigurationError("give --task-index or --parameters, not both")
    with threadpool_limits(1):
        console.result(run_watch(fetched(run_dir), task_index or 0, output, console, given, family, method))


@app.command(short_help="Print a run's tables; draw its plots and page again.")
def report(
    run_dir: RunDir,
    video: Annotated[bool, typer.Option(help="First film held-out task 0 and put the video on the page.")] = False,
    family: NamedFamily = None,
    method: NamedMethod = None,
) -> None:
    """Print the result tables of a run; redraw its plots and rewrite its page (report.html)."""
    from distributed.jobs.watch import watch as run_watch
    from distributed.storage.csv_tables import read_rows
    from distributed.storage.run_directory import load_run_config, load_summary, stored_config
    from distributed.storage.run_page import PAGE, PLOTS_SHARE, of_one_run, require_rows, write_run_page
    from distributed.tracking.work_progress import WorkProgress
    from meta.reporting.figures import run_figures
    from meta.reporting.render_matplotlib import save_figures
    from meta.reporting.tables import report_lines, spent_line, warnings_of

    console, path = Console(), fetched(run_dir)
    config = load_run_config(path, family, method) if video else stored_config(path)
    summary, rows = load_summary(path), read_rows(path / "tasks.csv")
    with of_one_run(path):
        require_rows(summary, rows)
    if video:
        with threadpool_limits(1):
            run_watch(path, 0, None, console, named=family, method=method)
    with of_one_run(path), WorkProgress(console, "drawing the results") as bar:
        plots = save_figures(path / "plots", run_figures(summary, rows), bar.part(0.0, PLOTS_SHARE))
        bar.report("the page", PLOTS_SHARE)
        size = write_run_page(path, config, summary, rows)
        bar.report("done", 1.0)
    with of_one_run(path):
        console.result(report_lines(summary))
    for warning in warnings_of(summary):
        console.warn(warning)
    console.say(spent_line(summary, rows))
    console.say(f"plots: {', '.join(map(str, plots))}")
    console.say(f"page: {path / PAGE} ({size / 1e6:.1f} MB)")
