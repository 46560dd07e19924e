"""``torch.nn.Module`` as a network: outputs, tangent and pullback by ``torch.func`` at a flat parameter vector.

The only module of this room that imports torch; it is imported when a run names a module, not before.
"""

from __future__ import annotations

import functools
import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from policies.networks.mlp import Array
from policies.networks.module_network import INPUT_SCALE, INPUT_SHIFT, ModuleError, ModuleNetwork, ModuleSpec, Shapes
from tasks.contract.family_registry import FamilyError, family_class
from tasks.contract.timeout import code_of_others

_BUFFER_SEED = 0
"""Constructors run under this seed wherever parameters come from elsewhere, so that buffers are the same everywhere."""


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread, as for the NumPy networks: a worker has one core, and sums do not depend on the machine."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def require_device(device: str | None) -> None:
    """Check that ``device`` is here, unless it is None.

    Raises:
        ModuleError: it is not.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ModuleError("within_task.device: cuda: torch finds no GPU on this machine; set it to cpu")


def module_class(spec: ModuleSpec) -> type[Any]:
    """The class that ``spec`` names; its file is imported, as that of a user's family is.

    Raises:
        ModuleError: there is no such class, or it is no module.
    """
    if ":" not in spec.name:
        raise spec.fault("must be mlp, package.module:ClassName or path/to/file.py:ClassName")
    try:
        kind = family_class(spec.name)
    except FamilyError as error:
        raise ModuleError(f"{spec.role}: {error.message}") from error
    if not issubclass(kind, nn.Module):
        raise spec.fault("is not a torch.nn.Module")
    return kind


def _made(spec: ModuleSpec, num_inputs: int, num_outputs: int, seed: int) -> nn.Module:
    """A new module in evaluation mode; random numbers of the process are not touched."""
    kind = module_class(spec)
    with torch.random.fork_rng(devices=[]), _failing(spec, f"could not be made for {num_inputs} inputs"):
        torch.manual_seed(seed)
        module: nn.Module = kind(num_inputs, num_outputs, **json.loads(spec.arguments))
    return module.float().eval()


@contextmanager
def _failing(spec: ModuleSpec, what: str) -> Iterator[None]:
    """Turn what the user's code raises into a ModuleError."""
    try:
        with code_of_others(lambda: spec.name):
            yield
    except ModuleError:
        raise
    except Exception as error:
        raise spec.fault(f"{what}: {type(error).__name__}: {error}") from error


def initial_parameters(spec: ModuleSpec, num_inputs: int, num_outputs: int, seed: int) -> tuple[Shapes, Array]:
    """Names and shapes of the parameters, and their random values under ``seed`` as one float32 vector.

    Raises:
        ModuleError: the class cannot be found or made, or has no parameters.
    """
    named = dict(_made(spec, num_inputs, num_outputs, seed).named_parameters())
    if not named:
        raise spec.fault("has no parameters; a policy needs some to learn")
    shapes = tuple((name, tuple(one.shape)) for name, one in named.items())
    values = [one.detach().numpy().astype(np.float32).ravel() for one in named.values()]
    return shapes, np.concatenate(values)


@functools.lru_cache(maxsize=16)
def _module(spec: ModuleSpec, sizes: tuple[int, int], shapes: Shapes, dtype: torch.dtype, device: str) -> nn.Module:
    """The module whose parameters are given from outside; its own are not used."""
    require_device(device)
    module = _made(spec, *sizes, _BUFFER_SEED)
    found = tuple((name, tuple(one.shape)) for name, one in module.named_parameters())
    if found != shapes:
        raise spec.fault(f"has other parameters ({_told(found)}) than the policy ({_told(shapes)})")
    return module.to(device=device, dtype=dtype).requires_grad_(requires_grad=False)


def _told(shapes: Shapes) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes)


def _tensor(array: Array, device: str) -> Tensor:
    """``array`` on ``device``; read-only memory (of Ray's store) is copied."""
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


@dataclass(frozen=True, slots=True)
class _Function:
    """A network as a function of its parameters by name; ``inputs`` are [N, d] on the device."""

    network: ModuleNetwork
    module: nn.Module
    inputs: Tensor

    @staticmethod
    def of(network: ModuleNetwork, inputs: Array) -> _Function:
        network.spec.require_named()
        tensor = _tensor(inputs, network.device)
        sizes = network.num_inputs, network.num_outputs
        return _Function(network, _module(network.spec, sizes, network.shapes, tensor.dtype, network.device), tensor)

    def named(self, vector: Array) -> dict[str, Tensor]:
        """The module's parameters as views of the vector on the device."""
        tensor, places = _tensor(vector, self.network.device), self.network.places
        return {name: tensor[places[name]].view(shape) for name, shape in self.network.shapes}

    def seen(self, vector: Array) -> Tensor:
        """What the module takes: input_scale * x + input_shift."""
        scale, shift = (self.network.part(vector, name) for name in (INPUT_SCALE, INPUT_SHIFT))
        if (scale == 1.0).all() and not shift.any():
            return self.inputs
        return self.inputs * _tensor(scale, self.network.device) + _tensor(shift, self.network.device)

    def __call__(self, parameters: dict[str, Tensor], seen: Tensor) -> Tensor:
        """Outputs [N, k]."""
        spec, wanted = self.network.spec, (len(seen), self.network.num_outputs)
        with _failing(spec, "its forward failed"):
            outputs = functional_call(self.module, parameters, (seen,))
        if not isinstance(outputs, Tensor) or tuple(outputs.shape) != wanted:
            found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise spec.fault(f"outputs must have shape {list(wanted)} for {wanted[0]} observations, got {found}")
        return outputs


def functional(network: ModuleNetwork, vector: Tensor, seen: Tensor) -> Tensor:
    """Outputs [N, k] as a function of the flat ``vector``, for losses in torch; ``seen`` [N, d] goes to the module."""
    device, places = str(seen.device.type), network.places
    module = _module(network.spec, (network.num_inputs, network.num_outputs), network.shapes, seen.dtype, device)
    named = {name: vector[places[name]].view(shape) for name, shape in network.shapes}
    return _Function(network, module, seen)(named, seen)


def _array(tensor: Tensor) -> Array:
    found: Array = tensor.detach().cpu().numpy()
    return found


def outputs_of(network: ModuleNetwork, vector: Array, inputs: Array) -> Array:
    """Outputs [N, k] for ``inputs`` [N, d].

    Raises:
        ModuleError: the module fails, or its outputs have another shape or are not finite.
    """
    function = _Function.of(network, inputs)
    with torch.no_grad(), _one_thread():
        outputs = _array(function(function.named(vector), function.seen(vector)))
    _require_finite(network, outputs)
    return outputs


def _require_finite(network: ModuleNetwork, outputs: Array) -> None:
    if not math.isfinite(outputs.sum()) and not np.isfinite(outputs).all():
        count = int((~np.isfinite(outputs)).sum())
        raise network.spec.fault(f"outputs are not finite ({count} of {outputs.size} numbers)")


def head_inputs(network: ModuleNetwork, vector: Array, inputs: Array) -> Array:
    """What the module's ``head`` takes, [N, w]."""
    function, seen = _Function.of(network, inputs), list[Tensor]()
    head = function.module.get_submodule("head")
    handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        with torch.no_grad(), _one_thread():
            function(function.named(vector), function.seen(vector))
    finally:
        handle.remove()
    return _array(seen[-1])


@dataclass(frozen=True, slots=True)
class TorchLinearization:
    """A module at one parameter vector and one batch; see :class:`policies.networks.network.Linear`."""

    network: ModuleNetwork
    vector: Array
    outputs: Array
    function: _Function
    parameters: dict[str, Tensor]
    backward: Callable[[Tensor], tuple[dict[str, Tensor]]]

    @staticmethod
    def of(network: ModuleNetwork, vector: Array, inputs: Array) -> TorchLinearization:
        """Run the module on ``inputs`` [N, d], which stay on the device.

        Raises:
            ModuleError: as :func:`outputs_of`.
        """
        function = _Function.of(network, inputs)
        parameters, seen = function.named(vector), function.seen(vector)
        with _one_thread():
            outputs, backward = cast("Any", vjp)(lambda named: function(named, seen), parameters)
        found = _array(outputs)
        _require_finite(network, found)
        return TorchLinearization(network, vector, found, function, parameters, backward)

    def tangent(self, direction: Array) -> Array:
        """J v [N, k] by forward-mode differentiation.

        Raises:
            ModuleError: an operation of the module has no forward-mode derivative.
        """
        _load_forward_mode()
        seen, moved = self.function.seen(self.vector), self.function.named(direction)
        with _one_thread(), _failing(self.network.spec, "torch.func.jvp failed"):
            _, change = cast("Any", jvp)(lambda named: self.function(named, seen), (self.parameters,), (moved,))
        return _array(change)

    def pullback(self, covectors: Array) -> Array:
        """J' u [num_parameters] by back-propagation; the scaling of inputs and the extras get 0."""
        result, places = np.zeros_like(self.vector), self.network.places
        given = _tensor(np.ascontiguousarray(covectors, self.vector.dtype), self.network.device)
        with _one_thread():
            (gradients,) = self.backward(given)
        for name, _ in self.network.shapes:
            result[places[name]] = _array(gradients[name]).ravel()
        return result

    def at(self, vector: Array) -> Array:
        """Outputs [N, k] for the same inputs at other parameters ``vector``; they may be not finite."""
        with torch.no_grad(), _one_thread():
            return _array(self.function(self.function.named(vector), self.function.seen(vector)))


@functools.cache
def _load_forward_mode() -> None:
    """The first forward-mode product of a process loads formulas by means that torch itself calls deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        cast("Any", jvp)(torch.tanh, (torch.zeros(1),), (torch.ones(1),))
