"""Commands on learned starts: adapt, register, export, inspect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from threadpoolctl import threadpool_limits

from distributed.cli.app import (
    NamedFamily,
    NamedMethod,
    OwnLimits,
    OwnParameters,
    RunDir,
    TrackingUri,
    app,
    fetched,
    given_task,
    json_object,
)
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import FamilySettings


@app.command(short_help="Solve a new task from a learned start.")
def adapt(
    source: Annotated[
        str, typer.Argument(help="A run's directory, models:/NAME@champion, models:/NAME/VERSION, or a start's folder.")
    ],
    task_index: Annotated[int | None, typer.Option(min=0, help="Index of a held-out task.")] = None,
    task_seed: Annotated[int | None, typer.Option(min=0, help="Seed of a new task instead.")] = None,
    video: Annotated[bool, typer.Option(help="Film the learned start and the adapted policy, as watch does.")] = False,
    family: Annotated[
        str | None,
        typer.Option(
            help="Another family (path/to/file.py:Class, package.module:Class or a built-in name), or the start's own: "
            "its code runs only if you name it here."
        ),
    ] = None,
    family_parameters: Annotated[
        str, typer.Option(help="Parameters of --family itself, as JSON: '{\"horizon\": 50}'.")
    ] = "{}",
    parameters: OwnParameters = None,
    limits: OwnLimits = None,
    method: NamedMethod = None,
    confidence: Annotated[
        float | None,
        typer.Option(help="Deploy only policies that keep the limits with this confidence (evaluation.safety)."),
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Solve an unseen task from the learned start; print and plot the curve with that of the random start."""
    from distributed.jobs.adapt import adapt as run_adaptation
    from distributed.jobs.adapt import find_source

    given, own = given_task(parameters, limits), json_object("--family-parameters", family_parameters)
    choices = {"--task-index": task_index, "--task-seed": task_seed, "--parameters": given}
    chosen_by = [option for option, value in choices.items() if value is not None]
    if len(chosen_by) > 1:
        raise ConfigurationError(f"give {' or '.join(chosen_by)}, not both")
    if own and family is None:
        raise ConfigurationError("--family-parameters: need --family, which was not given")
    chosen = None if family is None else FamilySettings.model_validate({"name": family, **own})
    console = Console()
    found = find_source(source, chosen, tracking_uri, console, method)
    if confidence is not None:
        found = replace(found, config=found.config.with_confidence(confidence, "--confidence"))
    console.result(run_adaptation(found, task_index, task_seed, console, video=video, given=given))


@app.command(short_help="Register a start as a version of a model in MLflow.")
def register(
    run_dir: RunDir,
    name: Annotated[str, typer.Argument(help="Name of the model: letters, digits, dot, dash and underscore.")],
    tasks: Annotated[int, typer.Option(min=2, help="Number of new tasks for the comparison with the champion.")] = 20,
    family: NamedFamily = None,
    method: NamedMethod = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Register a finished run's start as a version of a model in MLflow; it becomes champion if shown to be better."""
    from distributed.models.model_registry import connect
    from distributed.models.model_registry import register as register_start
    from distributed.storage.run_directory import RunDirectory, load_run_config

    console, path = Console(), fetched(run_dir)
    config = load_run_config(path, family, method)
    run_id = RunDirectory(path, config).tracked_as()
    with threadpool_limits(1):
        client = connect(tracking_uri or config.tracking.uri)
        decision = register_start(client, path, name, run_id, console, tasks, family, method)
    console.result(decision)


@app.command(short_help="Export a learned start as ONNX.")
def export(
    source: Annotated[str, typer.Argument(help="A finished run, as for report, models:/NAME@champion, or a start.")],
    output: Annotated[Path, typer.Argument(help="The file to write, FILE.onnx.")],
    start: Annotated[int, typer.Option(min=0, help="Index of the initialisation, if there are several.")] = 0,
    context: Annotated[
        str | None, typer.Option(help="Context to build in, as JSON: '{\"target_speed\": 1.69}'.")
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Export a learned start as ONNX: observations in, actions out."""
    from distributed.jobs.adapt import load_source
    from distributed.models.meta_policy import start_folder
    from distributed.models.model_registry import is_model_uri
    from distributed.models.onnx_export import export_onnx
    from distributed.tracking.work_progress import WorkProgress

    console = Console()
    if output.suffix != ".onnx":
        raise ConfigurationError(f"{output}: must end in .onnx")
    entries = None if context is None else json_object("--context", context, "the entries of the context")
    if not is_model_uri(source) and start_folder(Path(source)) is None:
        source = str(fetched(source))
    with WorkProgress(console, "exporting") as bar:
        bar.report("reading the start", 0.0)
        policy = load_source(source, tracking_uri, console)[1]
        bar.report("writing the graph and checking it", 0.5)
        export_onnx(policy, output, start, entries)
        bar.report("done", 1.0)
    console.say(f"written: {output}")


@app.command("inspect", short_help="Describe a checkpoint or a registered model.")
def inspect_files(
    path: Annotated[
        str, typer.Argument(help="A checkpoint's file, a folder (a run, checkpoints/, meta_policy/), or a run's URL.")
    ],
) -> None:
    """Describe a checkpoint and verify its checksums; for a folder, all checkpoints in it."""
    from distributed.storage.inspection import inspect

    Console().result(inspect(fetched(path)))
