"""Safe steps of a table: the costs of a candidate from episodes of the policy before it, or from the exact model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from policies.common.confidence import Estimate, estimate_of, exact_estimate
from policies.common.safety import Guard
from policies.exact.softmax import natural_gradient_step
from policies.exact.solver import Evaluation, ExactModel, evaluate
from policies.tabular.transitions import Transitions, concatenate
from tasks.contract.tabular_model import FloatArray

TEST = 2**21
"""Added to the iteration in the keys of random numbers: test episodes are none of those that chose the step."""
TEST_EPISODES = 100
"""Where ``evaluation.safety.test_episodes`` is empty."""


@dataclass
class SafeSteps:
    """Shortens the steps of :func:`policies.tabular.crpo.solve` to what the ``guard`` allows.

    With an ``exact`` model the costs of candidates are known. Else ``collect`` gives test episodes of an iterate; those
    of an iterate that stays for the next iteration are used again with the new ones.
    """

    guard: Guard
    discount: float
    exact: ExactModel | None
    collect: Callable[[FloatArray, int], Transitions]
    _seen: list[Transitions] = field(default_factory=list)

    def share(
        self, iteration: int, logits: FloatArray, direction: FloatArray, branch: int, result: Evaluation
    ) -> float:
        """The share of the step by ``direction`` [S, A] from ``logits`` that may be taken.

        ``result`` is the evaluation of the iterate that chose the step, whose Q reduces the variance of the estimates.
        """

        def candidate(share: float) -> FloatArray:
            return natural_gradient_step(logits, direction, share, self.discount)

        if self.exact is not None:
            model, costs = self.exact, result.values[1:]

            def known(share: float) -> Estimate:
                return exact_estimate(evaluate(model, np.exp(candidate(share))).values[1:], costs)

            return self.guard.share(branch, result.values, known)
        self._seen.append(self.collect(np.exp(logits), TEST + iteration))
        self.guard.test_steps += len(self._seen[-1])
        data, settings = concatenate(self._seen), self.guard.safety.settings
        now, _ = costs_of_episodes(data, logits, logits, result.action_values[1:], self.discount)

        def tested(share: float) -> Estimate | None:
            if share == 0.0:
                return estimate_of(now, now, settings.confidence)
            after = candidate(share)
            then, effective = costs_of_episodes(data, logits, after, result.action_values[1:], self.discount)
            usable = effective >= settings.least_effective
            return estimate_of(then, now, settings.confidence) if usable else None

        taken = self.guard.share(branch, result.values, tested)
        if taken:
            self._seen.clear()
        return taken


def costs_of_episodes(
    data: Transitions,
    logits: Float[FloatArray, "S A"],
    candidate: Float[FloatArray, "S A"],
    action_values: Float[FloatArray, "p S A"],
    discount: float,
) -> tuple[Float[FloatArray, "episodes p"], float]:
    """One unbiased estimate per episode of the costs of ``candidate``, from episodes of ``logits``; both normalised.

    Doubly robust (Jiang, Li 2016, arXiv 1511.03722), for any Q that these episodes did not make:

        X = sum_t gamma^t [ rho_{t-1} sum_a pi'(a|s_t) Q(s_t,a) + rho_t (c_t - Q(s_t,a_t)) ]

    with rho_t = prod_{k<=t} pi'(a_k|s_k) / pi(a_k|s_k). Also the effective share of the episodes,
    (sum W)^2 / (n sum W^2) with W the discounted mean of the rho_t. Sums end at the horizon.
    """
    states, actions = data.states, data.actions
    starts = np.flatnonzero(data.episode_starts)
    lengths = np.diff(np.append(starts, len(data)))
    ages = np.arange(len(data)) - np.repeat(starts, lengths)
    logs = (candidate - logits)[states, actions]
    summed = np.cumsum(logs)
    through = summed - np.repeat(summed[starts] - logs[starts], lengths)
    factors = np.power(discount, ages)
    expected = np.einsum("sa,psa->ps", np.exp(candidate), action_values)[:, states]
    with np.errstate(over="ignore", invalid="ignore"):  # a candidate too far away: no episode says anything about it
        weights, before = np.exp(through), np.exp(through - logs)
        parts = before * expected + weights * (data.costs.T - action_values[:, states, actions])
        episodes = np.add.reduceat(factors * parts, starts, axis=1).T
        mean_weights = np.add.reduceat(factors * weights, starts) / np.add.reduceat(factors, starts)
        effective = float(mean_weights.sum() ** 2 / (len(starts) * (mean_weights**2).sum()))
    if not (np.isfinite(effective) and np.isfinite(episodes).all()):
        return np.zeros_like(episodes), 0.0
    return episodes, effective
