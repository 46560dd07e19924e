"""random: the policy that has learned nothing."""

from __future__ import annotations

from meta.methods.workbench import Learned, Method, Workbench
from meta.training.evaluation_settings import GridPoint


def learn(bench: Workbench, point: GridPoint) -> Learned:
    """The uniform policy, or a fresh network."""
    return bench.learned(bench.drawn.fresh, point, 0)


METHOD = Method(
    name="random",
    label="fresh policy",
    place=0,
    colour="#999999",
    marker="pentagon",
    forms={"tabular": learn, "neural": learn},
    uses=("rate",),
    in_training=True,
    default_for=frozenset({"tabular", "neural"}),
    trains_on="none",
)
