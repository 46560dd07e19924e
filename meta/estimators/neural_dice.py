"""Estimators that train two networks: DualDICE, GenDICE and the regularised Lagrangian of BestDICE."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meta.estimators.dualdice_linear import fit_on
from meta.estimators.features import Features
from meta.estimators.saddle_point import Gradients, Link, Trained, Values, train_saddle_point
from meta.offline.diagnostics import EstimateError
from meta.offline.dice_settings import DICESettings
from meta.offline.offline_data import Fitted, OfflineData
from policies.networks.mlp import Network, apply
from tasks.stepping.batch import Float32Array

_ANY, _POSITIVE = Link(positive=False), Link(positive=True)


def dualdice_loss(values: Values, discount: float, exponent: float) -> Gradients:
    """min_nu max_zeta E_D[y zeta - f*(zeta)] - (1 - gamma) E[nu(s0, a0)], y = nu(s,a) - gamma E_{a'~pi} nu(s',a').

    f(x) = |x|^q / q and f*(x) = |x|^p / p with p = q / (q - 1); Nachum et al. 2019, equation 11.
    """
    power = exponent / (exponent - 1.0)
    zeta, y = values.zeta, values.nu - discount * values.following
    return Gradients(
        nu=zeta,
        following=-discount * zeta,
        first=np.full_like(zeta, discount - 1.0),
        zeta=np.sign(zeta) * np.abs(zeta) ** (power - 1.0) - y,
    )


def gendice_loss(values: Values, discount: float, penalty: float) -> Gradients:
    """min_{w >= 0} max_{f, u} of the sum of (1 - gamma) E[f(s0,a0)] + gamma E_D[w f(s',a')], - E_D[w (f + f^2 / 4)] and
    lambda (u (E_D[w] - 1) - u^2 / 2).

    Zhang et al. 2020 (arXiv 2002.09072), equation 9, with the chi-square divergence; f is nu here. The absorbing
    state's mass counts in E_D[w]: gamma / (1 - gamma) for each terminal row.
    """
    w, f, u = values.zeta, values.nu, values.multiplier
    counted = 1.0 + values.absorbs
    return Gradients(
        nu=w * (1.0 + 0.5 * f),
        following=-discount * w,
        first=np.full_like(w, discount - 1.0),
        zeta=discount * values.following - f - 0.25 * f * f + penalty * u * counted,
        multiplier=-penalty * (float((w * counted).mean()) - 1.0 - u),
    )


def bestdice_loss(values: Values, discount: float, regularization: float) -> Gradients:
    """max_{zeta >= 0} min_{nu, lambda} of the sum of (1 - gamma) E[nu(s0,a0)] + lambda,
    E_D[zeta (gamma nu(s',a') - nu(s,a) - lambda)] and - alpha E_D[zeta^2] / 2.

    Yang et al. 2020 (arXiv 2007.03438), equation 9, with the choices they found best: no reward, no primal and a dual
    regularisation, zeta positive, and the redundant constraint E_D[zeta] = 1 with its multiplier lambda.
    """
    zeta, counted = values.zeta, 1.0 + values.absorbs
    slack = discount * values.following - values.nu - values.multiplier * counted
    return Gradients(
        nu=-zeta,
        following=discount * zeta,
        first=np.full_like(zeta, 1.0 - discount),
        zeta=regularization * zeta - slack,
        multiplier=1.0 - float((zeta * counted).mean()),
    )


def dualdice_neural(data: OfflineData, settings: DICESettings, seed: int) -> Fitted:
    """zeta of DualDICE's saddle point; its last layer solved in closed form unless ``last_layer`` is trained.

    Raises:
        EstimateError: training diverged, or the system of the last layer is singular.
    """
    own = settings.neural
    objective = partial(dualdice_loss, exponent=own.exponent)
    trained = train_saddle_point(data, objective, _ANY, own, seed)
    if own.last_layer == "trained":
        return _fitted(trained, data, _ANY)
    return fit_on(_hidden(trained), data, settings.linear.ridges, settings.linear.samples_per_state, seed)


def gendice(data: OfflineData, settings: DICESettings, seed: int) -> Fitted:
    """GenDICE; see :func:`gendice_loss`.

    Raises:
        EstimateError: training diverged.
    """
    objective = partial(gendice_loss, penalty=settings.neural.normalization)
    trained = train_saddle_point(data, objective, _POSITIVE, settings.neural, seed, nu_is_inner=True)
    return _fitted(trained, data, _POSITIVE)


def bestdice(data: OfflineData, settings: DICESettings, seed: int) -> Fitted:
    """The regularised Lagrangian; see :func:`bestdice_loss`. Its zeta is finally divided by E_D[zeta].

    The multiplier brings E_D[zeta] to 1 only in the limit: with a discount of 0.97 and more it is 0.6 to 0.8 after the
    default steps. The division puts the estimate on the constraint; the held-out residual shows what it is worth.

    Raises:
        EstimateError: training diverged, or zeta is 0 everywhere.
    """
    objective = partial(bestdice_loss, regularization=settings.neural.regularization)
    found = _fitted(train_saddle_point(data, objective, _POSITIVE, settings.neural, seed), data, _POSITIVE)
    trained_on = ~data.held_out if data.has_held_out else np.ones(len(data), dtype=np.bool_)
    mass = np.where(trained_on, data.weights / data.weights[trained_on].sum() * found.ratio, 0.0)
    total = float(mass.sum()) + data.absorbed_mass(mass)
    if not total > 0.0:
        raise EstimateError("bestdice: the corrections are 0 everywhere; lower dice.neural.inner_rate")
    held_out = None if found.held_out_ratio is None else found.held_out_ratio / total
    return Fitted(found.ratio / total, held_out)


def _fitted(trained: Trained, data: OfflineData, link: Link) -> Fitted:
    """The ratio of the averaged zeta; held-out episodes decided when to stop, but contributed no gradient."""
    ratio = link.value(trained.outputs(trained.zeta, data.sample.observations, data.sample.actions))
    return Fitted(ratio, ratio[data.held_out] if data.has_held_out else None)


def _hidden(trained: Trained) -> Features:
    """1 and the last hidden layers of zeta and of nu, once for each discrete action.

    Both are needed: the corrections are a combination of the features, and so is the function that tests their flow.
    """
    encoder = trained.encoder
    hidden = Network(trained.network.sizes[:-1])
    width, heads = trained.network.sizes[-2], encoder.heads
    vectors = [vector[: hidden.num_parameters] for vector in (trained.zeta, trained.nu)]

    def features(observations: Float32Array, actions: NDArray[Any]) -> Float32Array:
        inputs, weights = encoder.encode(observations, actions), encoder.head_weights(observations, actions)
        parts = [np.ones((len(inputs), 1), dtype=np.float32)]
        for vector in vectors:
            layer = np.tanh(apply(hidden, vector, inputs))
            parts.append((weights[:, :, None] * layer[:, None, :]).reshape(len(layer), heads * width))
        return np.concatenate(parts, axis=1, dtype=np.float32)

    return Features.with_constant(features, 1 + 2 * heads * width)
