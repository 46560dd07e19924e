"""A policy of this project as an RLModule: actor, critic and observation statistics."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from policies.common.policy_kind import Spaces
from policies.networks.distributions import LOG_STD
from policies.networks.mlp import Network
from policies.networks.module_network import INPUT_SCALE, INPUT_SHIFT, ModuleNetwork
from policies.networks.network import AnyNetwork
from policies.networks.torch_backend import functional
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import (
    CLIP,
    TARGET_MEAN,
    TARGET_SCALE,
    ObservationStatistics,
    Parameters,
    PolicyState,
    new_policy,
)


def spaces_of(observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> Spaces:
    """What a policy for these spaces takes and returns.

    Raises:
        ValueError: observations are not a Box, or actions neither Discrete nor a flat Box.
    """
    if not isinstance(observation_space, gymnasium.spaces.Box):
        raise ValueError(
            f"CRPO needs observations that are a Box, got {observation_space}; add a connector that makes one "
            "(config.env_runners(env_to_module_connector=...)), for instance RLlib's FlattenObservations"
        )
    size = int(np.prod(observation_space.shape))
    if isinstance(action_space, gymnasium.spaces.Discrete):
        return Spaces(tabular=False, observation=size, actions=int(action_space.n))
    if not isinstance(action_space, gymnasium.spaces.Box) or len(action_space.shape) != 1:
        raise ValueError(f"CRPO needs actions that are Discrete or a flat Box, got {action_space}")
    low, high = (
        tuple(float(value) if np.isfinite(value) else None for value in bound)
        for bound in (action_space.low, action_space.high)
    )
    return Spaces(tabular=False, observation=size, actions=0, low=low, high=high)


class CRPOModule(TorchRLModule, ValueFunctionAPI):
    """Actor and critic as one flat parameter vector each, with the statistics of observations.

    ``model_config`` holds ``num_costs``, ``seed`` of the fresh networks, and ``settings``, the keys of a run file's
    ``within_task`` section (``hidden``, ``network``, ``initial_log_std``, ...). Actions of exploration and inference
    are computed as everywhere in this project, so distributions are equal to the last bit; :meth:`_forward_train` is
    the same function in torch (equal to 1e-5), for the losses of RLlib's other algorithms.
    """

    observation_space: Any
    action_space: Any
    actor: nn.Parameter
    critic: nn.Parameter
    updates: Tensor
    """How many updates have been made, []."""
    rates: Tensor
    """alpha [1+p] where the configuration gives none: ones, or those of a learned start."""

    def setup(self) -> None:
        """Make a fresh policy for the spaces."""
        given: Any = self.model_config
        settings = NeuralSettings.model_validate(given["settings"])
        spaces = spaces_of(self.observation_space, self.action_space)
        policy = new_policy(
            spaces.observation,
            spaces.actions or len(spaces.low),
            int(given["num_costs"]),
            continuous=not spaces.actions,
            hidden=settings.hidden,
            critic_hidden=settings.critic_hidden,
            log_std=settings.initial_log_std,
            seed=int(given["seed"]),
            modules=settings.modules,
        )
        self.networks: tuple[AnyNetwork, AnyNetwork] = policy.actor.network, policy.critic.network
        self.actor = nn.Parameter(torch.from_numpy(policy.actor.vector.copy()))
        self.critic = nn.Parameter(torch.from_numpy(policy.critic.vector.copy()))
        statistics = policy.statistics
        self.register_buffer("mean", torch.from_numpy(statistics.mean.copy()))
        self.register_buffer("variance", torch.from_numpy(statistics.variance.copy()))
        self.register_buffer("count", torch.tensor(statistics.count, dtype=torch.float64))
        self.register_buffer("updates", torch.tensor(0, dtype=torch.int64))
        self.register_buffer("rates", torch.ones(1 + int(given["num_costs"]), dtype=torch.float64))

    @property
    def policy(self) -> PolicyState:
        """The policy; a copy of the parameters."""
        buffers = dict(self.named_buffers())
        vectors = (self.actor, self.critic)
        actor, critic = (Parameters(*pair) for pair in zip(self.networks, map(_array, vectors), strict=True))
        statistics = ObservationStatistics(
            _array(buffers["mean"]), _array(buffers["variance"]), float(buffers["count"])
        )
        return PolicyState(actor, critic, statistics)

    @policy.setter
    def policy(self, policy: PolicyState) -> None:
        """Raises ValueError where the networks are others."""
        for role, own, given in zip(
            ("actor", "critic"), self.networks, (policy.actor.network, policy.critic.network), strict=True
        ):
            if own != given:
                raise ValueError(f"the {role} is {_told(own)}, and that of the policy is {_told(given)}")
        statistics = policy.statistics
        values = {
            "actor": policy.actor.vector,
            "critic": policy.critic.vector,
            "mean": statistics.mean,
            "variance": statistics.variance,
            "count": np.array(statistics.count),
        }
        with torch.no_grad():
            for name, value in values.items():
                getattr(self, name).copy_(torch.from_numpy(np.array(value)))

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, NDArray[Any]]:
        """Every bit; RLlib's own method would round the statistics to float32."""
        del args, kwargs
        return {name: _array(value) for name, value in self.state_dict().items()}

    def set_state(self, state: Any) -> None:
        """The inverse of :meth:`get_state`."""
        tensors = {name: torch.as_tensor(np.array(value)) for name, value in state.items()}
        self.load_state_dict(tensors)

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Parameters of the action distribution, computed by :meth:`PolicyState.act`."""
        del kwargs
        observations: Tensor = batch[Columns.OBS]
        rows = _array(observations).astype(np.float32).reshape(len(observations), -1)
        outputs, extra = self.policy.act(rows)
        inputs = np.column_stack([outputs, np.tile(extra, (len(outputs), 1))])
        return {Columns.ACTION_DIST_INPUTS: torch.from_numpy(inputs).to(observations.device)}

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """As for exploration; RLlib takes the mode of the distribution."""
        return self._forward_exploration(batch, **kwargs)

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Parameters of the action distribution, differentiable in the actor's."""
        del kwargs
        network, inputs = self.networks[0], self._normalized(batch[Columns.OBS])
        outputs = _outputs(network, self.actor, inputs)
        if LOG_STD in network.places:
            log_std = self.actor[network.places[LOG_STD]]
            outputs = torch.cat([outputs, log_std.expand(len(outputs), -1)], dim=1)
        return {Columns.ACTION_DIST_INPUTS: outputs}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """V_0(s) [N], the value of the reward, differentiable in the critic's parameters."""
        del embeddings
        network, vector = self.networks[1], self.critic
        outputs = _outputs(network, vector, self._normalized(batch[Columns.OBS]))
        scale, mean = (vector.detach()[network.places[name]] for name in (TARGET_SCALE, TARGET_MEAN))
        return (outputs * scale + mean)[:, 0]

    def _normalized(self, observations: Tensor) -> Tensor:
        statistics = self.policy.statistics
        mean, scale = (torch.from_numpy(part.astype(np.float32)) for part in (statistics.mean, statistics.scale))
        rows = observations.float().reshape(len(observations), -1)
        return ((rows - mean.to(rows.device)) * scale.to(rows.device)).clamp(-CLIP, CLIP)


def _array(tensor: Tensor) -> NDArray[Any]:
    return np.array(tensor.detach().cpu().numpy())


def _told(network: AnyNetwork) -> str:
    if isinstance(network, Network):
        return f"an mlp of widths {list(network.sizes)}"
    assert isinstance(network, ModuleNetwork)
    return f"{network.spec.name} {network.spec.arguments} from {network.num_inputs} to {network.num_outputs} numbers"


def _outputs(network: AnyNetwork, vector: Tensor, inputs: Tensor) -> Tensor:
    """Outputs [N, k], differentiable in the flat ``vector``; the parts outside the layers have no effect."""
    if isinstance(network, ModuleNetwork):
        scale, shift = (vector.detach()[network.places[name]] for name in (INPUT_SCALE, INPUT_SHIFT))
        return functional(network, vector, inputs * scale + shift)
    assert isinstance(network, Network)
    for number in range(network.num_layers):
        weights = vector[network.places[f"weights_{number}"]].view(network.sizes[number], network.sizes[number + 1])
        inputs = inputs @ weights + vector[network.places[f"bias_{number}"]]
        inputs = torch.tanh(inputs) if number < network.num_layers - 1 else inputs
    return inputs
