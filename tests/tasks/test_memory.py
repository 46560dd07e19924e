"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import numpy as np
from tasks.memory import return_freed_memory

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
