"""Solve a new task from a learned start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from distributed.jobs.adapt import find_source, new_task, plain_policy, solved
from distributed.settings.console import Console
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import FamilySettings
from meta.judging.deployed import deployed_lines
from meta.reporting.one_task import adaptation_figure
from meta.training.evaluation_settings import GivenTask
from metasrl.policy import Policy
from metasrl.run import Run
from metasrl.start import LearnedStart
from policies.common.results import TaskResult
from policies.solving.algorithms import kind_of_policy
from tasks.contract.contextual_family import ContextualFamily
from tasks.contract.rendering import renderable
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskFamily

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Adapted(Policy):
    """A task that was solved from a learned start, and the policy that solves it.

    ``parameters`` and ``limits`` [p] are the task's; ``rewards`` [M+1] and ``costs`` [M+1, p] are the expected
    discounted sums of an episode after 0..M policy updates; ``output`` is the update whose policy acts.
    """

    def __init__(self, family: TaskFamily, task: Task, results: Mapping[str, TaskResult]) -> None:
        result = results["meta_srl"]
        plain = family.plain if isinstance(family, ContextualFamily) else family
        super().__init__(plain_policy(result), kind_of_policy(result.policy).spaces(plain, task), task.seed)
        self._family, self._task, self._results = plain, task, dict(results)

    @property
    def parameters(self) -> dict[str, Any]:
        """The task's parameters."""
        return dict(self._task.parameters)

    @property
    def limits(self) -> tuple[float, ...]:
        """The task's limits [p]."""
        return tuple(self._task.limits)

    @property
    def rewards(self) -> FloatArray:
        """J_0 [M+1] after 0..M updates."""
        return self._result.values[:, 0].copy()

    @property
    def costs(self) -> FloatArray:
        """J_1..J_p [M+1, p] after 0..M updates."""
        return self._result.values[:, 1:].copy()

    @property
    def output(self) -> int:
        """Which of the iterates 0..M acts."""
        return int(self._result.output)

    @property
    def safety(self) -> str:
        """What the bounds of anytime-safe adaptation did, in lines; empty without them."""
        return "\n".join(deployed_lines(self._results)).strip()

    @property
    def _result(self) -> TaskResult:
        return self._results["meta_srl"]

    @property
    def table(self) -> pd.DataFrame:
        """Reward and costs after each update, one row for each."""
        import pandas as pd

        costs = {f"cost_{i}": self.costs[:, i - 1] for i in range(1, len(self.limits) + 1)}
        return pd.DataFrame({"reward": self.rewards, **costs}).rename_axis("updates")

    def make(self, *, pictures: bool = False) -> gymnasium.Env[Any, Any]:
        """A new environment of the task; with ``pictures`` its ``render`` returns arrays [height, width, 3].

        Raises:
            metasrl.errors.TaskError: The environment cannot render.
        """
        return renderable(self._family, self._task) if pictures else self._family.make(self._task.parameters)

    def plot(self) -> Figure:
        """Reward and costs after each update as a Matplotlib figure."""
        from meta.reporting.render_matplotlib import draw

        return draw(adaptation_figure(self._results))

    def __repr__(self) -> str:
        return f"Adapted({self._task.label}: reward {self.rewards[self.output]:.4g}, limits {list(self.limits)})"


def adapt(
    source: Run | LearnedStart | str | Path,
    parameters: Mapping[str, Any] | None = None,
    limits: float | Sequence[float] | None = None,
    *,
    task_index: int | None = None,
    task_seed: int | None = None,
    family: str | None = None,
    method: str | None = None,
    confidence: float | None = None,
    compare: bool = False,
) -> Adapted:
    """Solve a new task from a learned start, in this process.

    Args:
        source: A run, a start, or what :func:`metasrl.load` takes.
        parameters: All parameters of your own task; column parameters of :attr:`Run.tasks` shows those of others.
        limits: Limits of your own task, one for each cost; by default the family's own for it.
        task_index: Index of a held-out task instead (0 if nothing chooses one).
        task_seed: Seed of a new task of the family instead.
        family: The family that the start was learned on, or another one of the same spaces, where it is code of yours.
        method: The start's own within-task method, where it is code of yours.
        confidence: Deploy only policies that keep the limits with this confidence, as ``evaluation.safety``; by default
            as the run's own settings say.
        compare: Also solve the task from a fresh policy, for the plot.

    Raises:
        metasrl.errors.ConfigurationError: There is no such start or task, or they do not fit.
        metasrl.errors.TaskError: The environment breaks its contract.
    """
    chosen = {"parameters": parameters, "task_index": task_index, "task_seed": task_seed}
    named = [name for name, value in chosen.items() if value is not None]
    if len(named) > 1:
        raise ConfigurationError(f"give {' or '.join(named)}, not both")
    if limits is not None and parameters is None:
        raise ConfigurationError("limits: need parameters, the parameters of the task that they are for")
    name = family if family is not None else source.family if isinstance(source, Run) else None
    console = Console()
    found = find_source(_place(source), None if name is None else FamilySettings(name=name), None, console, method)
    if confidence is not None:
        found = replace(found, config=found.config.with_confidence(confidence, "confidence"))
    own, task = new_task(found, task_index, task_seed, console, _given(parameters, limits))
    return Adapted(own, task, solved(found, own, task, compare=compare))


def _given(parameters: Mapping[str, Any] | None, limits: float | Sequence[float] | None) -> GivenTask | None:
    if parameters is None:
        return None
    several = (limits,) if isinstance(limits, int | float) else limits
    return GivenTask(parameters=dict(parameters), limits=None if several is None else tuple(map(float, several)))


def _place(source: Run | LearnedStart | str | Path) -> str:
    if isinstance(source, Run):
        return str(source.path)
    return source.source if isinstance(source, LearnedStart) else str(source)
