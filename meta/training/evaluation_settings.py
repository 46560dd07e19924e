"""Which starts are compared and how they are judged: the ``evaluation`` section of a run file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from policies.common.safety import SafetySettings

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


class GivenTask(BaseModel):
    """A held-out task that is given instead of drawn; its parameters alone stand for one without ``limits``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    parameters: dict[str, Any]
    """All parameters of the task, by the names that the family's own tasks have (column parameters of tasks.csv)."""
    limits: tuple[float, ...] | None = None
    """One limit for each cost; empty: the family's own for these parameters."""

    @model_validator(mode="before")
    @classmethod
    def _parameters_alone(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and not {"parameters", "limits"} & set(given):
            return {"parameters": given}
        return given


class HeldOutTrustRegion(BaseModel):
    """The trust region on held-out tasks: the `evaluation.trust_region` section, for networks."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    delta_max: float | None = Field(default=None, gt=0.0)
    """Largest mean KL(old || new) of one step on a held-out task; empty takes within_task.trust_region.delta_max."""
    delta_last: float | None = Field(default=None, gt=0.0)
    """delta_max of a held-out task's last step; empty takes within_task.trust_region.delta_last."""


class EvaluationSettings(BaseModel):
    """How starts are judged: the ``evaluation`` section of a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    methods: tuple[MethodName, ...] | None = Field(default=None, min_length=1)
    """Methods that `train` evaluates; empty: random, fal, oracle, meta_srl, or random, meta_srl for neural policies."""
    compared: tuple[MethodName, ...] | None = Field(default=None, min_length=1)
    """Methods that `compare` runs; empty: all that the within-task algorithm and the family have."""
    num_test_tasks: int = Field(default=20, gt=0)
    """Held-out tasks, for each seed."""
    tasks: tuple[GivenTask, ...] | None = Field(default=None, min_length=1)
    """Held-out tasks by their parameters, the same for every seed; empty: num_test_tasks are drawn."""
    num_iterations: int | None = Field(default=None, gt=0)
    """Policy updates on a held-out task; empty takes within_task.num_iterations."""
    safety_margin: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Share of every limit that is kept free on a held-out task; empty takes within_task.safety_margin."""
    steps_per_iteration: int | None = Field(default=None, gt=0)
    """Networks: environment steps of each iteration on a held-out task; empty takes within_task.steps_per_iteration."""
    trust_region: HeldOutTrustRegion = HeldOutTrustRegion()
    """Networks: the trust region on held-out tasks."""
    safety: SafetySettings | None = None
    """Steps on held-out tasks go only as far as bounds on every cost allow; null: as on training tasks."""
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

    @model_validator(mode="before")
    @classmethod
    def _number_of_given_tasks(cls, given: Any) -> Any:
        """Let num_test_tasks follow the given tasks where it is left at its default."""
        tasks = given.get("tasks") if isinstance(given, Mapping) else None
        default = cls.model_fields["num_test_tasks"].default
        if isinstance(tasks, list | tuple) and tasks and given.get("num_test_tasks", default) == default:
            return {**given, "num_test_tasks": len(tasks)}
        return given

    @model_validator(mode="after")
    def _number_agrees(self) -> EvaluationSettings:
        if self.tasks is not None and self.num_test_tasks != len(self.tasks):
            raise ValueError(
                f"num_test_tasks is {self.num_test_tasks}, but tasks holds {len(self.tasks)}: leave num_test_tasks out"
            )
        return self

    @model_validator(mode="after")
    def _grids_are_fair(self) -> EvaluationSettings:
        sizes = {method: len(grid) for method, grid in self.grids.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"grids must have equally many points for every method, got {sizes}")
        return self
