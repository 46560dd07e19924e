"""The command ``metasrl``, also ``python -m metasrl``: a look at the packages first, then the command line."""

from __future__ import annotations

import sys

from metasrl.own_rooms import HiddenPackageError, require_own_rooms


def main() -> None:
    """Run the command line; exit with 2 and a message if another package hides one of metasrl's."""
    try:
        require_own_rooms()
    except HiddenPackageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    from distributed.cli.main import main as command_line

    command_line()
