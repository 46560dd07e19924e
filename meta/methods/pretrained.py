"""pretrained: CRPO's policy of one task, trained for long."""

from __future__ import annotations

from meta.methods.workbench import Learned, Method, Workbench
from meta.training.evaluation_settings import GridPoint
from policies.solving.algorithms import WithinTask


def learn(bench: Workbench, point: GridPoint) -> Learned:
    """CRPO on the first training task for ``pretrain_iterations``, or for as many as the others spend on all tasks."""
    within = bench.experiment.within
    iterations = bench.experiment.evaluation.pretrain_iterations or steps_in_iterations(within, len(bench.tasks))
    longer = bench.within.model_copy(update={"num_iterations": iterations})
    (result,) = bench.solve(bench.tasks[:1], bench.start(bench.drawn.fresh, point), longer)
    steps = (iterations + within.final_batches) * within.steps_of_batch
    return Learned(bench.start(bench.supported(result.policy), point), iterations, steps)


def steps_in_iterations(within: WithinTask, num_tasks: int) -> int:
    """CRPO iterations on one task that take as many environment steps as M on each of ``num_tasks``."""
    last = within.final_batches
    return max(1, num_tasks * (within.num_iterations + last) - last)


METHOD = Method(
    name="pretrained",
    label="policy of one task",
    place=1,
    colour="#cc88cc",
    marker="square",
    forms={"tabular": learn, "neural": learn},
    in_training=True,
    trains_on="one",
)
