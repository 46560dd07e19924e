"""Tabular DualDICE in closed form (Nachum et al. 2019; THEORY section 3), and the diagnostics of each estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from meta.offline.diagnostics import Diagnostics, EstimateError
from meta.offline.dice_settings import DICESettings
from policies.tabular.transitions import Transitions
from tasks.contract.tabular_model import FloatArray

_ROUNDING = 1e-6
_LARGEST_TABLE = 2**20
_HELD_OUT = 5
"""Every fifth episode is held out for the Bellman-flow residual."""


@dataclass(frozen=True, slots=True)
class Corrections:
    """A stationary-distribution estimate.

    ``correction`` [N] is w = d^pi / d^D of every sample; ``pair_occupancy`` [S, A] the estimated d^pi(s,a) of states in
    which the episode goes on, ``occupancy`` [S] its sum over actions (nu_hat); the rest of the mass is absorbed.
    """

    correction: Float[FloatArray, " N"]
    pair_occupancy: Float[FloatArray, "S A"]
    diagnostics: Diagnostics

    @property
    def occupancy(self) -> Float[FloatArray, " S"]:
        """nu_hat, [S]."""
        return np.asarray(self.pair_occupancy.sum(axis=1))


@dataclass(frozen=True, slots=True)
class _Aggregate:
    """Aggregated transitions over the V visited pairs.

    ``to_state`` [V, S] and ``absorption`` [V] are empirical next-state frequencies, ``successor`` [V, V] follows the
    policy from there to visited pairs, ``first`` [S] is the empirical rho and ``initial`` [V] is mu_0.
    """

    visited: NDArray[np.int64]
    counts: FloatArray
    absorbing_count: float
    to_state: sparse.csr_array
    successor: sparse.csr_array
    absorption: FloatArray
    first: FloatArray
    initial: FloatArray

    @property
    def total(self) -> float:
        return float(self.counts.sum()) + self.absorbing_count


def estimate(
    data: Transitions, policy: Float[FloatArray, "S A"], discount: float, horizon: int, settings: DICESettings
) -> Corrections:
    """Estimate d^pi of ``policy`` [S, A] from transitions that any mixture of policies made.

    With B = I - gamma P_hat^pi over visited pairs and d = diag(d^D): B' d B nu = (1 - gamma) mu_0, w = B nu (q = 2).
    Transitions that terminate enter an absorbing state, where nu is 0 by convention; an episode that ended early counts
    there until the horizon, so that E_D[w] = 1. ``settings`` set the weights of CRPO's iterations.

    Raises:
        EstimateError: the data are empty, the policy is not finite, or the answer is not.
    """
    _require_sound(data, policy)
    weights = _row_weights(data, settings)
    tally = _tally(data, policy, horizon, weights)
    aggregate = _aggregate(tally, policy)
    solution = _solve(aggregate, discount, settings.ridge)
    if not np.isfinite(solution).all():
        raise EstimateError("dualdice_tabular: a correction is not finite")
    pair_occupancy = np.zeros(policy.size)
    pair_occupancy[aggregate.visited] = solution
    absorbed = _absorbed_mass(aggregate, solution, discount)
    by_pair = np.zeros(policy.size)
    by_pair[aggregate.visited] = solution * aggregate.total / aggregate.counts
    correction = by_pair[_pairs(data, policy)]
    missing = 1.0 - float(solution.sum()) - absorbed
    if weights is not None:
        correction[weights == 0.0] = 0.0
    squares = float((correction**2).sum() if weights is None else weights @ correction**2)
    squares += (absorbed * aggregate.total) ** 2 / aggregate.absorbing_count if aggregate.absorbing_count else 0.0
    mean = float(solution.sum()) + absorbed
    diagnostics = Diagnostics(
        mean_correction=mean,
        effective_sample_size=(mean * aggregate.total) ** 2 / squares / aggregate.total if squares > 0.0 else 0.0,
        negative_share=float((correction < -_ROUNDING).mean()),
        flow_residual=_held_out_residual(data, tally, policy, discount, horizon, settings),
        missing_mass=missing,
        regularized=_uncovered(aggregate),
    )
    return Corrections(correction, pair_occupancy.reshape(policy.shape), diagnostics)


def _require_sound(data: Transitions, policy: FloatArray) -> None:
    if len(data) == 0:
        raise EstimateError("the dataset is empty")
    if not np.isfinite(policy).all():
        raise EstimateError(f"the policy in state {int(np.argwhere(~np.isfinite(policy))[0][0])} is not finite")


def _pairs(data: Transitions, policy: FloatArray) -> NDArray[np.int64]:
    return data.states.astype(np.int64) * policy.shape[1] + data.actions


@dataclass(frozen=True, slots=True)
class _Tally:
    """Counts (or weights) over all pairs, which add up over sets of episodes.

    ``visits`` and ``ended`` [S*A], ``first`` [S].
    """

    visits: NDArray[Any]
    to_state: sparse.csr_array[np.float64, tuple[int, int]]
    ended: NDArray[Any]
    first: NDArray[np.int64]
    absorbing_count: float

    def without(self, part: _Tally) -> _Tally:
        """The counts of the episodes that are not in ``part``."""
        return _Tally(
            self.visits - part.visits,
            sparse.csr_array(self.to_state - part.to_state),
            self.ended - part.ended,
            self.first - part.first,
            self.absorbing_count - part.absorbing_count,
        )


def _row_weights(data: Transitions, settings: DICESettings) -> FloatArray | None:
    """Weight of every row in d^D, None if all are equal; rows of the newest iteration have 1, dropped rows 0."""
    if settings.drop_iterations == 0 and settings.iteration_weight == 1.0:
        return None
    ages = (data.iterations.max() - data.iterations).astype(np.float64)
    return np.where(data.iterations >= settings.drop_iterations, settings.iteration_weight**ages, 0.0)


def _tally(data: Transitions, policy: FloatArray, horizon: int, weights: FloatArray | None = None) -> _Tally:
    states, _ = policy.shape
    pair, starts = _pairs(data, policy), data.episode_starts
    going_on, ended = ~data.terminated, np.flatnonzero(data.terminated)
    lengths = ended - np.flatnonzero(starts)[np.cumsum(starts)[ended] - 1] + 1
    of_ended, of_others = (None, None) if weights is None else (weights[ended], weights[going_on])
    return _Tally(
        visits=np.bincount(pair, weights, minlength=policy.size),
        to_state=_count_pairs(pair[going_on], data.next_states[going_on], (policy.size, states), of_others),
        ended=np.bincount(pair[ended], of_ended, minlength=policy.size),
        first=np.bincount(data.states[starts if weights is None else starts & (weights > 0.0)], minlength=states),
        absorbing_count=float((horizon - lengths).sum() if of_ended is None else of_ended @ (horizon - lengths)),
    )


def _aggregate(tally: _Tally, policy: FloatArray) -> _Aggregate:
    states, actions = policy.shape
    visited = np.flatnonzero(tally.visits)
    counts = tally.visits[visited].astype(np.float64)
    to_state = sparse.csr_array(sparse.diags_array(1.0 / counts) @ tally.to_state[visited])
    state, action = np.divmod(visited, actions)
    choose = sparse.csr_array((policy[state, action], (state, np.arange(visited.size))), shape=(states, visited.size))
    first = tally.first / tally.first.sum()
    return _Aggregate(
        visited=visited,
        counts=counts,
        absorbing_count=tally.absorbing_count,
        to_state=to_state,
        successor=sparse.csr_array(to_state @ choose),
        absorption=tally.ended[visited] / counts,
        first=first,
        initial=first[state] * policy[state, action],
    )


def _count_pairs(
    rows: NDArray[np.int64], columns: NDArray[np.int32], shape: tuple[int, int], weights: FloatArray | None
) -> sparse.csr_array[np.float64, tuple[int, int]]:
    """How often each (row, column) occurs; counting in a table is much faster than sorting triples."""
    if shape[0] * shape[1] <= _LARGEST_TABLE:
        table = np.bincount(rows * shape[1] + columns, weights, minlength=shape[0] * shape[1])
        return sparse.csr_array(table.reshape(shape).astype(np.float64))
    return sparse.csr_array((np.ones(rows.size) if weights is None else weights, (rows, columns)), shape=shape)


def _solve(aggregate: _Aggregate, discount: float, ridge: float) -> FloatArray:
    """x = d * w over visited pairs, from the augmented form [-1/d, B; B', ridge I] [x; nu] = [0; (1-gamma) mu_0].

    Eliminating x gives the normal equations (B' d B + ridge I) nu = (1 - gamma) mu_0 without squaring their condition
    number. nu is 0 at pairs without data (and at the absorbing state), so B is square and the system regular.
    """
    size = aggregate.visited.size
    identity = sparse.eye_array(size, format="csr")
    bellman = identity - discount * aggregate.successor
    right = (1.0 - discount) * aggregate.initial
    try:
        if ridge == 0.0 or not _uncovered(aggregate):
            return np.asarray(splu(bellman.T.tocsc()).solve(right))
        weight = sparse.diags_array(-aggregate.total / aggregate.counts)
        system = sparse.block_array([[weight, bellman], [bellman.T, ridge * identity]], format="csc")
        return np.asarray(splu(system).solve(np.concatenate([np.zeros(size), right])))[:size]
    except RuntimeError as error:  # what SuperLU raises for a singular matrix
        raise EstimateError(f"dualdice_tabular: the system is singular ({error})") from error


def _uncovered(aggregate: _Aggregate) -> bool:
    """Whether the policy reaches a pair without data, at the start or after a visited pair."""
    leaving = 1.0 - aggregate.absorption - np.asarray(aggregate.successor.sum(axis=1)).ravel()
    return bool(leaving.max(initial=0.0) > 1e-12 or 1.0 - aggregate.initial.sum() > 1e-12)


def _absorbed_mass(aggregate: _Aggregate, solution: FloatArray, discount: float) -> float:
    """gamma / (1 - gamma) times the flow into the absorbing state."""
    return float(discount / (1.0 - discount) * (aggregate.absorption @ solution))


def _held_out_residual(
    data: Transitions, tally: _Tally, policy: FloatArray, discount: float, horizon: int, settings: DICESettings
) -> float:
    """|| (1-gamma) mu_0 - E_held[ w(s,a) (e_(s,a) - gamma E_{a'~pi} e_(s',a')) ] ||_1, [S, A] unit vectors e.

    w comes from four fifths of the episodes (0 where they have no data), the expectation is over the remaining fifth.
    NaN where there are too few episodes to hold any out.
    """
    episode = np.cumsum(data.episode_starts) - 1
    held = episode % _HELD_OUT == _HELD_OUT - 1
    if not held.any() or held.all():
        return float("nan")
    weights = _row_weights(data, settings)
    if weights is None:
        held_out = _tally(_subset(data, held), policy, horizon)
        rest = tally.without(held_out)
    else:  # differences of sums of weights would not be exact zeros
        held_out = _tally(_subset(data, held), policy, horizon, weights[held])
        rest = _tally(_subset(data, ~held), policy, horizon, weights[~held])
    fit, test = _aggregate(rest, policy), _aggregate(held_out, policy)
    by_pair = np.zeros(policy.size)
    by_pair[fit.visited] = _solve(fit, discount, settings.ridge) * fit.total / fit.counts
    mass = by_pair[test.visited] * test.counts / test.total
    flow = -discount * (test.to_state.T @ mass)[:, None] * policy
    flow -= (1.0 - discount) * test.first[:, None] * policy
    flow.reshape(-1)[test.visited] += mass
    return float(np.abs(flow).sum())


def _subset(data: Transitions, keep: NDArray[np.bool_]) -> Transitions:
    return Transitions(*(getattr(data, name)[keep] for name in Transitions.__slots__))
