"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import numpy as np
from tasks.contract.memory import return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

before = resident()
kept, dropped = [], []
for _ in range(2000):
    dropped.append(np.ones(12_000))
    kept.append(np.ones(10))
full = resident()
dropped.clear()
return_freed_memory()
print(full - before, resident() - before)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)
def test_what_lay_between_small_blocks_is_returned() -> None:
    """2,000 blocks of 94 KiB (below the size that glibc maps on its own) with a small one behind each."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    full, after = map(float, done.stdout.split())
    assert full > 150.0
    assert after < 0.3 * full


NAVIGATION = """
import resource
import numpy as np
from tasks.safety_gymnasium.navigation_batch import NavigationBatch
from tasks.safety_gymnasium.navigation_blueprint import NavigationSpec
from tasks.safety_gymnasium.adapter import read_blueprint

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
batch = NavigationBatch(read_blueprint(NavigationSpec("point", "goal", 2)), 20, costs=("hazards",), horizon=9, label="")
batch.reset(np.arange(20), np.arange(20))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss in KiB")
def test_a_navigation_task_takes_no_pictures_and_no_arena_of_the_packages_size() -> None:
    """One model as the package compiles it takes 660 MB, of which 400 are touched."""
    done = subprocess.run([sys.executable, "-c", NAVIGATION], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100.0
