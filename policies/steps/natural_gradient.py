"""The natural-gradient step of a neural policy and its caps (THEORY section 2; Kakade 2001; Schulman et al. 2015).

Fisher-vector products are analytic: F v = J' F_out J v, with J the Jacobian of the network's outputs and F_out the
Fisher matrix of the action distribution in its outputs. No back-propagation is run twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from policies.networks.distributions import LOG_STD, distribution_of, extra_of
from policies.networks.kronecker import kronecker_preconditioner
from policies.networks.mlp import Array, Linearization
from policies.networks.network import AnyNetwork, Linear

Cap = Literal["none", "trust_region", "satisfied_cost", "refused"]
"""The cause of a shorter step: nothing, KL <= delta_max, a cost that had to stay satisfied; refused: no step."""


class TrustRegionSettings(BaseModel):
    """Conjugate gradient and the caps on a step: the ``trust_region`` section."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    delta_max: float = Field(default=0.01, gt=0.0)
    """Largest mean KL(old || new) of one step."""
    delta_last: float | None = Field(default=None, gt=0.0)
    """delta_max of a task's last step, reached linearly from delta_max of its first; None: the same for all."""
    cg_iterations: int = Field(default=10, gt=0)
    """At most this many Fisher-vector products per step."""
    cg_residual: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Conjugate gradient stops once |g - F x| is this share of |g|."""
    cg_damping: float = Field(default=0.1, ge=0.0)
    """Added to the diagonal of the Fisher matrix; a few thousand samples do not determine its small eigenvalues."""
    damping_unit: Literal["absolute", "fisher"] = "absolute"
    """fisher: in units of the action distribution's Fisher matrix (Gaussian: 1 / std^2), which grows as std falls."""
    preconditioner: Literal["kronecker", "none"] = "kronecker"
    """kronecker: products with Kronecker factors of the Fisher matrix save most iterations; needs a damping above 0."""
    fisher_samples: int = Field(default=4000, gt=0)
    """Fisher-vector products use every k-th sample, so that at most about this many are used."""
    backtracking: float = Field(default=0.7, gt=0.0, lt=1.0)
    """Factor by which the line search shortens a step; it shortens less if the measured KL shows that to be enough."""
    max_backtracks: int = Field(default=12, ge=0)
    """A step is refused after this many shortenings."""
    keep_satisfied: bool = False
    """Also shorten a step whose surrogate takes a satisfied cost over its limit."""

    def at(self, iteration: int, num_iterations: int) -> TrustRegionSettings:
        """The settings of step ``iteration`` of ``num_iterations``."""
        if self.delta_last is None or num_iterations == 1:
            return self
        done = iteration / (num_iterations - 1)
        return self.model_copy(update={"delta_max": (1.0 - done) * self.delta_max + done * self.delta_last})

    def damping(self, network: AnyNetwork, vector: Array) -> tuple[float, float]:
        """What is added to the diagonal of the Fisher matrix: for the layers, and for log std."""
        if self.damping_unit == "absolute" or LOG_STD not in network.places:
            return self.cg_damping, self.cg_damping
        precision = float(np.exp(-2.0 * extra_of(network, vector)).mean())
        return self.cg_damping * precision, self.cg_damping * 2.0

    @model_validator(mode="after")
    def _preconditioner_needs_damping(self) -> TrustRegionSettings:
        if self.preconditioner == "kronecker" and self.cg_damping == 0.0:
            raise ValueError("preconditioner kronecker needs cg_damping above 0; set it to none for no damping")
        return self


@dataclass(frozen=True, slots=True)
class Samples:
    """The data from which a step is computed.

    ``inputs`` [N, d] (normalised observations), ``actions`` [N] or [N, A], ``advantages`` [N, 1+p] and ``weights`` [N]
    (shares of the state-action distribution; they sum to 1).
    """

    inputs: Float[Array, "N d"]
    actions: Shaped[NDArray[Any], "N ..."]
    advantages: Float[Array, "N objectives"]
    weights: Float[Array, " N"]


def equal_weights(inputs: Float[Array, "N d"]) -> Float[Array, " N"]:
    """1 / N for every row."""
    return np.full(len(inputs), 1.0 / len(inputs), dtype=inputs.dtype)


@dataclass(frozen=True, slots=True)
class StepReport:
    """The result of a step.

    ``rate`` is the signed alpha that was asked for and ``scale`` the share of it that was taken; ``requested_kl`` is
    the quadratic model's KL of the step asked for, ``kl`` the KL of the one taken. ``surrogate`` [1+p] is
    E[(pi'/pi - 1) A_i] of the step taken.
    """

    branch: int
    rate: float
    scale: float
    cap: Cap
    cg_iterations: int
    cg_residual: float
    backtracks: int
    requested_kl: float
    kl: float
    surrogate: Array


def policy_gradient(network: AnyNetwork, linear: Linear, samples: Samples, column: int) -> Float[Array, " parameters"]:
    """g_i = E[A_i(s,a) grad log pi(a|s)], [num_parameters]; the factor 1 / (1 - gamma) is the caller's."""
    weights = samples.weights * samples.advantages[:, column]
    extra = extra_of(network, linear.vector)
    outputs, extras = distribution_of(network).score(linear.outputs, extra, samples.actions, weights)
    return _with_extras(network, linear.pullback(outputs), extras)


def fisher_product(
    network: AnyNetwork, linear: Linear, weights: Float[Array, " N"], direction: Float[Array, " parameters"]
) -> Float[Array, " parameters"]:
    """F v = E_s[ J' F_out J v ] for ``direction`` v [num_parameters]; exact, as F_out is the KL's Hessian too."""
    extra, moved_extra = extra_of(network, linear.vector), extra_of(network, direction)
    outputs, extras = distribution_of(network).fisher(
        linear.outputs, extra, linear.tangent(direction), moved_extra, weights
    )
    return _with_extras(network, linear.pullback(outputs), extras)


def _with_extras(network: AnyNetwork, vector: Array, extras: Array) -> Array:
    if LOG_STD in network.places:
        vector[network.places[LOG_STD]] = extras
    return vector


def _identity(vector: Array) -> Array:
    return vector


def conjugate_gradient(
    product: Callable[[Array], Array],
    right: Float[Array, " parameters"],
    iterations: int,
    residual: float,
    precondition: Callable[[Array], Array] = _identity,
) -> tuple[Float[Array, " parameters"], int, float]:
    """Solve F x = ``right`` for a symmetric positive F, from x = 0 (Hestenes, Stiefel 1952; Saad 2003, algorithm 9.1).

    Returns x, the products used and the last |right - F x| / |right| (from the recurrence). Stops at ``residual``.
    ``precondition`` is a symmetric positive approximation of F^{-1}; it changes the path, not the solution.
    """
    solution = np.zeros_like(right)
    error = right.copy()
    size = float(np.linalg.norm(right))
    share = 1.0 if size > 0.0 else 0.0
    direction = precondition(error).copy()
    squared = float(error @ direction)
    for used in range(iterations):
        if share <= residual:
            return solution, used, share
        moved = product(direction)
        curvature = float(direction @ moved)
        if not curvature > 0.0:
            return solution, used, share
        length = squared / curvature
        solution += length * direction
        error -= length * moved
        share = float(np.linalg.norm(error)) / size
        conditioned = precondition(error)
        previous, squared = squared, float(error @ conditioned)
        direction *= squared / previous
        direction += conditioned
    return solution, iterations, share


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a step must keep: which costs, and by how much each E[(pi'/pi - 1) A_i] may rise.

    ``columns`` index the advantages of the costs that are satisfied now; ``room`` is (d_i + eta_i - J_i) divided by the
    factor between the surrogate and J_i.
    """

    columns: tuple[int, ...]
    room: tuple[float, ...]


def natural_gradient_direction(
    network: AnyNetwork, linear: Linear, samples: Samples, gradient: Array, settings: TrustRegionSettings
) -> tuple[Array, int, float]:
    """(F + damping)^{-1} g by conjugate gradient; also the products used and the residual's share."""
    stride = max(1, len(samples.weights) // settings.fisher_samples)
    thin, weights = linear, samples.weights
    if stride > 1:
        weights = samples.weights[::stride] / samples.weights[::stride].sum()
        thin = network.linearize(linear.vector, np.ascontiguousarray(samples.inputs[::stride]))

    damping, damping_extras = settings.damping(network, linear.vector)
    diagonal = np.full_like(linear.vector, damping)
    if LOG_STD in network.places:
        diagonal[network.places[LOG_STD]] = damping_extras

    def product(direction: Array) -> Array:
        return fisher_product(network, thin, weights, direction) + diagonal * direction

    precondition: Callable[[Array], Array] = _identity
    if settings.preconditioner == "kronecker":
        if not isinstance(thin, Linearization):
            raise ValueError("trust_region.preconditioner: kronecker needs the layers of an mlp; set it to none")
        precondition = kronecker_preconditioner(thin, weights, damping, damping_extras)
    return conjugate_gradient(product, gradient, settings.cg_iterations, settings.cg_residual, precondition)


def natural_gradient_step(
    network: AnyNetwork,
    vector: Float[Array, " parameters"],
    samples: Samples,
    branch: int,
    rate: float,
    discount: float,
    settings: TrustRegionSettings,
    constraints: Constraints = Constraints((), ()),
) -> tuple[Float[Array, " parameters"], StepReport]:
    """theta + rate / (1 - gamma) F^{-1} g_i, shortened where a cap asks for it; rate > 0 ascends, < 0 descends.

    With one-hot inputs and a linear network this is :func:`policies.exact.softmax.natural_gradient_step`. The
    quadratic model sets the first length tried, sqrt(delta_max / KL) where its KL is over delta_max,
    and the line search the rest.
    """
    linear = network.linearize(vector, samples.inputs)
    gradient = policy_gradient(network, linear, samples, branch)
    direction, used, residual = natural_gradient_direction(network, linear, samples, gradient, settings)
    step = direction * (rate / (1.0 - discount))
    curvature = fisher_product(network, linear, samples.weights, step)
    requested = 0.5 * float(step @ curvature)
    scale = 1.0 if requested <= settings.delta_max else float(np.sqrt(settings.delta_max / requested))
    cap: Cap = "none" if scale == 1.0 else "trust_region"
    for backtracks in range(settings.max_backtracks + 1):
        candidate = vector + scale * step
        kl, surrogate = compared(network, linear, candidate, samples)
        broken = _broken(kl, surrogate, settings, constraints)
        if broken == "none":
            report = StepReport(branch, rate, scale, cap, used, residual, backtracks, requested, kl, surrogate)
            return candidate, report
        cap = broken
        scale *= shortening(kl, settings) if broken == "trust_region" else settings.backtracking
    nothing = np.zeros_like(surrogate)
    return vector, StepReport(
        branch, rate, 0.0, "refused", used, residual, settings.max_backtracks, requested, 0.0, nothing
    )


def shortening(kl: float, settings: TrustRegionSettings) -> float:
    """The factor on the length that takes a KL quadratic in it just under delta_max; at least ``backtracking``."""
    if not np.isfinite(kl):
        return settings.backtracking
    return max(settings.backtracking, just_under(kl, settings))


def just_under(kl: float, settings: TrustRegionSettings) -> float:
    """The factor on the length that takes a finite KL quadratic in it just under delta_max."""
    return 0.98 * float(np.sqrt(settings.delta_max / kl))


def _broken(kl: float, surrogate: Array, settings: TrustRegionSettings, constraints: Constraints) -> Cap:
    if not kl <= settings.delta_max:
        return "trust_region"
    if settings.keep_satisfied:
        for column, room in zip(constraints.columns, constraints.room, strict=True):
            if not surrogate[column] <= room:
                return "satisfied_cost"
    return "none"


def compared(network: AnyNetwork, linear: Linear, candidate: Array, samples: Samples) -> tuple[float, Array]:
    """Mean KL(old || candidate) and the surrogates E[(pi'/pi - 1) A_i], [1+p]."""
    distribution = distribution_of(network)
    extra, new_extra = extra_of(network, linear.vector), extra_of(network, candidate)
    with np.errstate(over="ignore", invalid="ignore"):  # a candidate too far away: the line search sees it
        outputs = linear.at(candidate)
        kl = samples.weights @ distribution.kl(linear.outputs, extra, outputs, new_extra)
        ratio = np.exp(
            distribution.log_probability(outputs, new_extra, samples.actions)
            - distribution.log_probability(linear.outputs, extra, samples.actions)
        )
        return float(kl), np.asarray((samples.weights * (ratio - 1.0)) @ samples.advantages)
