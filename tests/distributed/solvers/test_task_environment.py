"""A task as RLlib's environment: the batch's own numbers, and the family's code found in other processes."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle

from distributed.solvers.task_environment import FAULT, SOURCE, TaskEnv, TaskSource, fault_of
from tasks.contract.family_registry import make_family
from tests.distributed.helpers import ROOT, environment
from tests.distributed.solvers.test_rllib_solver import FAMILY, point
from tests.support.cost_env import LineEnv

FILE = """
import dataclasses
from beside import LIMIT
from tests.support.point_batch import PointFamily

@dataclasses.dataclass(frozen=True)
class Mine(PointFamily):
    limit: float = LIMIT
"""
READER = """
import sys
from ray import cloudpickle
source = cloudpickle.loads(open(sys.argv[1], "rb").read())
print(source.family.limit, source.batch().num_costs, type(source.family).__name__)
"""


def test_an_episode_is_that_of_the_batch() -> None:
    """x' = x + 0.25 a, reward x', cost 1 beyond 1; a seed gives the same stream of episodes again."""
    env = TaskEnv({SOURCE: TaskSource(FAMILY, point(FAMILY))})
    starts = []
    for seed in (3, None, 3, None):
        seen, info = env.reset(seed=seed)
        starts.append(float(seen[0]))
        assert info == {}
    assert starts[:2] == starts[2:]
    assert starts[0] != starts[1]
    place = starts[-1]
    for age in range(1, 21):
        place += 0.25 * 0.5
        seen, reward, ended, cut, info = env.step(np.array([0.5], np.float32))
        np.testing.assert_allclose([seen[0], seen[1], reward], [place, age / 20, place], rtol=1e-5)
        np.testing.assert_array_equal(info["cost"], [float(place > 1.0)])
        assert (ended, cut) == (False, age == 20)
    env.close()


def test_a_missing_cost_names_task_and_step() -> None:
    family: Any = SimpleNamespace(
        cost_names=("beyond",), discount=0.9, horizon=20, make=lambda parameters: LineEnv({"costs": "missing"})
    )
    env = TaskEnv({SOURCE: TaskSource(family, point(FAMILY))})
    env.reset(seed=0)
    for _ in range(5):
        assert env.step(np.zeros(1))[4]["cost"] == 0.0
    for _ in range(2):
        seen, reward, ended, cut, info = env.step(np.zeros(1))
        assert (seen.tolist(), reward, ended, cut) == ([0.0, 0.0], 0.0, False, True)
        assert info.keys() == {FAULT}
        assert fault_of([{}, info]).startswith("points/train/0, step 6, copy 0: ")
        assert "cost" in fault_of([{}, info])
        assert env.reset()[1] == info, "it stays at fault"
    assert fault_of([{}, {"cost": 1.0}]) == ""


def test_a_source_is_one_object_and_its_code_is_found_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "beside.py").write_text("LIMIT = 0.125")
    monkeypatch.chdir(tmp_path)
    family = make_family("mine.py:Mine", seed=0, num_tasks=1, parameters={})
    source = TaskSource(family, point(FAMILY))
    assert copy.deepcopy({"source": source})["source"] is source
    (tmp_path / "source.pickle").write_bytes(cloudpickle.dumps(source))
    (tmp_path / "reader.py").write_text(READER)
    words, environ = [sys.executable, "reader.py", "source.pickle"], environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == ["0.125", "1", "Mine"], done.stderr
