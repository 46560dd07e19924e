"""RLlib's episodes as the transitions that this project's updates take; costs come from ``info["cost"]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from distributed.rllib.crpo_runner import COPY
from policies.neural.rollouts import NeuralTransitions

KEY = "cost"
"""The key of ``info`` that holds the cost of a step: a number, or one for each limit."""


class CostError(ValueError):
    """A step has no usable costs; the message names the environment and the step."""


def costs_of(infos: Sequence[Any], num_costs: int, where: str, first: int = 0) -> NDArray[np.float32]:
    """The costs [L, p] of the steps that returned ``infos``, the first of which is step ``first`` of its episode.

    Raises:
        CostError: a cost is missing, is not finite, or there is another number of them than limits.
    """
    rows = np.empty((len(infos), num_costs), np.float32)
    for row, info in enumerate(infos):
        step = first + row
        if not isinstance(info, dict) or info.get(KEY) is None:
            found = ", ".join(sorted(map(str, info))) if isinstance(info, dict) and info else "nothing"
            raise CostError(
                f"{where}, step {step}: info has no {KEY!r} (it holds {found}); CRPO needs the costs of every step"
            )
        cost = np.atleast_1d(np.asarray(info[KEY], np.float64)).ravel()
        if cost.size != num_costs:
            raise CostError(
                f"{where}, step {step}: info[{KEY!r}] has {cost.size} costs, and cost_limits has {num_costs} limits: "
                "give one limit for each cost"
            )
        if not np.isfinite(cost).all():
            raise CostError(f"{where}, step {step}: info[{KEY!r}] is not finite: {info[KEY]}")
        rows[row] = cost
    return rows


def transitions_of(
    pieces: Sequence[SingleAgentEpisode], steps: int, num_costs: int, environment: str
) -> NeuralTransitions:
    """The first ``steps`` steps of every copy, [T, n, ...]; copies are in the order of runners and environments.

    Args:
        pieces: of :meth:`distributed.rllib.crpo_runner.CRPOEnvRunner.sample_copies`, those of a copy in their order.
        steps: T.
        num_costs: p.
        environment: its name, for messages.

    Raises:
        CostError: see :func:`costs_of`.
        ValueError: an observation or a reward is not finite.
    """
    by_copy: dict[tuple[int, int], list[SingleAgentEpisode]] = {}
    for piece in pieces:
        by_copy.setdefault(tuple(piece.custom_data[COPY]), []).append(piece)
    columns = [
        _column(by_copy[copy], steps, num_costs, f"{environment}, copy {copy[1]} of runner {copy[0]}")
        for copy in sorted(by_copy)
    ]
    terminated, truncated = (np.stack([column[name] for column in columns], axis=1) for name in ("ended", "cut"))
    last = terminated | truncated
    last[-1] = True
    final_steps = np.argwhere(last)
    following = np.stack([column["following"] for column in columns], axis=1)
    return NeuralTransitions(
        observations=np.stack([column["observations"] for column in columns], axis=1),
        actions=np.stack([column["actions"] for column in columns], axis=1),
        signals=np.stack([column["signals"] for column in columns], axis=1),
        terminated=terminated,
        truncated=truncated,
        final_steps=final_steps,
        final_observations=following[final_steps[:, 0], final_steps[:, 1]],
    )


def _column(pieces: Sequence[SingleAgentEpisode], steps: int, num_costs: int, where: str) -> dict[str, NDArray[Any]]:
    """One copy: arrays over its first ``steps`` steps."""
    parts: dict[str, list[NDArray[Any]]] = {
        name: [] for name in ("observations", "following", "actions", "signals", "ended", "cut")
    }
    done = 0
    for piece in pieces:
        count = min(len(piece), steps - done)
        if count <= 0:
            break
        seen = np.asarray(piece.get_observations(), np.float32).reshape(len(piece) + 1, -1)
        rewards = np.asarray(piece.get_rewards(), np.float32)
        costs = costs_of(piece.get_infos()[1 : count + 1], num_costs, where, piece.t_started)
        for name, values in (("observations", seen), ("reward", rewards)):
            if not np.isfinite(values).all():
                raise ValueError(f"{where}: {name} not finite")
        flags = np.zeros((2, len(piece)), np.bool_)
        flags[:, -1] = piece.is_terminated, piece.is_truncated
        parts["observations"].append(seen[:count])
        parts["following"].append(seen[1 : count + 1])
        parts["actions"].append(np.asarray(piece.get_actions())[:count])
        parts["signals"].append(np.column_stack([rewards[:count], costs]))
        parts["ended"].append(flags[0, :count])
        parts["cut"].append(flags[1, :count])
        done += count
    return {name: np.concatenate(values) for name, values in parts.items()}
