"""The guard of safe steps: which steps it allows, what it says, and how margins are learned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

from policies.common.confidence import Estimate, estimate_of
from policies.common.safety import SHARES, Guard, Safety, SafetySettings
from tasks.contract.tabular_model import FloatArray

CERTAIN = np.zeros(1)


def guard(margin: float = 0.0, limit: float = 1.0, **settings: float) -> Guard:
    """A guard of one cost."""
    return Guard(Safety(SafetySettings(confidence=0.9, **settings), np.array([margin])), np.array([limit]))


def line(start: float, slope: float, half: float = 0.0, error: float = 0.0) -> Callable[[float], Estimate]:
    """Estimates of a cost that is linear in the share of the step."""

    def estimate(share: float) -> Estimate:
        mean = np.array([start + slope * share])
        return Estimate(mean, np.array([error]), np.array([half]), np.array([slope * share]))

    return estimate


VALUES = np.array([0.5, 0.5])


def test_a_step_goes_as_far_as_the_bound_allows() -> None:
    one = guard()
    assert one.share(0, VALUES, line(0.5, 0.4)) == 1.0
    assert one.share(0, VALUES, line(0.5, 1.0)) == 0.5
    assert one.share(0, VALUES, line(0.5, 1.0, half=0.1)) == pytest.approx(2.0**-1.5)
    report = one.report()
    assert report.shares.tolist() == [1.0, 0.5, pytest.approx(2.0**-1.5)]
    assert report.reasons[0] == ""
    assert report.reasons[1] == "cost 1 may be 1.2071, over its limit 1.0000"
    assert SHARES[-1] == 1.0
    assert list(SHARES) == sorted(SHARES)


def test_no_step_where_the_bounds_allow_none() -> None:
    one = guard(margin=0.2)
    assert one.share(0, VALUES, line(0.85, 0.1)) == 0.0
    assert one.report().reasons[0].startswith("cost 1 may be 1.05")
    assert guard(margin=0.1).share(0, VALUES, line(0.85, 0.04)) == 1.0, "0.85 + 0.04 + 0.1"


def test_a_step_down_a_cost_must_lower_it_for_sure_and_may_begin_over_the_limit() -> None:
    high = np.array([0.5, 1.5])
    assert guard().share(1, high, line(1.5, -0.1)) == 1.0
    one = guard()
    assert one.share(1, high, line(1.5, 0.1)) == 0.0
    assert one.report().reasons == ("cost 1 is not sure to fall",)


def test_the_other_costs_keep_their_limits_in_a_step_down_one_cost() -> None:
    def estimate(share: float) -> Estimate:
        rise = share * np.array([-1.0, 1.0])
        return Estimate(np.array([1.5, 0.9]) + rise, np.zeros(2), np.zeros(2), rise)

    settings = SafetySettings(confidence=0.9)
    two = Guard(Safety(settings, np.zeros(2)), np.ones(2))
    assert two.share(1, np.array([0.0, 1.5, 0.9]), estimate) == pytest.approx(2.0**-3.5)
    both = Guard(Safety(settings, np.zeros(2)), np.array([1.0, 0.8]))
    assert both.share(1, np.array([0.0, 1.5, 0.9]), estimate) == 1.0, "over its limit already: its turn comes"


def test_margins_are_learned_from_what_follows_a_tested_step() -> None:
    one = guard(margin_rate=0.1)
    one.share(0, VALUES, line(0.2, 0.1))  # expects 0.3
    assert one.margins[0] == 0.0
    one.share(0, VALUES, line(0.5, 0.1))
    assert one.margins[0] == pytest.approx(0.1 * 0.9), "an overshoot of 0.2 of the limit"
    one.share(0, VALUES, line(0.6, 5.0))
    assert one.margins[0] == pytest.approx(0.09 - 0.01), "as expected: below the margin"
    report = one.report()
    np.testing.assert_allclose(report.overshoots[:, 0], [0.2, 0.0], atol=1e-12)
    one.share(0, VALUES, line(3.0, 0.0))
    one.share(0, VALUES, line(3.0, 0.0))
    assert len(one.report().overshoots) == 3, "a policy that stays was expected by no test"


def test_an_overshoot_does_not_count_the_noise_of_the_estimates() -> None:
    rng, over = np.random.default_rng(0), []
    for _ in range(4000):
        one = guard(margin_rate=0.0)
        one.share(0, VALUES, line(0.2 + 0.1 * rng.normal(), 0.0, half=1.2816 * 0.1, error=0.1))
        one.share(0, VALUES, line(0.2 + 0.1 * rng.normal(), 0.0, half=1.2816 * 0.1, error=0.1))
        over += [float(seen) > 0.0 for seen in one.report().overshoots[:, 0]]
    assert np.mean(over) == pytest.approx(0.1, abs=0.015)


def test_a_step_that_the_episodes_say_nothing_about_is_not_taken() -> None:
    def estimate(share: float) -> Estimate | None:
        known: FloatArray = np.array([0.1])
        return Estimate(known, CERTAIN, CERTAIN, CERTAIN) if share < 0.5 else None

    one = guard()
    assert one.share(0, VALUES, estimate) == pytest.approx(2.0**-1.5)
    assert one.report().reasons == ("the test episodes say too little about it",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confidence": 1.0}, "less than 1"),
        ({"confidence": 0.0}, "greater than 0"),
        ({}, "Field required"),
        ({"confidence": 0.99, "tasks": 50}, "a confidence of 0.99 needs at least 99 tasks, got 50"),
        ({"confidence": 0.9, "test_episodes": 3}, "greater than or equal to 8"),
    ],
)
def test_bad_settings_say_what_is_right(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SafetySettings(**settings)


def test_tasks_are_enough_for_one_of_them_to_be_over_a_limit() -> None:
    assert [SafetySettings(confidence=c).num_tasks for c in (0.5, 0.95, 0.99)] == [40, 40, 199]


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_an_unsafe_policy_is_deployed_no_more_often_than_stated(confidence: float) -> None:
    """Thirteen lengths are tested of a step that is over the limit from 0.4 on, with skewed episodes."""
    rng, unsafe, taken = np.random.default_rng(7), 0, []
    for _ in range(600):
        noise = rng.exponential(size=(60, 1)) - 1.0
        sizes = 0.6 + 0.3 * rng.exponential(size=(60, 1)) - 0.3

        def estimate(share: float, noise: FloatArray = noise, sizes: FloatArray = sizes) -> Estimate:
            then = 0.8 + 0.5 * noise + share * 0.5 * (sizes / 0.6)
            return estimate_of(then, 0.8 + 0.5 * noise, confidence)

        one = Guard(Safety(SafetySettings(confidence=confidence), np.zeros(1)), np.ones(1))
        taken.append(one.share(0, VALUES, estimate))
        unsafe += taken[-1] > 0.4
    assert unsafe / 600 <= (1.0 - confidence) * 1.25 + 0.01
    assert max(taken) >= 0.35


def test_a_policy_surely_over_its_limit_steps_down_by_the_mean_and_farther_until_it_keeps_the_limit() -> None:
    high, longer = np.array([0.5, 2.0]), (2.0, 4.0, 8.0)

    def unsure(share: float) -> Estimate:
        mean = np.array([2.0 - 0.3 * share])
        return Estimate(mean, np.array([0.05]), np.array([0.1]), np.array([0.01]))

    settings = Safety(SafetySettings(confidence=0.9), np.zeros(1))
    one = Guard(settings, np.ones(1), longer)
    assert one.share(1, high, unsure) == 4.0, "2 - 0.3 * 4 + 0.1 is below the limit of 1, and 2 - 0.3 * 2 + 0.1 is not"
    assert one.report().reasons == ("",)
    assert Guard(settings, np.ones(1)).share(1, high, unsure) == 1.0, "no longer steps are given"
    near = Guard(settings, np.array([1.95]), longer)
    assert near.share(1, high, unsure) == 0.0, "2 - 0.1 is below 1.95: it may keep its limit, so the fall must be sure"
    assert near.report().reasons == ("cost 1 is not sure to fall",)


def test_a_longer_step_down_a_cost_ends_where_the_cost_rises_again_or_another_one_may_break_its_limit() -> None:
    high, longer = np.array([0.5, 3.0]), (2.0, 4.0, 8.0)
    settings = Safety(SafetySettings(confidence=0.9), np.zeros(1))

    def valley(share: float) -> Estimate:
        return Estimate(np.array([2.0 + 0.1 * (share - 2.0) ** 2]), CERTAIN, CERTAIN, CERTAIN + 1.0)

    assert Guard(settings, np.ones(1), longer).share(1, high, valley) == 2.0

    def other(share: float) -> Estimate:
        mean = np.array([3.0 - 0.1 * share, 0.5 + 0.2 * share])
        return Estimate(mean, np.zeros(2), np.zeros(2), np.array([-0.1, 0.2]) * share)

    two = Guard(Safety(SafetySettings(confidence=0.9), np.zeros(2)), np.ones(2), longer)
    assert two.share(1, np.array([0.0, 3.0, 0.5]), other) == 2.0
