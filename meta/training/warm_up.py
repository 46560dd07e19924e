"""Rounds of direct steps before the online ones, and the rounds after them that make hidden contexts visible."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from meta.learning.settings import MetaSettings, WarmUpSettings
from policies.common.results import Start
from policies.mixtures.latent import Latents
from policies.mixtures.team import Team
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task

_ORDER_STREAM, _OTHERS_STREAM = 63, 65


def rounds_of(meta: MetaSettings) -> int:
    """All rounds before the online steps: of direct steps, and where contexts are inferred of observing tasks."""
    return meta.warm_up.rounds + (meta.contexts.observed_rounds if meta.context == "inferred" else 0)


def teams_of_round(
    tasks: Sequence[Task],
    meta: MetaSettings,
    start: Start,
    known: FloatArray,
    number: int,
    usable: Callable[[Sequence[Task]], Sequence[Task]] = tuple,
) -> list[Team]:
    """The teams of round ``number``, with what they need of the contexts.

    Args:
        tasks: the training tasks that the teams take in turn.
        meta: how a start is learned.
        start: what the teams begin from, with latent contexts where these are learned.
        known: contexts [T, k] of the training tasks.
        number: of the round, counted from 0.
        usable: the tasks of a team without those that are set aside, whose places stay empty: the other teams do not
            depend on them.
    """
    teams = [
        dataclasses.replace(team, tasks=tuple(usable(team.tasks))) for team in teams_of(tasks, meta.warm_up, number)
    ]
    teams = [team for team in teams if team.tasks]
    if number >= meta.warm_up.rounds:
        return [dataclasses.replace(team, others=_others(known, team)) for team in teams]
    if start.contexts is None:
        return teams
    own = [start.contexts.known[[task.index for task in team.tasks]] for team in teams]
    size = {"rate": meta.contexts.latent_rate, "delta_max": meta.contexts.latent_delta}
    return [dataclasses.replace(team, latents=Latents(z, **size)) for team, z in zip(teams, own, strict=True)]


def _others(known: FloatArray, team: Team) -> FloatArray:
    """Contexts of random training tasks, so that actions do not give away the task's own."""
    rng = np.random.default_rng([_OTHERS_STREAM, team.round, team.team])
    return np.asarray(known[rng.integers(0, len(known), len(team.tasks))])


def teams_of(tasks: Sequence[Task], settings: WarmUpSettings, number: int) -> list[Team]:
    """The teams of round ``number``: all tasks in turn, in a new order every time all have been used.

    The first round has one team, from which a fresh policy takes its statistics.
    """
    teams, size, first = 1 if number == 0 else settings.teams, settings.tasks_at(number), settings.tasks_before(number)
    orders: dict[int, NDArray[np.int64]] = {}

    def task_at(position: int) -> Task:
        again, place = divmod(position, len(tasks))
        if again not in orders:
            orders[again] = np.random.default_rng([_ORDER_STREAM, again]).permutation(len(tasks))
        return tasks[int(orders[again][place])]

    return [
        Team(
            tuple(task_at(first + team * size + place) for place in range(size)),
            number,
            team,
            settings.rate,
            settings.delta_at(number),
            *settings.noise_at(number),
            begin_log_std=settings.begin_log_std if number == 0 else None,
            centring=settings.centring,
        )
        for team in range(teams)
    ]
