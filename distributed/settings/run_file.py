"""Read run files: YAML plus overrides, validated in full before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

import distributed
from distributed.settings.bounded_reading import (
    MOST_YAML_BYTES,
    RefusedFileError,
    parse_yaml,
    read_bytes,
    shortened,
    shown,
)
from distributed.settings.errors import ConfigurationError
from distributed.settings.keys import models_in
from distributed.settings.run_config import UNKNOWN_ALGORITHM, RunConfig
from meta.training.held_out_tasks import require_held_out_episodes
from policies.checking.separate_check import refusal
from policies.neural.neural_settings import NeuralSettings
from policies.rules.outside import solver_of
from policies.solving.algorithms import require_limits_of_returns
from tasks.contract.family_registry import BUILT_IN, FamilyError
from tasks.contract.task import TaskFamily, numbers_fault

SHIPPED = Path(distributed.__file__).parent.parent / "metasrl" / "run_files"
"""The run files that come with metasrl, which are named without their folder and suffix."""
RawSettings = dict[str, Any]
"""A run file's content before validation."""
_LONGEST_LINE, _MOST_LINES = 2000, 20
"""Of an error message."""


def load_config(path: Path, overrides: Sequence[tuple[str, str]] = ()) -> RunConfig:
    """Read a run file, apply ``--dotted.key value`` overrides and validate all of it, family parameters included.

    Raises:
        ConfigurationError: The message names the file, the dotted key, the given value and the allowed values.
    """
    return parse_config(with_overrides(read_yaml(path), overrides), str(path))


def with_overrides(raw: RawSettings, overrides: Sequence[tuple[str, str]]) -> RawSettings:
    """``raw`` with YAML values at dotted keys; it is changed in place.

    Raises:
        ConfigurationError: A value is not YAML, or a key leads through a value.
    """
    for key, value in overrides:
        _override(raw, key, value)
    return raw


def run_file_named(given: str) -> Path:
    """The run file at the path ``given``, or the shipped one of that name.

    Raises:
        ConfigurationError: There is neither; the message lists the shipped ones.
    """
    path, shipped = Path(given), {file.relative_to(SHIPPED).with_suffix("").as_posix(): file for file in _shipped()}
    if path.exists() or path.suffix or (path.name != given and given not in shipped) or not shipped:
        return path
    if given not in shipped:
        there = ", ".join(shipped)
        raise ConfigurationError(f"{given}: is neither a file here nor a shipped run file; shipped ones: {there}")
    return shipped[given]


def _shipped() -> list[Path]:
    """The shipped run files, those of the paper last."""
    return [*sorted(SHIPPED.glob("*.yaml")), *sorted(SHIPPED.glob("*/*.yaml"))]


def read_yaml(path: Path) -> RawSettings:
    """Parse a run file into plain data, within the bounds of :mod:`distributed.settings.bounded_reading`.

    Raises:
        ConfigurationError: The file cannot be read, is not plain YAML, or is not a mapping.
    """
    try:
        raw = parse_yaml(read_bytes(path, MOST_YAML_BYTES).decode("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except RefusedFileError as error:
        raise ConfigurationError(str(error)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: is not valid YAML: {shortened(str(error), _LONGEST_LINE)}") from error
    if not isinstance(raw, dict):
        raise ConfigurationError(f"{path}: must hold the sections {', '.join(RunConfig.model_fields)}")
    return raw


def parse_config(raw: Mapping[str, Any], source: str) -> RunConfig:
    """Validate a run file's content, and make its family; error messages name ``source``.

    Raises:
        ConfigurationError: One line for each invalid key.
    """
    config = validated(raw, source)
    require_usable(config, source)
    return config


def validated(raw: Mapping[str, Any], source: str) -> RunConfig:
    """Validate a run file's content but for the parameters of its family, of which no code runs.

    Raises:
        ConfigurationError: One line for each invalid key.
    """
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        found = error.errors()
        lines = [shortened(_explain(source, dict(item)), _LONGEST_LINE) for item in found[:_MOST_LINES]]
        more = [f"{source}: ... and {len(found) - _MOST_LINES} more"] if len(found) > _MOST_LINES else []
        raise ConfigurationError("\n".join([*lines, *more])) from error


def require_usable(config: RunConfig, source: str) -> None:
    """Make the family of ``config``, which runs its code, and check what depends on it.

    Raises:
        ConfigurationError: The family cannot be made, or settings do not fit it.
    """
    try:
        family = config.experiment.family.make()
        fault = numbers_fault(family)
        if fault is not None:
            raise FamilyError("name", f"{config.family.name}: {fault}")
        config.within_task.tolerances(len(family.cost_names))
        _require_usable_method(config, family)
        config.meta.learning_rates.initial_rates(len(family.cost_names))
        require_held_out_episodes(config.within_task, config.evaluation, family.horizon)
        if isinstance(config.within_task, NeuralSettings):
            here = config.cluster.pool == "local"
            config.within_task.modules.require_usable(config.within_task.device if here else None)
        require_limits_of_returns(config.within_task, family, config.experiment.family.parameters)
    except ValueError as error:
        text = f"{shortened(str(error), _LONGEST_LINE)}{_beside(source, config.family.name)}"
        raise ConfigurationError(f"{source}: {text}") from error


def _require_usable_method(config: RunConfig, family: TaskFamily) -> None:
    """Make the rule, or check the solver that takes the place of one, also for held-out tasks; raises ValueError."""
    method, learns_rates = config.within_task.method, config.meta.learning_rates.method != "fixed"
    if not method.outside:
        method.make().first(len(family.cost_names))
        return
    for within in (config.within_task, config.experiment.held_out_within):
        solver_of(method.name).require_usable(within, family, learns_rates=learns_rates)


def _beside(source: str, name: str) -> str:
    """What helps where a family lies beside its run file, and the run is started in another folder."""
    module, separator, class_name = name.partition(":")
    file = Path(source).parent / f"{module}.py"
    if not separator or Path(source).parent == Path() or Path(f"{module}.py").exists() or not file.is_file():
        return ""
    return f"; {file.name} lies beside the run file: cd {file.parent}, or give --family.name {file}:{class_name}"


def require_sound_family(config: RunConfig, say: Callable[[str], None]) -> None:
    """Check a family of the user's in a process of its own, unless ``check_family`` is off; ``say`` shows its notes.

    Raises:
        ConfigurationError: The family breaks its contract, in the words of ``metasrl check-family``.
    """
    spec = config.experiment.family
    if spec.name in BUILT_IN or not config.check_family:
        return
    fault, notes = refusal(spec.name, spec.parameters, spec.seed, spec.num_tasks)
    if fault is not None:
        raise ConfigurationError(
            f"family.name: {spec.name}: {fault} (metasrl check-family {spec.name} shows every check; "
            "--check_family false runs it as it is)"
        )
    for note in notes:
        say(f"family {spec.name}: {note}")


def _override(raw: RawSettings, key: str, value: str) -> None:
    *sections, last = key.split(".")
    node = raw
    for section in sections:
        if node.get(section) is None:  # absent, or left empty in the file
            node[section] = {}
        node = node[section]
        if not isinstance(node, dict):
            raise ConfigurationError(f"--{key}: {section} is a value, not a section")
    try:
        node[last] = parse_yaml(value)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--{key}: {shown(value)} is not a YAML value") from error


def _explain(source: str, error: Mapping[str, Any]) -> str:
    """One line of text for a validation error of pydantic."""
    kind, location = error["type"], [shortened(part) if isinstance(part, str) else part for part in error["loc"]]
    key = ".".join(_walk(location)[0])
    if kind in ("extra_forbidden", "missing"):
        names, models = _walk(location[:-1])
        key = ".".join([*names, str(location[-1])])
        allowed = f" (allowed here: {', '.join(models[0].model_fields)})" if models else ""
        if kind == "missing":
            return f"{source}: {key}: is missing{allowed}"
        return f"{source}: {key}: unknown key{allowed}; given: {shown(error['input'])}"
    if kind == UNKNOWN_ALGORITHM:
        return f"{source}: {key}.algorithm: {error['msg']}; given: {shown(error['input']['algorithm'])}"
    given = f"; given: {shown(error['input'])}" if key and kind != "password" else ""
    return f"{source}: {key or '(file)'}: {error['msg']}{given}"


def _walk(location: Sequence[str | int]) -> tuple[list[str], list[type[BaseModel]]]:
    """Follow pydantic's error location; return the key's names without union tags, and the models found there."""
    names: list[str] = []
    models: list[type[BaseModel]] = [RunConfig]
    for part in location:
        holder = next((model for model in models if part in model.model_fields), None)
        if holder is not None:
            names.append(str(part))
            annotation = holder.model_fields[str(part)].annotation
            models = models_in(annotation) or _models_of_entries(annotation)
        elif isinstance(part, int):
            names.append(str(part))
        else:
            models = [model for model in models if _tag(model) == part]
    return names, models


def _models_of_entries(annotation: object) -> list[type[BaseModel]]:
    """The models in the entries of a list, which are no sections with keys of their own."""
    members = get_args(annotation)
    if get_origin(annotation) is tuple:
        return [model for member in members for model in models_in(member)]
    return [model for member in members for model in _models_of_entries(member)]


def _tag(model: type[BaseModel]) -> object:
    field = model.model_fields.get("algorithm")
    return None if field is None else field.default
