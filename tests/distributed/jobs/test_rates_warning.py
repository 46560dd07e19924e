"""Learned rates that no step takes are said so before a run begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from distributed.jobs.training_job import rates_warning
from distributed.settings.run_file import load_config
from policies.rules.rule_registry import RULES

CHEETAH, LAKE = Path("deploy/runs/half_cheetah_velocity_context.yaml"), Path("deploy/runs/frozen_lake.yaml")


@pytest.mark.parametrize("name", RULES)
def test_only_clipped_steps_of_networks_take_no_rate(name: str) -> None:
    method = ("within_task.method.name", name)
    said = rates_warning(load_config(CHEETAH, [method]))
    assert (said is not None) == (name in {"ppo_lagrangian", "p3o"})
    assert said is None or name in said
    assert rates_warning(load_config(CHEETAH, [method, ("meta.learning_rates.method", "fixed")])) is None
    assert rates_warning(load_config(LAKE, [method])) is None
