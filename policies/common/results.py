"""What solving a task takes and returns, for every kind of policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy import int64
from numpy.typing import NDArray

from policies.common.context_regression import ContextRegression
from policies.common.policy import Policy
from policies.common.safety import Safety, SafetyReport
from policies.exact.solver import OptimalPolicy
from tasks.contract.contextual_family import Contexts
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError


@dataclass(frozen=True, slots=True)
class Start:
    """A start as sent to the workers: ``initialization`` (phi) and ``learning_rates`` [1+p] (alpha).

    ``context`` [k] is that of the task that the start was made for; None for a start of all tasks. ``contexts`` are
    those of the training tasks where they were learned with the start; None where the family gives them. ``regression``
    infers the context of a new task from its transitions. With ``safety``, steps go no farther than its bounds allow.
    """

    initialization: Policy
    learning_rates: FloatArray
    context: FloatArray | None = None
    contexts: Contexts | None = None
    regression: ContextRegression | None = None
    safety: Safety | None = None

    selection: ClassVar[Literal["only"]] = "only"
    probe_episodes: ClassVar[None] = None

    @property
    def starts(self) -> tuple[Start, ...]:
        """The start itself, as the only choice of a task; compare :class:`Candidates`."""
        return (self,)


Selection = Literal["probe", "round_robin"]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Several starts, of which each task uses one (:func:`policies.solving.probing.choose_start`).

    ``selection``: probe takes the best after ``probe_episodes`` episodes of each (None: as many as an iteration has);
    round_robin takes them in turn by the task's index.
    """

    starts: tuple[Start, ...]
    selection: Selection = "probe"
    probe_episodes: int | None = None

    @property
    def learning_rates(self) -> FloatArray:
        """Mean of the starts' rates [1+p], for tables with room for one row; each start has its own."""
        return np.asarray(np.mean([start.learning_rates for start in self.starts], axis=0))


Starts = Start | Candidates
"""The start or starts sent to the workers."""


def require_rates(task: Task, start: Start) -> None:
    """Check that ``start`` has a rate for the reward and one for each cost of ``task``.

    Raises:
        TaskError: the number of rates is another one.
    """
    objectives = 1 + len(task.limits)
    if start.learning_rates.shape != (objectives,):
        raise TaskError(
            f"task {task.label}: {start.learning_rates.size} learning rates for 1 + {objectives - 1} objectives"
        )


@dataclass(frozen=True, slots=True)
class Solution:
    """What a tabular solver did on one task in M iterations.

    ``iterates`` [M+1, S, A] are normalised logits; ``values`` [M+1, 1+p] the evaluator's J_i of each; ``branches`` [M]
    the objective of each step; ``steps`` [M] its signed rate; ``log_normalizers`` [M, S] the log Z_m(s) of each step.
    ``output`` is the index of the chosen iterate and ``feasible`` is True if any iterate kept every limit
    (within its tolerance); if none did, the output is the iterate with the smallest violation. ``mixed`` [M, 1+p] are
    the coefficients of all objectives where a step was on several at once; None where each was on one.
    """

    iterates: FloatArray
    values: FloatArray
    branches: NDArray[np.int64]
    steps: FloatArray
    log_normalizers: FloatArray
    output: int
    feasible: bool
    mixed: FloatArray | None = None

    @property
    def logits(self) -> FloatArray:
        """Logits [S, A] of pi_hat."""
        return np.asarray(self.iterates[self.output])


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A solved task, small enough to pass through the driver.

    ``policy`` is pi_hat, the iterate with the index ``output``; ``feasible`` is True if any iterate kept every limit.
    ``values`` [M+1, 1+p] are the true J_i of every iterate where an exact model exists, else the estimates that CRPO
    itself used. ``branches`` [M] are the objectives of the steps. ``reference`` is the linear programme's optimum and
    ``occupancy`` [S] that of pi_hat, both None without an exact model; ``solution`` is None for a neural policy.
    ``episodic`` [M+1, 1+p] are mean undiscounted sums over complete episodes, where they are measured. ``facts`` are
    further numbers by name, one column each. ``start_index`` is the index of the start among several
    :class:`Candidates`, and ``probe_steps`` how many of the ``env_steps`` were spent on choosing it, or the context.
    ``context`` [k] is the normalised context that the task was solved with; None without contexts. ``safety`` is what
    the bounds of safe steps did; None without them.
    """

    task: Task
    policy: Policy
    values: FloatArray
    branches: NDArray[int64]
    output: int
    feasible: bool
    env_steps: int
    seconds: float
    reference: OptimalPolicy | None = None
    occupancy: FloatArray | None = None
    solution: Solution | None = None
    episodic: FloatArray | None = None
    facts: Mapping[str, float] = field(default_factory=dict)
    start_index: int = 0
    probe_steps: int = 0
    context: FloatArray | None = None
    safety: SafetyReport | None = None
