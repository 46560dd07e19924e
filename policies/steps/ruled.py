"""The step of a network that a rule decides: the rule sees the batch as products, and the step follows its decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.networks.mlp import Array
from policies.rules.rule import Rule, View, decided
from policies.steps.clipped import clipped_step
from policies.steps.combined import NaturalGradients, Room, combined_step
from policies.steps.natural_gradient import StepReport
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import TaskError

KEEP = "within_task.trust_region.keep_satisfied"


@dataclass(frozen=True, slots=True)
class Seen:
    """``values`` [1+p] of J_i, and the ``factor`` from surrogates to them (:class:`policies.steps.combined.Room`)."""

    values: FloatArray
    factor: float


def ruled_step(
    rule: Rule,
    memory: Any,
    natural: NaturalGradients,
    seen: Seen,
    given: tuple[FloatArray, FloatArray, FloatArray],
    constraint_choice: str,
    rng: np.random.Generator,
) -> tuple[Array, StepReport, Any]:
    """The actor's next vector, what was done, and the rule's memory.

    Args:
        rule: decides the step.
        memory: of the last step, or what the rule begins with.
        natural: the batch.
        seen: what it shows of the returns.
        given: limits [p] with the safety margin taken off, tolerance [p], rates [1+p].
        constraint_choice: which of several violated costs a rule takes.
        rng: of that choice and of minibatches.

    Raises:
        TaskError: the rule raises, its decision is none, or the trust region asks for what its step cannot keep.
    """
    limits, tolerance, rates = given
    view = View(
        values=seen.values,
        limits=limits,
        tolerance=tolerance,
        rates=rates,
        products=natural.products,
        spreads=natural.spreads,
        slope=seen.factor * (1.0 - natural.discount),
        radius=natural.settings.delta_max,
        constraint_choice=constraint_choice,
        rng=rng,
    )
    decision = decided(rule, view, memory)
    room = Room(seen.factor, limits + tolerance - seen.values[1:])
    if decision.clipped is None:
        vector, step = combined_step(natural, decision, room)
    elif natural.settings.keep_satisfied:
        raise TaskError(f"{KEEP}: {type(rule).__name__} takes clipped steps, which keep nothing; set it to false")
    else:
        vector, step = clipped_step(natural, decision, room, decision.clipped, rng)
    return vector, step, decision.memory
