"""The one gate for settings that came out of a run directory, a learned start or a registered model.

Such settings are data of somebody else. Their family is run only if it is built in or if the user names it on the
command line, a module of torch only if the user names it in the environment, and their numbers are bounded, so that
reading them neither runs code nor takes all day.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distributed.settings.bounded_reading import shortened
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import CODE_KINDS, FamilySettings, RunConfig
from distributed.settings.run_file import require_usable, validated
from policies.networks.module_network import NETWORKS, is_named
from tasks.contract.family_registry import BUILT_IN

_SECTIONS = ("family", "within_task", "meta", "evaluation")
"""Sections whose numbers decide how much work a new task is."""
_MOST_TASKS = 10**5
_MOST = {
    "num_iterations": 10**5,
    "num_tasks": _MOST_TASKS,
    "num_test_tasks": _MOST_TASKS,
    "distinct_tasks": _MOST_TASKS,
    "hidden": 2**12,
    "critic_hidden": 2**12,
}
"""The most that some keys may ask for; others :data:`_MOST_OTHERS`."""
_MOST_OTHERS = 10**7
_OF_THE_FAMILY = ("family.", "evaluation.tasks.")
"""Keys that a family of the user's own gives a meaning, so that its code bounds them."""
_MOST_STEPS = 10**9
"""Environment steps of one task, over all its iterations."""
_UNNAMED = {
    "family": "was learned on the family {0}, which is code: choose by --family {0} (path/to/file.py:Class or "
    "package.module:Class) which one to run",
    "method": "solves tasks with the method {0}, which is code: --method {0} runs it",
    "network": f"was learned with the network {{0}}, which is code: name it by {NETWORKS}={{0}} (several separated by "
    "commas) in the environment",
}
"""What is said of code that the user does not name, by its kind."""


def admitted(
    raw: Mapping[str, Any], source: str, named: str | None, folder: Path | None = None, method: str | None = None
) -> RunConfig:
    """The settings ``raw`` of somebody else, checked as a run file is; their family and method run only if they may.

    Args:
        raw: The sections of a run file.
        source: Where they come from, for messages.
        named: The family that the user names on the command line, or in a run file; None without.
        folder: The directory that they came with; code inside it never runs.
        method: The method of ``within_task.method`` that the user names; a built-in one needs no naming.

    Raises:
        ConfigurationError: The family, the method or a network is code that the user did not name, or a setting is
            invalid or out of bounds.
    """
    config = validated(raw, source)
    _require_admitted(config, source, {"family": named, "method": method}, folder)
    _require_modest(config, source)
    require_usable(config, source)
    return config


def own_family(name: str, given: FamilySettings | None) -> bool:
    """Whether ``given`` only names the family ``name`` of a directory or start, whose parameters therefore stay."""
    return given is not None and given.model_dump(exclude_unset=True) == {"name": name}


def _require_admitted(config: RunConfig, source: str, named: Mapping[str, str | None], folder: Path | None) -> None:
    """Raise ConfigurationError unless all code is built in, or named by the user and outside ``folder``.

    ``named``: the family and the method that the user names, by these words; networks are named in the environment.
    """
    given = {"family": config.family.name, "method": config.within_task.method.name}
    for kind, name in given.items():
        other = named[kind]
        if other not in (None, name):
            raise ConfigurationError(
                f"--{kind}: {source} names the {kind} {shortened(name)}, not {shortened(str(other))}: name that one"
            )
    for key, name in config.code.items():
        kind = CODE_KINDS[key]
        text = shortened(given.get(kind, name))
        if name in BUILT_IN:
            continue
        if folder is not None and _inside(name, folder):
            raise ConfigurationError(
                f"{source}: {key}: {text} is inside the run directory; read it, and move it out if you trust it"
            )
        if not (is_named(name) if kind == "network" else named[kind]):
            raise ConfigurationError(f"{source}: {_UNNAMED[kind].format(text)}, if you trust it")


def _inside(name: str, folder: Path) -> bool:
    """Whether importing the class ``name`` might run code in ``folder``, also through links."""
    try:
        return any(place.resolve().is_relative_to(folder.resolve()) for place in _places(name))
    except (OSError, ValueError):  # a name that no file can have
        return False


def _places(name: str) -> Iterator[Path]:
    """The files and folders that importing the class ``name`` might run, found without importing anything."""
    module = name.rpartition(":")[0]
    if module.endswith(".py"):
        yield Path(module).expanduser()
        return
    parts = module.split(".")
    for entry in (Path.cwd(), *map(Path, sys.path)):
        for number in range(1, len(parts) + 1):
            inner = entry.joinpath(*parts[:number])
            package = (inner / "__init__.py", inner.with_name(f"{inner.name}.py") if inner.name else inner)
            yield from (place for place in (*package, inner) if place.exists())


def _require_modest(config: RunConfig, source: str) -> None:
    """Raise ConfigurationError for numbers that would keep this machine busy or fill its memory."""
    for section in _SECTIONS:
        for key, value in _numbers(section, getattr(config, section).model_dump(mode="json")):
            name = key.rpartition(".")[2]
            most = _MOST.get(name, _MOST_OTHERS)
            own = config.family.name not in BUILT_IN and key.startswith(_OF_THE_FAMILY) and name not in _MOST
            if value > most and not own and not name.endswith(("seed", "seeds")):
                raise ConfigurationError(
                    f"{source}: {key}: {shortened(str(value))} is more than {most}, the most that settings from a run "
                    "directory or a start may ask for"
                )
    _require_modest_tasks(config, source)


def _require_modest_tasks(config: RunConfig, source: str) -> None:
    """Raise ConfigurationError for very many training tasks, or very many steps of one task."""
    experiment = config.experiment
    tasks = config.family.num_tasks + experiment.warm_up_steps // max(1, experiment.steps_of_task)
    if tasks > _MOST_TASKS:
        raise ConfigurationError(
            f"{source}: meta.warm_up: its steps are those of {tasks} training tasks; settings from a run directory or "
            f"a start may ask for at most {_MOST_TASKS}"
        )
    within = experiment.held_out_within
    episodes = getattr(within, "episodes_per_iteration", 0) * int((config.family.model_extra or {}).get("horizon", 1))
    steps = within.num_iterations * max(within.steps_of_batch, episodes)
    if steps > _MOST_STEPS:
        raise ConfigurationError(
            f"{source}: within_task: {within.num_iterations} iterations are {steps} environment steps of one task; "
            f"settings from a run directory or a start may ask for at most {_MOST_STEPS}"
        )


def _numbers(key: str, value: object) -> Iterator[tuple[str, int]]:
    """Every whole number in ``value`` with its dotted key; entries of a list share the key of the list."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _numbers(f"{key}.{name}", part)
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(key, part)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield key, value
