"""Commands that explain and begin: settings, init."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path
from typing import Annotated

import typer

from distributed.cli.app import app
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_file import SHIPPED

EXAMPLES = SHIPPED.parent / "examples"
"""The examples of the documentation, which init copies."""
_STEMS = {"table": "own_family", "network": "own_continuous_family"}


@app.command(short_help="Search the settings of a run file.")
def settings(
    word: Annotated[str | None, typer.Argument(help="Part of a key or of its explanation; without it all.")] = None,
) -> None:
    """Search the settings of a run file: key, default, allowed values and meaning."""
    from distributed.settings.configuration_page import TABLE_HEAD, setting_rows
    from distributed.settings.keys import dotted_fields

    found = setting_rows(word or "")
    if not found:
        close = difflib.get_close_matches(str(word), [key for key, _, _ in dotted_fields()], n=5, cutoff=0.4)
        like = f"; close ones: {', '.join(close)}" if close else ""
        raise ConfigurationError(f"{word}: no setting has this in its key or explanation{like}")
    Console().result("\n".join([*TABLE_HEAD, *found]))


@app.command(short_help="Write a family of your own and its run file.")
def init(
    folder: Annotated[Path, typer.Argument(help="Where the two files go; it is made if it is not there.")] = Path(),
    kind: Annotated[
        str, typer.Option(help="table: states and actions are numbered; network: vectors of numbers.")
    ] = "table",
) -> None:
    """Write a family of tasks of your own and its run file to start from."""
    if kind not in _STEMS:
        raise ConfigurationError(f"--kind: must be {' or '.join(_STEMS)}, got {kind!r}")
    names = [f"{_STEMS[kind]}{suffix}" for suffix in (".py", ".yaml")]
    there = [str(folder / name) for name in names if (folder / name).exists()]
    if there:
        raise ConfigurationError(f"{', '.join(there)}: exists already; move it away, or give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(EXAMPLES / name, folder / name)
    console = Console()
    console.say(f"wrote {', '.join(str(folder / name) for name in names)}; next:")
    go = "" if folder == Path() else f"cd {folder} && "
    console.say(f"  {go}metasrl check-family {names[0]}:{_class_of(EXAMPLES / names[1])}")
    console.say(f"  {go}metasrl train {names[1]}")


def _class_of(run_file: Path) -> str:
    """The class that the run file names."""
    from distributed.settings.run_file import read_yaml

    return str(read_yaml(run_file)["family"]["name"]).rpartition(":")[2]
