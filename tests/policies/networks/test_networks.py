from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from policies.networks.mlp import Array, Network, apply, initialize, linearize, network_of

NETWORK = Network((5, 7, 6, 3), (("log_std", 3),))


def _vector(seed: int = 0) -> Array:
    return 0.5 * np.random.default_rng(seed).normal(size=NETWORK.num_parameters)


def _inputs(seed: int = 1, rows: int = 11) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, 5))


def torch_network(network: Network, inputs: Array) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same network written with torch, as a function of the flat vector."""

    def run(vector: torch.Tensor) -> torch.Tensor:
        hidden = torch.from_numpy(inputs)
        for index in range(network.num_layers):
            weights = vector[network.places[f"weights_{index}"]].reshape(network.sizes[index], network.sizes[index + 1])
            hidden = hidden @ weights + vector[network.places[f"bias_{index}"]]
            if index < network.num_layers - 1:
                hidden = torch.tanh(hidden)
        return hidden

    return run


def jacobian(function: Callable[[torch.Tensor], torch.Tensor], vector: Array) -> Any:
    return torch.autograd.functional.jacobian(function, torch.from_numpy(vector)).numpy()


def test_layout_names_every_number_once() -> None:
    assert NETWORK.num_parameters == 5 * 7 + 7 + 7 * 6 + 6 + 6 * 3 + 3 + 3
    vector = np.arange(NETWORK.num_parameters, dtype=np.float64)
    arrays = NETWORK.arrays(vector)
    np.testing.assert_array_equal(np.concatenate([a.ravel() for a in arrays.values()]), vector)
    assert list(arrays) == ["weights_0", "bias_0", "weights_1", "bias_1", "weights_2", "bias_2", "log_std"]
    assert arrays["weights_1"].shape == (7, 6)
    network, again = network_of(arrays)
    assert network == NETWORK
    np.testing.assert_array_equal(again, vector)


def test_arrays_that_do_not_fit_are_refused() -> None:
    arrays = NETWORK.arrays(_vector())
    with pytest.raises(ValueError, match=r"bias_1 must have shape \(6,\)"):
        network_of({**arrays, "bias_1": np.zeros(4)})
    with pytest.raises(ValueError, match="weights_0"):
        network_of({})


def test_outputs_and_products_with_the_jacobian_match_autograd() -> None:
    vector, inputs = _vector(), _inputs()
    reference = torch_network(NETWORK, inputs)
    linear = linearize(NETWORK, vector, inputs)
    np.testing.assert_allclose(linear.outputs, reference(torch.from_numpy(vector)).numpy(), rtol=1e-12)
    np.testing.assert_allclose(apply(NETWORK, vector, inputs), linear.outputs, rtol=1e-14)
    full = jacobian(reference, vector)
    direction, covectors = _vector(5), np.random.default_rng(6).normal(size=(11, 3))
    np.testing.assert_allclose(linear.tangent(direction), full @ direction, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(linear.pullback(covectors), np.einsum("nk,nkp->p", covectors, full), atol=1e-10)


def test_apply_leaves_its_inputs_alone_and_keeps_their_type() -> None:
    inputs = _inputs().astype(np.float32)
    before = inputs.copy()
    vector = initialize(NETWORK, 0, 0.01)
    assert vector.dtype == apply(NETWORK, vector, inputs).dtype == np.float32
    assert linearize(NETWORK, vector, inputs).pullback(np.ones((11, 3), np.float32)).dtype == np.float32
    np.testing.assert_array_equal(inputs, before)


def test_initialisation_is_orthogonal_and_pure_in_its_seed() -> None:
    vector = initialize(NETWORK, 3, 0.01, np.float64)
    np.testing.assert_array_equal(vector, initialize(NETWORK, 3, 0.01, np.float64))
    assert not np.array_equal(vector, initialize(NETWORK, 4, 0.01, np.float64))
    parts = NETWORK.arrays(vector)
    np.testing.assert_allclose(parts["weights_0"] @ parts["weights_0"].T, 2.0 * np.eye(5), atol=1e-12)
    np.testing.assert_allclose(parts["weights_2"].T @ parts["weights_2"], 1e-4 * np.eye(3), atol=1e-15)
    assert not parts["bias_0"].any()
    assert not parts["log_std"].any()
