"""The registry of within-task algorithms: which kind of policy each one solves with.

A new algorithm is a folder under ``policies/`` with a class of :class:`policies.common.policy_kind.PolicyKind`, and
one line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies.common.policy import Policy
from policies.common.policy_kind import PolicyKind
from policies.neural.kind import NEURAL
from policies.neural.neural_settings import NeuralSettings
from policies.neural.solving import NeuralDataset
from policies.tabular.crpo import WithinTaskSettings
from policies.tabular.kind import TABULAR
from policies.tabular.solving import TaskDataset
from tasks.contract.task import TaskFamily

WithinTask = WithinTaskSettings | NeuralSettings
"""How one task is solved: the ``within_task`` section, by its ``algorithm``."""
Dataset = TaskDataset | NeuralDataset
"""What the meta-learner gets from a solved task."""
AnyKind = PolicyKind[Any, Any, Any]

ALGORITHMS: Mapping[str, AnyKind] = {"crpo": TABULAR, "neural_crpo": NEURAL}
"""Kind of policy by ``within_task.algorithm``."""


def kind_of(settings: WithinTask) -> AnyKind:
    """The kind of policy that the algorithm of ``settings`` solves with.

    Raises:
        ValueError: no such algorithm is registered.
    """
    found = ALGORITHMS.get(settings.algorithm)
    if found is None:
        raise ValueError(f"within_task.algorithm: must be one of {', '.join(ALGORITHMS)}, got {settings.algorithm!r}")
    return found


def kind_named(name: str) -> AnyKind:
    """The kind with the name ``name`` in files.

    Raises:
        ValueError: there is no such kind.
    """
    kinds = {kind.name: kind for kind in ALGORITHMS.values()}
    if name not in kinds:
        raise ValueError(f"the kind of a policy must be one of {', '.join(kinds)}, got {name!r}")
    return kinds[name]


def kind_of_policy(policy: Policy) -> AnyKind:
    """The kind that ``policy`` is of.

    Raises:
        TypeError: it is of no known kind.
    """
    for kind in ALGORITHMS.values():
        if kind.owns(policy):
            return kind
    raise TypeError(f"a {type(policy).__name__} is not a policy of a known kind ({', '.join(ALGORITHMS)})")


def require_limits_of_returns(within: WithinTask, family: TaskFamily, given: Mapping[str, Any]) -> None:
    """Check that limits of ``returns: episodic`` are on plain sums: given in the run file, or the family's own.

    Args:
        within: how tasks are solved.
        family: of the tasks; its attribute ``limits_on`` says what its default limits are on (discounted sums).
        given: the family's parameters in the run file.

    Raises:
        ValueError: the default limits of the family are on discounted sums; the message names the keys to give.
    """
    if (
        getattr(within, "returns", "discounted") != "episodic"
        or getattr(family, "limits_on", "discounted") == "episodic"
    ):
        return
    if any(key.endswith(("limit", "limits")) for key in given):
        return
    key = next((name for name in ("cost_limits", "limit") if hasattr(family, name)), "limit")
    factor = family.horizon * (1.0 - family.discount) / (1.0 - family.discount**family.horizon)
    raise ValueError(
        "within_task.returns: episodic compares plain sums of costs with the limits, and the family's default limits "
        f"are on discounted sums; give family.{key} for plain sums (a steady cost in all {family.horizon} steps is "
        f"{factor:.3g} times as large as its discounted sum), or set limits_on = 'episodic' in the family's class"
    )
