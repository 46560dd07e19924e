"""Runs with several initialisations and with a mixture: the same bits from every pool and after every interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from distributed.cluster.calls import Rules
from distributed.cluster.meta_learner import RayLearner
from distributed.cluster.ray_pool import RayPool
from distributed.storage.csv_tables import read_rows
from distributed.storage.run_directory import RunDirectory, load_final_state, load_run_config
from meta.learning.groups import GroupedState, is_whole
from meta.training.records import column
from tests.distributed.families import counts, notes
from tests.distributed.helpers import (
    POINTS,
    Raw,
    changed,
    exit_code,
    learn,
    local,
    noted,
    only_run,
    parsed,
    run_file,
    sha_of,
    summary_of,
    tiny_neural,
)
from tests.distributed.jobs.test_neural_runs import noted as noted_neural
from tests.distributed.jobs.test_neural_runs import table
from tests.distributed.storage.test_resume import Crash, CrashAfter
from tests.support.few_variants import few

GROUPS: Raw = {
    "meta": {"num_initializations": 2, "groups": {"split_after": 0, "probe_episodes": 2}},
    "cluster": {"tasks_per_round": 2},
}
LAKES = {
    **GROUPS,
    "family": {"sequence": "clustered", "cluster_distance": 6},
    "within_task": {"evaluation": "sampled"},
    "dice": {"failed_weight": 1.0},  # so few episodes make poor estimates
}
MIXTURE = {"meta": {"initialization": {"method": "ogd", "schedule": "mixture"}}}
NEURAL_MIXTURE = {"meta": {"neural": {"steps": 3, "schedule": "mixture", "num_experts": 3}}}
CASES = {
    "groups": (noted, LAKES),
    "mixture": (noted, MIXTURE),
    "neural groups": (noted_neural, GROUPS),
    "neural mixture": (noted_neural, NEURAL_MIXTURE),
}


def raw_of(case: str, folder: Path) -> Raw:
    make, changes = CASES[case]
    return changed(make(folder), changes)


@pytest.mark.parametrize("case", few(CASES, 0, 3))
def test_an_interrupted_run_ends_as_one_that_never_was(workplace: Path, case: str) -> None:
    config = parsed(raw_of(case, workplace / "notes"))
    undisturbed = RunDirectory.create(config)
    expected = learn(config, *local(config), undisturbed)[0]
    (workplace / "notes").rename(workplace / "earlier")
    (workplace / "notes").mkdir()
    directory = RunDirectory.create(config)
    for crash in (3, 2):  # in the middle of a round, and again after the resume
        with pytest.raises(Crash):
            learn(config, *local(config), RunDirectory.open(directory.path, config), CrashAfter(crash))
    state, resumed = learn(config, *local(config), RunDirectory.open(directory.path, config))
    assert state.sha256() == expected.sha256()
    ran = counts(notes(workplace / "notes", "runs"))
    assert ran == counts(notes(workplace / "earlier", "runs")), "nothing was solved again"
    assert len(ran) == 8
    assert table(resumed.path) == table(undisturbed.path)


@pytest.mark.parametrize("case", ["groups", "neural mixture"])
@pytest.mark.slow
def test_local_pool_and_ray_pools_give_the_same_bits(ray_cluster: str, workplace: Path, case: str) -> None:
    config = parsed(raw_of(case, workplace / "notes"))
    experiment = config.experiment
    expected, directory = learn(config, *local(config))
    learner = RayLearner(experiment.meta, experiment.dice, experiment.within.num_iterations, Rules(3))
    state, of_ray = learn(config, RayPool(experiment.family, 2, Rules(3), 120.0), learner)
    assert state.sha256() == expected.sha256()
    assert table(of_ray.path) == table(directory.path)


def test_rows_record_start_group_and_probing(workplace: Path) -> None:
    config = parsed(raw_of("groups", workplace / "notes"))
    state, directory = learn(config, *local(config))
    assert isinstance(state, GroupedState)
    assert not is_whole(state)
    rows = read_rows(directory.path / "tasks.csv")
    assert [row["group"] for row in rows[-2:]] == state.assigned.tolist()
    assert {row["start"] for row in rows} <= {0, 1}
    assert not any(row["probe_steps"] for row in rows[:2]), "there is nothing to choose from before the first update"
    assert all(row["probe_steps"] > 0 for row in rows[2:])
    for number, group in enumerate(state.groups):
        assert group.num_tasks == sum(row["group"] == number for row in rows)
    plain = parsed(changed(noted(workplace / "notes"), {**LAKES, "meta": {}}))
    without = learn(plain, *local(plain))[1].rows
    assert not {"start", "group", "probe_steps"} & set(without[0])
    # the second round's tasks: solved like any other from the start that was chosen, plus the probing
    assert column(rows, "env_steps")[2:].sum() > column(rows, "probe_steps").sum() > 0.0


def test_the_learning_rates_of_a_row_are_those_of_its_start(workplace: Path) -> None:
    config = parsed(raw_of("groups", workplace / "notes"))
    states: list[GroupedState] = []

    class Keep:
        def task_finished(self, finished: Any, result: Any) -> None:
            del finished, result

        def warmed_up(self, state: Any, steps: Any) -> None:
            raise AssertionError("no direct steps were asked for")

        def round_finished(self, state: Any, rows: Any) -> None:
            del rows
            states.append(state)

    _, directory = learn(config, *local(config), None, Keep())
    for row in directory.rows[2:]:
        before = states[int(row["round"]) - 1]
        np.testing.assert_array_equal(
            [row["learning_rate_0"], row["learning_rate_1"]], before.starts[int(row["start"])].learning_rates
        )


def test_one_initialisation_gives_the_bits_of_a_run_without_the_setting() -> None:
    plain, one = (parsed(changed(tiny_neural(), {"meta": meta})) for meta in ({}, {"num_initializations": 1}))
    assert sha_of(plain) == sha_of(one)


def test_commands_on_a_run_with_two_starts(workplace: Path, no_plots: None, capsys: pytest.CaptureFixture[str]) -> None:
    raw = changed(tiny_neural(), GROUPS)
    assert exit_code("train", run_file(workplace, raw)) == 0
    trained = only_run(workplace)
    summary = summary_of(trained)
    groups = summary["groups"]
    assert groups["num_initializations"] == 2
    assert sum(groups["starts_used"]) == summary["num_tasks"] == sum(groups["tasks"])
    assert np.shape(summary["learning_rates"]) == (2, 2)
    learned, random = (summary["test"][name] for name in ("meta_srl", "random"))
    assert sum(learned["starts_used"]) == 2
    assert (random["starts_used"], np.shape(random["learning_rates"])) == ([2], (2,))
    assert learned["env_steps"] == random["env_steps"] + 2 * 2 * 20, "two episodes of 20 steps of each start"
    assert yaml.safe_load((trained / "config.yaml").read_text())["meta"]["num_initializations"] == 2
    state = load_final_state(trained, load_run_config(trained, POINTS), print)
    assert state.sha256() == summary["meta_state_sha256"]
    capsys.readouterr()
    assert exit_code("adapt", trained, "--family", POINTS, "--task-index", "1") == 0
    assert "meta_srl (start " in capsys.readouterr().out
    assert exit_code("report", trained) == 0
