"""A learned start as two files that are shared, registered and exported; reading them executes no code."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distributed.settings.admission import admitted, own_family
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import FamilySettings, RunConfig
from distributed.storage.checkpoints import Arrays, DamagedFileError, load_arrays, save_arrays
from meta.learning.online import State
from policies.common.context_regression import ContextRegression
from policies.common.policy import Policy
from policies.common.policy_kind import Spaces
from policies.common.results import Candidates, Start, Starts
from policies.networks.module_network import require_modules_of
from policies.neural.policy_state import PolicyState
from policies.neural.transition_moments import moment_sizes
from policies.solving.algorithms import kind_named, kind_of, kind_of_policy
from tasks.contract.contextual_family import Contexts
from tasks.contract.family_registry import FamilySpec
from tasks.contract.task import Task, TaskError, TaskFamily

STEM = "meta_policy"
KIND = "meta_policy"
_REGRESSION = "regression."
_SECTIONS = ("name", "seed", "family", "within_task", "evaluation")
"""Sections of the run file that are stored with the start; cluster, tracking and output are not."""


@dataclass(frozen=True)
class MetaPolicy:
    """A learned start with everything that solving a new task needs.

    ``starts``: one start, or several candidates. ``settings``: the sections of the run file for new tasks.
    ``random_rates`` [1+p]: rates of the random start, None if unknown. ``facts``: results, for information only.
    ``contexts``: those of the training tasks, None for a start that knows nothing of its task.
    """

    starts: Starts
    settings: dict[str, Any]
    spaces: Spaces
    cost_names: tuple[str, ...]
    random_rates: tuple[float, ...] | None
    facts: dict[str, Any]
    contexts: Contexts | None = None

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The initialisation of each start."""
        return tuple(start.initialization for start in self.starts.starts)

    @property
    def family_name(self) -> str:
        """The family that the start was learned on, as its files say."""
        family = self.settings.get("family")
        return str(family.get("name")) if isinstance(family, dict) else ""

    def config(
        self,
        family: FamilySettings | None = None,
        source: str = "the model",
        folder: Path | None = None,
        method: str | None = None,
    ) -> RunConfig:
        """The settings for new tasks, of the start's own family or of ``family``.

        Args:
            family: The family that the user names; with the start's own name alone, the start's parameters stay.
            source: Where the start comes from, for messages.
            folder: The start's folder, if it has one; code inside it never runs.
            method: The method of ``within_task.method`` that the user names; a built-in one needs no naming.

        Raises:
            ConfigurationError: The start's own family is external code, which the user must name explicitly; or the
                settings are invalid.
        """
        raw = self._sections()
        if family is not None and not own_family(self.family_name, family):
            raw["family"] = family.model_dump(mode="json")
            raw["evaluation"] = {key: value for key, value in raw.get("evaluation", {}).items() if key != "tasks"}
        return admitted(raw, source, None if family is None else family.name, folder, method)

    def own_config(self, named: str | None, source: str, folder: Path, method: str | None = None) -> RunConfig:
        """The settings for new tasks of the start's own family alone, which ``named`` must be if it is code; and
        ``method`` likewise.

        Raises:
            ConfigurationError: As :meth:`config`, and if ``named`` is another family.
        """
        return admitted(self._sections(), source, named, folder, method)

    def _sections(self) -> dict[str, Any]:
        return {name: self.settings[name] for name in _SECTIONS if name in self.settings}

    def family(self, config: RunConfig) -> FamilySpec:
        """The family of ``config``, whose tasks carry the contexts that the start was learned with."""
        return dataclasses.replace(config.experiment.family, contexts=self.contexts)

    def require_fit(self, family: TaskFamily, task: Task, source: str) -> None:
        """Check that the start fits the tasks of ``family``.

        Raises:
            ConfigurationError: Spaces or number of costs differ.
        """
        try:
            found = kind_of_policy(self.policies[0]).spaces(family, task)
        except TaskError as error:
            raise ConfigurationError(f"{source}: was learned on {self.spaces}, which does not fit: {error}") from error
        if found.sizes != self.spaces.sizes:
            raise ConfigurationError(
                f"{source}: was learned on {self.spaces}; tasks of {task.family} have {found}: adapt it to a family "
                "with the same spaces, or train a start on this one"
            )
        if len(family.cost_names) != len(self.cost_names):
            raise ConfigurationError(
                f"{source}: was learned under {len(self.cost_names)} costs ({', '.join(self.cost_names)}), tasks of "
                f"{task.family} have {len(family.cost_names)} ({', '.join(family.cost_names)})"
            )


def meta_policy_of(
    config: RunConfig,
    state: State,
    task: Task,
    random_rates: tuple[float, ...] | None,
    facts: dict[str, Any],
    spec: FamilySpec | None = None,
) -> MetaPolicy:
    """The learned start of a finished run.

    Args:
        config: Settings of the run.
        state: The learned state.
        task: Any task of the family; it determines the spaces.
        random_rates: Rates [1+p] of the random start; None if they were not chosen.
        facts: JSON object with results, for information only.
        spec: The family with the contexts of its tasks; None without contexts.
    """
    spec = spec or config.experiment.family
    family = spec.make()
    return MetaPolicy(
        starts=config.experiment.held_out_starts(state.start),
        settings={name: value for name, value in config.model_dump(mode="json").items() if name in _SECTIONS},
        spaces=kind_of(config.within_task).spaces(family, task),
        cost_names=tuple(family.cost_names),
        random_rates=random_rates,
        facts=facts,
        contexts=state.starts[0].contexts or spec.contexts,
    )


def save_meta_policy(folder: Path, policy: MetaPolicy) -> tuple[Path, Path]:
    """Write ``meta_policy.safetensors`` and ``meta_policy.json``; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    several = len(policy.starts.starts) > 1
    content = {
        "kind": KIND,
        "num_starts": len(policy.starts.starts),
        "selection": policy.starts.selection if several else None,
        "probe_episodes": policy.starts.probe_episodes,
        "settings": policy.settings,
        "spaces": dataclasses.asdict(policy.spaces),
        "cost_names": list(policy.cost_names),
        "random_rates": None if policy.random_rates is None else list(policy.random_rates),
        "facts": policy.facts,
    }
    if policy.contexts is not None:
        content["contexts"] = policy.contexts.to_json()
    stem = folder / STEM
    save_arrays(stem, _arrays_of(policy), content)
    return stem.with_suffix(".safetensors"), stem.with_suffix(".json")


def _arrays_of(policy: MetaPolicy) -> Arrays:
    """The arrays of every start, named ``start_<number>.<name>``."""
    arrays: Arrays = {}
    for number, start in enumerate(policy.starts.starts):
        arrays[f"start_{number}.learning_rates"] = start.learning_rates
        parts = kind_of_policy(start.initialization).to_arrays(start.initialization)
        arrays |= {f"start_{number}.{name}": value for name, value in parts.items()}
        if start.regression is not None:
            fitted = start.regression.to_arrays()
            arrays |= {f"start_{number}.{_REGRESSION}{name}": value for name, value in fitted.items()}
    return arrays


def start_folder(path: Path) -> Path | None:
    """The folder of a start: ``path`` itself, or that in the run directory ``path``; None where there is none."""
    return next((folder for folder in (path, path / STEM) if (folder / f"{STEM}.json").is_file()), None)


def load_meta_policy(folder: Path) -> MetaPolicy:
    """Read the files of :func:`save_meta_policy` and validate every shape. Reading executes no code.

    Raises:
        DamagedFileError: A file is missing, damaged, or does not describe a start.
    """
    stem = folder / STEM
    arrays, content = load_arrays(stem)
    try:
        if content["kind"] != KIND:
            raise ValueError(f"its kind is {content['kind']!r}, not {KIND!r}")
        require_modules_of(content["settings"].get("within_task") or {}, arrays)
        spaces = _spaces(**content["spaces"])
        starts = tuple(
            _start(arrays, number, spaces, len(content["cost_names"])) for number in range(content["num_starts"])
        )
        if not starts:
            raise ValueError("it holds no start")
        contexts = Contexts.from_json(content["contexts"]) if "contexts" in content else None
        fitted = starts[0].regression
        if fitted is not None and (contexts is None or fitted.intercept.size != contexts.space.size):
            raise ValueError("the regression is for contexts of another number of entries")
        several = Candidates(starts, content["selection"], content["probe_episodes"]) if len(starts) > 1 else None
        rates = content["random_rates"]
        return MetaPolicy(
            starts=several or starts[0],
            settings=dict(content["settings"]),
            spaces=spaces,
            cost_names=tuple(map(str, content["cost_names"])),
            random_rates=None if rates is None else tuple(map(float, rates)),
            facts=dict(content["facts"]),
            contexts=contexts,
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{stem}.json: does not describe a learned start ({error!r})") from error


def _spaces(tabular: bool, observation: int, actions: int, low: list[float | None], high: list[float | None]) -> Spaces:
    return Spaces(tabular, observation, actions, tuple(low), tuple(high))


def _start(arrays: Arrays, number: int, spaces: Spaces, num_costs: int) -> Start:
    prefix = f"start_{number}."
    parts = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    rates = parts.pop("learning_rates")
    fitted = {name.removeprefix(_REGRESSION): parts.pop(name) for name in list(parts) if name.startswith(_REGRESSION)}
    if rates.shape != (1 + num_costs,) or not (np.isfinite(rates) & (rates > 0.0)).all():
        raise ValueError(f"{prefix}learning_rates must be {1 + num_costs} positive numbers")
    try:
        policy = kind_named("tabular" if spaces.tabular else "neural").from_arrays(parts, spaces)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from error
    return Start(policy, rates, regression=_regression(fitted, policy, prefix) if fitted else None)


def _regression(parts: dict[str, Any], policy: Policy, prefix: str) -> ContextRegression:
    if not isinstance(policy, PolicyState):
        raise ValueError(f"{prefix}{_REGRESSION}: only networks infer contexts")
    regression = ContextRegression.from_arrays(parts)
    entries = regression.intercept.size
    regression.require_shapes(*moment_sizes(policy, entries), entries)
    return regression
