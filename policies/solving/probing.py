"""Which of several starts a new task is solved from: the best one after a short rollout of each."""

from __future__ import annotations

import numpy as np

from policies.common.branches import relative_violations
from policies.common.results import Starts
from policies.common.score import relative_loss
from policies.solving.algorithms import WithinTask, kind_of
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskFamily


def choose_start(family: TaskFamily, task: Task, starts: Starts, settings: WithinTask) -> tuple[int, int]:
    """The index of the start to solve ``task`` from, and the environment steps that the choice took.

    With exact evaluation the values of the starts come from the model and cost no steps. Ties go to the first.

    Raises:
        TaskError: the environment breaks its contract, or a start does not fit the task.
    """
    if len(starts.starts) == 1:
        return 0, 0
    if starts.selection == "round_robin":
        return task.index % len(starts.starts), 0
    policies = [start.initialization for start in starts.starts]
    limits = (1.0 - settings.safety_margin) * np.array(task.limits)
    values, steps = kind_of(settings).values(family, task, policies, settings, starts.probe_episodes)
    return int(np.argmax(start_scores(values, limits, settings.tolerances(limits.size)))), steps


def start_scores(values: FloatArray, limits: FloatArray, tolerance: FloatArray) -> FloatArray:
    """Scores [K] of starts with values J [K, 1+p]; the greatest is the best.

    -(J_0max - J_0) / |J_0max| - mean_i max(0, J_i - d_i - eta_i) / d_i, where J_0max is the largest reward of any of
    the starts, whether it keeps the limits or not (in the place of the optimum's in :mod:`policies.common.score`), and
    a violation counts from the tolerance on. A divisor that is 0 is left out.
    """
    behind = relative_loss(values[:, 0], float(values[:, 0].max()))
    excess = np.maximum(relative_violations(values, limits + tolerance), 0.0)
    return np.asarray(-behind - excess.mean(axis=1))
