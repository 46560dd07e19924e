"""Generalised advantages and estimates of J from one batch of rollouts, for the reward and every cost alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from policies.networks.mlp import Array
from tasks.contract.tabular_model import FloatArray

BoolArray = NDArray[np.bool_]


def generalized_advantages(
    signals: Float[Array, "T n h"],
    values: Float[Array, "T n h"],
    final_values: Float[Array, "T n h"],
    terminated: Bool[BoolArray, "T n"],
    truncated: Bool[BoolArray, "T n"],
    discount: float,
    trace: Float[FloatArray, " h"],
) -> Float[Array, "T n h"]:
    """A_t = sum_l (gamma lambda)^l delta_{t+l} within each episode, [T, n, h] (Schulman et al. 2016, eq. 16).

    delta_t = c_t + gamma V(s_{t+1}) - V(s_t). Where an episode terminated, V(s_{t+1}) = 0; where it was truncated, or
    the batch ended, V(s_{t+1}) is ``final_values`` [T, n, h] (read there only): the critic after the step.
    ``signals`` [T, n, h] are reward and costs, ``values`` [T, n, h] are V(s_t), ``trace`` [h] is lambda per head.
    """
    following = np.empty_like(values)
    following[:-1] = values[1:]
    following[-1] = final_values[-1]
    np.copyto(following, final_values, where=truncated[..., None])
    np.copyto(following, np.zeros((), dtype=following.dtype), where=terminated[..., None])
    advantages = following
    advantages *= discount
    advantages += signals
    advantages -= values
    goes_on = ~(terminated | truncated)
    decay = goes_on[..., None] * (discount * np.asarray(trace)).astype(values.dtype)
    for time in range(len(advantages) - 2, -1, -1):
        decay[time] *= advantages[time + 1]
        advantages[time] += decay[time]
    return advantages


def episode_ages(ended: Bool[BoolArray, "T n"]) -> Int[NDArray[np.int64], "T n"]:
    """Number of steps between each step [T, n] and the start of its episode; every copy starts one at time 0."""
    times = np.arange(len(ended))[:, None]
    starts = np.zeros(ended.shape, dtype=np.int64)
    starts[1:] = np.where(ended[:-1], times[1:], 0)
    return np.asarray(times - np.maximum.accumulate(starts, axis=0))


def complete_returns(
    signals: Float[Array, "T n h"], ended: Bool[BoolArray, "T n"], discount: float
) -> Float[FloatArray, "episodes h"]:
    """sum_k gamma^k c_k of every episode that ended within the batch, [E, h]; ``signals`` [T, n, h]."""
    ages = episode_ages(ended)
    copies = np.broadcast_to(np.arange(ended.shape[1]), ended.shape)
    number: NDArray[np.int64] = np.cumsum(ended, axis=0) - ended
    most = int(number.max()) + 1
    episode = (copies * most + number).ravel()
    weights = np.power(discount, ages)[..., None] * signals.astype(np.float64)
    count = ended.shape[1] * most
    sums = [
        np.bincount(episode, weights=column, minlength=count) for column in weights.reshape(-1, signals.shape[-1]).T
    ]
    finished = np.bincount(episode, weights=ended.ravel(), minlength=count) > 0
    return np.stack(sums, axis=1, dtype=np.float64)[finished]


def life_table_returns(
    signals: Float[Array, "T n h"], ended: Bool[BoolArray, "T n"], discount: float, horizon: int
) -> Float[FloatArray, " h"]:
    """J_i = sum_{k < horizon} gamma^k E[c_i at age k], each expectation from every episode begun early enough, [h].

    An episode that began at time s shows its age k iff s + k < T, whatever happens in it, so the choice of data
    does not depend on the course of an episode. The mean over complete episodes lacks this property: it drops the
    episodes still running when the batch ends, which are long ones more often. If all episodes have one length that
    divides T, both are the same.

    How many episodes a copy begins depends on how they go where some end early, so this ratio of sums has a bias of
    order 1 / n in the number of copies; the jackknife over the copies takes that order away (Quenouille 1956) and
    leaves one of order 1 / n^2. A single copy counts its first episode alone, which has no bias and more noise. Copies
    that begin their episodes together (all of one length) have no bias, and get no correction.

    Raises:
        ValueError: the batch is shorter than an episode may be.
    """
    steps = len(signals)
    if steps < horizon:
        raise ValueError(f"{steps} steps per copy do not hold an episode of {horizon}")
    begins = episode_ages(ended) == 0
    if (begins != begins[:, :1]).any() or (ended.shape[1] == 1 and _of_several_lengths(begins[:, 0], horizon)):
        return _jackknifed_returns(signals, ended, discount, horizon)
    ages = episode_ages(ended).ravel()
    begun = np.cumsum((ages.reshape(ended.shape) == 0).sum(axis=1))
    length = min(horizon, int(ages.max()) + 1)
    shown = begun[steps - 1 - np.arange(length)]
    factors = np.power(discount, np.arange(length)) / shown
    flat = signals.reshape(-1, signals.shape[-1]).T.astype(np.float64)
    return np.array([np.bincount(ages, weights=column, minlength=length)[:length] @ factors for column in flat])


def _of_several_lengths(begins: Bool[BoolArray, " T"], horizon: int) -> bool:
    """Whether the episodes of a copy differ in length, or are shorter than they may be; the last one may be cut off."""
    lengths = np.diff(np.flatnonzero(begins))
    return bool((lengths != min(horizon, int(lengths.max(initial=0)))).any())


def _jackknifed_returns(
    signals: Float[Array, "T n h"], ended: Bool[BoolArray, "T n"], discount: float, horizon: int
) -> Float[FloatArray, " h"]:
    """As :func:`life_table_returns`, n J - (n - 1) mean_i J without copy i; the first episode alone for n = 1."""
    (steps, copies), ages = ended.shape, episode_ages(ended)
    length = min(horizon, int(ages.max()) + 1)
    weights = np.power(discount, np.arange(length))
    if copies == 1:
        first = steps if not ended.any() else int(np.argmax(ended[:, 0])) + 1
        return np.asarray(weights[:first] @ signals[: min(first, length), 0].astype(np.float64))
    shown = np.cumsum(ages == 0, axis=0)[steps - 1 - np.arange(length)].T
    place = (np.arange(copies) * length + ages).ravel()
    flat = signals.reshape(-1, signals.shape[-1]).T.astype(np.float64)
    sums = np.stack([np.bincount(place, column, copies * length).reshape(copies, length) for column in flat], axis=-1)
    together = weights @ (sums.sum(axis=0) / shown.sum(axis=0)[:, None])
    others = np.tensordot((sums.sum(axis=0) - sums) / (shown.sum(axis=0) - shown)[..., None], weights, axes=(1, 0))
    return np.asarray(copies * together - (copies - 1) * others.mean(axis=0))


def explained_variance(predicted: Float[Array, "N h"], targets: Float[Array, "N h"]) -> Float[FloatArray, " h"]:
    """1 - var(target - predicted) / var(target) per column [h]; 0 where the target does not vary."""
    difference: Any = (targets - predicted).astype(np.float64)
    spread = targets.astype(np.float64).var(axis=0)
    known = spread > 0.0
    return np.where(known, 1.0 - difference.var(axis=0) / np.where(known, spread, 1.0), 0.0)
