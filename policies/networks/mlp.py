"""Small tanh networks over one flat parameter vector, with exact forward and reverse derivatives in NumPy.

For the batches of this project NumPy is faster than a framework: one call per time step on few rows, and products of a
few thousand rows. A flat vector with a layout makes broadcasting, averaging, safetensors and meta-learning trivial.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[np.floating[Any]]
"""float32 where speed matters, float64 where tests ask for it; functions keep the type of their arguments."""


@dataclass(frozen=True)
class Network:
    """A multilayer perceptron with tanh between its layers, and named extra parameters outside them.

    ``sizes`` are the widths from the inputs to the outputs; two numbers make a linear map. ``extras`` are vectors that
    the layers do not use: (name, length), such as a Gaussian's log standard deviations.
    """

    sizes: tuple[int, ...]
    extras: tuple[tuple[str, int], ...] = ()

    @cached_property
    def layout(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """(name, shape) of every parameter in the order of the flat vector."""
        layers: list[tuple[str, tuple[int, ...]]] = []
        for index, (inputs, outputs) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            layers += [(f"weights_{index}", (inputs, outputs)), (f"bias_{index}", (outputs,))]
        return (*layers, *((name, (length,)) for name, length in self.extras))

    @cached_property
    def places(self) -> dict[str, slice]:
        """Where each parameter lies in the flat vector."""
        ends = np.cumsum([math.prod(shape) for _, shape in self.layout]).tolist()
        starts = [0, *ends[:-1]]
        return {name: slice(a, b) for (name, _), a, b in zip(self.layout, starts, ends, strict=True)}

    @property
    def num_layers(self) -> int:
        """How many weight matrices there are."""
        return len(self.sizes) - 1

    @property
    def num_inputs(self) -> int:
        """Numbers in an input."""
        return self.sizes[0]

    @property
    def num_outputs(self) -> int:
        """Numbers in an output."""
        return self.sizes[-1]

    @cached_property
    def num_parameters(self) -> int:
        """Length of the flat vector."""
        return sum(math.prod(shape) for _, shape in self.layout)

    def part(self, vector: Array, name: str) -> Array:
        """A view of one parameter in its shape."""
        return vector[self.places[name]].reshape(dict(self.layout)[name])

    def layers(self, vector: Array) -> list[tuple[Array, Array]]:
        """Views (weights [in, out], bias [out]) of every layer."""
        return [
            (
                vector[self.places[f"weights_{i}"]].reshape(self.sizes[i], self.sizes[i + 1]),
                vector[self.places[f"bias_{i}"]],
            )
            for i in range(self.num_layers)
        ]

    def arrays(self, vector: Array) -> dict[str, Array]:
        """Every parameter by name, as views."""
        return {name: vector[self.places[name]].reshape(shape) for name, shape in self.layout}

    def apply(self, vector: Array, inputs: Array) -> Array:
        """Outputs [N, k]; see :func:`apply`."""
        return apply(self, vector, inputs)

    def linearize(self, vector: Array, inputs: Array) -> Linearization:
        """Outputs, and products with their Jacobian; see :func:`linearize`."""
        return linearize(self, vector, inputs)

    def last_layer(self, vector: Array) -> tuple[Array, Array]:
        """Views of the last layer's weights [w, k] and bias [k]."""
        return self.part(vector, f"weights_{self.num_layers - 1}"), self.part(vector, f"bias_{self.num_layers - 1}")

    def features(self, vector: Array, inputs: Array) -> Array:
        """What the last layer takes, [N, w]."""
        return linearize(self, vector, inputs).activations[-1]

    def with_inputs(self, vector: Array, ratio: NDArray[np.float64], shift: NDArray[np.float64]) -> Array:
        """Parameters of the same function of inputs x' [d], where x = ``ratio`` x' + ``shift`` were the inputs so far.

        W' = ratio W and b' = b + shift W of the first layer.
        """
        result = vector.copy()
        weights, bias = self.part(result, "weights_0"), self.part(result, "bias_0")
        bias += (shift @ weights.astype(np.float64)).astype(result.dtype)
        weights *= ratio[:, None].astype(result.dtype)
        return result


def network_of(arrays: Mapping[str, Array]) -> tuple[Network, Array]:
    """The network and the flat vector that :meth:`Network.arrays` was made from.

    Raises:
        ValueError: the shapes do not follow each other as a network's do.
    """
    weights = [arrays[f"weights_{i}"] for i in range(sum(name.startswith("weights_") for name in arrays))]
    if not weights:
        raise ValueError("no weights_0 among the parameters of a network")
    extras = tuple((n, a.size) for n, a in arrays.items() if not n.startswith(("weights_", "bias_")))
    network = Network((weights[0].shape[0], *(matrix.shape[1] for matrix in weights)), extras)
    for name, shape in network.layout:
        if name not in arrays or arrays[name].shape != shape:
            found = arrays[name].shape if name in arrays else "nothing"
            raise ValueError(f"parameter {name} must have shape {shape}, got {found}")
    return network, np.concatenate([arrays[name].ravel() for name, _ in network.layout])


def initialize(network: Network, seed: int, last_scale: float, dtype: DTypeLike = np.float32) -> Array:
    """Orthogonal weights (gain sqrt 2, the last layer ``last_scale``), zero biases and extras; pure in ``seed``.

    Saxe, McClelland, Ganguli 2014; a small last layer makes the first policy nearly independent of the observation.
    """
    rng = np.random.default_rng(seed)
    vector = np.zeros(network.num_parameters)
    for index, (weights, _) in enumerate(network.layers(vector)):
        gain = last_scale if index == network.num_layers - 1 else math.sqrt(2.0)
        weights[:] = gain * _orthogonal(rng, *weights.shape)
    return vector.astype(dtype)


def _orthogonal(rng: np.random.Generator, rows: int, columns: int) -> Array:
    tall = rng.normal(size=(max(rows, columns), min(rows, columns)))
    basis, triangle = np.linalg.qr(tall)
    basis = basis * np.sign(np.diag(triangle))
    return basis if rows >= columns else basis.T


def apply(network: Network, vector: Array, inputs: Array) -> Array:
    """Outputs [N, k] for ``inputs`` [N, d]."""
    for index, (weights, bias) in enumerate(network.layers(vector)):
        outputs = inputs @ weights
        outputs += bias
        inputs = outputs if index == network.num_layers - 1 else np.tanh(outputs, out=outputs)
    return inputs


@dataclass(frozen=True, slots=True)
class Linearization:
    """A network at one parameter vector and one batch: outputs, and products with the Jacobian J of the outputs.

    ``activations`` are the inputs of each layer and ``slopes`` the derivatives 1 - h^2 of the hidden ones, computed
    once for all products.
    """

    network: Network
    vector: Array
    activations: tuple[Array, ...]
    slopes: tuple[Array, ...]
    outputs: Array

    def tangent(self, direction: Array) -> Array:
        """J v [N, k] for ``direction`` v [num_parameters], layer by layer.

        dz_l = dh_{l-1} W_l + h_{l-1} dW_l + db_l and dh_l = (1 - h_l^2) dz_l.
        """
        change: Array | None = None
        moves = self.network.layers(direction)
        for index, (weights, _) in enumerate(self.network.layers(self.vector)):
            moved_weights, moved_bias = moves[index]
            result = self.activations[index] @ moved_weights
            result += moved_bias
            if change is not None:
                result += change @ weights
            if index < len(self.slopes):
                result *= self.slopes[index]
            change = result
        assert change is not None
        return change

    def at(self, vector: Array) -> Array:
        """Outputs [N, k] for the same inputs at other parameters ``vector``."""
        return apply(self.network, vector, self.activations[0])

    def pullback(self, covectors: Array) -> Array:
        """J' u [num_parameters] for ``covectors`` u [N, k], summed over the batch (back-propagation); extras get 0."""
        result = np.zeros_like(self.vector)
        layers, gradients = self.network.layers(self.vector), self.network.layers(result)
        for index in range(self.network.num_layers - 1, -1, -1):
            np.matmul(self.activations[index].T, covectors, out=gradients[index][0])
            covectors.sum(axis=0, out=gradients[index][1])
            if index:
                covectors = covectors @ layers[index][0].T
                covectors *= self.slopes[index - 1]
        return result


def linearize(network: Network, vector: Array, inputs: Array) -> Linearization:
    """Run the network on ``inputs`` [N, d] and keep what products with its Jacobian need."""
    activations, slopes = [inputs], []
    layers = network.layers(vector)
    for weights, bias in layers[:-1]:
        hidden = activations[-1] @ weights
        hidden += bias
        np.tanh(hidden, out=hidden)
        activations.append(hidden)
        slopes.append(1.0 - hidden * hidden)
    weights, bias = layers[-1]
    return Linearization(network, vector, tuple(activations), tuple(slopes), activations[-1] @ weights + bias)
