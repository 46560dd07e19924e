"""docs/rllib.md can be followed by copying: its code runs as it is, with shorter runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from distributed.models.meta_policy import STEM, MetaPolicy, save_meta_policy
from distributed.rllib.crpo_module import spaces_of
from distributed.settings.run_file import parse_config, parse_yaml
from policies.common.results import Start
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import new_policy
from tasks.contract.family_registry import make_family

PAGE = Path(__file__).resolve().parents[3] / "docs" / "rllib.md"
SHORTER = {
    "range(250)": "range(2)",
    "train_batch_size=2000, minibatch_size=500": "train_batch_size=200, minibatch_size=50",
    "perturbation_interval=25": "perturbation_interval=1",
    '"training_iteration": 250': '"training_iteration": 2',
}


def a_start(folder: Path) -> None:
    """What a run on cheetahs leaves."""
    env = make_family("safety_velocity", seed=0, num_tasks=1, parameters={"robot": "half_cheetah"}).make(
        {"speed_limit": 3.0}
    )
    spaces = spaces_of(env.observation_space, env.action_space)
    policy = new_policy(spaces.observation, len(spaces.low), 1, continuous=True)
    settings = {"family": {"name": "safety_velocity"}, "within_task": NeuralSettings().model_dump(mode="json")}
    meta = MetaPolicy(Start(policy, np.ones(2)), settings, spaces, ("overspeed",), None, {})
    save_meta_policy(folder / STEM, meta)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Overriding environment")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Consider boosting PBT")
def test_the_page_runs(ray_cluster: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_start(workplace / "runs" / "cheetahs")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 5
    code = "\n".join(blocks)
    for given, shorter in SHORTER.items():
        assert given in code
        code = code.replace(given, shorter)
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    shown = capsys.readouterr().out
    assert shown.count("steps: reward") == 2
    (rate,) = re.findall(r"^rate ([\d.]+): score -?\d+$", shown, flags=re.MULTILINE)
    assert 0.005 < float(rate) < 1.5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_run_files_of_the_page_are_right() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    methods = [parse_config(parse_yaml(block), str(PAGE)).within_task.method for block in blocks]
    assert [(method.name, method.num_cpus) for method in methods] == [
        ("rllib:CRPO", 5),
        ("rllib:ray.rllib.algorithms.ppo:PPO", 1),
    ]
