"""The pool and the meta-learner of a run, in this process or on Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from distributed.cluster.calls import Patience, Rules
from distributed.cluster.meta_learner import RayLearner
from distributed.cluster.ray_cluster import cluster
from distributed.cluster.ray_pool import RayPool
from distributed.settings.run_config import ClusterSettings, RunConfig
from meta.training.pool import Learner, LocalLearner, LocalPool, Pool
from meta.training.quarantine import Quarantine


@dataclass(frozen=True)
class Workplace:
    """A pool and a meta-learner that work together."""

    pool: Pool
    learner: Learner


@contextlib.contextmanager
def workplace(
    config: RunConfig, say: Callable[[str], None], quarantine: Quarantine | None = None
) -> Iterator[Workplace]:
    """Start the pool and the learner that ``cluster.pool`` selects; stop them on exit.

    Args:
        config: Settings of the run.
        say: Shows messages.
        quarantine: What becomes of tasks that fail; by default their error ends the run.

    Raises:
        ConfigurationError: The cluster cannot be started or joined, or is too small.
        WorkerLostError: The workers did not start in time.
    """
    experiment, settings = config.experiment, config.cluster
    arguments = (experiment.meta, experiment.dice, experiment.within.num_iterations)
    if settings.pool == "local":
        yield Workplace(LocalPool(experiment.family, quarantine), LocalLearner(*arguments))
        return
    with cluster(settings, experiment.within.method.num_cpus) as where:
        say(f"Ray: {where}")
        rules = rules_of(settings, say)
        learner = RayLearner(*arguments, rules)
        given = (experiment.family, settings.num_workers, rules, settings.start_timeout_seconds, quarantine)
        pool = RayPool(*given, settings.resources_of_a_worker, experiment.within.device)
        yield Workplace(pool, learner)


def rules_of(settings: ClusterSettings, say: Callable[[str], None]) -> Rules:
    """How the calls of a run are waited for and made again."""
    patience = Patience(settings.patience, settings.least_patience_seconds, settings.first_patience_seconds)
    return Rules(settings.task_retries, patience, say)
