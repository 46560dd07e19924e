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

from importlib.metadata import PackageNotFoundError, version

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
