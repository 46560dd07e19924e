"""Starts for anytime-safe adaptation: mixed with the safest policy until they are safe on training tasks, with margins.

A start is moved towards a policy of least cost, no farther than training tasks ask for (conformal risk control), and
the margins of its steps are learned on the same tasks. See docs/algorithms.md, "Anytime-safe adaptation".
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from meta.judging.safest_table import safest_table
from meta.learning.kinds import learning_of
from meta.methods.multitask import multitask_network, multitask_policy
from meta.training.experiment import Experiment
from meta.training.pool import Pool, solve_in_order
from meta.training.quarantine import require_all
from policies.common.confidence import allowed_over, next_margins
from policies.common.policy import Policy, table_of
from policies.common.results import Candidates, Start, Starts, TaskResult
from policies.common.safety import Safety
from policies.exact.solver import ExactModel
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState, moved
from policies.neural.solving import state_of
from policies.rules.rule_registry import CRPO_METHOD
from policies.solving.algorithms import WithinTask, kind_of
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.family_registry import FamilySpec
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError

_ON_A_LEG = 4
"""So many shares are tried on each leg of the path from the start to the safest policy."""
_MARGINS = (0.5, 0.8, 0.9, 1.0 - 1e-6)
"""Shares of the limits that are kept free on the path: the last leaves so little that CRPO steps on costs alone."""


def safe_starts(pool: Pool, experiment: Experiment, starts: Starts, family: FamilySpec) -> Starts:
    """``starts`` for held-out tasks of ``family``: as they are, or where ``evaluation.safety`` asks for it, safe.

    Raises:
        TaskError: as :func:`safe_start`.
    """
    if experiment.evaluation.safety is None:
        return starts
    if family.contexts is not None:
        raise TaskError("evaluation.safety: works with starts that do not depend on a context; this one does")
    with threadpool_limits(1):
        return safe_start(pool, experiment, starts)


def safe_start(pool: Pool, experiment: Experiment, starts: Starts, path: Sequence[Policy] | None = None) -> Start:
    """Move a start towards safer policies until it is safe on training tasks, and learn its margins on them.

    The tasks that show the costs come after those of training in the training split: nothing was learned from them.
    ``path`` is that of :func:`path_to_safety` where it is known.

    Raises:
        TaskError: there are several starts, or not even the safest policy is safe on enough of the tasks.
    """
    settings = experiment.evaluation.safety
    assert settings is not None
    if isinstance(starts, Candidates):
        raise TaskError("evaluation.safety: works with one start; set meta.groups.number to 1")
    first = experiment.unused_from
    tasks = pool.draw("train", range(first, first + settings.num_tasks))
    path = path_to_safety(pool, experiment, starts) if path is None else path
    share, over = _least_share(pool, experiment, tasks, starts, path)
    allowed, none = allowed_over(len(tasks), settings.confidence), np.zeros(starts.learning_rates.size - 1)
    changed = f"moved {share:.1%} of the way to the safest policy" if share else "not changed"
    note = (
        f"start {changed}: over a limit on {over} of {len(tasks)} training tasks ({allowed} may be, at a confidence of "
        f"{settings.confidence:g})"
    )
    if repeated := _repeated(experiment, tasks):
        note += f"; {repeated} of these tasks repeat others, so that the confidence is for tasks that repeat as often"
    start = dataclasses.replace(starts, initialization=along(path, share))
    return _with_margins(pool, experiment, tasks[: settings.margin_tasks], start, Safety(settings, none, note))


def _repeated(experiment: Experiment, tasks: Sequence[Task]) -> int:
    """How many of ``tasks`` have the parameters of an earlier one or of a task that the start was learned from."""
    family = experiment.family.make()
    learned_from = [family.parameters("train", index, 0) for index in range(experiment.unused_from)]
    seen = {json.dumps(parameters, sort_keys=True) for parameters in learned_from}
    before = len(seen)
    seen.update(json.dumps(task.parameters, sort_keys=True) for task in tasks)
    return len(tasks) - (len(seen) - before)


def _on_training_tasks(experiment: Experiment) -> WithinTask:
    """How training tasks are solved and judged: as held-out ones, with true values where the family knows them."""
    within, family = experiment.held_out_within, experiment.family.make()
    if isinstance(within, WithinTaskSettings) and family.model(family.parameters("train", 0, 0)) is not None:
        return within.model_copy(update={"evaluation": "exact"})
    return within


def along(path: Sequence[Policy], share: float) -> Policy:
    """The policy at ``share`` of the way along ``path``, whose legs are equally long."""
    leg = min(int(share * (len(path) - 1)), len(path) - 2)
    return mixture(path[leg], path[leg + 1], share * (len(path) - 1) - leg)


def mixture(policy: Policy, other: Policy, share: float) -> Policy:
    """The policy whose probabilities (tables) or actor's parameters (networks) are shares of those of two.

    Share 0 gives ``policy`` itself. Critic and statistics stay those of ``policy``.
    """
    if share == 0.0:
        return policy
    if isinstance(policy, PolicyState) and isinstance(other, PolicyState):
        target = other.with_statistics(policy.statistics).actor.vector
        return PolicyState(moved(policy.actor, [target], share), policy.critic, policy.statistics)
    if not isinstance(policy, np.ndarray) or not isinstance(other, np.ndarray):
        raise TaskError("evaluation.safety: needs a start without contexts in a table; set meta.context to none")
    return np.asarray((1.0 - share) * policy + share * other)


def path_to_safety(pool: Pool, experiment: Experiment, start: Start) -> list[Policy]:
    """The start, and one policy for many tasks under each share of their limits that is kept free, made from it.

    Direct CRPO steps on the mean of the last training tasks that the start was learned from, as of the method
    ``multitask``, and for tables :func:`safest_table` at the end; without an exact model, tables are the mean of the
    policies that solve the tasks one by one.
    """
    settings, within = experiment.evaluation.safety, _on_training_tasks(experiment)
    assert settings is not None
    last = experiment.unused_from
    tasks = pool.draw("train", range(max(0, last - settings.descent_tasks), last))
    updates, seed = settings.descent_iterations, experiment.family.seed
    plain = {"method": CRPO_METHOD, "output": "best"}
    found: list[Policy] = [start.initialization]
    models, limits = _exact_models(experiment, tasks, within), np.array([task.limits for task in tasks])
    for margin in _MARGINS:
        under = within.model_copy(update={**plain, "safety_margin": margin, "num_iterations": updates})
        if isinstance(under, NeuralSettings):
            each = {"num_iterations": max(1, updates // len(tasks)), "evaluate_last": False}
            given = (state_of(start.initialization, "the start"), start.learning_rates, under.model_copy(update=each))
            found.append(multitask_network(experiment.family.make(), tasks, *given, len(tasks), seed))
        elif models:
            logits = np.log(table_of(start.initialization))
            table = multitask_policy(models, limits, logits, start.learning_rates, under, len(models), seed)
            found.append(_supported(np.exp(table), experiment))
        else:
            solved = [table_of(result.policy) for result in _solved(pool, tasks, start, under)]
            found.append(_supported(np.mean(solved, axis=0), experiment))
    if models:
        table = safest_table(models, limits, np.log(table_of(found[-1])), updates)
        found.append(_supported(np.exp(table), experiment))
    return found


def _exact_models(experiment: Experiment, tasks: Sequence[Task], within: WithinTask) -> list[ExactModel]:
    """The models of ``tasks``; none where values on training tasks are estimates."""
    if isinstance(within, NeuralSettings) or within.evaluation != "exact":
        return []
    family = experiment.family.make()
    return [ExactModel(model) for task in tasks if (model := family.model(task.parameters)) is not None]


def _supported(table: FloatArray, experiment: Experiment) -> Policy:
    policy: Policy = learning_of(experiment.within).with_support(table, experiment.meta)
    return policy


def _least_share(
    pool: Pool, experiment: Experiment, tasks: Sequence[Task], start: Start, path: Sequence[Policy]
) -> tuple[float, int]:
    """The least share of the path that is safe on enough tasks, and on how many it is not.

    A task counts against a share as soon as the share, or a larger one, is over a limit there, so that counts only rise
    on the way back to the start.
    """
    settings = experiment.evaluation.safety
    assert settings is not None
    allowed = allowed_over(len(tasks), settings.confidence)
    ever, found = np.zeros(len(tasks), np.bool_), None
    steps = _ON_A_LEG * (len(path) - 1)
    for share in np.arange(steps, -1, -1) / steps:
        given = dataclasses.replace(start, initialization=along(path, share))
        ever |= (_first_costs(pool, experiment, tasks, given) > np.array([task.limits for task in tasks])).any(axis=1)
        if ever.sum() > allowed:
            break
        found = share, int(ever.sum())
    if found is None:
        raise TaskError(
            "evaluation.safety: no start is safe enough: even the safest policy is over a limit on "
            f"{int(ever.sum())} of {len(tasks)} training tasks, and {max(allowed, 0)} may be at a confidence of "
            f"{settings.confidence:g}; ask for less confidence, raise the limits, or train longer"
        )
    return found


def _first_costs(pool: Pool, experiment: Experiment, tasks: Sequence[Task], start: Start) -> FloatArray:
    """Costs [N, p] of a start on tasks: true ones, or estimates from the first iteration on each."""
    within = _on_training_tasks(experiment)
    if within.evaluation == "exact":
        family, kind = experiment.family.make(), kind_of(within)
        values = [kind.values(family, task, [start.initialization], within, None)[0][0] for task in tasks]
        return np.array(values)[:, 1:]
    changes = {"num_iterations": 1, **({"evaluate_last": False} if isinstance(within, NeuralSettings) else {})}
    results = _solved(pool, tasks, start, within.model_copy(update=changes))
    return np.array([result.values[0, 1:] for result in results])


def _with_margins(pool: Pool, experiment: Experiment, tasks: Sequence[Task], start: Start, safety: Safety) -> Start:
    """The start with margins from the overshoots of safe steps on ``tasks``, round by round in task order."""
    within, size, settings = experiment.held_out_within, experiment.tasks_per_round, safety.settings
    if within.evaluation == "exact" or settings.margin_rate == 0.0:
        return dataclasses.replace(start, safety=safety)
    for begin in range(0, len(tasks), size):
        given, margins = dataclasses.replace(start, safety=safety), safety.margins
        for result in _solved(pool, tasks[begin : begin + size], given, within):
            assert result.safety is not None
            for overshoot in result.safety.overshoots:
                margins = next_margins(margins, overshoot, settings.margin_rate, settings.confidence)
        safety = dataclasses.replace(safety, margins=margins)
    return dataclasses.replace(start, safety=safety)


def _solved(pool: Pool, tasks: Sequence[Task], start: Start, within: WithinTask) -> list[TaskResult]:
    results = solve_in_order(pool, tasks, start, within)
    require_all(results, tasks)
    return results
