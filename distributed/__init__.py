"""The room of metasrl that knows Ray and MLflow. Dask's scheduler is another package of this name."""

from policies.rules.outside import register

_DASK = ("Client", "LocalCluster", "Scheduler", "Worker")


def __getattr__(name: str) -> object:
    """Tell programs that expect Dask's package why it is not here."""
    if name in _DASK:
        raise ImportError(
            f"{name} is of Dask's package `distributed`, but this one is metasrl's, in {__file__}: the two "
            "cannot share an environment; install each in its own"
        )
    raise AttributeError(f"module 'distributed' has no attribute {name!r}")


register("rllib", "distributed.solvers.rllib_solver:RLLIB")
