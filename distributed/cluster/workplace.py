"""The pool and the meta-learner of a run, in this process or on Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from distributed.cluster.meta_learner import RayLearner
from distributed.cluster.ray_cluster import cluster
from distributed.cluster.ray_pool import RayPool
from distributed.settings.run_config import RunConfig
from meta.training.pool import Learner, LocalLearner, LocalPool, Pool


@dataclass(frozen=True)
class Workplace:
    """A pool and a meta-learner that work together."""

    pool: Pool
    learner: Learner


@contextlib.contextmanager
def workplace(config: RunConfig, say: Callable[[str], None]) -> Iterator[Workplace]:
    """Start the pool and the learner that ``cluster.pool`` selects; stop them on exit.

    Raises:
        ConfigurationError: The cluster cannot be started or joined.
        WorkerLostError: The workers did not start in time.
    """
    experiment, settings = config.experiment, config.cluster
    arguments = (experiment.meta, experiment.dice, experiment.within.num_iterations)
    if settings.pool == "local":
        yield Workplace(LocalPool(experiment.family), LocalLearner(*arguments))
        return
    with cluster(settings) as where:
        say(f"Ray: {where}")
        learner = RayLearner(*arguments, retries=settings.task_retries)
        pool = RayPool(
            experiment.family, settings.num_workers, settings.task_retries, settings.start_timeout_seconds, say
        )
        yield Workplace(pool, learner)
