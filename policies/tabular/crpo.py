"""Solve one task with a table: by CRPO (Xu, Liang, Lan 2021, algorithm 1) or another rule (policies.rules)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from policies.common.branches import choose_output, tolerance_of_each
from policies.common.results import Solution
from policies.exact.softmax import log_normalizer, log_policy, natural_gradient_step
from policies.exact.solver import Evaluation, ExactModel, evaluate, occupancy
from policies.rules.rule import View, decided
from policies.rules.rule_registry import CRPO_METHOD, MethodSettings, without_default_method
from policies.tabular.geometry import Products, combined
from tasks.contract.tabular_model import FloatArray


class WithinTaskSettings(BaseModel):
    """How one task is solved: the ``within_task`` section of a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    final_batches: ClassVar[int] = 0
    """Batches that evaluate the last iterate: none, the data of the earlier ones are used."""
    steps_of_batch: ClassVar[int] = 0
    """Environment steps of one iteration: 0, since episodes decide how many there are."""
    device: ClassVar[str] = "cpu"
    """Where tables are computed."""

    algorithm: Literal["crpo"] = "crpo"
    """The within-task algorithm."""
    num_iterations: int = Field(default=5, gt=0)
    """M, policy updates within a task."""
    evaluation: Literal["exact", "sampled"] = "exact"
    """exact: values from the exact model; sampled: values estimated from the task's rollouts."""
    tolerance: Annotated[float, Field(ge=0.0)] | tuple[Annotated[float, Field(ge=0.0)], ...] = 0.0
    """eta, by which a cost may exceed its limit before a step is spent on it; one number, or one per cost."""
    safety_margin: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of every limit that is kept free: CRPO sees (1 - share) d_i."""
    constraint_choice: Literal["largest", "first", "random"] = "largest"
    """Which violated cost to descend on: the largest violation relative to its limit, the first, or a random one."""
    output: Literal["best", "uniform", "last"] = "best"
    """Which iterate is the result: of the feasible ones the one of best reward, a uniform draw, or the last."""
    episodes_per_iteration: int = Field(default=20, gt=0)
    """Episodes collected with each iterate."""
    num_copies: int = Field(default=10, gt=0)
    """Copies of the environment stepped together; changes speed, never results."""
    method: MethodSettings = CRPO_METHOD
    """The rule that decides each step, with its own settings."""

    @model_serializer(mode="wrap")
    def _dumped(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_default_method(self, dump)

    @model_validator(mode="after")
    def _tables_have_rules(self) -> WithinTaskSettings:
        if self.method.outside:
            raise ValueError(
                f"method.name: {self.method.name} needs algorithm neural_crpo: it learns networks, not tables"
            )
        return self

    def tolerances(self, num_costs: int) -> FloatArray:
        """eta as an array [p].

        Raises:
            ValueError: a tuple of another length.
        """
        return tolerance_of_each(self.tolerance, num_costs)


class Evaluator(Protocol):
    """Where the values of an iterate come from."""

    def evaluate(self, policy: FloatArray, iteration: int) -> Evaluation:
        """J_i, V_i and Q_i of iterate ``iteration``, which is about to be improved."""

    def evaluate_last(self, policy: FloatArray) -> Evaluation:
        """The same for the last iterate, from what is already known: no step follows it."""

    def visits(self, policy: FloatArray) -> FloatArray:
        """The discounted state distribution [S] of ``policy``, from what is already known."""


@dataclass(frozen=True, slots=True)
class ExactEvaluator:
    """Values from the exact model."""

    model: ExactModel

    def evaluate(self, policy: FloatArray, iteration: int) -> Evaluation:
        """Exact values; ``iteration`` does not matter."""
        del iteration
        return evaluate(self.model, policy)

    def evaluate_last(self, policy: FloatArray) -> Evaluation:
        """Exact values."""
        return evaluate(self.model, policy)

    def visits(self, policy: FloatArray) -> FloatArray:
        """The exact distribution."""
        return occupancy(self.model, policy)


class Steps(Protocol):
    """What may shorten a step."""

    def share(
        self, iteration: int, logits: FloatArray, direction: FloatArray, branch: int, result: Evaluation
    ) -> float:
        """The share of the step by ``direction`` from ``logits`` that is taken; ``result`` evaluates the iterate."""


def solve(
    evaluator: Evaluator,
    logits: FloatArray,
    learning_rates: FloatArray,
    limits: FloatArray,
    settings: WithinTaskSettings,
    discount: float,
    rng: np.random.Generator,
    safe: Steps | None = None,
) -> Solution:
    """Solve from ``logits`` [S, A] with ``learning_rates`` [1+p] and ``limits`` [p] by the rule of the settings.

    Branches and output are chosen under (1 - ``safety_margin``) d.
    Iterates 0..M are all evaluated (the last without a step after it). ``best`` and ``last`` choose among all of
    them, ``uniform`` among N_0, the iterates that were improved on the reward, as in the paper. ``safe`` may shorten
    every step; nothing else changes.

    Raises:
        TaskError: a rule of the user's raises, or its decision is none.
    """
    tolerance, limits = settings.tolerances(limits.size), (1.0 - settings.safety_margin) * limits
    rule = settings.method.make()
    memory = rule.first(limits.size)
    iterates, values = [log_policy(logits)], []
    branches, steps, coefficients, normalizers = [], [], [], []
    for iteration in range(settings.num_iterations):
        policy = np.exp(iterates[-1])
        result = evaluator.evaluate(policy, iteration)
        advantages = result.advantages()
        products = Products(policy, advantages, discount, evaluator)
        shown = (result.values, limits, tolerance, learning_rates, products.matrix, products.spreads)
        view = View(*shown, constraint_choice=settings.constraint_choice, rng=rng)
        decision = decided(rule, view, memory)
        memory, taken = decision.memory, decision.coefficients
        direction = combined(taken, advantages)
        if safe is not None:
            share = safe.share(iteration, iterates[-1], direction, decision.branch, result)
            direction, taken = (direction, taken) if share == 1.0 else (share * direction, share * taken)
        values.append(result.values)
        branches.append(decision.branch)
        steps.append(float(taken[decision.branch]))
        coefficients.append(taken)
        normalizers.append(log_normalizer(iterates[-1], direction, 1.0, discount))
        iterates.append(natural_gradient_step(iterates[-1], direction, 1.0, discount))
    values.append(evaluator.evaluate_last(np.exp(iterates[-1])).values)
    all_values, all_branches = np.array(values), np.array(branches, dtype=np.int64)
    mixed = np.array(coefficients)
    output, feasible = choose_output(all_values, all_branches, limits, tolerance, settings.output, rng)
    return Solution(
        np.array(iterates),
        all_values,
        all_branches,
        np.array(steps),
        np.array(normalizers),
        output,
        feasible,
        mixed if np.count_nonzero(mixed) > np.count_nonzero(steps) else None,
    )
