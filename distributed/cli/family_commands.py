"""Commands on families of tasks: families, check-family."""

from __future__ import annotations

from typing import Annotated

import typer
from threadpoolctl import threadpool_limits

from distributed.cli.app import app, json_object
from distributed.settings.console import Console
from distributed.settings.keys import dotted_fields


@app.command(short_help="List the built-in families and their parameters.")
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


@app.command("check-family", short_help="Check a family of tasks of your own.")
def check_family(
    name: Annotated[str, typer.Argument(help="path/to/file.py:Class, package.module:Class, or a built-in name.")],
    parameters: Annotated[str, typer.Option(help="The family's own parameters, as JSON: '{\"horizon\": 50}'.")] = "{}",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the family.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Approximate duration of the check.")] = 20.0,
) -> None:
    """Check a family of tasks against the contract and explain every violation. Exit code 2 if there is any."""
    from policies.checking.family_check import broken, table
    from policies.checking.family_check import check_family as run_checks

    given = json_object("--parameters", parameters)
    console = Console()
    with console.status(f"checking {name}"), threadpool_limits(1):
        checks = run_checks(name, given, seed, seconds)
    console.result(table(checks))
    if broken(checks):
        raise typer.Exit(2)
