from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from distributed.cluster.calls import Rules
from distributed.cluster.meta_learner import RayLearner
from distributed.cluster.ray_metrics import EXPORTED, PHASES, RayMetricsTracker
from distributed.cluster.ray_pool import RayPool
from meta.training.records import column, cost_columns
from tests.distributed.helpers import learn, parsed, tiny
from tests.test_docs import explained


def scraped() -> dict[str, dict[str, float]]:
    """What Prometheus would read from this node: name -> tags -> value."""
    (node,) = ray.nodes()  # type: ignore[no-untyped-call]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.urlopen(url, timeout=5).read().decode()
    found: dict[str, dict[str, float]] = {}
    for name, tags, value in re.findall(r"^(ray_metasrl_\w+){(.*)} (\S+)$", text, re.MULTILINE):
        kept = re.findall(r'(?:^|,)(run|phase|cost|objective)="([^"]*)"', tags)
        found.setdefault(name, {})[",".join(f"{key}={value}" for key, value in sorted(kept))] = float(value)
    return found


@pytest.mark.slow
def test_prometheus_reads_what_a_run_did(ray_cluster: str, workplace: Path) -> None:
    config = parsed(tiny())
    experiment = config.experiment
    learner = RayLearner(experiment.meta, experiment.dice, experiment.within.num_iterations, Rules(3))
    pool = RayPool(experiment.family, 2, Rules(3), 120.0)
    tracker = RayMetricsTracker("scraped", 4)
    tracker.follow(pool, learner)
    _, directory = learn(config, pool, learner, None, tracker)
    rows, ours = directory.rows, "run=scraped"
    deadline = time.monotonic() + 40.0
    while (found := scraped()).get("ray_metasrl_round", {}).get(ours) != 2.0 and time.monotonic() < deadline:
        time.sleep(1.0)
    assert found["ray_metasrl_tasks_done_total"][ours] == 8.0
    assert found["ray_metasrl_env_steps_total"][ours] == column(rows, "env_steps").sum()
    assert found["ray_metasrl_taog"][ours] == pytest.approx(column(rows, "gap").mean())
    assert found["ray_metasrl_violation"][f"cost=1,{ours}"] == pytest.approx(cost_columns(rows[4:], "violation").mean())
    assert found["ray_metasrl_queue_depth"][ours] == 0.0
    phases = {tags.split(",")[0].partition("=")[2] for tags in found["ray_metasrl_seconds_total"]}
    assert phases == {"solve", "estimation", "meta_update"} <= set(PHASES)
    assert set(found) <= {metric.prometheus for metric in EXPORTED}


def test_every_exported_metric_is_explained() -> None:
    assert {metric.prometheus for metric in EXPORTED} <= explained("metrics.md")
