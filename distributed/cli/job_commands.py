"""Commands on submitted jobs: submit, jobs, stop, logs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from distributed.cli.app import (
    DEFAULT_ADDRESS,
    EPILOG,
    OVERRIDES,
    Address,
    ChangedFamily,
    RunFile,
    app,
    overrides_of,
    write,
)
from distributed.settings.console import Console
from distributed.settings.run_file import run_file_named

JobId = Annotated[str, typer.Argument(help="Id of the job.")]


@app.command(context_settings=OVERRIDES, epilog=EPILOG, short_help="Submit train to a Ray cluster and follow its log.")
def submit(
    context: typer.Context,
    run_file: RunFile,
    address: Address = DEFAULT_ADDRESS,
    resume: Annotated[str | None, typer.Option(help="As for train; latest: the newest run of these settings.")] = None,
    register: Annotated[
        str | None, typer.Option(help="As for train: the model of which the start becomes a version.")
    ] = None,
    secret: Annotated[
        list[str] | None, typer.Option(help="NAME of an environment variable to pass to the job.")
    ] = None,
    package: Annotated[list[str] | None, typer.Option(help="Pinned package to install if the image lacks it.")] = None,
    num_cpus: Annotated[float, typer.Option(min=0.0, help="CPUs that the driver itself requests.")] = 0.0,
    changed_family: ChangedFamily = False,
    detach: Annotated[bool, typer.Option(help="Do not follow the log.")] = False,
    wait: Annotated[float, typer.Option(min=0.0, help="Seconds to wait for a cluster that is not ready yet.")] = 60.0,
) -> None:
    """Submit `train` to a Ray cluster, upload the checkout, and follow the log; exits with the job's exit code."""
    from distributed.cluster import jobs_client
    from distributed.jobs import submission, upload

    console, root = Console(), Path.cwd()
    wanted = submission.Submission(
        run_file_named(run_file),
        overrides_of(context),
        resume,
        secret or (),
        package or (),
        num_cpus,
        register=register,
        changed_family=changed_family,
    )
    options = submission.job_options(wanted, root, os.environ)
    submission.require_protected(wanted, address)
    upload.require_small(root)
    withheld = [str(path.relative_to(root)) for path in upload.withheld_files(root)]
    if withheld:
        console.say(f"not uploaded, since files of such names hold secrets: {', '.join(withheld)}")
    client = jobs_client.connect(address, wait, console.say)
    jobs_client.hand_over(client, options, submission.secret_values(wanted, os.environ))
    job_id = jobs_client.send(client, options, patience_seconds=wait, say=console.say)
    console.say(f"job {job_id}; metasrl logs {job_id} follows it, metasrl stop {job_id} stops it")
    if not detach:
        raise typer.Exit(submission.follow(client, job_id, write, console.say))


@app.command(short_help="List the submitted runs of a cluster.")
def jobs(address: Address = DEFAULT_ADDRESS) -> None:
    """List the runs that were submitted to a cluster."""
    from distributed.cluster.jobs_client import connect
    from distributed.jobs.submission import job_rows

    rows = job_rows(connect(address))
    lines = [
        "| id | name | status | began | took |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    Console().result("\n".join(lines) if rows else "no runs of metasrl on this cluster")


@app.command(short_help="Stop a submitted run; it can be resumed.")
def stop(job_id: JobId, address: Address = DEFAULT_ADDRESS) -> None:
    """Stop a submitted run; finished tasks are saved, `submit --resume latest` continues it."""
    from distributed.cluster.jobs_client import connect
    from distributed.jobs.submission import require_known

    client = connect(address)
    require_known(client, job_id)
    Console().say(f"{job_id}: {'stopping' if client.stop_job(job_id) else 'has already ended'}")


@app.command(short_help="Print and follow the log of a submitted run.")
def logs(job_id: JobId, address: Address = DEFAULT_ADDRESS) -> None:
    """Print and follow the log of a submitted run; exits with the job's exit code."""
    from distributed.cluster.jobs_client import connect
    from distributed.jobs.submission import follow, require_known

    console, client = Console(), connect(address)
    require_known(client, job_id)
    raise typer.Exit(follow(client, job_id, write, console.say))
