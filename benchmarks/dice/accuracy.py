"""How accurate the estimators of corrections are: the measurements behind docs/results/dice.md.

Every error is measured against an exact value: occupancies from linear algebra, or the closed-form moments of a linear
system.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.dice.dice_problems import TabularProblem, coded
from meta.estimators.estimation import Estimate, estimate_corrections
from meta.offline.dice_settings import DICESettings, LinearDICESettings, NeuralDICESettings
from meta.offline.target_policy import TableTarget
from policies.common.transition_sample import TransitionSample
from tasks.contract.tabular_model import FloatArray
from tests.support.linear_system import HORIZON, LinearSystem

WIDE = LinearDICESettings(num_features=256)
ESTIMATORS: dict[str, DICESettings] = {
    "dualdice_tabular": DICESettings(estimator="dualdice_tabular"),
    "dualdice_linear": DICESettings(estimator="dualdice_linear", linear=WIDE),
    "dualdice_neural": DICESettings(estimator="dualdice_neural"),
    "dualdice_neural, as trained": DICESettings(
        estimator="dualdice_neural", neural=NeuralDICESettings(last_layer="trained")
    ),
    "gendice": DICESettings(estimator="gendice"),
    "bestdice": DICESettings(estimator="bestdice"),
    "importance": DICESettings(estimator="importance"),
    "none": DICESettings(estimator="none"),
}
SLOW = ("dualdice_neural", "dualdice_neural, as trained", "gendice", "bestdice")
SIZES = ((50, 50), (50, 400), (200, 100), (200, 400), (1000, 50), (1000, 100))
ALPHAS = (0.0, 0.33, 0.66, 1.0)
MAIN = (200, 400)


@dataclass(frozen=True)
class Plan:
    """The sizes of the measurements."""

    repeats: int = 20
    slow_repeats: int = 20
    slow_repeats_elsewhere: int = 5
    sizes: tuple[tuple[int, int], ...] = SIZES
    slow_sizes: tuple[tuple[int, int], ...] = ((50, 50), (200, 400))
    alphas: tuple[float, ...] = ALPHAS
    main: tuple[int, int] = MAIN
    rows_for_time: int = 40000
    steps: int = 3000

    def settings(self, name: str) -> DICESettings:
        """The settings of one estimator; networks train for ``steps``."""
        found = ESTIMATORS[name]
        return found.model_copy(update={"neural": found.neural.model_copy(update={"steps": self.steps})})


QUICK = Plan(2, 1, 1, ((20, 20), (40, 20)), ((20, 20),), (0.0, 1.0), (40, 20), 2000, 50)


@dataclass(frozen=True)
class Errors:
    """Errors of one estimator on one setting: ``value`` and ``correction`` [repeats], mean CPU ``seconds``."""

    value: FloatArray
    correction: FloatArray
    seconds: float

    @property
    def rmse(self) -> float:
        """Root-mean-square error of the value."""
        return float(np.sqrt(np.mean(self.value**2)))


Setting = tuple[str, float, tuple[int, int]]
"""Estimator, behaviour mix alpha, and (episodes, steps)."""


def on_table(
    problem: TabularProblem, settings: DICESettings, rows: TransitionSample, share: FloatArray, seed: int
) -> tuple[float, float, float]:
    """Error of the value, root-mean-square error of the corrections over the rows, and CPU seconds.

    The value is self-normalised: sum mass r divided by the estimated mass, including that of the absorbing state. The
    exact correction divides by the behaviour's own distribution d^D, ``share`` [S, A].
    """
    states, actions = rows.observations[:, 0].astype(int), rows.actions
    horizon = int(rows.ages.max()) + 1
    began = time.process_time()
    if settings.estimator in ("dualdice_tabular", "importance", "none"):
        found = estimate_corrections(rows, TableTarget(problem.target), problem.discount, horizon, settings, seed)
    else:
        sample, target = coded(problem, rows)
        began = time.process_time()
        found = estimate_corrections(sample, target, problem.discount, horizon, settings, seed)
    seconds = time.process_time() - began
    value = found.mass @ problem.reward[states, actions] / found.diagnostics.mean_correction
    exact = (problem.exact / np.where(share > 0.0, share, 1.0))[states, actions]
    ratio = found.mass * len(rows)
    return float(value - problem.value), float(np.sqrt(np.mean((ratio - exact) ** 2))), seconds


def measure_table(
    problems: Sequence[TabularProblem], settings: DICESettings, alpha: float, size: tuple[int, int], repeats: int
) -> Errors:
    """Repeat on fresh data, cycling through the problems. Every estimator gets the same data in the same repeat."""
    found = []
    for repeat in range(repeats):
        problem = problems[repeat % len(problems)]
        policy = problem.behaviour(alpha)
        rng = np.random.default_rng([repeat, *size, round(100 * alpha)])
        rows = problem.sample(policy, *size, rng)
        found.append(on_table(problem, settings, rows, problem.visited(alpha, size[1]), repeat))
    value, correction, seconds = np.array(found).T
    return Errors(value, correction, float(seconds.mean()))


def measure_linear_system(settings: DICESettings, episodes: int, repeats: int) -> Errors:
    """Largest error over the discounted first and second moments of the state; the largest moment is 2.95."""
    system, found = LinearSystem.make(), []
    exact = system.discounted_moments(system.target)
    for repeat in range(repeats):
        rows = system.sample(1000 + repeat, episodes)
        began = time.process_time()
        estimate: Estimate = estimate_corrections(rows, system.target, system.discount, HORIZON, settings, repeat)
        seconds = time.process_time() - began
        x = rows.observations.astype(np.float64)
        moments = np.concatenate([estimate.mass @ x, ((x * estimate.mass[:, None]).T @ x).ravel()])
        found.append((np.abs(moments - exact).max(), np.nan, seconds))
    value, correction, seconds_each = np.array(found).T
    return Errors(value, correction, float(seconds_each.mean()))


def spread(errors: Errors, *, of: str = "value") -> str:
    """Root mean square over the repeats with its 95 % percentile-bootstrap interval (2,000 draws)."""
    values = getattr(errors, of)
    squares = values**2
    drawn = np.random.default_rng(0).choice(squares, size=(2000, squares.size)).mean(axis=1)
    low, high = np.sqrt(np.percentile(drawn, (2.5, 97.5)))
    return f"{np.sqrt(squares.mean()):.2g} [{low:.2g}, {high:.2g}]"


def sweep(problems: Sequence[TabularProblem], plan: Plan, names: Sequence[str]) -> dict[Setting, Errors]:
    """Measure every estimator at every size with alpha 0, and at the main size with every alpha."""
    found: dict[Setting, Errors] = {}
    for name in names:
        sizes = plan.slow_sizes if name in SLOW else plan.sizes
        repeats = plan.slow_repeats if name in SLOW else plan.repeats
        settings = [(0.0, size) for size in sizes]
        settings += [(alpha, sizes[-2 if len(sizes) > 1 else 0]) for alpha in plan.alphas[1:]]
        settings.append((0.0, plan.main))
        for alpha, size in settings:
            if (name, alpha, size) not in found:
                found[name, alpha, size] = measure_table(problems, plan.settings(name), alpha, size, repeats)
                print(
                    f"{problems[0].name} {name} alpha {alpha:g} {size}: {spread(found[name, alpha, size])}", flush=True
                )
    return found
