"""Meta-safe reinforcement learning: learn, across tasks, starts from which new constrained tasks are solved safely.

    import metasrl

    run = metasrl.train("frozen_lake")           # a shipped run file, your own, or a dictionary of settings
    print(run.verdict)
    policy = metasrl.adapt(run, task_seed=7)     # solve a task that was not seen before
    env = policy.make()
    observation, _ = env.reset(seed=0)
    action = policy.act(observation)

The command line ``metasrl`` does the same. The code is in the packages ``tasks``, ``policies``, ``meta`` and
``distributed`` beside this one.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metasrl.adapting import Adapted, adapt
    from metasrl.policy import Policy
    from metasrl.run import Run
    from metasrl.start import LearnedStart, load
    from metasrl.training import train
    from tasks.contract.family import Family

try:
    __version__ = version("metasrl")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"

__all__ = ["Adapted", "Family", "LearnedStart", "Policy", "Run", "__version__", "adapt", "load", "train"]
_HOMES = {
    "Adapted": "metasrl.adapting",
    "Family": "tasks.contract.family",
    "LearnedStart": "metasrl.start",
    "Policy": "metasrl.policy",
    "Run": "metasrl.run",
    "adapt": "metasrl.adapting",
    "load": "metasrl.start",
    "train": "metasrl.training",
}


def __getattr__(name: str) -> Any:
    """Import what is used when it is first used, so that the command line begins fast."""
    if name not in (*_HOMES, "errors"):
        raise AttributeError(f"module 'metasrl' has no attribute {name!r}")
    from metasrl.own_rooms import require_own_rooms

    require_own_rooms()
    found = import_module("metasrl.errors") if name == "errors" else getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, "errors"])
