"""The ``metasrl`` command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from threadpoolctl import threadpool_limits

import distributed
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import FamilySettings, RunConfig
from distributed.settings.keys import dotted_fields
from distributed.settings.run_file import load_config

_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
_EPILOG = "Every key of the run file can be given as --dotted.key value: " + ", ".join(
    key for key, _, _ in dotted_fields()
)

INTERRUPTED_EXIT_CODE = 130
"""Exit code after Ctrl-C (128 + 2), as a shell reports it."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Meta-safe reinforcement learning: learn, across tasks, starts from which new constrained tasks are solved.",
)
RunFile = Annotated[Path, typer.Argument(help="Run file (YAML), for instance deploy/runs/frozen_lake.yaml.")]
RunDir = Annotated[
    str, typer.Argument(help="Directory of a run, runs/<name>/<timestamp>, or its URL in an object store.")
]


TrackingUri = Annotated[
    str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow; by default sqlite:///mlflow.db here.")
]


@app.command(context_settings=_OVERRIDES, epilog=_EPILOG)
def train(
    context: typer.Context,
    run_file: RunFile,
    resume: Annotated[
        str | None,
        typer.Option(help="Go on with an earlier run directory, or its URL; latest: the newest of these settings."),
    ] = None,
    register: Annotated[
        str | None, typer.Option(help="Make the learned start a version of this model in MLflow's registry.")
    ] = None,
) -> None:
    """Meta-train over the tasks of a run file, then compare starts on held-out tasks."""
    from distributed.jobs.training_job import LATEST, report_lines, run
    from distributed.storage.run_directory import fetch
    from meta.reporting.report import warnings_of

    console = Console()
    config = load_config(run_file, _overrides(context))
    earlier = None if resume is None else LATEST if resume == str(LATEST) else fetch(resume, config.output.local_dir)
    summary = run(config, console, earlier, register)
    console.result(report_lines(summary))
    for warning in warnings_of(summary):
        console.warn(warning)


@app.command(context_settings=_OVERRIDES, epilog=_EPILOG)
def compare(
    context: typer.Context,
    run_file: RunFile,
    results: Annotated[Path | None, typer.Option(help="Also write a page (Markdown) and its plots here.")] = None,
) -> None:
    """Compare all baselines and meta_srl on the same tasks, for every seed of evaluation.seeds."""
    from distributed.jobs.compare import compare as run_comparison

    console = Console()
    config = load_config(run_file, _overrides(context))
    console.result(run_comparison(config, console, results, f"metasrl {' '.join(sys.argv[1:])}"))


@app.command(context_settings=_OVERRIDES, epilog=_EPILOG)
def sweep(
    context: typer.Context,
    run_file: RunFile,
    vary: Annotated[
        list[str] | None,
        typer.Option(help="KEY=uniform(a, b), loguniform(a, b), int(a, b) or choice(a, b, ...); once for every KEY."),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="How many trials.")] = 16,
    search: Annotated[str, typer.Option(help="optuna (its TPE sampler) or random.")] = "optuna",
    early_stopping: Annotated[bool, typer.Option(help="End bad trials early (ASHA).")] = True,
    search_seed: Annotated[int, typer.Option(min=0, help="Seed of the search.")] = 0,
    resume: Annotated[
        str | None, typer.Option(help="Go on with an earlier sweep's directory; latest: the newest.")
    ] = None,
) -> None:
    """Choose hyper-parameters of the meta-learner with Ray Tune, by the training tasks' score."""
    from typing import cast, get_args

    from distributed.tuning.search_space import parse_space
    from distributed.tuning.trials import Search, SweepSettings
    from distributed.tuning.sweep import sweep as run_sweep

    config = load_config(run_file, _overrides(context))
    if search not in get_args(Search):
        raise ConfigurationError(f"--search: must be {' or '.join(get_args(Search))}, got {search!r}")
    space = parse_space(vary or (), config)
    settings = SweepSettings(trials, cast("Search", search), early_stopping, search_seed)
    console = Console()
    console.result(run_sweep(config, space, settings, console, resume))


@app.command()
def adapt(
    source: Annotated[
        str, typer.Argument(help="A run's directory, models:/NAME@champion, models:/NAME/VERSION, or a start's folder.")
    ],
    task_index: Annotated[int | None, typer.Option(min=0, help="Which held-out task.")] = None,
    task_seed: Annotated[int | None, typer.Option(min=0, help="Seed of a new task instead.")] = None,
    video: Annotated[bool, typer.Option(help="Film the learned start and the adapted policy, as watch does.")] = False,
    family: Annotated[
        str | None, typer.Option(help="Another family: path/to/file.py:Class, package.module:Class or a built-in name.")
    ] = None,
    parameters: Annotated[str, typer.Option(help="Parameters of --family, as JSON: '{\"horizon\": 50}'.")] = "{}",
    tracking_uri: TrackingUri = None,
) -> None:
    """Solve an unseen task from the learned start; print and plot the curve beside the random start."""
    from distributed.jobs.adapt import adapt as run_adaptation
    from distributed.jobs.adapt import find_source

    if task_index is not None and task_seed is not None:
        raise ConfigurationError("give --task-index or --task-seed, not both")
    own = _json_object("--parameters", parameters)
    if own and family is None:
        raise ConfigurationError("--parameters: are of --family, which was not given")
    chosen = None if family is None else FamilySettings.model_validate({"name": family, **own})
    console = Console()
    found = find_source(source, chosen, tracking_uri, console)
    console.result(run_adaptation(found, task_index, task_seed, console, video=video))


@app.command()
def register(
    run_dir: RunDir,
    name: Annotated[str, typer.Argument(help="Name of the model: letters, digits, dot, dash and underscore.")],
    tasks: Annotated[int, typer.Option(min=2, help="New tasks on which it is judged against the champion.")] = 20,
    tracking_uri: TrackingUri = None,
) -> None:
    """Make a finished run's start a version of a model in MLflow's registry; champion where it is shown better."""
    from distributed.models.model_registry import connect
    from distributed.models.model_registry import register as register_start
    from distributed.settings.run_file import load_config as load
    from distributed.storage.run_directory import RunDirectory

    console, path = Console(), _fetched(run_dir)
    config = load(path / "config.yaml")
    directory = RunDirectory.open(path, config)
    with threadpool_limits(1):
        told = register_start(
            connect(tracking_uri or config.tracking.uri), path, name, directory.tracked_as(), console, tasks
        )
    console.result(told)


@app.command()
def watch(
    run_dir: RunDir,
    task_index: Annotated[int, typer.Option(min=0, help="Which held-out task.")] = 0,
    output: Annotated[Path | None, typer.Option(help="The video, FILE.mp4 or FILE.gif; by default in adapt/.")] = None,
) -> None:
    """Film an episode of the learned start and of the policy adapted from it, side by side, with their costs."""
    from distributed.jobs.watch import watch as run_watch

    console = Console()
    with threadpool_limits(1):
        console.result(run_watch(_fetched(run_dir), task_index, output, console))


@app.command()
def report(
    run_dir: RunDir,
    video: Annotated[bool, typer.Option(help="Film held-out task 0 first and put the video on the page.")] = False,
) -> None:
    """Print the result tables of a run; draw its plots and write its page (report.html) again."""
    from distributed.jobs.run_page import PAGE, write_run_page
    from distributed.jobs.training_job import report_lines
    from distributed.jobs.watch import watch as run_watch
    from distributed.storage.run_directory import load_run_config, load_summary, read_rows
    from meta.reporting.report import warnings_of, write_plots

    console, path = Console(), _fetched(run_dir)
    summary = load_summary(path)
    rows = read_rows(path / "tasks.csv")
    plots = write_plots(path / "plots", rows, summary["test"], summary["limits_mean"][0])
    if video:
        with threadpool_limits(1):
            run_watch(path, 0, None, console)
    size = write_run_page(path, load_run_config(path), summary, rows)
    console.result(report_lines(summary))
    for warning in warnings_of(summary):
        console.warn(warning)
    console.say(f"plots: {', '.join(map(str, plots))}")
    console.say(f"page: {path / PAGE} ({size / 1e6:.1f} MB)")


@app.command("inspect")
def inspect_files(
    path: Annotated[
        str, typer.Argument(help="A checkpoint's file, a folder (a run, checkpoints/, meta_policy/), or a run's URL.")
    ],
) -> None:
    """Tell what is in a checkpoint, and whether it is whole; of a folder, in all that are in it."""
    from distributed.storage.inspection import inspect

    Console().result(inspect(_fetched(path)))


@app.command()
def export(
    source: Annotated[str, typer.Argument(help="A finished run's directory, models:/NAME@champion, or a start.")],
    output: Annotated[Path, typer.Argument(help="The file to write, FILE.onnx.")],
    start: Annotated[int, typer.Option(min=0, help="Which of several initialisations.")] = 0,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write a learned start as ONNX: observations in, actions out."""
    from distributed.jobs.adapt import load_source
    from distributed.models.onnx_export import export_onnx

    console = Console()
    if output.suffix != ".onnx":
        raise ConfigurationError(f"{output}: must end in .onnx")
    export_onnx(load_source(source, tracking_uri, console)[1], output, start)
    console.say(f"written: {output}")


@app.command()
def families() -> None:
    """List the built-in families of tasks and their parameters."""
    from tasks.contract.family_registry import BUILT_IN, family_class

    console = Console()
    for name in BUILT_IN:
        kind = family_class(name)
        lines = [
            f"## {name}",
            "",
            (kind.__doc__ or "").strip(),
            "",
            "| parameter | default | meaning |",
            "|---|---|---|",
        ]
        lines += [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in dotted_fields(kind)]
        console.result("\n".join(lines))
    console.result(
        "Your own: `family.name: package.module:ClassName` or `path/to/file.py:ClassName` (see docs/families.md); "
        "`metasrl check-family` checks it."
    )


@app.command("check-family")
def check_family(
    name: Annotated[str, typer.Argument(help="path/to/file.py:Class, package.module:Class, or a built-in name.")],
    parameters: Annotated[str, typer.Option(help="The family's own parameters, as JSON: '{\"horizon\": 50}'.")] = "{}",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the family.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.1, help="About how long the check may take.")] = 20.0,
) -> None:
    """Check a family of tasks against the contract; say in words what is wrong. Exit code 2 if anything is."""
    from policies.checking.family_check import broken, table
    from policies.checking.family_check import check_family as run_checks

    given = _json_object("--parameters", parameters)
    console = Console()
    with console.status(f"checking {name}"), threadpool_limits(1):
        checks = run_checks(name, given, seed, seconds)
    console.result(table(checks))
    if broken(checks):
        raise typer.Exit(2)


Address = Annotated[
    str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard, http://host:8265.")
]


@app.command(context_settings=_OVERRIDES, epilog=_EPILOG)
def submit(
    context: typer.Context,
    run_file: RunFile,
    address: Address = "http://127.0.0.1:8265",
    resume: Annotated[str | None, typer.Option(help="As of train; latest: the newest run of these settings.")] = None,
    register: Annotated[
        str | None, typer.Option(help="As of train: the model that the start becomes a version of.")
    ] = None,
    secret: Annotated[
        list[str] | None, typer.Option(help="NAME of a variable of this shell that the job gets.")
    ] = None,
    package: Annotated[
        list[str] | None, typer.Option(help="Pinned package to install, where the image lacks it.")
    ] = None,
    num_cpus: Annotated[float, typer.Option(min=0.0, help="CPUs that the driver itself asks for.")] = 0.0,
    detach: Annotated[bool, typer.Option(help="Do not follow the log.")] = False,
) -> None:
    """Submit `train` to a Ray cluster, ship the checkout, and follow the log; ends with the job's exit code."""
    import os

    from distributed.jobs import submission

    console, root = Console(), Path.cwd()
    wanted = submission.Submission(
        run_file, _overrides(context), resume, secret or (), package or (), num_cpus, register=register
    )
    options = submission.job_options(wanted, root, os.environ)
    submission.require_small(root)
    client = submission.connect(address)
    job_id = submission.send(client, options)
    console.say(f"job {job_id}; metasrl logs {job_id} follows it, metasrl stop {job_id} ends it")
    if not detach:
        raise typer.Exit(submission.follow(client, job_id, _write, console.say))


@app.command()
def jobs(address: Address = "http://127.0.0.1:8265") -> None:
    """List the runs that were submitted to a cluster."""
    from distributed.jobs.submission import connect, job_rows

    rows = job_rows(connect(address))
    lines = [
        "| id | name | status | began | took |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    Console().result("\n".join(lines) if rows else "no runs of metasrl on this cluster")


@app.command()
def stop(
    job_id: Annotated[str, typer.Argument(help="Id of the job.")], address: Address = "http://127.0.0.1:8265"
) -> None:
    """Stop a submitted run; every finished task is kept, `submit --resume latest` goes on with it."""
    from distributed.jobs.submission import connect, require_known

    client = connect(address)
    require_known(client, job_id)
    Console().say(f"{job_id}: {'stopping' if client.stop_job(job_id) else 'has ended already'}")


@app.command()
def logs(
    job_id: Annotated[str, typer.Argument(help="Id of the job.")], address: Address = "http://127.0.0.1:8265"
) -> None:
    """Print a submitted run's log and follow it to its end; ends with the job's exit code."""
    from distributed.jobs.submission import connect, follow, require_known

    console, client = Console(), connect(address)
    require_known(client, job_id)
    raise typer.Exit(follow(client, job_id, _write, console.say))


def _fetched(run_dir: str) -> Path:
    """A run directory on this machine; one in an object store is copied to runs/ first."""
    from distributed.storage.run_directory import fetch

    return fetch(run_dir, "runs")


def _json_object(option: str, text: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"{option}: {text!r} is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ConfigurationError(f"{option}: must be a JSON object with the family's parameters, got {text}")
    return given


def _write(text: str) -> None:
    """A part of a log, as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _split(command: Any, arguments: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Take the ``--dotted.key value`` and ``--dotted.key=value`` settings out of the arguments, where any are taken."""
    chosen = command.commands.get(arguments[0]) if arguments else None
    if chosen is None or chosen.context_settings != _OVERRIDES:
        return list(arguments), []
    words, rest, pairs = list(arguments), [], []
    while words:
        word = words.pop(0)
        key, separator, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or key.split(".")[0] not in RunConfig.model_fields:
            rest.append(word)
            continue
        if not separator:
            if not words or words[0].startswith("--"):
                raise ConfigurationError(f"{word}: needs a value")
            value = words.pop(0)
        pairs.append((key, value))
    return rest, pairs


def _overrides(context: typer.Context) -> list[tuple[str, str]]:
    """The settings that were given; anything else that is left over is a mistake."""
    if context.args:
        sections = ", ".join(RunConfig.model_fields)
        raise ConfigurationError(
            f"{context.args[0]}: unknown option; settings are --section.key value, sections: {sections}"
        )
    pairs: list[tuple[str, str]] = context.obj
    return pairs


def _require_own_package() -> None:
    """``distributed`` is also the name of Dask's package: make sure that this one is in use."""
    if not (Path(distributed.__file__).parent / "cluster" / "meta_learner.py").is_file():
        raise ConfigurationError(
            f"the package `distributed` at {distributed.__file__} is not metasrl's (Dask has one of that name): "
            "use an environment without dask.distributed, or start from the metasrl checkout"
        )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Exit codes: 0 good, 1 the run failed, 2 bad usage or configuration, 130 interrupted, 143 stopped by SIGTERM.
    """
    from distributed.cluster.ray_pool import WorkerLostError
    from distributed.storage.checkpoints import DamagedFileError, StorageError
    from tasks.contract.task import TaskError

    console = Console()
    try:
        _require_own_package()
        command: Any = typer.main.get_command(app)
        rest, pairs = _split(command, sys.argv[1:] if arguments is None else arguments)
        code = command.main(args=rest, obj=pairs, prog_name="metasrl", standalone_mode=False)
    except ConfigurationError as error:
        console.fail(str(error))
        sys.exit(2)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except typer.Abort:
        sys.exit(1)
    except Exception as error:
        if hasattr(error, "format_message"):
            console.fail(error.format_message())
            sys.exit(2)
        if not isinstance(error, TaskError | DamagedFileError | StorageError | WorkerLostError):
            console.error.print_exception()
        console.fail(f"{type(error).__name__}: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        console.say("interrupted")
        sys.exit(INTERRUPTED_EXIT_CODE)
    except BaseException as error:
        from distributed.settings.stopping import STOPPED_EXIT_CODE, Stopped, leave

        if not isinstance(error, Stopped):
            raise
        if error.args:
            leave()
        sys.exit(STOPPED_EXIT_CODE)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
