"""The adaptation to one task: its figure, and how the task is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meta.reporting.figures import adaptation
from meta.reporting.plot_model import Figure
from policies.common.digits import parameters_text
from policies.common.results import TaskResult
from tasks.contract.task import Task

_LONGEST = 60


@dataclass(frozen=True)
class _Curves:
    """J_0 [M+1] and J_1..J_p [M+1, p] after 0..M updates."""

    reward_curve: list[float]
    cost_curve: list[list[float]]


def adaptation_figure(results: Mapping[str, TaskResult]) -> Figure:
    """Reward and costs of one task after each policy update, by method."""
    task = next(iter(results.values())).task
    curves = {
        name: _Curves(result.values[:, 0].tolist(), result.values[:, 1:].tolist()) for name, result in results.items()
    }
    title = f"One task: {described(task)}; after each policy update, dashed: its limit"
    return adaptation(curves, task.limits, title, limit_label="limit")


def described(task: Task) -> str:
    """The label with the parameters, which an own task's label has already."""
    return task.label if task.split == "own" else f"{task.label} ({parameters_text(task.parameters, _LONGEST)})"
