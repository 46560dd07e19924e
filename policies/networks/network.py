"""What a network is to the rest of the project: outputs, tangent and pullback over one flat parameter vector.

The equations (natural gradient, conjugate gradient, line search, fits, meta-updates) use these two protocols alone.
:class:`policies.networks.mlp.Network` implements them in NumPy and
:class:`policies.networks.module_network.ModuleNetwork` with any ``torch.nn.Module``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from numpy import float64
from numpy.typing import NDArray

from policies.networks.mlp import Array


@runtime_checkable
class Linear(Protocol):
    """A network at one parameter vector [num_parameters] and one batch of N inputs; J is the outputs' Jacobian."""

    @property
    def network(self) -> AnyNetwork:
        """Of which network."""

    @property
    def vector(self) -> Array:
        """The parameters."""

    @property
    def outputs(self) -> Array:
        """Outputs [N, k]."""

    def tangent(self, direction: Array) -> Array:
        """J v [N, k] for ``direction`` v [num_parameters]; its extras have no effect."""

    def pullback(self, covectors: Array) -> Array:
        """J' u [num_parameters] for ``covectors`` u [N, k], summed over the batch; extras get 0."""

    def at(self, vector: Array) -> Array:
        """Outputs [N, k] for the same inputs at other parameters; they may be not finite."""


@runtime_checkable
class AnyNetwork(Protocol):
    """A function from inputs [N, d] to outputs [N, k] with a flat float vector of named parts as its parameters.

    Extras are parts that the outputs do not depend on, such as a Gaussian's log standard deviations.
    """

    @property
    def num_inputs(self) -> int:
        """d."""

    @property
    def num_outputs(self) -> int:
        """k."""

    @property
    def num_parameters(self) -> int:
        """Length of the flat vector, extras included."""

    @property
    def places(self) -> Mapping[str, slice]:
        """Where each part lies in the flat vector."""

    def part(self, vector: Array, name: str) -> Array:
        """A view of one part in its shape."""

    def arrays(self, vector: Array) -> dict[str, Array]:
        """Every part by name, as a file keeps it."""

    def apply(self, vector: Array, inputs: Array) -> Array:
        """Outputs [N, k] for ``inputs`` [N, d]."""

    def linearize(self, vector: Array, inputs: Array) -> Linear:
        """Outputs for ``inputs`` [N, d], and products with their Jacobian."""

    def last_layer(self, vector: Array) -> tuple[Array, Array] | None:
        """Views of the weights [w, k] and bias [k] of a linear last layer; None where there is none to solve for."""

    def features(self, vector: Array, inputs: Array) -> Array:
        """What the last layer takes, [N, w]; only where there is one."""

    def with_inputs(self, vector: Array, ratio: NDArray[float64], shift: NDArray[float64]) -> Array:
        """Parameters of the same function of x' [d], where x = ``ratio`` x' + ``shift`` were the inputs so far."""
