"""The run file: one home for every setting, checked before any work is done."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from meta.learning.settings import MetaSettings
from meta.methods.registry import require_known_methods
from meta.offline.dice_settings import DICESettings
from meta.training.evaluation_settings import EvaluationSettings
from meta.training.experiment import Experiment, require_matching_sections
from policies.neural.update import NeuralSettings
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.family_registry import FamilySpec

_UNKNOWN = "unknown_algorithm"
_FROZEN = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ConfigurationError(ValueError):
    """A run file, an override or a directory that cannot be used; the message says which key and what is allowed."""


class FamilySettings(BaseModel):
    """Which tasks: the `family` section. The family's own parameters stand beside `name` (see `metasrl families`)."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str
    """A built-in family, or package.module:ClassName or path/to/file.py:ClassName of your own."""
    num_tasks: int = Field(default=96, gt=0)
    """Training tasks."""


class ClusterSettings(BaseModel):
    """Where it runs: the `cluster` section. Only `tasks_per_round` changes what is computed."""

    model_config = _FROZEN

    pool: Literal["local", "ray"] = "ray"
    """local: everything in this process; ray: actors on a Ray cluster, by default one started on this machine."""
    num_workers: int = Field(default=2, gt=0)
    """CRPO workers."""
    tasks_per_round: int = Field(default=4, gt=0)
    """B, tasks that start from the same (phi, alpha); one meta-update follows each round."""
    address: str | None = None
    """Ray cluster to connect to; empty starts one on this machine, or uses the one that runs this job."""
    dashboard: bool = True
    """Start Ray's dashboard with a local cluster (on loopback)."""
    dashboard_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of the dashboard; empty takes 8265 or the next free one."""
    object_store_mb: int = Field(default=256, ge=80)
    """Object store of a local cluster, in MiB."""
    task_retries: int = Field(default=3, ge=0)
    """How often a task is run again after its worker died before the run gives up."""
    start_timeout_seconds: float = Field(default=120.0, gt=0.0)
    """How long to wait for the cluster to start the workers."""


class TrackingSettings(BaseModel):
    """Experiment tracking: the `tracking` section."""

    model_config = _FROZEN

    enabled: bool = True
    """Log to MLflow."""
    uri: str | None = None
    """MLflow tracking URI; empty takes MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the working directory."""
    experiment: str = "metasrl"
    """MLflow experiment."""
    task_runs: bool = True
    """A nested run per training task; false for very many short tasks, whose tracking would cost more than they do."""
    flush_timeout_seconds: float = Field(default=60.0, ge=0.0)
    """How long to wait at the end for a slow tracking server; what is not sent is kept and sent on resume."""

    @field_validator("uri")
    @classmethod
    def _no_password(cls, uri: str | None) -> str | None:
        if uri is not None and re.search(r"://[^/@]*:[^/@]+@", uri):
            raise PydanticCustomError(
                "password",
                "must hold no password: it would be kept with the run and shown in MLflow; give the whole URI as the "
                "environment variable MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            )
        return uri


class OutputSettings(BaseModel):
    """Where results go: the `output` section."""

    model_config = _FROZEN

    run_dir: str = "runs"
    """Parent of the run directories, a path or URL (s3://bucket/runs); a run writes to <run_dir>/<name>/<timestamp>."""
    local_dir: str = "runs"
    """Where the run directory is while it is worked on, if run_dir is a URL: it is copied there as it grows."""
    flush_timeout_seconds: float = Field(default=60.0, ge=0.0)
    """How long to wait at the end for a slow object store, if run_dir is a URL."""
    keep_checkpoints: int = Field(default=3, ge=2)
    """Newest checkpoints kept; at least two, so that a damaged newest one has one before it."""


def _algorithm(value: Any) -> str:
    """Which member of the union a ``within_task`` section is."""
    if isinstance(value, dict):
        return str(value.get("algorithm", "crpo"))
    return str(getattr(value, "algorithm", "crpo"))


WithinTaskSection = Annotated[
    Annotated[WithinTaskSettings, Tag("crpo")] | Annotated[NeuralSettings, Tag("neural_crpo")],
    Discriminator(_algorithm, custom_error_type=_UNKNOWN, custom_error_message="must be crpo or neural_crpo"),
]


class RunConfig(BaseModel):
    """A run file."""

    model_config = _FROZEN

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run: letters, digits, dot, dash and underscore."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random."""
    family: FamilySettings
    """Which tasks."""
    within_task: WithinTaskSection = WithinTaskSettings()
    """How one task is solved: tabular (algorithm crpo) or with a network (neural_crpo)."""
    dice: DICESettings = DICESettings()
    """How stationary distributions are estimated."""
    meta: MetaSettings = MetaSettings()
    """How the start is learned."""
    cluster: ClusterSettings = ClusterSettings()
    """Where it runs."""
    tracking: TrackingSettings = TrackingSettings()
    """Experiment tracking."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How starts are judged."""
    output: OutputSettings = OutputSettings()
    """Where results go."""

    @model_validator(mode="after")
    def _sections_belong_together(self) -> RunConfig:
        require_matching_sections(self.within_task, self.dice, self.meta)
        require_known_methods(self.evaluation, self.within_task)
        return self

    @property
    def experiment(self) -> Experiment:
        """The part that decides what is computed."""
        own = dict(self.family.model_extra or {})
        return Experiment(
            family=FamilySpec(self.family.name, self.seed, self.family.num_tasks, own),
            tasks_per_round=self.cluster.tasks_per_round,
            within=self.within_task,
            dice=self.dice,
            meta=self.meta,
            evaluation=self.evaluation,
        )

    def digest(self) -> str:
        """Digest of all that decides the learned state: a run may be resumed only under the same."""
        parts = {
            "seed": self.seed,
            "family": self.family.model_dump(mode="json"),
            "within_task": self.within_task.model_dump(mode="json"),
            "dice": self.dice.model_dump(mode="json"),
            "meta": self.meta.model_dump(mode="json"),
            "tasks_per_round": self.cluster.tasks_per_round,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def to_yaml(self) -> str:
        """The resolved run file."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_config(path: Path, overrides: Sequence[tuple[str, str]] = ()) -> RunConfig:
    """Read a run file, apply ``--dotted.key value`` overrides and check everything, the family's parameters included.

    Raises:
        ConfigurationError: names the file, the dotted key, what was given and what is allowed.
    """
    raw = read_yaml(path)
    for key, value in overrides:
        _override(raw, key, value)
    return parse_config(raw, str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """A run file's content, read without running any code of it.

    Raises:
        ConfigurationError: it cannot be read, is not plain YAML, or holds no sections.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigurationError(f"{path}: must hold the sections {', '.join(RunConfig.model_fields)}")
    return raw


def parse_config(raw: dict[str, Any], source: str) -> RunConfig:
    """Check a run file's content; ``source`` is named in errors."""
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(source, dict(item)) for item in error.errors()]
        raise ConfigurationError("\n".join(lines)) from error
    try:
        family = config.experiment.family.make()
        config.within_task.tolerances(len(family.cost_names))
        config.meta.learning_rates.initial_rates(len(family.cost_names))
    except ValueError as error:
        raise ConfigurationError(f"{source}: {error}") from error
    return config


def dotted_fields(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted key, default, explanation) of every setting, for ``--help`` and the documentation."""
    for name, field in model.model_fields.items():
        key, sections = f"{prefix}{name}", _models(field.annotation)
        if sections:
            yield from _merged([list(dotted_fields(section, f"{key}.")) for section in sections])
        else:
            default = "required" if field.is_required() else json.dumps(field.default)
            yield key, default, field.description or ""


def _merged(members: Sequence[Sequence[tuple[str, str, str]]]) -> Iterator[tuple[str, str, str]]:
    """The keys of a union's members, each once; where members differ, all that they say."""
    found: dict[str, list[tuple[str, str]]] = {}
    for key, default, told in itertools.chain.from_iterable(members):
        found.setdefault(key, []).append((default, told))
    for key, entries in found.items():
        parts = [dict.fromkeys(part) for part in zip(*entries, strict=True)]
        yield key, " or ".join(parts[0]), " | ".join(parts[1])


def _override(raw: dict[str, Any], key: str, value: str) -> None:
    *sections, last = key.split(".")
    node = raw
    for section in sections:
        if node.get(section) is None:  # absent, or left empty in the file
            node[section] = {}
        node = node[section]
        if not isinstance(node, dict):
            raise ConfigurationError(f"--{key}: {section} is a value, not a section")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--{key}: {value!r} is not a YAML value") from error


def _explain(source: str, error: dict[str, Any]) -> str:
    kind, location = error["type"], list(error["loc"])
    key = ".".join(_walk(location)[0])
    if kind in ("extra_forbidden", "missing"):
        names, models = _walk(location[:-1])
        key = ".".join([*names, str(location[-1])])
        allowed = f" (allowed here: {', '.join(models[0].model_fields)})" if models else ""
        if kind == "missing":
            return f"{source}: {key}: is missing{allowed}"
        return f"{source}: {key}: unknown key{allowed}; given: {error['input']!r}"
    if kind == _UNKNOWN:
        return f"{source}: {key}.algorithm: {error['msg']}; given: {error['input']['algorithm']!r}"
    given = f"; given: {error['input']!r}" if key and kind != "password" else ""
    return f"{source}: {key or '(file)'}: {error['msg']}{given}"


def _walk(location: Sequence[Any]) -> tuple[list[str], list[type[BaseModel]]]:
    """The names on the way to an error, without those that pydantic adds for a union's members, and what is there."""
    names: list[str] = []
    models: list[type[BaseModel]] = [RunConfig]
    for part in location:
        holder = next((model for model in models if part in model.model_fields), None)
        if holder is not None:
            names.append(str(part))
            models = _models(holder.model_fields[str(part)].annotation)
        elif isinstance(part, int):
            names.append(str(part))
        else:
            models = [model for model in models if _tag(model) == part]
    return names, models


def _tag(model: type[BaseModel]) -> Any:
    field = model.model_fields.get("algorithm")
    return None if field is None else field.default


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models among an annotation's members."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [model for member in get_args(annotation) for model in _models(member)]
    return []
