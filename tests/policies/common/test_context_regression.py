"""The regression from transitions to contexts: its errors against leaving tasks out, and exact cases."""

from __future__ import annotations

import numpy as np
import pytest

from policies.common.context_regression import ContextRegression, Moments, fit_regression, no_moments
from tasks.contract.tabular_model import FloatArray

TASKS, STEPS = 12, 200


def _moments(contexts: FloatArray, seed: int, noise: float = 0.0) -> Moments:
    """Of tasks whose observation changes by -0.2 x + (1 + c/2) a, and of a second coordinate that tells nothing."""
    rng, found = np.random.default_rng(seed), no_moments(len(contexts), 4, 2)
    for task, context in enumerate(contexts[:, 0]):
        x, action = rng.normal(size=(STEPS, 2)), rng.normal(size=(STEPS, 1))
        psi = np.column_stack([np.ones(STEPS), x, action])
        change = np.column_stack([-0.2 * x[:, 0] + (1.0 + 0.5 * context) * action[:, 0], rng.normal(size=STEPS)])
        change[:, 0] += noise * rng.normal(size=STEPS)
        found = found.added([task], Moments((psi.T @ psi)[None], (psi.T @ change)[None], np.array([float(STEPS)])))
    return found


def _contexts(count: int = TASKS) -> FloatArray:
    return np.random.default_rng(5).normal(size=(count, 1))


def test_a_context_that_scales_the_action_is_found_in_a_new_task() -> None:
    contexts = _contexts(30)
    fitted = fit_regression(_moments(contexts, 1), contexts)
    assert fitted.error < 0.2
    new = np.array([[-0.5], [0.1], [0.8]])
    found = _moments(new, 2)
    for task in range(len(new)):
        own = Moments(found.second[[task]], found.cross[[task]], found.count[[task]])
        np.testing.assert_allclose(fitted.context(own), new[task], atol=0.35)


def test_the_errors_are_those_of_fits_without_the_task() -> None:
    contexts = _contexts()
    moments = _moments(contexts, 3, noise=0.5)
    fitted = fit_regression(moments, contexts)
    features = np.array([_features(fitted, moments, task) for task in range(TASKS)])
    penalties = 10.0 ** np.arange(-4.0, 2.5, 0.5)
    errors = [_left_out(features, contexts[:, 0], penalty) for penalty in penalties]
    np.testing.assert_allclose(fitted.errors[0], min(errors), rtol=1e-8)


def _features(fitted: ContextRegression, moments: Moments, task: int) -> FloatArray:
    second, cross = moments.second[task] / moments.count[task], moments.cross[task] / moments.count[task]
    return np.linalg.solve(second + np.diag(fitted.ridge), cross - second @ fitted.common).ravel()


def _left_out(features: FloatArray, known: FloatArray, penalty: float) -> float:
    """Refit without each task, by the normal equations of a ridge regression with an intercept."""
    scaled = (features - features.mean(axis=0)) / features.std(axis=0) / np.sqrt(features.shape[1])
    design = np.column_stack([np.ones(TASKS), scaled])
    shrink = penalty * np.diag([0.0, *np.ones(features.shape[1])])
    errors = []
    for task in range(TASKS):
        rest = np.arange(TASKS) != task
        normal = design[rest].T @ design[rest] + shrink
        errors.append(known[task] - design[task] @ np.linalg.solve(normal, design[rest].T @ known[rest]))
    return float(np.sqrt(np.mean(np.square(errors))) / known.std())


def test_a_context_that_shows_nowhere_has_an_error_of_about_one() -> None:
    contexts = _contexts(30)
    hidden = _moments(np.zeros((30, 1)), 4)
    assert fit_regression(hidden, contexts).error > 0.9


def test_an_estimate_is_put_into_the_range_of_the_training_tasks() -> None:
    contexts = np.linspace(-1.0, 1.0, 20)[:, None]
    fitted = fit_regression(_moments(contexts, 6), contexts)
    np.testing.assert_array_equal(fitted.context(_moments(np.array([[3.0]]), 7)), [1.0])


def test_tasks_without_transitions_are_left_out_and_two_are_too_few() -> None:
    contexts = _contexts()
    moments = _moments(contexts, 8)
    grown = Moments(
        *(np.concatenate([part, np.zeros_like(part[:1])]) for part in (moments.second, moments.cross, moments.count))
    )
    fitted, other = fit_regression(moments, contexts), fit_regression(grown, np.concatenate([contexts, [[9.0]]]))
    np.testing.assert_array_equal(fitted.weights, other.weights)
    with pytest.raises(ValueError, match="transitions of at least 3 tasks, got 2"):
        fit_regression(_moments(contexts[:2], 9), contexts[:2])
