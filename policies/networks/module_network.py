"""Networks that are a ``torch.nn.Module`` of the user's, as a flat vector with named parts; torch is imported on use.

A network that came out of a file knows its class only by name: nothing runs before outputs are asked for.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policies.networks.mlp import Array
from tasks.contract.task import TaskError

if TYPE_CHECKING:
    from policies.networks.torch_backend import TorchLinearization

MLP = "mlp"
"""``within_task.network`` for the NumPy network of this project."""
NETWORKS = "METASRL_NETWORKS"
"""Environment variable with the modules that the user names, separated by commas: those that files may use."""
_OF_FILES: ContextVar[frozenset[tuple[str, str]]] = ContextVar("modules of files", default=frozenset())
MODULE = "module"
"""Name of the array in a file that says which module the parameters belong to."""
INPUT_SCALE, INPUT_SHIFT = "input_scale", "input_shift"
"""Names of the parts by which inputs are scaled and shifted before the module sees them."""
ROLES = ("network", "critic_network")
"""The settings of ``within_task`` that name a network."""
_HEAD = ("head.weight", "head.bias")
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class ModuleError(TaskError):
    """A module cannot be used as a network; the message names the setting and what would be right."""


@dataclass(frozen=True)
class ModuleSpec:
    """Which class a network is: ``name`` is package.module:ClassName or path/to/file.py:ClassName.

    ``arguments`` are the keyword arguments of its constructor as JSON, which keeps the specification hashable; ``role``
    is the setting that names it, for messages. ``named`` is False for one that only a file names.
    """

    name: str
    arguments: str = "{}"
    role: str = "within_task.network"
    named: bool = field(default=True, compare=False)

    @staticmethod
    def of(name: str, arguments: Mapping[str, Any], role: str) -> ModuleSpec | None:
        """The specification of a setting; None for ``mlp``."""
        return None if name == MLP else ModuleSpec(name, json.dumps(dict(arguments), sort_keys=True), role)

    def require_usable(self, device: str | None) -> None:
        """Import the class and check the device, if it is to be here.

        Raises:
            ModuleError: there is no such class, or no such device.
        """
        from policies.networks.torch_backend import module_class, require_device

        module_class(self)
        require_device(device)

    def require_named(self) -> None:
        """Check that the user names the class, so that code that only a file names never runs.

        Raises:
            ModuleError: nobody does.
        """
        if not self.named and not is_named(self.name):
            raise self.fault(
                "the parameters come from a file that names this class, which is code: name it by "
                f"{NETWORKS}={self.name} (several separated by commas) in the environment, if you trust it"
            )

    def fault(self, text: str) -> ModuleError:
        """The error that ``text`` describes."""
        return ModuleError(f"{self.role}: {self.name}: {text}")


def told(spec: ModuleSpec | None) -> str:
    """A specification in messages."""
    return MLP if spec is None else f"{spec.name} {spec.arguments}"


@dataclass(frozen=True)
class ModuleNetwork:
    """A module from ``num_inputs`` to ``num_outputs`` numbers; see :class:`policies.networks.network.AnyNetwork`.

    ``shapes`` are the module's own parameters, in its order. Two parts follow that no gradient reaches: the module sees
    input_scale * x + input_shift, which keeps its function when the statistics of observations change. Then come the
    ``extras``. ``device`` is where it is computed; files do not keep it.
    """

    spec: ModuleSpec
    num_inputs: int
    num_outputs: int
    shapes: Shapes
    extras: tuple[tuple[str, int], ...] = ()
    device: str = "cpu"

    @cached_property
    def layout(self) -> Shapes:
        """(name, shape) of every part in the order of the flat vector."""
        size = (self.num_inputs,)
        return (
            *self.shapes,
            (INPUT_SCALE, size),
            (INPUT_SHIFT, size),
            *((name, (length,)) for name, length in self.extras),
        )

    @cached_property
    def places(self) -> dict[str, slice]:
        """Where each part lies in the flat vector."""
        ends = np.cumsum([math.prod(shape) for _, shape in self.layout]).tolist()
        return {name: slice(a, b) for (name, _), a, b in zip(self.layout, [0, *ends[:-1]], ends, strict=True)}

    @cached_property
    def num_parameters(self) -> int:
        """Length of the flat vector."""
        return sum(math.prod(shape) for _, shape in self.layout)

    def part(self, vector: Array, name: str) -> Array:
        """A view of one part in its shape."""
        return vector[self.places[name]].reshape(dict(self.layout)[name])

    def arrays(self, vector: Array) -> dict[str, Array]:
        """Every part by name, as views, and the description of the network as bytes of JSON (uint8)."""
        content = {
            "name": self.spec.name,
            "arguments": self.spec.arguments,
            "role": self.spec.role,
            "sizes": [self.num_inputs, self.num_outputs],
            "shapes": self.shapes,
            "extras": self.extras,
        }
        described: NDArray[Any] = np.frombuffer(json.dumps(content).encode(), np.uint8)
        return {MODULE: described} | {name: vector[self.places[name]].reshape(shape) for name, shape in self.layout}

    def apply(self, vector: Array, inputs: Array) -> Array:
        """Outputs [N, k].

        Raises:
            ModuleError: the module fails, or its outputs have another shape or are not finite.
        """
        from policies.networks.torch_backend import outputs_of

        return outputs_of(self, vector, inputs)

    def linearize(self, vector: Array, inputs: Array) -> TorchLinearization:
        """Outputs, and products with their Jacobian; ``inputs`` go to the device once.

        Raises:
            ModuleError: as :meth:`apply`.
        """
        from policies.networks.torch_backend import TorchLinearization

        return TorchLinearization.of(self, vector, inputs)

    def last_layer(self, vector: Array) -> tuple[Array, Array] | None:
        """Views of ``head``'s weights [w, k] and bias [k], where the module has a ``head`` of that shape."""
        shapes = dict(self.shapes)
        weight, bias = (shapes.get(name, ()) for name in _HEAD)
        if len(weight) != 2 or weight[0] != self.num_outputs or bias != (self.num_outputs,):
            return None
        return self.part(vector, _HEAD[0]).T, self.part(vector, _HEAD[1])

    def features(self, vector: Array, inputs: Array) -> Array:
        """What ``head`` takes, [N, w]."""
        from policies.networks.torch_backend import head_inputs

        return head_inputs(self, vector, inputs)

    def with_inputs(self, vector: Array, ratio: NDArray[np.float64], shift: NDArray[np.float64]) -> Array:
        """input_scale' = input_scale ratio and input_shift' = input_scale shift + input_shift."""
        result = vector.copy()
        scale, offset = self.part(result, INPUT_SCALE), self.part(result, INPUT_SHIFT)
        offset += (scale * shift).astype(result.dtype)
        scale *= ratio.astype(result.dtype)
        return result


def initial_network(
    spec: ModuleSpec, num_inputs: int, num_outputs: int, extras: tuple[tuple[str, int], ...], seed: int
) -> tuple[ModuleNetwork, Array]:
    """The network of ``spec`` on the CPU with its constructor's random parameters, pure in ``seed``; extras are 0.

    Raises:
        ModuleError: the class cannot be found or made, has no parameters, or its outputs are not usable.
    """
    from policies.networks.module_check import checked
    from policies.networks.torch_backend import initial_parameters

    shapes, own = initial_parameters(spec, num_inputs, num_outputs, seed)
    network = ModuleNetwork(spec, num_inputs, num_outputs, shapes, extras)
    taken = {name for name, _ in shapes} & {MODULE, INPUT_SCALE, INPUT_SHIFT, *(name for name, _ in extras)}
    if taken:
        raise spec.fault(f"has a parameter {sorted(taken)[0]}, a name that the policy itself uses; rename it")
    vector = np.zeros(network.num_parameters, np.float32)
    vector[: own.size] = own
    network.part(vector, INPUT_SCALE)[:] = 1.0
    checked(network, vector)
    return network, vector


def network_of_module(arrays: Mapping[str, Array]) -> tuple[ModuleNetwork, Array]:
    """The network and the flat vector that :meth:`ModuleNetwork.arrays` was made from; no code of the module runs.

    It runs later only if the user names it: in :data:`NETWORKS`, or in the settings of :func:`modules_allowed`.

    Raises:
        ValueError: a part is missing or has another shape than described.
    """
    content = described(arrays[MODULE])
    name, arguments = str(content["name"]), str(content["arguments"])
    network = ModuleNetwork(
        ModuleSpec(name, arguments, str(content["role"]), named=(name, arguments) in _OF_FILES.get()),
        int(content["sizes"][0]),
        int(content["sizes"][1]),
        tuple((str(name), tuple(int(n) for n in shape)) for name, shape in content["shapes"]),
        tuple((str(name), int(length)) for name, length in content["extras"]),
    )
    for name, shape in network.layout:
        if name not in arrays or arrays[name].shape != shape:
            found = arrays[name].shape if name in arrays else "nothing"
            raise ValueError(f"parameter {name} must have shape {shape}, got {found}")
    return network, np.concatenate([arrays[name].ravel() for name, _ in network.layout])


def described(array: NDArray[Any]) -> dict[str, Any]:
    """The description in the array :data:`MODULE` of a file.

    Raises:
        ValueError: it is not one.
    """
    content = json.loads(array.tobytes())
    wanted = {"name", "arguments", "role", "sizes", "shapes", "extras"}
    if array.dtype != np.uint8 or not isinstance(content, dict) or content.keys() != wanted:
        raise ValueError("the description of a module is not readable")
    return content


def is_named(name: str) -> bool:
    """Whether the user names the class ``name`` in :data:`NETWORKS`."""
    return name in os.environ.get(NETWORKS, "").split(",")


@contextmanager
def modules_allowed(within: Mapping[str, Any]) -> Iterator[None]:
    """Files read in the body may use the modules of ``within``: a section of the user's, or an admitted one."""
    token = _OF_FILES.set(frozenset(modules_of(within)))
    try:
        yield
    finally:
        _OF_FILES.reset(token)


def modules_of(within: Mapping[str, Any]) -> set[tuple[str, str]]:
    """(name, arguments) of the modules that a ``within_task`` section names; none for ``mlp``, or for a table."""
    found = set()
    for role in ROLES:
        spec = ModuleSpec.of(str(within.get(role, MLP)), within.get(f"{role}_arguments") or {}, role)
        if spec is not None:
            found.add((spec.name, spec.arguments))
    return found


def require_modules_of(within: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Check that ``arrays`` of a file belong to no module but those of the settings, so that no other code runs.

    Raises:
        ValueError: they belong to another one.
    """
    others = modules_named(arrays) - modules_of(within)
    if others:
        name, arguments = sorted(others)[0]
        raise ValueError(f"its parameters are of the module {name} {arguments}, which its settings do not name")


def modules_named(arrays: Mapping[str, Any]) -> set[tuple[str, str]]:
    """(name, arguments) of every module that ``arrays`` of any file belong to.

    Raises:
        ValueError: a description is not readable.
    """
    found = [described(array) for name, array in arrays.items() if name.rpartition(".")[2] == MODULE]
    return {(str(one["name"]), str(one["arguments"])) for one in found}
