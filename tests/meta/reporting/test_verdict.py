"""The verdict of a run says what its numbers say."""

from __future__ import annotations

from typing import Any

import numpy as np

from meta.judging.held_out import HeldOut
from meta.reporting.html_page import method_table
from meta.reporting.summarising import method_summary
from meta.reporting.tables import report_lines, spent_line, warnings_of
from meta.reporting.verdict import verdict
from tests.meta.reporting.test_page import summary


def measured(mean: float | None, half: float = 0.0) -> dict[str, Any]:
    interval = [None, None] if mean is None else [mean - half, mean + half]
    return {"mean": mean, "ci95": interval, "n": 20}


def method(gap: dict[str, Any], reward: float, violation: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = summary().test["random"].model_dump(mode="json")
    return {**entry, "gap": gap, "reward": measured(reward), "violation_during_adaptation": violation}


def told(**test: dict[str, Any]) -> str:
    return verdict(summary(test=test))


def solved(gaps: list[float], violations: list[float]) -> HeldOut:
    count = len(gaps)
    curve = np.zeros(3)
    return HeldOut(
        gaps=np.array(gaps),
        rewards=1.0 - np.array(gaps),
        violations=np.zeros(count),
        violations_during=np.array(violations),
        learning_rates=((1.0, 1.0),),
        reward_curve=curve,
        cost_curve=curve[:, np.newaxis],
        episodic_curve=None,
        score=0.0,
        env_steps=0.0,
        starts_used=(count,),
        records=(),
    )


FRESH = method(measured(0.5, 0.1), 0.5, measured(0.4, 0.1))
OURS = method(measured(0.02, 0.005), 0.98, measured(0.1, 0.02))


def test_the_share_of_the_optimum_and_of_the_violation() -> None:
    assert told(random=FRESH, meta_srl=OURS) == (
        "A new task of frozen_lake is solved to 98% of its optimum after 2 policy updates, with 75% less violation on "
        "the way than from a fresh start."
    )


def test_methods_that_are_better_or_not_shown_to_be_worse_are_named_for_each_measure() -> None:
    as_well, better = method(measured(0.024, 0.01), 0.976, measured(0.3, 0.02)), OURS | {"gap": measured(0.01, 0.001)}
    text = told(random=FRESH, reptile=as_well, pretrained=better, fal=FRESH, meta_srl=OURS, oracle=better)
    assert text.endswith(
        " But `pretrained` is better on the gap; `reptile` is not shown to be worse on the gap; `pretrained` is not "
        "shown to be worse on the violation on the way."
    )
    both = told(random=FRESH, reptile=OURS, fal=OURS, meta_srl=OURS)
    assert both.endswith(
        " But `reptile` and `fal` are not shown to be worse on the gap and on the violation on the way."
    )


def test_differences_paired_by_task_decide_where_a_run_has_them() -> None:
    """Two wide intervals overlap, and every task differs alike: one method is worse on all, another on none."""
    ours = solved(gaps=[0.1, 0.5, 0.9], violations=[0.0, 0.0, 0.3])
    worse = method_summary(solved(gaps=[0.2, 0.6, 1.0], violations=[0.1, 0.1, 0.4]), ours)
    unclear = method_summary(solved(gaps=[0.0, 0.7, 0.8], violations=[0.0, 0.0, 0.3]), ours)
    found = {
        name: entry.model_dump(mode="json")
        for name, entry in {"random": worse, "fal": worse, "reptile": unclear, "meta_srl": method_summary(ours)}.items()
    }
    text = told(**found)
    assert text.endswith(" But `reptile` is not shown to be worse on the gap and on the violation on the way.")
    older = {name: {**entry, "minus_meta_srl": None} for name, entry in found.items()}
    assert "`fal` and `reptile` are not shown to be worse on the gap and on the violation" in told(**older)
    alone = found | {"fal": method_summary(solved(gaps=[0.4], violations=[0.0]), solved(gaps=[0.1], violations=[0.0]))}
    assert "`fal` and `reptile` are not shown" in told(**{**alone, "fal": alone["fal"].model_dump(mode="json")})


def test_without_an_optimum_the_reward_is_told_and_compared() -> None:
    fresh = method(measured(None), -200.0, measured(0.0))
    ours, worse = method(measured(None), -16.0, measured(0.0)), method(measured(None), -90.0, measured(0.2, 0.01))
    assert told(random=fresh, meta_srl=ours, multitask=worse) == (
        "A new task of frozen_lake earns a discounted reward of -16 (a fresh start: -200) after 2 policy updates, "
        "without a violation on the way."
    )
    better = ours | {"reward": measured(-10.0)}
    assert told(meta_srl=ours, reptile=better).endswith(
        " But `reptile` is better on the reward; `reptile` is not shown to be worse on the violation on the way."
    )


def test_a_start_that_is_worse_than_a_fresh_one_is_called_so() -> None:
    text = told(random=FRESH, meta_srl=OURS | {"violation_during_adaptation": measured(0.6, 0.1)})
    assert "with no less violation on the way than from a fresh start" in text
    negative = method(measured(0.02), -1.0, measured(0.1))
    assert "is solved to 0.02 of its optimum -0.98" in told(meta_srl=negative)
    assert "with a violation of 0.1 on the way" in told(meta_srl=negative)


def test_a_run_notices_where_a_fresh_start_does_as_well_or_better() -> None:
    helped = told(random=FRESH, meta_srl=OURS)
    assert "Meta-learning" not in helped
    better, alike = measured(0.01, 0.001), measured(0.022, 0.001)
    for violation, hurts, unshown in (
        (measured(0.11, 0.02), "Meta-learning hurts here:", "Meta-learning is not shown to help here:"),
        (measured(0.4, 0.1), "But", "But"),  # it saves violation
    ):
        hurt = told(random=method(better, 0.99, violation), meta_srl=OURS)
        assert hurt.endswith(f". {hurts} a fresh start is better on the gap.")
        assert told(random=method(alike, 0.978, violation), meta_srl=OURS).endswith(
            f". {unshown} a fresh start is not shown to be worse on the gap."
        )
    ours, fresh = (method(measured(None), reward, measured(0.0)) for reward in (-16.0, -10.0))
    assert "Meta-learning hurts here: a fresh start is better on the reward." in told(random=fresh, meta_srl=ours)


def test_without_the_learned_start_nothing_is_told() -> None:
    assert told(random=FRESH) == ""
    assert report_lines(summary(test={"random": FRESH})).startswith("TAOG")
    assert report_lines(summary()).startswith("A new task of frozen_lake")


def test_warnings_are_for_what_is_alarming() -> None:
    estimates = summary().estimates
    quiet = summary(
        num_tasks=96, estimates=estimates.model_copy(update={"left_out": 0, "down_weighted": 3}).model_dump()
    )
    assert warnings_of(quiet) == []
    alarming = summary(num_tasks=96, estimates=estimates.model_copy(update={"left_out": 10}).model_dump())
    assert "poor estimates: of 96 tasks 10 were left out and 0 down-weighted" in warnings_of(alarming)[0]


def test_the_table_of_methods_has_the_best_first_and_stars() -> None:
    better = method(measured(0.01, 0.001), 0.99, measured(0.3, 0.01))
    rows = method_table(summary(test={"random": FRESH, "reptile": better, "meta_srl": OURS}).test)
    assert [row[0] for row in rows] == ["reptile", "meta_srl", "random"]
    assert [[cell.endswith("★") for cell in row[1:3]] for row in rows] == [[True, False], [False, True], [False, False]]


def test_what_a_run_has_spent() -> None:
    rows = [{"seconds": 2.0, "env_steps": 4000}, {"seconds": 3.0, "env_steps": 6000}]
    told = spent_line(summary(num_workers=2, wall_seconds=90.0, warm_up_steps=1000), rows)
    assert told == (
        "spent on 2 training tasks: 10,000 environment steps (and 1,000 of direct updates), 5 s of solving on 2 "
        "workers, 90 s in all with evaluation; 2,000 steps/s a worker"
    )
    timed = [row | {"cpu_seconds": spent} for row, spent in zip(rows, (1.0, 1.5), strict=True)]
    assert spent_line(summary(num_workers=2, wall_seconds=90.0), timed).endswith(
        "; 2,000 steps/s a worker; CPU 2.5 s over 2 workers, 4,000 steps per CPU second"
    )
    older = [rows[0], timed[1]]
    assert spent_line(summary(num_workers=2), older).endswith(
        "; CPU 1.5 s of 1 tasks over 2 workers, 4,000 steps per CPU second"
    )
    exact = spent_line(summary(num_workers=1, wall_seconds=9.0), [{"seconds": 2.0, "env_steps": 0}])
    assert exact.endswith("2 s of solving on 1 worker, 9 s in all with evaluation; exact values, no environment steps")
