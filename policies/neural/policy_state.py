"""A neural policy as plain arrays: actor, critic and the observation statistics that are part of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from policies.networks.distributions import LOG_STD, extra_of
from policies.networks.mlp import Array, Network, initialize, network_of
from policies.networks.module_network import MODULE, ModuleNetwork, ModuleSpec, initial_network, network_of_module
from policies.networks.network import AnyNetwork
from tasks.contract.tabular_model import FloatArray

_LEAST_VARIANCE = 1e-6
CLIP = 10.0
"""Normalised observations are clipped to +-CLIP."""
TARGET_MEAN, TARGET_SCALE = "target_mean", "target_scale"


@dataclass(frozen=True, slots=True)
class ObservationStatistics:
    """Running mean and variance [d] of ``count`` observations; they normalise what actor and critic see."""

    mean: FloatArray
    variance: FloatArray
    count: float

    def merged(self, observations: Array, context_size: int = 0) -> ObservationStatistics:
        """With the rows of ``observations`` [N, d] added; the last ``context_size`` inputs keep their normalisation.

        A context is normalised already and the same throughout a task: its own statistics would make it vanish.
        """
        rows = observations.astype(np.float64)
        found = merge(self, ObservationStatistics(rows.mean(axis=0), rows.var(axis=0), float(len(rows))))
        own = found.mean.size - context_size
        mean, variance = (
            np.concatenate([new[:own], old[own:]])
            for new, old in ((found.mean, self.mean), (found.variance, self.variance))
        )
        return ObservationStatistics(mean, variance, found.count)

    def normalize(self, observations: Array) -> Array:
        """(x - mean) / sqrt(variance), clipped to +-10, in the type of ``observations``."""
        return self.normalizer(observations.dtype)(observations)

    def normalizer(self, dtype: DTypeLike = np.float32) -> Callable[[Array], Array]:
        """:meth:`normalize` with its constants computed once."""
        mean, scale = self.mean.astype(dtype), self.scale.astype(dtype)

        def normalize(observations: Array) -> Array:
            centred = observations - mean
            centred *= scale
            np.maximum(centred, -CLIP, out=centred)
            return np.asarray(np.minimum(centred, CLIP, out=centred))

        return normalize

    @property
    def scale(self) -> FloatArray:
        """1 / sqrt(variance), a variance of (nearly) 0 replaced by a small one."""
        return np.asarray(1.0 / np.sqrt(np.maximum(self.variance, _LEAST_VARIANCE)))


def merge(first: ObservationStatistics, second: ObservationStatistics) -> ObservationStatistics:
    """Statistics of both sets together (Chan, Golub, LeVeque 1979).

    n = n_a + n_b, d = mean_b - mean_a: mean = mean_a + d n_b / n; n var = n_a var_a + n_b var_b + d^2 n_a n_b / n.
    """
    count = first.count + second.count
    if first.count == 0.0 or second.count == 0.0:
        return second if first.count == 0.0 else first
    difference, share = second.mean - first.mean, second.count / count
    variance = (1.0 - share) * first.variance + share * second.variance + share * (1.0 - share) * difference**2
    return ObservationStatistics(first.mean + share * difference, variance, count)


def no_observations(size: int) -> ObservationStatistics:
    """Nothing seen: mean 0, variance 1."""
    return ObservationStatistics(np.zeros(size), np.ones(size), 0.0)


@dataclass(frozen=True, slots=True)
class Parameters:
    """A network with its flat parameter vector."""

    network: AnyNetwork
    vector: Array

    def arrays(self) -> dict[str, Array]:
        """Every parameter by name, as views."""
        return self.network.arrays(self.vector)


@dataclass(frozen=True, slots=True)
class PolicyState:
    """A complete neural policy.

    ``actor``: outputs are logits (categorical) or means (Gaussian, with ``log_std`` outside the layers), in units of
    half the action range. ``critic``: one network with 1 + p heads, in units of its own ``target_scale`` about
    ``target_mean`` [1+p] per head. One shared network costs 1 / (1 + p) of p + 1 critics in time and parameters; with
    targets normalised per head, no objective drowns another (``benchmarks/speed/update_speed.py`` compares it with
    separate critics).
    """

    actor: Parameters
    critic: Parameters
    statistics: ObservationStatistics

    @property
    def num_objectives(self) -> int:
        """1 + p."""
        return self.critic.network.num_outputs

    def values(self, observations: Array) -> Array:
        """V_i(s) of ``observations`` [N, d] for every head, [N, 1+p]."""
        return critic_values(self.critic, self.statistics.normalize(observations))

    def act(self, observations: Array) -> tuple[Array, Array]:
        """Outputs [N, k] of the actor for ``observations`` [N, d], and its extra parameters [e]."""
        outputs = self.actor.network.apply(self.actor.vector, self.statistics.normalize(observations))
        return outputs, extra_of(self.actor.network, self.actor.vector)

    def with_noise(self, log_std: float | Array) -> PolicyState:
        """The policy with other log standard deviations (one, or [k]); a categorical one has none."""
        network, vector = self.actor.network, self.actor.vector.copy()
        extra_of(network, vector)[:] = log_std
        return dataclasses.replace(self, actor=Parameters(network, vector))

    def with_statistics(self, statistics: ObservationStatistics) -> PolicyState:
        """The same actions and values under other ``statistics`` (up to rounding and the clipping at +-10).

        (x - m) s is (x - m') s' times s / s' plus (m' - m) s, which the networks take in. A policy that has seen
        nothing keeps its weights: they were drawn for normalised inputs. A number that has never changed (a pixel) has
        no scale yet: modules take the new one for it, with the same function of all that was seen.
        """
        if self.statistics.count == 0.0:
            return dataclasses.replace(self, statistics=statistics)
        return PolicyState(
            _renormalized(self.actor, self.statistics, statistics),
            _renormalized(self.critic, self.statistics, statistics),
            statistics,
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """A flat dictionary of arrays, as safetensors stores it; shapes and names hold the entire architecture."""
        actor = {f"actor.{name}": value for name, value in self.actor.arrays().items()}
        critic = {f"critic.{name}": value for name, value in self.critic.arrays().items()}
        statistics = self.statistics
        return {
            **actor,
            **critic,
            "statistics.mean": statistics.mean,
            "statistics.variance": statistics.variance,
            "statistics.count": np.array([statistics.count]),
        }


def _renormalized(parameters: Parameters, old: ObservationStatistics, new: ObservationStatistics) -> Parameters:
    scale = old.scale
    if isinstance(parameters.network, ModuleNetwork):
        scale = np.where(old.variance < _LEAST_VARIANCE, new.scale, scale)
    ratio, shift = scale / new.scale, (new.mean - old.mean) * scale
    return Parameters(parameters.network, parameters.network.with_inputs(parameters.vector, ratio, shift))


def critic_values(critic: Parameters, inputs: Array) -> Array:
    """V_i = target_mean_i + target_scale_i * output_i for normalised ``inputs`` [N, d], [N, 1+p]."""
    outputs = critic.network.apply(critic.vector, inputs)
    outputs *= critic.network.part(critic.vector, TARGET_SCALE)
    outputs += critic.network.part(critic.vector, TARGET_MEAN)
    return outputs


def policy_from_arrays(arrays: Mapping[str, NDArray[Any]]) -> PolicyState:
    """The inverse of :meth:`PolicyState.to_arrays`.

    Raises:
        ValueError: a parameter is missing or has the wrong shape.
    """
    groups: dict[str, dict[str, Any]] = {"actor": {}, "critic": {}, "statistics": {}}
    for name, value in arrays.items():
        group, _, rest = name.partition(".")
        if group not in groups:
            raise ValueError(f"{name} is not part of a policy; names start with actor., critic. or statistics.")
        groups[group][rest] = value
    missing = {"mean", "variance", "count"} - groups["statistics"].keys()
    if missing:
        raise ValueError(f"a policy needs statistics.{sorted(missing)[0]}")
    found = groups["statistics"]
    statistics = ObservationStatistics(found["mean"], found["variance"], float(found["count"][0]))
    critic = _parameters_of(_extras_last(groups["critic"], (TARGET_MEAN, TARGET_SCALE)))
    return PolicyState(_parameters_of(groups["actor"]), critic, statistics)


def _parameters_of(arrays: dict[str, Any]) -> Parameters:
    return Parameters(*(network_of_module(arrays) if MODULE in arrays else network_of(arrays)))


def _extras_last(arrays: dict[str, Any], order: tuple[str, ...]) -> dict[str, Any]:
    layers = {name: value for name, value in arrays.items() if name not in order}
    return {**layers, **{name: arrays[name] for name in order if name in arrays}}


@dataclass(frozen=True, slots=True)
class Modules:
    """The modules of a policy, None for the networks in NumPy."""

    actor: ModuleSpec | None = None
    critic: ModuleSpec | None = None

    def require_usable(self, device: str | None) -> None:
        """Import the classes and check the ``device``, if it is to be in this process, before any work is done.

        Raises:
            ModuleError: there is no such class, or no such device.
        """
        for spec in (self.actor, self.critic):
            if spec is not None:
                spec.require_usable(device)


def new_policy(
    observation_size: int,
    num_outputs: int,
    num_costs: int,
    *,
    continuous: bool,
    hidden: tuple[int, ...] = (64, 64),
    critic_hidden: tuple[int, ...] = (64, 64),
    log_std: float = -0.5,
    seed: int = 0,
    dtype: DTypeLike = np.float32,
    modules: Modules = Modules(),
) -> PolicyState:
    """A fresh policy: nearly the same distribution in every state, values 0 (but for modules, which begin as they do).

    ``num_outputs`` is the number of actions (categorical) or of action dimensions (``continuous``).

    Raises:
        ModuleError: a module cannot be made or used.
    """
    extras = ((LOG_STD, num_outputs),) if continuous else ()
    heads = 1 + num_costs
    of_heads = ((TARGET_MEAN, heads), (TARGET_SCALE, heads))
    seeds = [int(number) for number in np.random.SeedSequence(seed).generate_state(2)]
    if modules.actor is None:
        mlp = Network((observation_size, *hidden, num_outputs), extras)
        actor = Parameters(mlp, initialize(mlp, seeds[0], 0.01, dtype))
    else:
        actor = _module(modules.actor, observation_size, num_outputs, extras, seeds[0])
    if modules.critic is None:
        mlp = Network((observation_size, *critic_hidden, heads), of_heads)
        critic = Parameters(mlp, initialize(mlp, seeds[1], 1e-3, dtype))
    else:
        critic = _module(modules.critic, observation_size, heads, of_heads, seeds[1])
    extra_of(actor.network, actor.vector)[:] = log_std
    critic.network.part(critic.vector, TARGET_SCALE)[:] = 1.0
    return PolicyState(actor, critic, no_observations(observation_size))


def _module(spec: ModuleSpec, inputs: int, outputs: int, extras: tuple[tuple[str, int], ...], seed: int) -> Parameters:
    return Parameters(*initial_network(spec, inputs, outputs, extras, seed))


def on_device(policy: PolicyState, device: str) -> PolicyState:
    """The policy with its modules computed on ``device``; networks in NumPy stay where they are."""
    return PolicyState(_on_device(policy.actor, device), _on_device(policy.critic, device), policy.statistics)


def _on_device(parameters: Parameters, device: str) -> Parameters:
    if not isinstance(parameters.network, ModuleNetwork) or parameters.network.device == device:
        return parameters
    return Parameters(dataclasses.replace(parameters.network, device=device), parameters.vector)


def moved(parameters: Parameters, targets: Sequence[Array], step: float) -> Parameters:
    """theta + eps * mean_t (theta_t - theta)."""
    mean = np.mean(np.array(targets, np.float64), axis=0)
    vector = parameters.vector + step * (mean - parameters.vector)
    return Parameters(parameters.network, vector.astype(parameters.vector.dtype))
