"""Learned starts as RLModules, and back; reading them executes no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from ray.rllib.core.rl_module.rl_module import RLModule

from distributed.models.meta_policy import STEM, MetaPolicy, load_meta_policy, start_folder
from distributed.models.model_registry import connect, is_model_uri, resolve
from distributed.rllib.crpo_module import CRPOModule, spaces_of
from distributed.settings.errors import ConfigurationError
from policies.common.results import Start
from policies.networks.module_network import ModuleSpec, modules_of
from policies.neural.policy_state import PolicyState


def load_start(given: str) -> MetaPolicy:
    """The learned start that ``given`` names: a run directory, a folder with a start, or ``models:/NAME@alias``.

    Raises:
        ConfigurationError: there is none.
        DamagedFileError: its files are damaged.
    """
    if is_model_uri(given):
        return resolve(connect(None), given).policy
    folder = start_folder(Path(given))
    if folder is not None:
        return load_meta_policy(folder)
    raise ConfigurationError(
        f"initialization: {given}: holds no finished start (no {STEM}/{STEM}.json); give a run directory, or "
        "models:/NAME@champion"
    )


def start_of(given: str, module: CRPOModule, num_costs: int) -> Start:
    """The start that ``given`` names, checked against the spaces of ``module`` and the number of costs.

    Raises:
        ConfigurationError: it does not fit, is a table, needs contexts, or holds several starts.
    """
    meta = load_start(given)
    spaces = spaces_of(module.observation_space, module.action_space)
    start = _only_start(meta, given)
    if spaces.sizes != meta.spaces.sizes:
        raise ConfigurationError(
            f"initialization: {given}: was learned on {meta.spaces}; the environment has {spaces}: they must agree"
        )
    if num_costs != len(meta.cost_names):
        raise ConfigurationError(
            f"initialization: {given}: was learned under {len(meta.cost_names)} costs ({', '.join(meta.cost_names)}), "
            f"and cost_limits has {num_costs}: give one limit for each"
        )
    try:
        module.policy = cast("PolicyState", start.initialization)
    except ValueError as error:
        raise ConfigurationError(
            f"initialization: {given}: {error}; config.training(settings=...) must name the networks of the start: "
            f"{network_settings(meta)}"
        ) from error
    return start


def _only_start(meta: MetaPolicy, given: str) -> Start:
    start = meta.starts.starts[0]
    if not isinstance(start.initialization, PolicyState):
        raise ConfigurationError(f"initialization: {given}: is a table of probabilities; RLlib needs a network")
    if len(meta.starts.starts) > 1:
        raise ConfigurationError(
            f"initialization: {given}: holds {len(meta.starts.starts)} starts, of which one is chosen by trying them "
            "on a task: metasrl adapt does that"
        )
    if meta.contexts is not None:
        raise ConfigurationError(
            f"initialization: {given}: its start is a function of the task's context, which RLlib's environments lack"
        )
    return start


def network_settings(meta: MetaPolicy) -> dict[str, Any]:
    """The keys of a start's settings that its networks are made from."""
    within = meta.settings["within_task"]
    kept = ("hidden", "critic_hidden", "network", "network_arguments", "critic_network", "critic_network_arguments")
    found = {key: within[key] for key in kept if key in within}
    for role, widths in (("network", "hidden"), ("critic_network", "critic_hidden")):
        if found.get(role, "mlp") != "mlp":
            del found[widths]
            found["trust_region"] = {"preconditioner": "none"}
    return found


def module_of_start(given: str, observation_space: Any, action_space: Any) -> CRPOModule:
    """The learned start as an RLModule for these spaces: RLlib's PPO can go on from it, and RLlib can serve it.

    ``module.save_to_path(folder)`` writes it, ``RLModule.from_checkpoint(folder)`` reads it.

    Raises:
        ConfigurationError: as :func:`start_of`.
        ModuleError: its networks are modules that the user does not name (``METASRL_NETWORKS``).
    """
    meta = load_start(given)
    _only_start(meta, given)
    for name, _ in sorted(modules_of(meta.settings["within_task"])):
        ModuleSpec(name, named=False).require_named()
    content = {"num_costs": len(meta.cost_names), "seed": 0, "settings": network_settings(meta)}
    module = CRPOModule(observation_space=observation_space, action_space=action_space, model_config=content)
    start_of(given, module, len(meta.cost_names))
    return module


def policy_of_checkpoint(folder: str | Path) -> PolicyState:
    """The policy in a checkpoint of an RLModule; RLlib unpickles its files, so read only those that you trust.

    Raises:
        ConfigurationError: it is the checkpoint of another module.
    """
    module = RLModule.from_checkpoint(Path(folder).absolute())
    if not isinstance(module, CRPOModule):
        raise ConfigurationError(f"{folder}: holds a {type(module).__name__}, not a CRPOModule")
    return module.policy
