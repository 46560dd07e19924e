"""The ``metasrl`` command line: run a command, and turn errors into messages and exit codes."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer
from typer.core import TyperGroup

from distributed.cli import family_commands, help_commands, job_commands, model_commands, run_commands
from distributed.cli.app import OVERRIDES, app, split_overrides
from distributed.settings.console import Console
from distributed.settings.errors import CLUSTER_LOST_EXIT_CODE, ConfigurationError
from distributed.settings.handed_over import taken_over
from distributed.settings.stopping import INTERRUPTED_EXIT_CODE, STOPPED_EXIT_CODE, Stopped, leave

COMMANDS = (run_commands, model_commands, family_commands, job_commands, help_commands)
"""Modules that register the commands."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Exit codes: 0 success, 1 the run failed, 2 bad usage or configuration, 3 complete but for tasks that are set aside,
    4 the Ray cluster is gone, 130 interrupted, 143 stopped by SIGTERM.
    """
    console = Console()
    try:
        with taken_over():
            code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.exit(code)
    except ConfigurationError as error:
        console.fail(str(error))
        sys.exit(2)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except typer.Abort:
        sys.exit(1)
    except KeyboardInterrupt:
        console.say("interrupted")
        sys.exit(INTERRUPTED_EXIT_CODE)
    except Stopped as stopped:
        if stopped.args:
            leave()
        sys.exit(STOPPED_EXIT_CODE)
    except Exception as error:
        _fail(error, console)


def _run(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    command = typer.main.get_command(app)
    commands = command.commands if isinstance(command, TyperGroup) else {}
    accepting = {name for name, one in commands.items() if one.context_settings == OVERRIDES}
    rest, pairs = split_overrides(accepting, arguments)
    code = command.main(args=rest, obj=pairs, prog_name="metasrl", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _fail(error: Exception, console: Console) -> NoReturn:
    """Print an error, with a traceback unless its message is written for users, and exit."""
    from distributed.cluster.calls import WorkerLostError
    from distributed.cluster.health import ClusterLostError
    from distributed.storage.checkpoints import DISK_FAULTS, DamagedFileError, StorageError, storage_error
    from tasks.contract.task import TaskError

    usage = getattr(error, "format_message", None)  # of click's errors about options and arguments
    if usage is not None:
        console.fail(usage())
        sys.exit(2)
    if isinstance(error, ClusterLostError):
        console.fail(str(error))
        leave(CLUSTER_LOST_EXIT_CODE)
    if isinstance(error, OSError) and not isinstance(error, StorageError) and error.errno in DISK_FAULTS:
        error = storage_error(error, "a disk")
    if not isinstance(error, TaskError | DamagedFileError | StorageError | WorkerLostError):
        console.error.print_exception()
    console.fail(f"{type(error).__name__}: {error}")
    sys.exit(1)


if __name__ == "__main__":
    main()
