"""An RLlib algorithm as a within-task method: its settings, its class, and its configuration for a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.apis import TargetNetworkAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from distributed.rllib.crpo_algorithm import CRPO, OF_RLLIB, CRPOConfig
from distributed.rllib.crpo_module import CRPOModule
from distributed.solvers.task_environment import SOURCE, TaskEnv, TaskSource
from distributed.solvers.task_runner import TaskRunner
from policies.neural.neural_settings import NeuralSettings
from policies.rules.outside import class_outside
from policies.rules.rule_registry import MethodSettings
from tasks.contract.contextual_family import context_size
from tasks.contract.family_registry import FamilyError, loaded_class

OWN = "CRPO"
"""The class of this project."""
_KEY = "within_task.method"
_OF_CRPO_ALONE = (
    "reward_trace",
    "cost_trace",
    "constraint_choice",
    "update_statistics",
    "keep_function",
    "trust_region",
    "critic",
)
_SET_HERE = {
    "gamma": "the family's discount",
    "train_batch_size": "within_task.steps_per_iteration",
    "cost_limits": "the task's limits",
    "learning_rates": "those of the start (meta.learning_rates)",
    "horizon": "the family's",
    "initialization": "the start that was learned",
    "settings": "the keys of within_task",
}
"""Arguments of RLlib's ``training`` that a task decides."""


class RLlibMethod(BaseModel):
    """The keys of ``within_task.method`` where ``name`` is rllib:CRPO or rllib:package.module:Class."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    costs: Literal["ignored"] | None = None
    """ignored: the class maximises the reward alone. Required for classes that take no cost limits; costs are measured,
    reported, and decide which iterate is the output all the same."""
    num_env_runners: int = Field(default=0, ge=0, le=1024)
    """RLlib's environment runners of one task, each a process with a CPU; 0 samples in the worker itself."""
    training: dict[str, JsonValue] = {}
    """Arguments of the class's ``training``, such as lr and num_epochs of PPO: numbers, words, and lists of them."""


def method_of(settings: MethodSettings) -> RLlibMethod:
    """The method's own settings.

    Raises:
        ValueError: a key is unknown or has a wrong value.
    """
    try:
        method = RLlibMethod.model_validate(settings.parameters)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        allowed = ", ".join(RLlibMethod.model_fields)
        text = f"is no setting of it (allowed: {allowed})" if first["type"] == "extra_forbidden" else first["msg"]
        raise ValueError(f"{_KEY}.{key}: {settings.name}: {text}; given: {first['input']!r}") from error
    for key, value in method.training.items():
        if key in _SET_HERE:
            raise ValueError(f"{_KEY}.training.{key}: is not set here: it is {_SET_HERE[key]}")
        if not _plain(value):
            raise ValueError(
                f"{_KEY}.training.{key}: must be a number, a word or a list of them, got {value!r}; what names code "
                "belongs into a class of your own"
            )
    return method


def _plain(value: JsonValue) -> bool:
    if isinstance(value, list):
        return all(_plain(part) for part in value)
    return not isinstance(value, Mapping) and (not isinstance(value, str) or value.isidentifier())


def algorithm_class(name: str) -> type[Algorithm]:
    """The class of the method ``name``, which runs the user's code where it is the user's.

    Raises:
        ValueError: there is no such class, or it is no Algorithm of RLlib.
    """
    given = class_outside(name)
    if given == OWN:
        return CRPO
    if not given or ":" not in given:
        raise ValueError(f"{_KEY}.name: {name}: must be rllib:{OWN} or rllib:package.module:Class")
    try:
        found = loaded_class(given)
    except FamilyError as error:
        raise ValueError(f"{_KEY}.name: {name}: {error.message}") from error
    if not issubclass(found, Algorithm):
        raise ValueError(f"{_KEY}.name: {name}: {found.__name__} is not an Algorithm of RLlib")
    return found


def takes_limits(config: AlgorithmConfig) -> bool:
    """Whether the algorithm of ``config`` is told cost limits."""
    return hasattr(config, "cost_limits")


def takes_rates(config: AlgorithmConfig) -> bool:
    """Whether it takes the learning rates of a start, so that they can be learned across tasks."""
    return isinstance(config, CRPOConfig)


def default_config(settings: NeuralSettings, *, learns_rates: bool = False) -> AlgorithmConfig:
    """The class's configuration with what ``training`` says, checked against the settings; no task is known yet.

    Raises:
        ValueError: names the setting, and what would be right.
    """
    name, method = settings.method.name, method_of(settings.method)
    found: object = algorithm_class(name).get_default_config()
    if not isinstance(found, AlgorithmConfig):
        raise ValueError(f"{_KEY}.name: {name}: get_default_config must return an AlgorithmConfig, got {found!r}")
    config: Any = found
    try:
        config.training(**method.training)
    except Exception as error:
        raise ValueError(f"{_KEY}.training: {name}: {type(error).__name__}: {error}") from error
    _require_kind(name, config)
    _require_costs(name, config, method)
    _require_effect(settings, config, method, learns_rates=learns_rates)
    return found


def _require_kind(name: str, config: Any) -> None:
    """Raise ValueError unless the algorithm learns a policy with a value on the new API stack, from episodes."""
    if not (config.enable_rl_module_and_learner and config.enable_env_runner_and_connector_v2):
        raise ValueError(f"{_KEY}.name: {name}: runs on RLlib's old API stack; the new one is needed")
    if config.is_offline or config.is_multi_agent:
        raise ValueError(f"{_KEY}.name: {name}: must learn one policy from environments (no offline data, one agent)")
    if config.num_learners:
        raise ValueError(f"{_KEY}.name: {name}: num_learners must be 0, got {config.num_learners}")
    try:
        found = config.get_default_rl_module_spec().module_class
    except Exception as error:
        raise ValueError(f"{_KEY}.name: {name}: has no RLModule: {type(error).__name__}: {error}") from error
    if not issubclass(found, ValueFunctionAPI) or issubclass(found, TargetNetworkAPI):
        raise ValueError(
            f"{_KEY}.name: {name}: its loss needs more than a policy and its value ({found.__name__}), which a start "
            "does not have; algorithms like PPO can be used"
        )


def _require_costs(name: str, config: AlgorithmConfig, method: RLlibMethod) -> None:
    if takes_limits(config) and method.costs is not None:
        raise ValueError(f"{_KEY}.costs: has no effect where {name} takes cost limits; leave it out")
    if not takes_limits(config) and method.costs is None:
        raise ValueError(
            f"{_KEY}.costs: {name} takes no cost limits and maximises the reward alone; set it to ignored if that is "
            f"meant, or take rllib:{OWN}"
        )


def _require_effect(
    settings: NeuralSettings, config: AlgorithmConfig, method: RLlibMethod, *, learns_rates: bool
) -> None:
    """Raise ValueError for settings that would have no effect."""
    name, runners = settings.method.name, max(1, method.num_env_runners)
    if settings.num_copies % runners:
        raise ValueError(
            f"{_KEY}.num_env_runners: {runners} runners cannot share the {settings.num_copies} copies of "
            "within_task.num_copies evenly"
        )
    if settings.device != "cpu":
        raise ValueError(f"within_task.device: must be cpu where within_task.method.name is {name}")
    for key, given in (
        ("trust_region.delta_last", settings.trust_region.delta_last),
        ("final_log_std", settings.final_log_std),
    ):
        if given is not None:
            raise ValueError(f"within_task.{key}: has no effect where within_task.method.name is {name}")
    if isinstance(config, CRPOConfig):
        return
    defaults = NeuralSettings()
    for key in _OF_CRPO_ALONE:
        given = getattr(settings, key)
        if key == "trust_region":
            given = given.model_copy(update={"preconditioner": defaults.trust_region.preconditioner})
        if given != getattr(defaults, key):
            raise ValueError(f"within_task.{key}: has no effect where within_task.method.name is {name}; leave it out")
    if learns_rates:
        raise ValueError(
            f"meta.learning_rates.method: must be fixed where within_task.method.name is {name}: it does not take the "
            "rates of a start"
        )


def network_keys(settings: NeuralSettings) -> dict[str, Any]:
    """The keys of ``within_task`` that differ from their defaults and that RLlib has no other place for."""
    given = settings.model_dump(mode="python", exclude_defaults=True)
    return {key: value for key, value in given.items() if key not in {*OF_RLLIB, "method", "algorithm"}}


def task_config(settings: NeuralSettings, source: TaskSource, rates: np.ndarray[Any, Any]) -> AlgorithmConfig:
    """The configuration that solves a task from a start with ``rates`` [1+p].

    Raises:
        ValueError: as :func:`default_config`.
    """
    config: Any = default_config(settings)
    runners, limits = method_of(settings.method).num_env_runners, list(source.task.limits)
    given: dict[str, Any] = {"train_batch_size": settings.steps_per_iteration, "gamma": source.family.discount}
    if takes_limits(config):
        given["cost_limits"] = limits
    if isinstance(config, CRPOConfig):
        config.context_size = context_size(source.family)
        given |= {
            "learning_rates": rates.tolist(),
            "horizon": source.family.horizon,
            "settings": network_keys(settings),
        }
    content = {"num_costs": len(limits), "seed": 0, "settings": network_keys(settings)}
    return (
        config.environment(TaskEnv, env_config={SOURCE: source})
        .training(**given)
        .env_runners(
            num_env_runners=runners,
            num_envs_per_env_runner=settings.num_copies // max(1, runners),
            env_runner_cls=TaskRunner,
            sample_timeout_s=None,
        )
        .rl_module(rl_module_spec=RLModuleSpec(module_class=CRPOModule, model_config=content))
        .fault_tolerance(restart_failed_env_runners=False, restart_failed_sub_environments=False)
        .debugging(seed=source.task.seed % 2**31, log_level="ERROR")
    )
