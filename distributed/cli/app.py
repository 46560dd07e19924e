"""The Typer application, and what its commands share: options, overrides, fetching run directories."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from distributed.settings.bounded_reading import RefusedFileError, require_shallow, shortened, shown
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.settings.keys import dotted_fields
from distributed.settings.run_config import RunConfig
from meta.training.evaluation_settings import GivenTask

OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context settings of the commands that accept ``--section.key value``."""
EPILOG = "Every key of the run file can be given as --dotted.key value: " + ", ".join(
    key for key, _, _ in dotted_fields()
)

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"metasrl {version('metasrl')}")
        raise typer.Exit


@app.callback()
def metasrl(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Meta-safe reinforcement learning: learn, across tasks, starts from which new constrained tasks are solved."""
    del show_version  # its callback has printed it


RunFile = Annotated[str, typer.Argument(help="A run file (YAML), or the name of a shipped one, such as frozen_lake.")]
RunDir = Annotated[
    str,
    typer.Argument(
        help="A run: its directory runs/<name>/<timestamp>, latest, its name or family (the newest), or its URL."
    ),
]
TrackingUri = Annotated[
    str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow; by default sqlite:///mlflow.db here.")
]
Address = Annotated[
    str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard, http://host:8265.")
]
NamedFamily = Annotated[
    str | None,
    typer.Option(
        "--family",
        help="The run's own family, as its config.yaml names it: code runs only if you name it here. A built-in family "
        "needs no naming.",
    ),
]
OwnParameters = Annotated[
    str | None,
    typer.Option(
        "--parameters",
        help="Your own task instead, by all its parameters as JSON: '{\"target_speed\": 1.69}'. Column parameters of "
        "tasks.csv shows those of other tasks.",
    ),
]
OwnLimits = Annotated[
    str | None,
    typer.Option(
        "--limits",
        help="Limits of your own task, one for each cost, separated by commas; by default the family's own for it.",
    ),
]
DEFAULT_ADDRESS = "http://127.0.0.1:8265"


ChangedFamily = Annotated[
    bool,
    typer.Option(
        "--changed-family",
        help="Go on although the source of your own family has changed: train continues with the new source, compare "
        "computes again what the old one computed.",
    ),
]


DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the resolved settings and what would be done, and do nothing.")
]


def split_overrides(accepting: Collection[str], arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Separate ``--dotted.key value`` and ``--dotted.key=value`` settings from the other arguments.

    ``accepting`` are the commands that take settings; ``arguments`` start with the name of a command.

    Raises:
        ConfigurationError: A setting has no value.
    """
    if not arguments or arguments[0] not in accepting:
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


def overrides_of(context: typer.Context) -> list[tuple[str, str]]:
    """The settings given on the command line.

    Raises:
        ConfigurationError: An argument is neither an option nor a setting.
    """
    if context.args:
        sections = ", ".join(RunConfig.model_fields)
        raise ConfigurationError(
            f"{context.args[0]}: unknown option; settings are --section.key value, sections: {sections}"
        )
    pairs: list[tuple[str, str]] = context.obj
    return pairs


def fetched(run_dir: str) -> Path:
    """A local run directory; one in an object store is first copied to runs/."""
    from distributed.storage.run_places import fetch

    path = fetch(run_dir, "runs")
    if str(path) != run_dir.rstrip("/"):
        Console().say(f"run: {path}")
    return path


def json_object(option: str, text: str, what: str = "the family's parameters") -> dict[str, Any]:
    """Parse the value of an option that holds ``what`` as JSON.

    Raises:
        ConfigurationError: It is not a JSON object.
    """
    try:
        require_shallow(text, option)
        given = json.loads(text)
    except RefusedFileError as error:
        raise ConfigurationError(str(error)) from error
    except ValueError as error:
        raise ConfigurationError(f"{option}: {shown(text)} is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ConfigurationError(f"{option}: must be a JSON object with {what}, got {shortened(text)}")
    return given


def given_task(parameters: str | None, limits: str | None) -> GivenTask | None:
    """The own task that ``--parameters`` and ``--limits`` describe; None without them.

    Raises:
        ConfigurationError: They are not JSON, or limits are given alone.
    """
    if parameters is None:
        if limits is not None:
            raise ConfigurationError("--limits: need --parameters, the parameters of the task that they are for")
        return None
    found = json_object("--parameters", parameters, "the task's parameters")
    return GivenTask(parameters=found, limits=None if limits is None else _numbers("--limits", limits))


def _numbers(option: str, text: str) -> tuple[float, ...]:
    """Numbers separated by commas, with or without the brackets of a JSON list."""
    words = text.strip().removeprefix("[").removesuffix("]").split(",")
    try:
        return tuple(float(word) for word in words)
    except ValueError:
        raise ConfigurationError(
            f"{option}: must be one number for each cost, separated by commas, such as 8.0,0.5; got {text!r}"
        ) from None


def write(text: str) -> None:
    """Write part of a log to standard output unchanged."""
    sys.stdout.write(text)
    sys.stdout.flush()
