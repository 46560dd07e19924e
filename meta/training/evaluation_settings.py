"""Which starts are compared and how they are judged: the ``evaluation`` section of a run file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

MethodName = str
"""Name of a method in the registry :mod:`meta.methods.registry`."""


class GridPoint(BaseModel):
    """Hyper-parameters of one method in `compare`; fields that the method does not use must be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rate: float | None = Field(default=None, gt=0.0)
    """Learning rate of every objective, on training and on held-out tasks; empty for meta_srl: `meta` sets it."""
    step: float | None = Field(default=None, gt=0.0)
    """reptile: eps; maml_penalty: step size of the outer gradient; meta_srl: step size of the initialisation."""
    penalty: float | None = Field(default=None, ge=0.0)
    """maml_penalty: lambda of every cost, in units of the reward per unit of the cost."""
    forgetting: float | None = Field(default=None, gt=0.0, le=1.0)
    """meta_srl: forgetting of the initialisation."""
    margin: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Safety margin on the training tasks; empty: within_task.safety_margin. Held-out tasks keep their own."""


class EvaluationSettings(BaseModel):
    """How starts are judged: the ``evaluation`` section of a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    methods: tuple[MethodName, ...] | None = Field(default=None, min_length=1)
    """Methods that `train` evaluates; empty: random, fal, oracle, meta_srl, or random, meta_srl for neural policies."""
    compared: tuple[MethodName, ...] | None = Field(default=None, min_length=1)
    """Methods that `compare` runs; empty: all that the within-task algorithm and the family have."""
    num_test_tasks: int = Field(default=20, gt=0)
    """Held-out tasks, for each seed."""
    num_iterations: int | None = Field(default=None, gt=0)
    """Policy updates on a held-out task; empty takes within_task.num_iterations."""
    safety_margin: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Share of every limit that is kept free on a held-out task; empty takes within_task.safety_margin."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=tuple(range(10)), min_length=1)
    """Seeds of `compare`; each draws its own tasks."""
    rate_grid: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(
        default=(0.03, 0.1, 0.3, 1.0, 3.0, 10.0), min_length=1
    )
    """Learning rates from which every baseline gets the best one on training tasks."""
    grid_tasks: int = Field(default=24, gt=0)
    """Training tasks (the first ones) on which the rate is chosen; in `compare`, from which a grid point learns."""
    grids: dict[MethodName, tuple[GridPoint, ...]] = Field(default={})
    """Hyper-parameters that `compare` tries, by method, equally many for each; a method not named gets `rate_grid`."""
    tuning_seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(90,), min_length=1)
    """Seeds on whose training tasks `compare` chooses among the points of a grid; none of `seeds`."""
    tuning_tasks: int = Field(default=8, gt=0)
    """Training tasks after the first grid_tasks, of a tuning seed, on which the start of a grid point is judged."""
    pretrain_iterations: int | None = Field(default=300, gt=0)
    """CRPO iterations of the one task of `pretrained`; empty: as many as all training tasks take together."""
    num_segments: int = Field(default=8, gt=0)
    """Segments of the training sequence, each with a comparator of its own, for the task-relatedness V_psi^2."""

    @model_validator(mode="after")
    def _grids_are_fair(self) -> EvaluationSettings:
        sizes = {method: len(grid) for method, grid in self.grids.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"grids must have equally many points for every method, got {sizes}")
        return self
