"""The relative error of f_hat, the estimated loss of an initialisation, for each estimator of corrections."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distributed.settings.run_file import load_config
from meta.estimators.estimation import estimate_corrections
from meta.judging.protocol import drawn_tasks
from meta.learning.bounds import initialization_loss
from meta.learning.neural import policy_divergence
from meta.learning.settings import MetaSettings
from meta.learning.tabular_contribution import contribution
from meta.offline.dice_settings import DICESettings, LinearDICESettings
from meta.offline.target_policy import NeuralTarget
from policies.common.policy import table_of
from policies.common.results import Start
from policies.exact.solver import ExactModel, occupancy
from policies.neural.policy_state import PolicyState
from policies.neural.rollouts import NeuralRollouts, sample_of
from policies.neural.solving import NeuralDataset
from policies.solving.solve_task import solve_task
from policies.tabular.solving import TaskDataset
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskFamily
from tasks.stepping.batch import make_batch

LAKE, CHEETAH = Path("deploy/runs/paper/frozen_lake_high.yaml"), Path("deploy/runs/paper/half_cheetah_high.yaml")
LAKE_ESTIMATORS = ("dualdice_tabular", "dualdice_linear", "importance", "none")
CHEETAH_ESTIMATORS = (
    "dualdice_linear, last layer",
    "dualdice_linear",
    "dualdice_neural",
    "bestdice",
    "importance",
    "none",
)


def settings_of(name: str) -> DICESettings:
    """The settings of one estimator; ``dualdice_linear, last layer`` uses the policy's own features."""
    estimator, _, features = name.partition(", ")
    linear = LinearDICESettings(features="last_layer") if features else LinearDICESettings()
    return DICESettings.model_validate({"estimator": estimator, "linear": linear})


def lake_errors(names: Sequence[str], seed: int, tasks: int) -> FloatArray:
    """(f_hat - f) / f [names, tasks] with f = sum_s nu^{pi_hat}(s) KL(pi_hat || phi), exact; values sampled.

    As in a run, each task starts from the policy that the previous task ended with; every third one starts from a
    uniform policy.
    """
    experiment = load_config(LAKE, [("within_task.evaluation", "sampled")]).experiment.with_seed(seed)
    _, drawn = drawn_tasks(experiment, tasks)
    family, phi = experiment.family.make(), table_of(drawn.fresh)
    errors = []
    for number, task in enumerate(drawn.train):
        start = Start(phi if number % 3 else table_of(drawn.fresh), np.full(1 + drawn.num_costs, 1.0))
        _, dataset = solve_task(family, task, start, experiment.within, collect=True)
        assert isinstance(dataset, TaskDataset)
        model = family.model(task.parameters)
        assert model is not None
        begun = table_of(start.initialization)
        exact = initialization_loss(occupancy(ExactModel(model), dataset.policy), dataset.policy, begun)
        found = [contribution(dataset, settings_of(name), MetaSettings()).loss for name in names]
        errors.append([loss / exact - 1.0 for loss in found])
        phi = 0.9 * dataset.policy + 0.1 / dataset.policy.shape[1]
    return np.array(errors).T


def cheetah_errors(names: Sequence[str], seed: int, tasks: int, fresh: int) -> tuple[FloatArray, FloatArray]:
    """(f_hat - f) / f [names, tasks], with f from ``fresh`` new episodes of pi_hat, and CPU seconds [names] a task."""
    experiment = load_config(CHEETAH, [("dice.estimator", "dualdice_linear")]).experiment.with_seed(seed)
    _, drawn = drawn_tasks(experiment, tasks)
    family, phi = experiment.family.make(), drawn.fresh
    errors, seconds = [], np.zeros(len(names))
    for number, task in enumerate(drawn.train):
        start = Start(phi if number % 3 else drawn.fresh, np.full(1 + drawn.num_costs, 0.1))
        _, dataset = solve_task(family, task, start, experiment.within, collect=True)
        assert isinstance(dataset, NeuralDataset)
        assert isinstance(start.initialization, PolicyState)
        exact = fresh_loss(family, task, dataset.policy, start.initialization, fresh)
        found, spent = estimated_losses(names, dataset, start.initialization, family.discount, task.index)
        errors.append([loss / exact - 1.0 for loss in found])
        seconds += spent
        phi = dataset.policy
    return np.array(errors).T, seconds / len(errors)


def fresh_loss(family: TaskFamily, task: Task, policy: PolicyState, phi: PolicyState, episodes: int) -> float:
    """f: the discounted divergence of ``policy`` from ``phi`` over new episodes of ``policy``."""
    batch = make_batch(family, task, episodes)
    rollouts = NeuralRollouts(batch, batch.horizon, 90_000_000 + task.seed % 1000, task.label)
    rows = sample_of(rollouts.collect(policy, 0), episodes, 0, 0)
    batch.close()
    weights = family.discount ** rows.ages.astype(np.float64)
    return float(weights @ policy_divergence(policy, phi, rows.observations) / weights.sum())


def estimated_losses(
    names: Sequence[str], dataset: NeuralDataset, phi: PolicyState, discount: float, seed: int
) -> tuple[list[float], FloatArray]:
    """f_hat of each estimator from the data that training collected, and the CPU seconds [names] each took."""
    assert dataset.sample is not None
    divergence = policy_divergence(dataset.policy, phi, dataset.sample.observations)
    losses, seconds = [], np.zeros(len(names))
    for place, name in enumerate(names):
        began = time.process_time()
        mass = estimate_corrections(
            dataset.sample, NeuralTarget(dataset.policy), discount, dataset.horizon, settings_of(name), seed
        ).mass
        seconds[place] = time.process_time() - began
        shares = np.maximum(mass, 0.0)
        losses.append(float(mass.sum() * (shares @ divergence) / shares.sum()))
    return losses, seconds
