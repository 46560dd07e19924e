"""The code of an MLflow model: ``mlflow.pyfunc.load_model(URI).predict(observations)`` returns actions.

MLflow copies this single file into the model, so it imports numpy, safetensors and mlflow only. Tests compare its
actions with those of ``policies.solving.acting``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc.model import PythonModel
from safetensors.numpy import load_file

Array = np.ndarray[Any, Any]
_CLIP, _LEAST_VARIANCE = 10.0, 1e-6


class Actions:
    """Maps observations to actions of the learned start in ``folder``.

    Observations are states [N] (a table) or vectors [N, d] (a network); actions are indices [N] or vectors [N, k]
    within the environment's bounds. Parameters: ``start`` (index of the initialisation, default 0), ``stochastic``
    (sample from the policy instead of taking its mode, default False), ``seed`` of the samples (default 0) and
    ``context``, the context of the task as a JSON object, for a start that is a function of it. Without it, a network
    expects the normalised context behind each observation, and a table is the one for an unknown context.
    """

    def __init__(self, folder: Path) -> None:
        self._arrays = load_file(folder / "meta_policy.safetensors")
        self._facts = json.loads((folder / "meta_policy.json").read_text(encoding="utf-8"))

    def __call__(self, model_input: object, params: dict[str, Any] | None) -> Array:
        """Actions for observations."""
        given = {"start": 0, "stochastic": False, "seed": 0, "context": "", **(params or {})}
        if not 0 <= given["start"] < self._facts["num_starts"]:
            raise ValueError(f"start: must be from 0 to {self._facts['num_starts'] - 1}, got {given['start']}")
        prefix = f"start_{given['start']}."
        arrays = {name.removeprefix(prefix): v for name, v in self._arrays.items() if name.startswith(prefix)}
        rng = np.random.default_rng(given["seed"]) if given["stochastic"] else None
        context = self._context(given["context"]) if given["context"] else None
        if self._facts["spaces"]["tabular"]:
            table = arrays["probabilities"] if context is None else self._table(arrays, context)
            return self._of_table(table, np.asarray(model_input), rng)
        observations = np.asarray(model_input, np.float32)
        if context is not None:
            observations = np.column_stack([observations, np.tile(context.astype(np.float32), (len(observations), 1))])
        outputs = _network(arrays, observations)
        if self._facts["spaces"]["actions"]:
            return _drawn(_softmax(outputs), rng)
        if rng is not None:
            outputs = outputs + np.exp(arrays["actor.log_std"]) * np.asarray(
                rng.standard_normal(outputs.shape), np.float32
            )
        return self._bounded(outputs)

    def _context(self, text: str) -> Array:
        """The normalised context of a JSON object."""
        contexts = self._facts.get("contexts")
        if contexts is None:
            raise ValueError("context: this start was learned without contexts; leave it out")
        space, entries = contexts["space"], json.loads(text)
        if not isinstance(entries, dict) or sorted(entries) != sorted(space["names"]):
            raise ValueError(f"context: must be a JSON object with the entries {', '.join(space['names'])}, got {text}")
        values = np.array([float(entries[name]) for name in space["names"]])
        if not np.isfinite(values).all():
            raise ValueError(f"context: entries must be finite, got {text}")
        return (values - np.array(space["mean"])) * np.array(space["scale"])

    def _table(self, arrays: dict[str, Array], context: Array) -> Array:
        """The mixture of kernel leaders, or of log-linear maps, at ``context``."""
        if "effects" in arrays:
            return _log_linear(arrays, context)
        apart, (shrinkage, prior, _) = arrays["contexts"] - context, arrays["numbers"]
        differing = self._facts["contexts"]["space"]["distance"] == "differing"
        far = (apart != 0.0).sum(axis=1) if differing else np.sqrt((apart**2).sum(axis=1))
        kernels = np.exp(-far[None, :] / arrays["bandwidths"][:, None])
        sums = np.tensordot(kernels, arrays["weighted"], axes=1)
        leaders = (sums + prior / sums.shape[2]) / (sums.sum(axis=2, keepdims=True) + prior)
        tables = (1.0 - shrinkage) * leaders + shrinkage / sums.shape[2]
        return np.asarray(np.tensordot(arrays["shares"], tables, axes=1))

    def _of_table(self, table: Array, states: Array, rng: np.random.Generator | None) -> Array:
        states = states.reshape(-1)
        if not ((states >= 0) & (states < len(table))).all():
            raise ValueError(f"observations: states must be from 0 to {len(table) - 1}")
        return _drawn(table[states.astype(np.int64)], rng)

    def _bounded(self, outputs: Array) -> Array:
        """Scale outputs from [-1, 1] to the action bounds; unbounded components stay unchanged."""
        spaces = self._facts["spaces"]
        low = np.array([-np.inf if value is None else value for value in spaces["low"]], np.float32)
        high = np.array([np.inf if value is None else value for value in spaces["high"]], np.float32)
        finite = np.isfinite(low) & np.isfinite(high)
        with np.errstate(invalid="ignore"):
            half = np.where(finite, 0.5 * (high - low), 1.0).astype(np.float32)
            centre = np.where(finite, 0.5 * (high + low), 0.0).astype(np.float32)
        return np.clip(centre + half * outputs, low, high)


def _log_linear(arrays: dict[str, Array], context: Array) -> Array:
    """sum_h p_h softmax(theta_h + sum_j w_h(s, a, j) c_j), shrunk."""
    state, action, entry, number = arrays["effects"].T
    states, actions = arrays["offsets"].shape[1:]
    entries, shrinkage = (arrays["units"] * context)[entry], arrays["numbers"][0]
    tables = []
    for offsets, weights in zip(arrays["offsets"], arrays["weights"], strict=True):
        pushes = np.bincount(state * actions + action, weights[number] * entries, states * actions)
        tables.append((1.0 - shrinkage) * _softmax(offsets + pushes.reshape(offsets.shape)) + shrinkage / actions)
    return np.asarray(np.tensordot(arrays["shares"], np.array(tables), axes=1))


def _network(arrays: dict[str, Array], observations: Array) -> Array:
    """Outputs [N, k] of the actor: normalised observations [N, d] through tanh layers."""
    mean = arrays["statistics.mean"].astype(np.float32)
    scale = (1.0 / np.sqrt(np.maximum(arrays["statistics.variance"], _LEAST_VARIANCE))).astype(np.float32)
    if observations.ndim != 2 or observations.shape[1] != mean.size:
        raise ValueError(f"observations: must have the shape [N, {mean.size}], got {list(observations.shape)}")
    hidden = np.clip((observations - mean) * scale, -_CLIP, _CLIP)
    layers = sum(name.startswith("actor.weights_") for name in arrays)
    for number in range(layers):
        hidden = hidden @ arrays[f"actor.weights_{number}"] + arrays[f"actor.bias_{number}"]
        if number < layers - 1:
            hidden = np.tanh(hidden)
    return hidden


def _softmax(outputs: Array) -> Array:
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _drawn(probabilities: Array, rng: np.random.Generator | None) -> Array:
    """Indices [N]: the most probable ones, or samples if ``rng`` is given."""
    if rng is None:
        return probabilities.argmax(axis=1).astype(np.int64)
    cumulative = np.cumsum(probabilities, axis=1)[:, :-1]
    return (rng.random(len(probabilities))[:, None] >= cumulative).sum(axis=1).astype(np.int64)


class MetaPolicyModel(PythonModel):
    """The model class that MLflow loads."""

    def load_context(self, context: Any) -> None:
        """Read the start."""
        self._actions = Actions(Path(context.artifacts["meta_policy"]))

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # MLflow reads type hints as a schema
        """Actions for observations; see :class:`Actions`."""
        del context
        return self._actions(model_input, params)


mlflow.models.set_model(MetaPolicyModel())
