"""``metasrl watch``: film an episode of the learned start and one of the adapted policy, side by side."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from distributed.jobs.chosen_task import chosen_task, require_start_fits
from distributed.jobs.task_context import settled_family, warn_outside
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.storage.run_directory import load_final_state, load_run_config
from distributed.tracking.work_progress import WorkProgress
from meta.training.evaluation_settings import GivenTask
from meta.training.experiment import family_of
from meta.training.pool import LocalPool
from policies.common.digits import digits, parameters_text
from policies.common.policy import Policy, policy_for
from policies.filming.film import Film, gauges_of, render_episode
from policies.filming.pictures import SUFFIXES, Caption, SideBySide, contact_sheet, write_picture, write_video
from tasks.contract.rendering import NoGraphicsError, renderable
from tasks.contract.task import Task, TaskFamily

_LONGEST_CAPTION = 44
"""Characters of the parameters in a film."""


def watch(
    run_dir: Path,
    task_index: int,
    output: Path | None,
    console: Console,
    given: GivenTask | None = None,
    named: str | None = None,
    method: str | None = None,
) -> str:
    """Solve a held-out or own task from the newest start of a run, film both policies, and return Markdown.

    A sheet of frames goes to the folder of the video.

    Args:
        run_dir: The run directory.
        task_index: Index of the held-out task.
        output: The video; None: a file of the task's name, such as ``test-0.mp4``, in ``adapt/`` of the run directory.
        console: Shows progress and file names.
        given: Parameters of an own task instead.
        named: The family that the user names; a built-in one needs no naming.
        method: The method of ``within_task.method`` that the user names, likewise.

    Raises:
        ConfigurationError: The directory is not a run, there is no such task, or this machine cannot render.
    """
    if output is not None:
        require_video(output)
    config = load_run_config(run_dir, named, method)
    state = load_final_state(run_dir, config, console.say)
    spec = family_of(LocalPool(config.experiment.family), config.experiment)
    pool, family = LocalPool(spec), spec.make()
    require_start_fits(state.starts[0].initialization, family, spec, str(run_dir))
    task = chosen_task(config.experiment, pool, task_index, given=given)
    warn_outside(family, task, state.starts[0].initialization, console)
    path = output or run_dir / "adapt" / f"{task.stem}.mp4"
    require_pictures(family, task)
    starts = config.experiment.held_out_starts(state.start)
    with console.status(f"adapting to {task.label}"):
        result = next(iter(pool.solve([task], starts, config.experiment.held_out_within, collect=False))).result
    adapted = f"after {len(result.branches)} updates (iterate {result.output})"
    learned = policy_for(state.starts[result.start_index].initialization, result.context)
    settled = settled_family(family, result)
    return film(settled, task, {"learned start": learned, adapted: result.policy}, path, console)


def require_video(path: Path) -> None:
    """Check that ``path`` has the suffix of a video.

    Raises:
        ConfigurationError: It does not.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigurationError(f"--output: {path} must end in {' or '.join(SUFFIXES)}")


def require_pictures(family: TaskFamily, task: Task) -> None:
    """Check that this machine can render ``task``, before any work is done.

    Raises:
        ConfigurationError: It cannot.
    """
    try:
        renderable(family, task).close()  # type: ignore[no-untyped-call]
    except NoGraphicsError as error:
        raise ConfigurationError(str(error)) from error


def film(family: TaskFamily, task: Task, policies: Mapping[str, Policy], path: Path, console: Console) -> str:
    """Film one episode of each policy, write the video and a sheet of frames, and return Markdown.

    Args:
        family: Family of the task.
        task: The task; every episode uses its seed.
        policies: Policies by title.
        path: Path of the video.
        console: Shows progress and file names.
    """
    films, parts = list[Film](), len(policies) + 1
    sheet = path.with_name(f"{path.stem}-frames.png")
    with WorkProgress(console, "filming") as bar:

        def report(part: str, share: float) -> None:
            bar.report(part, (len(films) + share) / parts)

        for title, policy in policies.items():
            tell = functools.partial(report, title)
            films.append(render_episode(family, task, policy, task.seed, report=tell))
        targets = {name: float(task.parameters[name]) for name in gauges_of(family, task)}
        others = {name: value for name, value in task.parameters.items() if name not in targets}
        words = parameters_text(others, _LONGEST_CAPTION)
        captions = [Caption(title, family.cost_names, task.limits, words, targets) for title in policies]
        frames = SideBySide(films, captions)
        write_video(path, frames, functools.partial(report, f"writing {path.name}"))
        write_picture(sheet, contact_sheet(frames))
    console.say(f"video: {path}\nsheet of frames: {sheet}")
    return _table(family, task, dict(zip(policies, films, strict=True)))


def _table(family: TaskFamily, task: Task, films: Mapping[str, Film]) -> str:
    heads = [
        f"{name} (limit on the mean over episodes: {limit:.4g})"
        for name, limit in zip(family.cost_names, task.limits, strict=True)
    ]
    lines = [f"One episode of task {task.label} each ({parameters_text(task.parameters)}), discounted sums:", ""]
    lines.append(f"| policy | steps | reward | {' | '.join(heads)} |")
    lines.append("|---" * (3 + len(heads)) + "|")
    for title, film in films.items():
        costs = " | ".join(digits(cost) for cost in film.costs[-1])
        lines.append(f"| {title} | {len(film.reward) - 1} | {digits(film.reward[-1])} | {costs} |")
    return "\n".join(lines)
