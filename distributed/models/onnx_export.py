"""Export a learned start as ONNX, for runtimes without Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from distributed.models.meta_policy import MetaPolicy
from distributed.settings.errors import ConfigurationError
from policies.common.policy import Policy, policy_for, table_of
from policies.common.policy_kind import Spaces
from policies.mixtures.contextual import condition
from policies.networks.mlp import Network
from policies.neural.policy_state import PolicyState
from tasks.contract.context import ContextError

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

_OPSET = 17
_CLIP = 10.0
_IR_VERSION = 9


def export_onnx(policy: MetaPolicy, path: Path, start: int = 0, context: Mapping[str, float] | None = None) -> None:
    """Write a graph that maps observations to the modes of initialisation ``start``.

    ``observations`` are states int64 [N] (a table) or float32 [N, d]; ``actions`` are int64 [N] or float32 [N, k]
    within the environment's bounds. With ``context``, by entry, the start for it is built in; without it a network
    takes the normalised context behind each observation.

    Raises:
        ConfigurationError: There is no such start, the context does not fit it, or the package onnx is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError as error:
        raise ConfigurationError("export: needs the package onnx; pip install 'metasrl[onnx]'") from error
    if not 0 <= start < len(policy.policies):
        raise ConfigurationError(f"--start: must be from 0 to {len(policy.policies) - 1}, got {start}")
    chosen, spaces = _with_context(policy, policy.policies[start], context)
    graph = _Graph()
    _add_policy(graph, chosen, spaces)
    taken = (TensorProto.INT64, ["N"]) if spaces.tabular else (TensorProto.FLOAT, ["N", spaces.observation])
    given = (TensorProto.INT64, ["N"]) if spaces.actions else (TensorProto.FLOAT, ["N", len(spaces.low)])
    made = helper.make_graph(
        graph.nodes,
        "meta_policy",
        [helper.make_tensor_value_info("observations", *taken)],
        [helper.make_tensor_value_info("actions", *given)],
        graph.constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, str(path))


def _with_context(policy: MetaPolicy, start: Policy, context: Mapping[str, float] | None) -> tuple[Policy, Spaces]:
    """The initialisation for a context, and what it takes."""
    if policy.contexts is None:
        if context is not None:
            raise ConfigurationError("--context: this start was learned without contexts; leave it out")
        return start, policy.spaces
    space = policy.contexts.space
    if context is None:
        if policy.spaces.tabular:
            names = ", ".join(space.names[:3]) + (", ..." if space.size > 3 else "")
            raise ConfigurationError(f"--context: a table by context needs one; give its entries ({names}) as JSON")
        return start, policy.spaces
    try:
        normalized = space.normalized(context, "--context")
    except ContextError as error:
        raise ConfigurationError(str(error)) from error
    if policy.spaces.tabular:
        return policy_for(start, normalized), policy.spaces
    plain = dataclasses.replace(policy.spaces, observation=policy.spaces.observation - space.size)
    return condition(cast("PolicyState", start), normalized), plain


def _add_policy(graph: _Graph, policy: Policy, spaces: Spaces) -> None:
    """Add the nodes from ``observations`` to ``actions``."""
    if not spaces.tabular:
        outputs = _network(graph, cast("PolicyState", policy))
        if spaces.actions:
            graph.node("ArgMax", [outputs], "actions", axis=1, keepdims=0)
        else:
            _bounded(graph, outputs, spaces.low, spaces.high)
    else:
        rows = graph.node("Gather", [graph.constant("probabilities", table_of(policy)), "observations"], "rows", axis=0)
        graph.node("ArgMax", [rows], "actions", axis=1, keepdims=0)


class _Graph:
    """Collects nodes and constants; each call returns the name of the new value."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, value: np.ndarray[Any, Any] | np.generic) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output


def _network(graph: _Graph, policy: PolicyState) -> str:
    statistics, network = policy.statistics, policy.actor.network
    if not isinstance(network, Network):
        raise ConfigurationError("export: only networks of within_task.network mlp are written as ONNX graphs")
    mean = graph.constant("mean", statistics.mean.astype(np.float32))
    scale = graph.constant("scale", statistics.scale.astype(np.float32))
    low, high = graph.constant("least", np.float32(-_CLIP)), graph.constant("most", np.float32(_CLIP))
    centred = graph.node("Sub", ["observations", mean], "centred")
    hidden = graph.node("Clip", [graph.node("Mul", [centred, scale], "scaled"), low, high], "inputs")
    arrays, layers = policy.actor.arrays(), network.num_layers
    for number in range(layers):
        weights = graph.constant(f"weights_{number}", arrays[f"weights_{number}"].astype(np.float32))
        bias = graph.constant(f"bias_{number}", arrays[f"bias_{number}"].astype(np.float32))
        hidden = graph.node("Gemm", [hidden, weights, bias], f"layer_{number}")
        if number < layers - 1:
            hidden = graph.node("Tanh", [hidden], f"hidden_{number}")
    return hidden


def _bounded(graph: _Graph, outputs: str, low: tuple[float | None, ...], high: tuple[float | None, ...]) -> None:
    """Scale outputs to the action bounds, as :func:`policies.neural.rollouts.to_bounds` does."""
    both = [None not in bounds for bounds in zip(low, high, strict=True)]
    half = [0.5 * (b - a) if ok else 1.0 for a, b, ok in zip(_of(low), _of(high), both, strict=True)]
    centre = [0.5 * (b + a) if ok else 0.0 for a, b, ok in zip(_of(low), _of(high), both, strict=True)]
    limits = np.finfo(np.float32)
    least = [limits.min if value is None else value for value in low]
    most = [limits.max if value is None else value for value in high]
    scaled = graph.node("Mul", [outputs, graph.constant("half", np.array(half, np.float32))], "ranged")
    moved = graph.node("Add", [scaled, graph.constant("centre", np.array(centre, np.float32))], "moved")
    above = graph.node("Max", [moved, graph.constant("low", np.array(least, np.float32))], "above")
    graph.node("Min", [above, graph.constant("high", np.array(most, np.float32))], "actions")


def _of(bounds: tuple[float | None, ...]) -> list[float]:
    return [0.0 if value is None else value for value in bounds]
