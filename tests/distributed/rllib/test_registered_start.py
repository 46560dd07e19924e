"""A start from MLflow's registry as an RLModule: the same bits as the run's own."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import mlflow
import numpy as np
import pytest

from distributed.models.meta_policy import STEM, load_meta_policy
from distributed.rllib.starts import load_start, module_of_start
from distributed.settings.errors import ConfigurationError
from policies.neural.policy_state import PolicyState
from tests.distributed.helpers import command, only_run, run_file, tiny_neural

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.mark.slow
def test_a_registered_start_becomes_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tiny_neural(tracking={"enabled": True, "flush_timeout_seconds": 120.0})
    done = command(["train", run_file(tmp_path, raw), "--register", "line"], tmp_path)
    assert done.returncode == 0, done.stderr
    own = load_meta_policy(only_run(tmp_path) / STEM)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    earlier = mlflow.get_tracking_uri()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.set_registered_model_alias("line", "champion", "1")  # whether two updates beat the random start or not
    try:
        policy = own.starts.starts[0].initialization
        assert isinstance(policy, PolicyState)
        size, count = own.spaces.observation, len(own.spaces.low)
        observations = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        actions = (
            gymnasium.spaces.Discrete(own.spaces.actions)
            if own.spaces.actions
            else gymnasium.spaces.Box(-1.0, 1.0, (count,), np.float32)
        )
        for name in ("models:/line@champion", "models:/line/1"):
            found = load_start(name)
            np.testing.assert_array_equal(found.starts.learning_rates, own.starts.learning_rates)
            module = module_of_start(name, observations, actions)
            for key, value in policy.to_arrays().items():
                np.testing.assert_array_equal(module.policy.to_arrays()[key], value)
        with pytest.raises(ConfigurationError, match="nothing"):
            load_start("models:/nothing@champion")
    finally:
        mlflow.set_tracking_uri(earlier)
