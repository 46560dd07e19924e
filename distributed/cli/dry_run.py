"""What a command would do: the resolved settings, and the amount of work."""

from __future__ import annotations

from distributed.settings.keys import flatten
from distributed.settings.run_config import RunConfig
from distributed.storage.run_places import local_parent
from meta.methods.registry import chosen_methods


def dry_run(config: RunConfig) -> str:
    """The settings as YAML, and how many tasks and environment steps a run has, as Markdown."""
    experiment, within = config.experiment, config.within_task
    rounds = -(-config.family.num_tasks // config.cluster.tasks_per_round)
    workers = 1 if config.cluster.pool == "local" else config.cluster.num_workers
    lines = [
        "```yaml",
        config.to_yaml().rstrip(),
        "```",
        "",
        f"- {config.family.num_tasks} training tasks of {config.family.name} in {rounds} rounds, {workers} at a time "
        f"({config.cluster.pool} pool), {within.num_iterations} policy updates each",
    ]
    if experiment.warm_up_steps:
        lines.append(f"- before them {experiment.warm_up_steps:,} environment steps of direct updates (meta.warm_up)")
    lines.append(f"- {_steps(config)}")
    methods = chosen_methods(config.evaluation, within)
    tasks = config.evaluation.num_test_tasks if config.evaluation.tasks is None else len(config.evaluation.tasks)
    updates = experiment.held_out_within.num_iterations
    each = "" if updates == within.num_iterations else f", {updates} policy updates each"
    lines.append(f"- then {tasks} held-out tasks, solved from {len(methods)} starts: {', '.join(methods)}{each}")
    tracked = "MLflow" if config.tracking.enabled else "no tracking"
    lines.append(f"- results in {local_parent(config)}/<timestamp>; {tracked}")
    changed = len(flatten(config.model_dump(mode="json", exclude_defaults=True)))
    return "\n".join([*lines, f"- {changed} settings differ from their defaults. Nothing was computed."])


def _steps(config: RunConfig) -> str:
    """The environment steps of training, as far as they are known before."""
    if config.within_task.evaluation == "exact":
        return "values are exact: no environment steps"
    of_task = config.experiment.steps_of_task
    return f"{config.family.num_tasks * of_task:,} environment steps" if of_task else "as many as episodes take"
