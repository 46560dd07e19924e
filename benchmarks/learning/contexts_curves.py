"""The curves of held-out tasks, and how tables and pictures of docs/results/contexts.md show a row of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.learning.contexts_verdict import shown
from benchmarks.result_plots import band
from meta.measuring.intervals import interval
from meta.reporting.plot_model import Dash, Series
from meta.reporting.styles import method_style
from tasks.contract.tabular_model import FloatArray


@dataclass(frozen=True)
class Curves:
    """One seed: undiscounted rewards [N, M+1] and discounted costs over their limits [N, M+1, p]."""

    rewards: FloatArray
    costs: FloatArray

    @staticmethod
    def of(record: dict[str, Any]) -> Curves:
        """The curves of a record."""
        values, limits = np.array(record["values"]), np.array(record["limits"])
        undiscounted = np.array(record["episodic"]) if record["episodic"][0] is not None else values
        return Curves(undiscounted[:, :, 0], values[:, :, 1:] / limits[:, None, :])

    def until(self, updates: int) -> Curves:
        """The same tasks after so many updates at most."""
        return Curves(self.rewards[:, : updates + 1], self.costs[:, : updates + 1])

    def reward(self, mark: int) -> float:
        """Mean reward over tasks after ``mark`` updates."""
        return float(self.rewards[:, mark].mean())

    def largest_mean_cost(self) -> float:
        """The largest mean over tasks of a cost over its limit, of all iterates and costs."""
        return float(self.costs.mean(axis=0).max())

    def excess(self) -> float:
        """Mean excess of a cost over its limit, in units of the limit, over tasks, iterates and costs."""
        return float(np.maximum(self.costs - 1.0, 0.0).mean())


def columns(marks: Sequence[int]) -> list[str]:
    """The columns of :func:`measures`."""
    rewards = ["at once" if mark == 0 else f"after {mark}" for mark in marks]
    return ["seeds", *rewards, "largest mean cost / limit", "largest cost / limit", "task-iterations over"]


def measures(seeds: Sequence[Curves], marks: Sequence[int]) -> list[object]:
    """What a table says of a row: its rewards at ``marks``, its largest costs, and how often it is over a limit."""
    return [
        len(seeds),
        *(shown(interval([one.reward(mark) for one in seeds])) for mark in marks),
        shown(interval([one.largest_mean_cost() for one in seeds]), 2),
        f"{max(float(one.costs.max()) for one in seeds):.2f}",
        f"{np.mean([float((one.costs > 1.0).mean()) for one in seeds]):.2%}",
    ]


def row_band(row: str, x: npt.ArrayLike, values: npt.ArrayLike) -> Series:
    """The mean of ``values`` [n, K] over seeds with its band; a variant that looks like its method is dashed."""
    style = method_style(row)
    dash: Dash = "solid" if style == method_style(row.split(", ")[0]) else "dash"
    return band(row, x, values, style, dash=dash)
