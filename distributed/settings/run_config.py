"""The settings of a run: one frozen pydantic model for each section of the run file."""

from __future__ import annotations

import hashlib
import json
import re
from math import isfinite
from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from distributed.settings.errors import ConfigurationError
from meta.learning.settings import MetaSettings
from meta.methods.registry import require_known_methods
from meta.offline.dice_settings import DICESettings
from meta.training.evaluation_settings import EvaluationSettings
from meta.training.experiment import Experiment, require_matching_sections
from meta.training.held_out_tasks import require_held_out_settings
from policies.common.safety import SafetySettings
from policies.networks.module_network import MLP, ROLES
from policies.neural.neural_settings import NeuralSettings
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.family_registry import FamilySpec

UNKNOWN_ALGORITHM = "unknown_algorithm"
"""Type of the validation error for a ``within_task.algorithm`` that does not exist."""
_FROZEN = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FamilySettings(BaseModel):
    """The `family` section: the tasks. Parameters of the family itself are keys of the same section."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str
    """A built-in family, or your own as package.module:ClassName or path/to/file.py:ClassName."""
    num_tasks: int = Field(default=96, gt=0)
    """Number of training tasks."""


class ClusterSettings(BaseModel):
    """The `cluster` section: where the run executes. Only `tasks_per_round` changes the result."""

    model_config = _FROZEN

    pool: Literal["local", "ray"] = "ray"
    """local: everything in this process; ray: actors on a Ray cluster, by default one started on this machine."""
    num_workers: int = Field(default=2, gt=0)
    """Number of CRPO workers."""
    worker_resources: dict[str, float] = {}
    """What each worker holds of its node, by Ray's names: CPU (1 unless given), GPU, or a resource of your nodes."""
    tasks_per_round: int = Field(default=4, gt=0)
    """B, tasks that start from the same (phi, alpha); one meta-update follows each round."""
    address: str | None = None
    """Ray cluster to connect to; null starts one on this machine, or uses the one that runs this job."""
    unauthenticated: bool = False
    """Use a cluster on other machines although RAY_AUTH_MODE is disabled; a network of your own must protect it."""
    dashboard: bool = True
    """Start Ray's dashboard with a local cluster, on the loopback interface."""
    dashboard_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of the dashboard; null takes 8265 or the next free one."""
    object_store_mb: int = Field(default=256, ge=80)
    """Size of a local cluster's object store in MiB."""
    task_retries: int = Field(default=3, ge=0)
    """Number of times a call is made again after its process died or did not answer; then a task is set aside, and for
    any other call the run ends."""
    task_attempts: int = Field(default=3, ge=1)
    """Number of times a task is tried whose environment fails, before it is set aside."""
    set_aside_share: float = Field(default=0.25, ge=0.0, le=1.0)
    """Largest share of the training tasks, and of the held-out tasks, that may be set aside: one of several at least,
    never all. 0: the first task that fails for good ends the run."""
    patience: float = Field(default=10.0, ge=2.0)
    """A call is given up when it takes this many times as long as the slowest such call so far, for its work."""
    least_patience_seconds: float = Field(default=120.0, gt=0.0)
    """No call is given up earlier than this, in seconds."""
    first_patience_seconds: float = Field(default=21600.0, gt=0.0)
    """Seconds after which a call is given up if no such call has ended yet."""
    start_timeout_seconds: float = Field(default=120.0, gt=0.0)
    """Maximum time for the cluster to start the workers, in seconds."""

    @field_validator("worker_resources")
    @classmethod
    def _usable_resources(cls, given: dict[str, float]) -> dict[str, float]:
        for name, amount in given.items():
            if not (isfinite(amount) and amount >= 0.0 and (amount <= 1.0 or amount == int(amount))):
                raise ValueError(f"{name}: {amount:g} is no amount: give a share of at most 1, or a whole number")
            if name in ("memory", "object_store_memory"):
                raise ValueError(f"{name} is counted in bytes and is not supported here; use large enough nodes")
        return given

    @property
    def resources_of_a_worker(self) -> dict[str, float]:
        """What each worker holds, with the one CPU that is not given."""
        return {"CPU": 1.0, **self.worker_resources}


class TrackingSettings(BaseModel):
    """The `tracking` section: logging to MLflow."""

    model_config = _FROZEN

    enabled: bool = True
    """Log to MLflow."""
    uri: str | None = None
    """MLflow tracking URI; null takes MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the working directory."""
    experiment: str = "metasrl"
    """Name of the MLflow experiment."""
    task_runs: bool = True
    """Log a nested run for each training task; false saves time if there are very many short tasks."""
    flush_timeout_seconds: float = Field(default=60.0, ge=0.0)
    """Maximum time at the end to send events to the server, in seconds; a resume sends unsent ones."""
    tensorboard: bool = False
    """Write event files for TensorBoard too, to tensorboard/ in the run directory."""

    @field_validator("uri")
    @classmethod
    def _no_password(cls, uri: str | None) -> str | None:
        if uri is not None and re.search(r"://[^/@]*:[^/@]+@", uri):
            raise PydanticCustomError(
                "password",
                "must hold no password: it would be stored with the run and shown in MLflow; give the full URI as the "
                "environment variable MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            )
        return uri


class OutputSettings(BaseModel):
    """The `output` section: where results are written."""

    model_config = _FROZEN

    run_dir: str = "runs"
    """Parent of the run directories, a path or URL (s3://bucket/runs); a run writes to <run_dir>/<name>/<timestamp>."""
    local_dir: str = "runs"
    """Local parent of the run directory if run_dir is a URL; the run copies it there as it grows."""
    flush_timeout_seconds: float = Field(default=60.0, ge=0.0)
    """Maximum time at the end to copy the run directory, in seconds, if run_dir is a URL."""
    keep_checkpoints: int = Field(default=3, ge=2)
    """Number of newest checkpoints to keep; at least two, as a fallback for a damaged one."""


def _algorithm(value: object) -> str:
    """The tag that selects the model of a ``within_task`` section."""
    if isinstance(value, dict):
        return str(value.get("algorithm", "crpo"))
    return str(getattr(value, "algorithm", "crpo"))


WithinTaskSection = Annotated[
    Annotated[WithinTaskSettings, Tag("crpo")] | Annotated[NeuralSettings, Tag("neural_crpo")],
    Discriminator(_algorithm, custom_error_type=UNKNOWN_ALGORITHM, custom_error_message="must be crpo or neural_crpo"),
]


CODE_KINDS = {
    "family.name": "family",
    "within_task.method.name": "method",
    **{f"within_task.{role}": "network" for role in ROLES},
}
"""The settings that name classes of the user's, and what each is in messages."""


_LATER = {
    *("network", "network_arguments", "critic_network", "critic_network_arguments", "device", "new_tasks"),
    *("first_tasks", "begin_log_std", "first_log_std", "last_log_std", "centring", "map", "ridges", "keep_function"),
    *("final_log_std", "final_noise_share"),
}
"""Keys that sections of a digest got after runs had begun without them."""


def _for_digest(section: BaseModel) -> dict[str, JsonValue]:
    """A section without later keys that are left at their defaults, so that the digests of earlier runs stay.

    Sections within it likewise.
    """
    content = section.model_dump(mode="json")
    nested = {name: value for name, value in section if name in content and isinstance(value, BaseModel)}
    content |= {name: _for_digest(value) for name, value in nested.items()}
    defaults = type(section).model_construct().model_dump(mode="json", include=_LATER & content.keys())
    return {key: value for key, value in content.items() if key not in _LATER or value != defaults[key]}


class RunConfig(BaseModel):
    """A validated run file."""

    model_config = _FROZEN

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run: letters, digits, dot, dash and underscore."""
    seed: int = Field(default=0, ge=0)
    """Seed of every random number."""
    family: FamilySettings
    """The tasks."""
    within_task: WithinTaskSection = WithinTaskSettings()
    """How one task is solved: tabular (algorithm crpo) or with a network (neural_crpo)."""
    dice: DICESettings = DICESettings()
    """How stationary distributions are estimated."""
    meta: MetaSettings = MetaSettings()
    """How the start is learned."""
    cluster: ClusterSettings = ClusterSettings()
    """Where the run executes."""
    tracking: TrackingSettings = TrackingSettings()
    """Experiment tracking."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How starts are evaluated."""
    output: OutputSettings = OutputSettings()
    """Where results are written."""
    check_family: bool = True
    """Before a run, check a family of your own as `metasrl check-family` does, in a process of its own (seconds)."""

    @model_validator(mode="after")
    def _sections_belong_together(self) -> RunConfig:
        require_matching_sections(self.within_task, self.dice, self.meta)
        require_known_methods(self.evaluation, self.within_task)
        require_held_out_settings(self.within_task, self.evaluation)
        on_gpu = self.within_task.device == "cuda"
        if self.cluster.pool == "ray" and on_gpu and not self.cluster.worker_resources.get("GPU"):
            raise ValueError(
                "within_task.device: cuda needs cluster.worker_resources.GPU, since Ray shows a GPU only to workers "
                "that ask for it: 1 for each worker, or a share, such as 0.5 for two workers on one"
            )
        self._require_outside()
        return self

    def _require_outside(self) -> None:
        """Raise ValueError where another section does not go with a method that solves whole tasks."""
        method = self.within_task.method
        if method.outside and self.evaluation.safety is not None:
            raise ValueError(f"evaluation.safety: the steps of {method.name} cannot be bounded; leave it out")
        if method.outside and self.cluster.pool != "ray":
            raise ValueError(f"cluster.pool: must be ray where within_task.method.name is {method.name}, got local")

    def with_confidence(self, confidence: float, option: str) -> RunConfig:
        """The same settings with anytime-safe adaptation at this confidence, which ``option`` gave.

        Raises:
            ConfigurationError: It is not between 0 and 1, or ``evaluation.safety.tasks`` are too few for it.
        """
        given = self.evaluation.safety
        try:
            safety = SafetySettings(**({} if given is None else given.model_dump()) | {"confidence": confidence})
        except ValidationError as error:
            raise ConfigurationError(f"{option}: {error.errors()[0]['msg']}; got {confidence:g}") from error
        return self.model_copy(update={"evaluation": self.evaluation.model_copy(update={"safety": safety})})

    @property
    def code(self) -> dict[str, str]:
        """What is imported from the user's files, by the setting that names it: the family, the method, networks."""
        named = {"family.name": self.family.name}
        if not self.within_task.method.built_in:
            named["within_task.method.name"] = self.within_task.method.code
        networks = {f"within_task.{role}": str(getattr(self.within_task, role, MLP)) for role in ROLES}
        return named | {key: name for key, name in networks.items() if name != MLP}

    @property
    def experiment(self) -> Experiment:
        """The settings that determine the result."""
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
        """SHA-256 of every setting that determines the learned state; a run resumes only under the same digest."""
        parts = {
            "seed": self.seed,
            "family": self.family.model_dump(mode="json"),
            "within_task": _for_digest(self.within_task),
            "dice": self.dice.model_dump(mode="json"),
            "meta": _for_digest(self.meta),
            "tasks_per_round": self.cluster.tasks_per_round,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def to_yaml(self) -> str:
        """The resolved settings as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
