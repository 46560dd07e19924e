"""oracle: the minimiser of D*^2 over the true optima of the training tasks; needs an exact model."""

from __future__ import annotations

from meta.methods.workbench import Learned, Method, Workbench
from meta.training.evaluation_settings import GridPoint


def learn(bench: Workbench, point: GridPoint) -> Learned:
    """The comparator of the task-similarity.

    Raises:
        ValueError: there is no exact model.
    """
    similar = bench.task_similarity
    if similar is None:
        raise ValueError("oracle needs an exact model")
    return bench.learned(bench.supported(similar.comparator), point, 0)


METHOD = Method(
    name="oracle",
    label="best common start in hindsight",
    place=5,
    colour="#00bb66",
    marker="star",
    forms={"tabular": learn},
    uses=("rate",),
    needs_model=True,
    in_training=True,
    default_for=frozenset({"tabular"}),
    trains_on="none",
)
