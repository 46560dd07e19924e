"""The page of starts with contexts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.learning import contexts
from benchmarks.learning.contexts_budgets import BUDGETS, budget_table, budgets_of
from benchmarks.learning.contexts_curves import Curves
from benchmarks.learning.contexts_page import (
    by_limit,
    commits,
    falling,
    held_out,
    lake_table,
    robot_table,
)
from benchmarks.learning.contexts_verdict import Compared, summary, verdict
from distributed.settings.run_file import load_config
from meta.measuring.intervals import interval
from meta.training.held_out_tasks import given_tasks


def record(reward: float, cost: float, limits: tuple[float, ...] = (10.0, 10.0)) -> dict[str, Any]:
    """Two tasks and two updates: rewards rise by 1 an update; ``cost`` is that of the second task."""
    values = [[[reward / 2.0 + m, own] for m in range(3)] for own in (1.0, cost)]
    episodic = [[[reward + m, 2.0 * own] for m in range(3)] for own in (1.0, cost)]
    return {"limits": [(limit,) for limit in limits], "values": values, "episodic": episodic}


def test_rewards_are_undiscounted_and_costs_relative_to_their_limits() -> None:
    curves = Curves.of(record(-20.0, 5.0))
    np.testing.assert_array_equal(curves.rewards, [[-20.0, -19.0, -18.0]] * 2)
    np.testing.assert_array_equal(curves.costs[:, :, 0], [[0.1] * 3, [0.5] * 3])


def test_a_table_has_the_means_the_largest_cost_and_paired_differences() -> None:
    ours, other = (
        {200: record(-20.0, 5.0), 201: record(-22.0, 12.0)},
        {200: record(-30.0, 5.0), 201: record(-33.0, 5.0)},
    )
    lines = robot_table({"meta_srl, context": ours, "random": other})
    (row,) = [line for line in lines if line.startswith("| meta_srl, context |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["meta_srl, context", "2"]
    assert cells[2].startswith("-21.0 [")
    assert cells[-4:] == ["1.20", "25.00%", "0 of 4 (at most by 0.0)", "0 of 4"]
    (difference,) = [line for line in lines if line.startswith("- `meta_srl, context` against `random`")]
    assert "reward at once more by 10.5 [4.1, 16.9] (better)" in difference
    inferred = robot_table({"meta_srl, inferred": ours, "meta_srl, none": other})
    assert len([line for line in inferred if line.startswith("- `meta_srl, inferred` against")]) == 1
    assert "violation during adaptation less by -0.0500 [-0.6853, 0.5853] (no difference shown)" in difference


def test_both_starts_of_ours_are_compared_with_every_other_lake_row() -> None:
    def lakes(gap: float) -> dict[int, dict[str, Any]]:
        found = {"gap": [gap, gap + 0.02], "violation": [0.0, 0.0], "during": [0.1, 0.3], "score": [gap, 0.1]}
        return {200: found, 201: found}

    lines = lake_table({"meta_srl, context": lakes(0.02), "meta_srl, context, cpo": lakes(0.01), "random": lakes(0.5)})
    assert [line.split(":")[0] for line in lines if line.startswith("- `")] == [
        "- `meta_srl, context` against `meta_srl, context, cpo`",
        "- `meta_srl, context` against `random`",
        "- `meta_srl, context, cpo` against `meta_srl, context`",
        "- `meta_srl, context, cpo` against `random`",
    ]
    (better,) = [line for line in lines if line.startswith("- `meta_srl, context, cpo` against `random`")]
    assert "gap less by 0.4900 [0.4900, 0.4900] (better)" in better
    assert "during adaptation less by 0.0000 [0.0000, 0.0000] (no difference shown)" in better


def test_a_verdict_in_words_comes_before_its_table() -> None:
    def against(other: str, *differences: list[float]) -> Compared:
        labels = ("reward at once more", "violation during adaptation less")
        return Compared("ours", other, dict(zip(labels, map(interval, differences), strict=True)))

    lines = summary(
        [
            against("a", [3.0, 3.1, 3.2], [0.0, 0.0, 0.0]),
            against("b", [5.0, 5.5, 5.1], [0.0, 0.0, 0.0]),
            against("c", [-3.0, -3.1, -3.2], [0.0, 0.0, 0.0]),
            against("d", [2.0], [0.0, 0.0]),
        ]
    )
    assert lines[0] == "**`ours` against the other rows**, by intervals:"
    assert lines[2:-1] == [
        "- reward at once: better than `a` and `b`; worse than `c`; not judged (one seed) against `d`.",
        "- violation during adaptation: no difference shown against all 4.",
    ]
    assert "better than both." in summary([against("a", [3.0, 3.1], [0.0, 0.0])] * 2)[2]
    page = robot_table({"meta_srl, context": {1: record(-20.0, 5.0)}, "random": {1: record(-30.0, 5.0)}})
    assert page[0].startswith("**`meta_srl, context` against")
    assert any(line.startswith("| start |") for line in page[1:])
    assert robot_table({"meta_srl, context": {1: record(-20.0, 5.0)}})[0].startswith("| start |")


def test_rows_have_the_seeds_that_are_finished() -> None:
    setting = contexts.SETTINGS[0]

    def cell(setting: Any, variant: Any, seed: int) -> dict[str, Any] | None:
        found = {"held_out": seed, "hidden": -seed, "commit": "a"}
        return found if seed == 200 or variant.name == "random" else None

    found = held_out(setting, cell)
    assert list(found["random"]) == list(setting.seeds)
    assert found["meta_srl, context"] == {200: 200}
    assert found["meta_srl, context hidden"] == {200: -200}
    assert commits([{"commit": "a"}, {"commit": "a"}, {}])[0] == "Cells: 2 at `a`, 1 at a commit not recorded."


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 1.1], "better"), ([-1.0, -1.1], "worse"), ([-1.0, 1.0], "no difference shown"), ([1.0], "one seed")],
)
def test_verdicts_follow_the_interval(values: list[float], expected: str) -> None:
    assert verdict(interval(values)) == expected


def test_a_task_falls_where_its_reward_does_so_by_more_than_its_noise() -> None:
    noise = np.random.default_rng(0).normal(0.0, 1.0, (2, 11))
    steep, steady = -20.0 - np.arange(11) + noise[0], -20.0 + noise[1]
    assert falling([Curves(np.stack([steep, steady]), np.zeros((2, 11, 1)))]) == "1 of 2"


def test_tasks_of_different_limits_are_shown_by_thirds() -> None:
    assert by_limit([record(-20.0, 5.0)]) == []
    lines = by_limit([record(-20.0, 5.0, (2.0, 20.0)), record(-25.0, 5.0, (5.0, 10.0))])
    assert sum(line.startswith("| ") for line in lines) == 4


def test_the_same_tasks_under_each_limit_show_what_doubling_a_limit_gains() -> None:
    records = []
    for seed in range(3):
        made = [record(-20.0 + 3.0 * np.log2(limit) + seed, 1.0, (limit, limit)) for limit in (2.0, 4.0, 8.0)]
        records.append({name: [row for one in made for row in one[name]] for name in made[0]})
        records[-1]["parameters"] = [{"speed": v, "limit_factor": k} for k in (0.5, 1.0, 2.0) for v in (0.5, 1.0)]
    lines = by_limit(records)
    assert [line.split(" | ")[0] for line in lines if line.startswith(("| 2", "| 4", "| 8"))] == ["| 2", "| 4", "| 8"]
    assert "twice as large: 3.0 [3.0, 3.0] at once (better)" in lines[-1]
    assert "less the smallest: 6.0 [6.0, 6.0] at once" in lines[-1]


def test_budgets_show_every_row_that_has_all_of_them() -> None:
    def cells(setting: Any) -> dict[str, dict[int, dict[str, Any]]]:
        place = BUDGETS.index(setting.name)

        def one(reward: float, unspent: int = 0) -> dict[str, Any]:
            own = record(reward, 15.0 if place == 0 else 5.0)
            own = {key: [row * 2 for row in rows] if key != "limits" else rows for key, rows in own.items()}
            return {"env_steps": 200_000 * (place + 1) - unspent, "held_out": own}

        ours = {seed: one(-20.0 + place + 0.1 * seed) for seed in (200, 201, 202)}
        rows = {"meta_srl, context": ours, "pretrained": {seed: one(-30.0, 8_000) for seed in (200, 201)}}
        return rows if place else {**rows, "random": {200: one(-50.0)}}

    found = budgets_of(contexts.SETTINGS, cells)
    assert list(found) == ["meta_srl, context", "pretrained"]
    lines = budget_table(found)
    verdicts = [line for line in lines if line.startswith("- reward after 5")]
    assert verdicts == [
        f"- reward after 5 with {steps},000 steps: better than `pretrained`." for steps in (200, 400, 600)
    ]
    rows = [
        [part.strip() for part in line.strip("|").split("|")]
        for line in lines
        if line.startswith(("| 2", "| 4", "| 19", "| 39"))
    ]
    assert [row[:3] for row in rows] == [
        ["200,000", "meta_srl, context", "3"],
        ["192,000", "pretrained", "2"],
        ["400,000", "meta_srl, context", "3"],
        ["392,000", "pretrained", "2"],
    ]
    assert rows[0][3].startswith("0.1 [")
    assert rows[0][4].startswith("2.1 [")
    assert [row[5].split(" ")[0] for row in rows] == ["0.80", "0.80", "0.30", "0.30"]
    assert [row[6] for row in rows] == ["1.50", "1.50", "0.50", "0.50"]
    assert [row[7] for row in rows] == ["50.00%", "50.00%", "0.00%", "0.00%"]
    assert "with 200,000 steps more by" in lines[-1]
    assert budgets_of(contexts.SETTINGS[:1], cells) == {}


def test_every_setting_and_row_is_a_valid_run_file() -> None:
    for setting in contexts.SETTINGS:
        for variant in setting.variants:
            config = contexts.configuration(setting, variant, setting.seeds[0])
            assert config.seed == setting.seeds[0]
            assert not set(setting.seeds) & set(config.evaluation.tuning_seeds)
        given_tasks(config.experiment.family, config.evaluation.tasks or ())


@pytest.mark.parametrize(
    ("table", "row", "file"),
    [
        ("hopper_velocity", "meta_srl, context", "hopper_velocity_context.yaml"),
        ("humanoid_velocity", "meta_srl, context", "humanoid_velocity_context.yaml"),
        ("half_cheetah_motors", "meta_srl, inferred", "half_cheetah_motors.yaml"),
        ("circle", "meta_srl, context", "circle_context.yaml"),
    ],
)
def test_a_run_file_is_what_the_page_measures(table: str, row: str, file: str) -> None:
    (setting,) = [one for one in contexts.SETTINGS if one.name == table]
    (variant,) = [one for one in setting.variants if one.name == row]
    measured = contexts.configuration(setting, variant, 0)
    shipped = load_config(Path("deploy/runs") / file, [("tracking.enabled", "false")])
    assert shipped.model_copy(update={"name": measured.name}) == measured


def test_every_cell_has_a_file_of_its_own_in_the_repository() -> None:
    jobs = [(setting, variant, 1) for setting in contexts.SETTINGS for variant in setting.variants]
    paths = {contexts.path_of(*job) for job in jobs}
    assert len(paths) == len(jobs)
    assert all(path.is_relative_to(contexts.CELLS) for path in paths)
