"""Modules of torch that tests use as networks; found by ``tests.support.modules:NAME``."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


class Tanh(nn.Module):
    """The tanh network of :class:`policies.networks.mlp.Network`, with ``head`` as its last layer."""

    def __init__(self, inputs: int, outputs: int, hidden: tuple[int, ...] = (8, 8)) -> None:
        super().__init__()
        sizes = (inputs, *hidden)
        self.body = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.head = nn.Linear(sizes[-1], outputs)

    def forward(self, observations: Tensor) -> Tensor:
        for layer in self.body:
            observations = torch.tanh(layer(observations))
        found: Tensor = self.head(observations)
        return found


class Headless(nn.Module):
    """A linear map without a layer called head, whose first outputs are small."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.map = nn.Linear(inputs, outputs)
        with torch.no_grad():
            self.map.weight.mul_(0.01)

    def forward(self, observations: Tensor) -> Tensor:
        found: Tensor = self.map(observations)
        return found


class Normed(nn.Module):
    """Layer norm and a gate: what an mlp cannot do."""

    def __init__(self, inputs: int, outputs: int, width: int = 16) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(inputs, 2 * width), nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        with torch.no_grad():
            self.head.weight.mul_(0.01)
            self.head.bias.zero_()

    def forward(self, observations: Tensor) -> Tensor:
        value, gate = self.first(observations).chunk(2, dim=1)
        found: Tensor = self.head(self.norm(value * torch.sigmoid(gate)))
        return found


class Recurrent(nn.Module):
    """A GRU over ``steps`` observations that lie behind each other in one."""

    def __init__(self, inputs: int, outputs: int, steps: int = 4) -> None:
        super().__init__()
        self.steps, self.memory = steps, nn.GRU(inputs // steps, 8, batch_first=True)
        self.head = nn.Linear(8, outputs)

    def forward(self, observations: Tensor) -> Tensor:
        states, _ = self.memory(observations.reshape(len(observations), self.steps, -1))
        found: Tensor = self.head(states[:, -1])
        return found


class WrongShape(Tanh):
    """Outputs without their last number."""

    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations)[:, :-1]


class NotFinite(Tanh):
    """Outputs that are NaN."""

    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations) * float("nan")


class Mixing(Tanh):
    """Outputs of a row that depend on the batch."""

    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations - observations.mean(dim=0))


class Empty(nn.Module):
    """No parameters."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, observations: Tensor) -> Tensor:
        return observations[:, : self.outputs]


class EarlyHead(Tanh):
    """A layer called head that is not the last step."""

    def forward(self, observations: Tensor) -> Tensor:
        return 2.0 * super().forward(observations)


class Failing(Tanh):
    """A forward that raises."""

    def forward(self, observations: Tensor) -> Tensor:
        raise RuntimeError(f"cannot take {list(observations.shape)}")


class Unused(Headless):
    """Outputs that no parameter has a part in."""

    def forward(self, observations: Tensor) -> Tensor:
        return 0.0 * super().forward(observations) + observations[:, :3]


class NoModule:
    """A class that is no module."""
