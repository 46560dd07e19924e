"""Which starts are compared and how they are judged: the ``evaluation`` section of a run file."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from policies.neural.update import NeuralSettings
from policies.solving.kinds import WithinTask

Method = Literal[
    "random",
    "pretrained",
    "simple_average",
    "fal",
    "meta_srl",
    "oracle",
    "reptile",
    "maml_penalty",
    "multitask",
]
GRADIENT_METHODS: tuple[Method, ...] = ("reptile", "maml_penalty", "multitask")
"""Baselines beyond the paper; `compare` runs them, `train` does not."""


class GridPoint(BaseModel):
    """Hyper-parameters of one method in `compare`; what a method has no use for must be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rate: float | None = Field(default=None, gt=0.0)
    """Learning rate of every objective, on training and on held-out tasks; empty for meta_srl: as `meta` says."""
    step: float | None = Field(default=None, gt=0.0)
    """reptile: eps; maml_penalty: step size of the outer gradient; meta_srl: step size of the initialisation."""
    penalty: float | None = Field(default=None, ge=0.0)
    """maml_penalty: lambda of every cost, in units of the reward per unit of the cost."""
    forgetting: float | None = Field(default=None, gt=0.0, le=1.0)
    """meta_srl: forgetting of the initialisation."""
    margin: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Safety margin on the training tasks; empty: within_task.safety_margin. Held-out tasks keep their own."""


_USED: dict[str, tuple[str, ...]] = {
    "random": ("rate",),
    "oracle": ("rate",),
    "reptile": ("rate", "step", "margin"),
    "maml_penalty": ("rate", "step", "penalty", "margin"),
    "meta_srl": ("rate", "step", "forgetting", "margin"),
}
_TRAINED = ("rate", "margin")
"""What a method that learns from training tasks has at least."""
_DEFAULTS: dict[str, dict[str, float]] = {"reptile": {"step": 0.5}, "maml_penalty": {"step": 0.1, "penalty": 1.0}}


class EvaluationSettings(BaseModel):
    """How starts are judged: the ``evaluation`` section of a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    methods: tuple[Method, ...] | None = Field(default=None, min_length=1)
    """Methods that `train` evaluates; empty: random, fal, oracle, meta_srl, or random, meta_srl for neural policies."""
    compared: tuple[Method, ...] | None = Field(default=None, min_length=1)
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
    grids: dict[Method, tuple[GridPoint, ...]] = Field(default={})
    """Hyper-parameters that `compare` tries, by method, as many for each; a method not named gets `rate_grid`."""
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
        for method, grid in self.grids.items():
            used = _USED.get(method, _TRAINED)
            for point in grid:
                unused = [name for name in GridPoint.model_fields if getattr(point, name) is not None]
                unused = [name for name in unused if name not in used]
                if unused:
                    raise ValueError(f"grids.{method}: {unused[0]} has no effect there; {method} has {', '.join(used)}")
        return self

    def grid(self, method: Method) -> tuple[GridPoint, ...]:
        """The points of ``method``: its own grid, else one for each rate of ``rate_grid`` (meta_srl: as configured)."""
        if method in self.grids:
            defaults = _DEFAULTS.get(method, {}) | ({} if method == "meta_srl" else {"rate": self.rate_grid[0]})
            return tuple(GridPoint(**(defaults | point.model_dump(exclude_none=True))) for point in self.grids[method])
        if method == "meta_srl":
            return (GridPoint(),)
        return tuple(GridPoint(rate=rate, **_DEFAULTS.get(method, {})) for rate in self.rate_grid)


TABULAR_METHODS: tuple[Method, ...] = tuple(name for name in get_args(Method) if name not in GRADIENT_METHODS)
NEURAL_METHODS: tuple[Method, ...] = ("random", "pretrained", "simple_average", "fal", "meta_srl")
"""All but the oracle, which needs an exact model."""


def compared_methods(evaluation: EvaluationSettings, within: WithinTask, *, has_model: bool) -> tuple[Method, ...]:
    """The methods of `compare`.

    A table has ``maml_penalty`` and ``multitask`` for exact evaluation only, and ``oracle`` where there is a model.

    Raises:
        ValueError: one that was asked for has no form here.
    """
    if isinstance(within, NeuralSettings):
        allowed = (*NEURAL_METHODS, *GRADIENT_METHODS)
    else:
        exact = has_model and within.evaluation == "exact"
        allowed = (*TABULAR_METHODS, "reptile", *(("maml_penalty", "multitask") if exact else ()))
        allowed = tuple(name for name in allowed if has_model or name != "oracle")
    if evaluation.compared is None:
        return tuple(name for name in get_args(Method) if name in allowed)
    for method in evaluation.compared:
        if method not in allowed:
            raise ValueError(f"evaluation.compared: {method} has no form here; allowed: {', '.join(allowed)}")
    return evaluation.compared


def chosen_methods(evaluation: EvaluationSettings, within: WithinTask) -> tuple[Method, ...]:
    """The methods that `train` evaluates.

    Raises:
        ValueError: one of them has no form for the within-task algorithm.
    """
    neural = isinstance(within, NeuralSettings)
    if evaluation.methods is None:
        return ("random", "meta_srl") if neural else ("random", "fal", "oracle", "meta_srl")
    allowed = NEURAL_METHODS if neural else TABULAR_METHODS
    for method in evaluation.methods:
        if method not in allowed:
            raise ValueError(
                f"evaluation.methods: {method} has no form for within_task.algorithm {within.algorithm}; "
                f"allowed: {', '.join(allowed)}"
            )
    return evaluation.methods
