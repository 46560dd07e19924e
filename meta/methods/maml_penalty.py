"""maml_penalty: first-order MAML with a cost penalty (Finn, Abbeel, Levine 2017, arXiv 1703.03400) around CRPO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from meta.methods.workbench import Learned, Method, Workbench
from meta.training.evaluation_settings import GridPoint
from policies.common.policy import table_of
from policies.common.results import Start, TaskResult
from policies.exact.softmax import log_policy
from policies.exact.solver import ExactModel, evaluate, occupancy
from policies.networks.adam import Adam
from policies.networks.mlp import Array
from policies.neural.crpo import solve_neural
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import ObservationStatistics, Parameters, PolicyState, merge, moved, no_observations
from policies.neural.rollouts import NeuralTransitions
from policies.neural.solving import state_of
from policies.neural.update import estimate_advantages
from policies.steps.natural_gradient import Samples, equal_weights, policy_gradient
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskFamily
from tasks.stepping.batch import make_batch


def learn_table(bench: Workbench, point: GridPoint) -> Learned:
    """An outer step on the logits after every round; needs exact models."""
    assert point.step is not None
    penalties = _penalties(bench, point)
    table = PenaltyLearner(log_policy(np.log(table_of(bench.drawn.fresh))), penalties, point.step)
    results: list[TaskResult] = []
    for tasks in bench.rounds:
        solved = bench.solve(tasks, bench.start(bench.supported(np.exp(table.logits)), point))
        last = [np.exp(one.solution.iterates[-1]) for one in solved if one.solution is not None]
        table.update(bench.exact_models(tasks, "maml_penalty"), last)
        results += solved
    return bench.learned(bench.supported(np.exp(table.logits)), point, results=results)


def learn_network(bench: Workbench, point: GridPoint) -> Learned:
    """An outer step on the parameters after every round."""
    assert point.step is not None
    fresh, within = cast("PolicyState", bench.drawn.fresh), cast("NeuralSettings", bench.experiment.within)
    networks = NeuralPenaltyLearner(fresh, _penalties(bench, point), point.step, bench.family.discount, within)
    for tasks in bench.rounds:
        start = bench.start(networks.policy, point)
        networks.update([adapt(bench.family, task, start, within) for task in tasks])
    return bench.learned(networks.policy, point)


def _penalties(bench: Workbench, point: GridPoint) -> FloatArray:
    assert point.penalty is not None
    return np.full(bench.drawn.num_costs, point.penalty)


def penalized_gradient(model: ExactModel, policy: FloatArray, penalties: FloatArray) -> FloatArray:
    """Gradient in the logits of J_0 - sum_i lambda_i J_i at ``policy``, [S, A]; ``penalties`` [p] are the lambda_i.

    dJ_i / dz(s,a) = nu(s) pi(a|s) A_i(s,a) / (1 - gamma) (Agarwal et al. 2021, lemma 10).
    """
    advantages = evaluate(model, policy).advantages()
    combined = advantages[0] - np.tensordot(penalties, advantages[1:], axes=1)
    weight = occupancy(model, policy)[:, None] * policy
    return np.asarray(weight * combined / (1.0 - model.tabular.discount))


@dataclass(slots=True)
class PenaltyLearner:
    """First-order MAML (Finn, Abbeel, Levine 2017, arXiv 1703.03400, section 5.2) on logits [S, A].

    Its outer objective is the mean over tasks of J_0 - sum_i lambda_i J_i at the adapted policy; first-order: the
    adapted parameters are differentiated as if they were the start's. Adam ascends it, one step per round.
    """

    logits: FloatArray
    penalties: FloatArray
    step: float
    _adam: Adam | None = None

    def update(self, models: Sequence[ExactModel], adapted: Sequence[FloatArray]) -> None:
        """One outer step from the tasks of a round and their adapted policies [S, A]."""
        gradients = [
            penalized_gradient(model, policy, self.penalties) for model, policy in zip(models, adapted, strict=True)
        ]
        if self._adam is None:
            self._adam = Adam(self.logits, self.step)
        moved = self._adam.step(self.logits, -np.mean(gradients, axis=0))
        self.logits = log_policy(np.asarray(moved, np.float64))


@dataclass(frozen=True, slots=True)
class Adapted:
    """The last iterate of a task, the batch that evaluated it, and the statistics of all that the task saw."""

    policy: PolicyState
    data: NeuralTransitions
    statistics: ObservationStatistics


def adapt(family: TaskFamily, task: Task, start: Start, within: NeuralSettings) -> Adapted:
    """Solve ``task`` with CRPO and keep what the outer gradient needs.

    Raises:
        ValueError: ``within_task.evaluate_last`` is off, so that nothing was collected with the adapted policy.
    """
    if not within.evaluate_last:
        raise ValueError("within_task.evaluate_last: maml_penalty needs the batch of the last iterate; set it to true")
    batch = make_batch(family, task, within.num_copies)
    seen, last = [no_observations(batch.observation_size)], list[NeuralTransitions]()

    def look(iteration: int, data: NeuralTransitions) -> None:
        seen[0] = seen[0].merged(data.flat(data.observations))
        if iteration == within.num_iterations:
            last.append(data.copy())

    try:
        limits, rates = np.array(task.limits), start.learning_rates
        solution = solve_neural(
            batch,
            state_of(start.initialization, task.label),
            rates,
            limits,
            within,
            task.seed,
            discount=family.discount,
            label=task.label,
            on_batch=look,
        )
    finally:
        batch.close()
    return Adapted(solution.iterates[-1], last[0], seen[0])


def penalized_policy_gradient(
    policy: PolicyState, data: NeuralTransitions, penalties: FloatArray, discount: float, trace: FloatArray
) -> Array:
    """Estimate of the gradient of J_0 - sum_i lambda_i J_i in the actor's parameters from ``policy``'s own batch.

    E[(A_0 - sum_i lambda_i A_i) grad log pi] with generalised advantages (``trace`` [1+p]), centred; the factor
    1 / (1 - gamma) is left out, since Adam does not see it.
    """
    estimates = estimate_advantages(policy, data, discount, trace)
    combined = estimates.advantages[:, :1] - estimates.advantages[:, 1:] @ penalties[:, None]
    combined = (combined - combined.mean(axis=0)).astype(estimates.inputs.dtype)
    samples = Samples(estimates.inputs, data.flat(data.actions), combined, equal_weights(estimates.inputs))
    linear = policy.actor.network.linearize(policy.actor.vector, estimates.inputs)
    return policy_gradient(policy.actor.network, linear, samples, 0)


@dataclass(slots=True)
class NeuralPenaltyLearner:
    """First-order MAML with a cost penalty on the actor's parameters; the critic moves to the mean of the tasks'."""

    policy: PolicyState
    penalties: FloatArray
    step: float
    discount: float
    within: NeuralSettings
    _adam: list[Adam] = field(default_factory=list)

    def update(self, adapted: Sequence[Adapted]) -> None:
        """One outer step from the tasks of a round."""
        statistics = self.policy.statistics
        for item in adapted:
            statistics = merge(statistics, item.statistics)
        policy = self.policy.with_statistics(statistics)
        trace = np.full(1 + self.penalties.size, self.within.cost_trace)
        trace[0] = self.within.reward_trace
        ends = [item.policy.with_statistics(statistics) for item in adapted]
        gradients = [
            penalized_policy_gradient(end, item.data, self.penalties, self.discount, trace)
            for end, item in zip(ends, adapted, strict=True)
        ]
        if not self._adam:
            self._adam.append(Adam(policy.actor.vector, self.step))
        vector = self._adam[0].step(policy.actor.vector, np.asarray(-np.mean(gradients, axis=0)))
        actor = Parameters(policy.actor.network, vector.astype(policy.actor.vector.dtype))
        self.policy = PolicyState(actor, moved(policy.critic, [end.critic.vector for end in ends], 1.0), statistics)


METHOD = Method(
    name="maml_penalty",
    label="MAML with a cost penalty",
    place=7,
    colour="#aa0088",
    marker="cross",
    forms={"tabular": learn_table, "neural": learn_network},
    uses=("rate", "step", "penalty", "margin"),
    defaults={"step": 0.1, "penalty": 1.0},
    exact_forms=frozenset({"tabular"}),
)
