from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest

from meta.estimators.estimation import estimate_corrections
from meta.estimators.neural_dice import bestdice_loss, dualdice_loss, gendice_loss
from meta.estimators.saddle_point import Objective, Values
from meta.offline.diagnostics import EstimateError
from meta.offline.dice_settings import DICESettings, NeuralDICESettings
from meta.offline.target_policy import NeuralTarget, TableTarget
from policies.common.transition_sample import TransitionSample
from policies.neural.policy_state import new_policy
from policies.tabular.transitions import tabular_sample
from tasks.contract.tabular_model import FloatArray
from tests.support.few_variants import few
from tests.support.linear_system import HORIZON, LinearSystem
from tests.support.meta_helpers import ending_cmdp, random_rows, sample_mixture
from tests.support.problems import random_cmdp

DISCOUNT = 0.9
TRAINED = NeuralDICESettings(last_layer="trained")


def problem(*, ends: bool = False) -> tuple[TransitionSample, FloatArray]:
    """Data of three random policies on six states, and a fourth policy."""
    model = ending_cmdp(2, 6, 3, DISCOUNT) if ends else random_cmdp(2, 6, 3, 1, DISCOUNT)
    rng = np.random.default_rng(4)
    data = sample_mixture(model, [random_rows(rng, 6, 3) for _ in range(3)], 60, 30, rng)
    return tabular_sample(data, np.zeros(len(data))), random_rows(rng, 6, 3)


def table(rows: TransitionSample, mass: FloatArray) -> FloatArray:
    found = np.zeros((6, 3))
    np.add.at(found, (rows.observations[:, 0].astype(int), rows.actions), mass)
    return found


def distance(settings: DICESettings, *, ends: bool = False) -> float:
    """L1 distance of d^pi from the closed form on the same data."""
    rows, target = problem(ends=ends)
    closed = DICESettings(estimator="dualdice_tabular")
    found, exact = (
        table(rows, estimate_corrections(rows, TableTarget(target), DISCOUNT, 30, one, seed=0).mass)
        for one in (settings, closed)
    )
    return float(np.abs(found - exact).sum())


@pytest.mark.parametrize("ends", few([False, True], 1))
@pytest.mark.parametrize(
    ("estimator", "neural", "bound"),
    [
        ("dualdice_neural", NeuralDICESettings(steps=200), 1e-3),
        ("dualdice_neural", TRAINED, 0.1),
        ("gendice", NeuralDICESettings(), 0.1),
        ("bestdice", NeuralDICESettings(), 0.1),
    ],
    ids=["solved", "trained", "gendice", "bestdice"],
)
def test_networks_come_near_the_closed_form(
    estimator: str, neural: NeuralDICESettings, bound: float, ends: bool
) -> None:
    assert distance(DICESettings(estimator=estimator, neural=neural), ends=ends) < bound
    assert distance(DICESettings(estimator="none"), ends=ends) > 0.5


@pytest.mark.slow
def test_the_exponent_changes_nu_but_not_the_ratio() -> None:
    """q = 1.5 is what DualDICE's authors used; w = f'(y) is the same ratio."""
    wide = {"hidden": (64,), "steps": 6000, "outer_rate": 2e-3}
    neural = TRAINED.model_copy(update={"exponent": 1.5, **wide})
    assert distance(DICESettings(estimator="dualdice_neural", neural=neural)) < 0.15


@pytest.mark.parametrize("estimator", ["dualdice_neural", "gendice", "bestdice"])
def test_the_same_seed_gives_the_same_bits(estimator: str) -> None:
    rows, target = problem()
    settings = DICESettings(estimator=estimator, neural=NeuralDICESettings(steps=50))
    first, again, other = (
        estimate_corrections(rows, TableTarget(target), DISCOUNT, 30, settings, seed).mass for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("estimator", ["gendice", "bestdice"])
def test_ratios_are_positive_and_normalised(estimator: str) -> None:
    rows, target = problem(ends=True)
    found = estimate_corrections(rows, TableTarget(target), DISCOUNT, 30, DICESettings(estimator=estimator), seed=0)
    assert (found.mass > 0.0).all()
    assert found.diagnostics.mean_correction == pytest.approx(1.0, abs=0.06)


def test_training_that_diverges_is_reported() -> None:
    rows, target = problem()
    neural = TRAINED.model_copy(update={"outer_rate": 1e38, "inner_rate": 1e38, "steps": 200})
    with pytest.raises(EstimateError, match=r"diverged before step \d+; lower dice.neural.inner_rate"):
        estimate_corrections(
            rows, TableTarget(target), DISCOUNT, 30, DICESettings(estimator="dualdice_neural", neural=neural), seed=0
        )


def test_continuous_actions() -> None:
    """Moments of a linear system with known ones; plain weights are at 2.3 or more."""
    system = LinearSystem.make()
    rows = system.sample(0, 400)
    exact = system.discounted_moments(system.target)
    for estimator, neural in (("dualdice_neural", NeuralDICESettings()), ("bestdice", NeuralDICESettings())):
        settings = DICESettings.model_validate({"estimator": estimator, "neural": neural})
        found = estimate_corrections(rows, system.target, system.discount, HORIZON, settings, seed=0)
        x = rows.observations.astype(np.float64)
        moments = np.concatenate([found.mass @ x, ((x * found.mass[:, None]).T @ x).ravel()])
        assert np.abs(moments - exact).max() < 0.8, estimator


def test_a_discrete_network_has_heads() -> None:
    policy = new_policy(2, 3, 1, continuous=False, hidden=(8,), seed=1)
    system = LinearSystem.make()
    rows = system.sample(0, 60)
    rows = dataclasses.replace(rows, actions=np.arange(len(rows)) % 3)
    settings = DICESettings(estimator="dualdice_neural", neural=NeuralDICESettings(steps=100))
    found = estimate_corrections(rows, NeuralTarget(policy), DISCOUNT, HORIZON, settings, seed=0)
    assert found.diagnostics.mean_correction == pytest.approx(1.0, abs=1e-2)


def lagrangian(name: str, values: Values) -> float:
    """The objectives as the docstrings give them, mean over the batch; what each is a saddle point of."""
    nu, after, first, zeta = values.nu, values.following, values.first, values.zeta
    u, counted = values.multiplier, 1.0 + values.absorbs
    if name == "dualdice":
        return float(((nu - DISCOUNT * after) * zeta - np.abs(zeta) ** 3 / 3 - (1 - DISCOUNT) * first).mean())
    if name == "gendice":
        inner = (1 - DISCOUNT) * first + DISCOUNT * zeta * after - zeta * (nu + nu**2 / 4)
        return float(inner.mean() + 2.0 * (u * ((zeta * counted).mean() - 1.0) - u**2 / 2))
    inner = (1 - DISCOUNT) * first + zeta * (DISCOUNT * after - nu - u * counted) - 0.7 * zeta**2 / 2
    return float(inner.mean() + u)


@pytest.mark.parametrize(
    ("name", "objective", "nu_sign"),
    [
        ("dualdice", partial(dualdice_loss, exponent=1.5), 1.0),
        ("gendice", partial(gendice_loss, penalty=2.0), -1.0),
        ("bestdice", partial(bestdice_loss, regularization=0.7), 1.0),
    ],
)
def test_gradients_are_those_of_the_lagrangian(name: str, objective: Objective, nu_sign: float) -> None:
    """By central differences. nu minimises DualDICE's and BestDICE's, and maximises GenDICE's; zeta the other way."""
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal(5) for _ in range(3)]
    values = Values(*parts, np.abs(rng.standard_normal(5)), np.array([0.0, 9.0, 0.0, 0.0, 9.0]), 0.3)
    found = objective(values, DISCOUNT)
    for field, sign in (("nu", nu_sign), ("following", nu_sign), ("first", nu_sign), ("zeta", -nu_sign)):
        for row in range(5):
            step = np.zeros(5)
            step[row] = 1e-6
            up, down = (
                lagrangian(name, dataclasses.replace(values, **{field: getattr(values, field) + way * step}))
                for way in (1.0, -1.0)
            )
            assert sign * getattr(found, field)[row] / 5 == pytest.approx((up - down) / 2e-6, abs=1e-6), field
    if name != "dualdice":
        up, down = (lagrangian(name, dataclasses.replace(values, multiplier=0.3 + way * 1e-6)) for way in (1.0, -1.0))
        assert nu_sign * found.multiplier == pytest.approx((up - down) / 2e-6, abs=1e-6)
