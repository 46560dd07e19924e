"""``metasrl adapt``: solve an unseen task from a learned start, and from a random start for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from distributed.jobs.chosen_task import chosen_task, require_start_fits, task_without_limits
from distributed.jobs.task_context import context_line, settled_family, warn_outside
from distributed.jobs.watch import film, require_pictures
from distributed.models.meta_policy import STEM, MetaPolicy, load_meta_policy, start_folder
from distributed.models.model_registry import connect, is_model_uri, resolve
from distributed.settings.admission import own_family
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import FamilySettings, RunConfig
from distributed.storage.checkpoints import save_arrays, write_atomically
from distributed.storage.run_directory import load_final_state, load_run_config, load_summary, stored_config
from distributed.storage.run_places import fetch
from meta.judging.deployed import UNBOUNDED, deployed_lines
from meta.judging.safe_starts import safe_starts
from meta.measuring.measures import measure
from meta.reporting.one_task import adaptation_figure, described
from meta.reporting.render_matplotlib import save_figure
from meta.training.evaluation_settings import GivenTask
from meta.training.experiment import family_of
from meta.training.pool import LocalPool
from policies.common.branches import branch_name
from policies.common.digits import digits, rounded, scale_of
from policies.common.policy import Policy, policy_for, table_of
from policies.common.results import Start, Starts, TaskResult
from policies.mixtures.contextual import condition
from policies.neural.policy_state import PolicyState
from policies.solving.algorithms import kind_of, kind_of_policy
from tasks.contract.family_registry import FamilySpec
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError, TaskFamily


@dataclass(frozen=True)
class Source:
    """A learned start and the settings for new tasks.

    ``random_rates`` [1+p]: rates of the random start, None if unknown. ``folder`` receives the results. ``policy`` is
    None for the start of a run directory. ``family`` is that of the new tasks, with contexts if the start needs them.
    """

    label: str
    config: RunConfig
    starts: Starts
    random_rates: FloatArray | None
    folder: Path
    policy: MetaPolicy | None
    family: FamilySpec


def adapt(
    source: Source,
    task_index: int | None,
    task_seed: int | None,
    console: Console,
    *,
    video: bool = False,
    given: GivenTask | None = None,
) -> str:
    """Solve a task in this process, write its plot and policy, and return a Markdown table.

    Args:
        source: The learned start.
        task_index: Index of a held-out task; 0 if nothing chooses one.
        task_seed: Seed of a new task instead.
        console: Shows progress and file names.
        video: Also film the learned start and the adapted policy.
        given: Parameters of an own task instead.

    Raises:
        ConfigurationError: There is no such task, the start does not fit the family, or this machine cannot render.
    """
    family, task = new_task(source, task_index, task_seed, console, given)
    if video:
        require_pictures(family, task)
    results = solved(source, family, task)
    path = save_figure(source.folder / f"{task.stem}.png", adaptation_figure(results))
    adapted = results["meta_srl"]
    policy = _write_policy(source.folder / f"{task.stem}-policy", adapted)
    console.say(f"plot: {path}\nadapted policy: {policy}")
    table = _table(results, family, episodic=getattr(source.config.within_task, "returns", None) == "episodic")
    if not video:
        return table
    return f"{table}\n\n{_filmed(source, family, adapted, path.with_suffix('.mp4'), console)}"


def new_task(
    source: Source, task_index: int | None, task_seed: int | None, console: Console, given: GivenTask | None = None
) -> tuple[TaskFamily, Task]:
    """The task that the arguments choose, as for :func:`adapt`, and its family; the start fits it.

    Raises:
        ConfigurationError: There is no such task, or the start does not fit the family.
    """
    family = source.family.make()
    _require_fit(source, family)
    task = chosen_task(source.config.experiment, LocalPool(source.family), task_index, task_seed, given)
    warn_outside(family, task, source.starts.starts[0].initialization, console)
    if source.policy is not None:
        source.policy.require_fit(family, task, source.label)
    return family, task


def solved(source: Source, family: TaskFamily, task: Task, *, compare: bool = True) -> dict[str, TaskResult]:
    """The task solved from the learned start (``meta_srl``), and to ``compare`` from the random one, if it is known.

    With ``evaluation.safety`` by safe steps, and to compare from the same start without them too.

    Raises:
        ConfigurationError: The start cannot be made safe.
    """
    experiment, pool = source.config.experiment, LocalPool(source.family)
    within = experiment.held_out_within
    starts = _starts(source, family, task) if compare else {"meta_srl": source.starts}
    if experiment.evaluation.safety is not None:
        starts |= {UNBOUNDED: source.starts} if compare else {}
        try:
            starts["meta_srl"] = safe_starts(pool, experiment, source.starts, source.family)
        except TaskError as error:
            raise ConfigurationError(str(error)) from error
    return {name: next(iter(pool.solve([task], one, within, collect=False))).result for name, one in starts.items()}


def _require_fit(source: Source, family: TaskFamily) -> None:
    """Check that the start fits the family before a task is drawn."""
    if source.policy is None:
        require_start_fits(source.starts.starts[0].initialization, family, source.family, source.label)
    elif source.policy.spaces.tabular:
        source.policy.require_fit(family, task_without_limits(family, source.family), source.label)


def _filmed(source: Source, family: TaskFamily, adapted: TaskResult, path: Path, console: Console) -> str:
    learned = source.starts.starts[adapted.start_index].initialization
    policies = {"learned start": policy_for(learned, adapted.context), "adapted": adapted.policy}
    return film(settled_family(family, adapted), adapted.task, policies, path, console)


def find_source(
    given: str,
    family: FamilySettings | None,
    tracking_uri: str | None,
    console: Console,
    method: str | None = None,
) -> Source:
    """The learned start that ``given`` names: a run directory, a folder with a start, or ``models:/NAME@alias``.

    Args:
        given: Path, URL of a run directory, or URI of a registered model.
        family: Family of the new tasks; None for the start's own, if it is built in. Code runs only if named here.
        tracking_uri: Tracking server of the registry; None for the default.
        console: Shows progress.
        method: The start's own method, if it is code, which runs only if named here.

    Raises:
        ConfigurationError: There is no such start; the message names the alternatives.
        DamagedFileError: Its files are damaged.
    """
    if not is_model_uri(given) and start_folder(Path(given)) is None:
        given = str(fetch(given, "runs"))
    path = Path(given)
    if not is_model_uri(given) and start_folder(path) != path and _own_tasks(path, family):
        return _of_run(path, None if family is None else family.name, console, method)
    label, policy = load_source(given, tracking_uri, console)
    if is_model_uri(given):
        folder = Path("runs") / "adapted" / label.removeprefix("models:/").replace("/", "-")
        return _of_policy(label, policy, policy.config(family, label, method=method), folder)
    return _of_policy(label, policy, policy.config(family, label, path, method), path / "adapt")


def _own_tasks(run_dir: Path, family: FamilySettings | None) -> bool:
    """Whether the new tasks are those of the run itself rather than of another family."""
    if family is None:
        return True
    return (run_dir / "config.yaml").is_file() and own_family(stored_config(run_dir).family.name, family)


def load_source(given: str, tracking_uri: str | None, console: Console) -> tuple[str, MetaPolicy]:
    """The learned start that ``given`` names, as for :func:`find_source`, with a label for messages.

    Raises:
        ConfigurationError: There is no such start; the message names the alternatives.
        DamagedFileError: Its files are damaged.
    """
    if is_model_uri(given):
        with console.status(f"looking up {given}"):
            found = resolve(connect(tracking_uri), given)
        return str(found), found.policy
    folder = start_folder(Path(given))
    if folder is not None:
        return given, load_meta_policy(folder)
    raise ConfigurationError(
        f"{given}: holds no finished start (no {STEM}/{STEM}.json); finish the run, or give models:/NAME@champion"
    )


def _of_policy(label: str, policy: MetaPolicy, config: RunConfig, folder: Path) -> Source:
    rates = None if policy.random_rates is None else np.array(policy.random_rates, np.float64)
    return Source(label, config, policy.starts, rates, folder, policy, policy.family(config))


def _of_run(run_dir: Path, named: str | None, console: Console, method: str | None) -> Source:
    config = load_run_config(run_dir, named, method)
    state = load_final_state(run_dir, config, console.say)
    random = load_summary(run_dir).test.get("random")
    rates = None if random is None else np.array(random.learning_rates, np.float64)
    family = family_of(LocalPool(config.experiment.family), config.experiment)
    starts = config.experiment.held_out_starts(state.start)
    return Source(str(run_dir), config, starts, rates, run_dir / "adapt", None, family)


def _starts(source: Source, family: TaskFamily, task: Task) -> dict[str, Starts]:
    """The starts to compare, by method."""
    if source.random_rates is None:
        return {"meta_srl": source.starts}
    within = source.config.within_task
    fresh = kind_of(within).fresh(family, task, within, source.config.seed)
    return {"random": Start(fresh, source.random_rates), "meta_srl": source.starts}


def _write_policy(stem: Path, result: TaskResult) -> Path:
    """Write a table of probabilities as CSV, one row per state; a neural policy as safetensors.

    A network that was solved with a context is written as one on plain observations, which has it built in.
    """
    policy, kind = plain_policy(result), kind_of_policy(result.policy)
    if kind.name != "tabular":
        save_arrays(stem, kind.to_arrays(policy), {"kind": kind.name})
        return stem.with_suffix(".safetensors")
    rows = "\n".join(",".join(f"{p:.17g}" for p in row) for row in table_of(policy))
    write_atomically(stem.with_suffix(".csv"), f"{rows}\n".encode())
    return stem.with_suffix(".csv")


def plain_policy(result: TaskResult) -> Policy:
    """The output of a task as a policy on its plain observations: a network has the context built in."""
    if result.context is None or kind_of_policy(result.policy).name == "tabular":
        return result.policy
    return condition(cast("PolicyState", result.policy), result.context)


def _table(results: dict[str, TaskResult], family: TaskFamily, *, episodic: bool) -> str:
    task = next(iter(results.values())).task
    lines = [f"Task {described(task)}", ""]
    sums = (
        "expected plain sums over an episode" if episodic else f"expected discounted sums ({family.discount:g} a step)"
    )
    lines += [f"Limits {rounded(task.limits)} on {', '.join(family.cost_names)}. Rewards and costs are {sums}.", ""]
    lines.append("| updates | " + " | ".join(f"{name}: reward | cost | step" for name in results) + " |")
    lines.append("|---" * (1 + 3 * len(results)) + "|")
    scales = [scale_of([result.values[:, i] for result in results.values()]) for i in range(1 + len(task.limits))]
    for iteration in range(len(next(iter(results.values())).values)):
        cells = [str(iteration)]
        for result in results.values():
            cost = ", ".join(
                digits(value, scale) for value, scale in zip(result.values[iteration, 1:], scales[1:], strict=True)
            )
            cells += [
                digits(result.values[iteration, 0], scales[0]),
                cost,
                branch_name(result.branches.tolist(), iteration),
            ]
        lines.append(f"| {' | '.join(cells)} |")
    known = context_line(results["meta_srl"], family)
    measured = [_line(name, result) for name, result in results.items()]
    return "\n".join([*lines, "", *measured, *known, *deployed_lines(results)])


def _line(name: str, result: TaskResult) -> str:
    """The measures of one result as an item of a list."""
    measures = measure(result)
    value = f"reward {digits(result.values[result.output, 0])}"
    if result.reference is not None:
        value = f"gap {digits(measures.gap)}"
    chosen = f"start {result.start_index}, " if result.probe_steps or result.start_index else ""
    return (
        f"- {name} ({chosen}output: iterate {result.output}): {value}, violation of the output "
        f"{rounded(measures.violation)}, during adaptation {rounded(measures.violation_during)}"
    )
