"""The registry of kinds of meta-learner: what learning across tasks requires of tables and of networks.

The counterpart of :mod:`policies.solving.algorithms`: a kind of policy has its meta-learner here, under the same name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from meta.learning.neural import NeuralContribution, NeuralMetaState
from meta.learning.neural_contribution import NEURAL_LEARNING
from meta.learning.settings import MetaSettings
from meta.learning.tabular import Contribution, MetaState
from meta.learning.tabular_contribution import TABULAR_LEARNING
from meta.offline.dice_settings import DICESettings
from policies.common.policy import Policy
from policies.solving.algorithms import WithinTask, kind_of, kind_of_policy
from tasks.contract.contextual_family import Contexts

SingleState = MetaState | NeuralMetaState
"""What a meta-learner with one initialisation knows."""
Item = Contribution | NeuralContribution
"""What one solved task contributes to the meta-update."""
StateT = TypeVar("StateT")
ItemT = TypeVar("ItemT")
DatasetT = TypeVar("DatasetT", contravariant=True)
OwnPolicyT = TypeVar("OwnPolicyT")
SettingsT = TypeVar("SettingsT")


class LearningKind(Protocol[StateT, ItemT, DatasetT, OwnPolicyT, SettingsT]):
    """The meta-learner of one kind of policy."""

    name: str
    """Name of the kind, as of :class:`policies.common.policy_kind.PolicyKind`."""
    section: str
    """The section of ``meta`` with the settings for learning phi."""
    state: type[StateT]
    item: type[ItemT]

    def require_settings(self, within: SettingsT, dice: DICESettings, meta: MetaSettings) -> None:
        """Check the settings of all sections together.

        Raises:
            ValueError: a setting does not fit this kind of policy; the message names what would be right.
        """

    def training_settings(self, within: SettingsT, dice: DICESettings) -> SettingsT:
        """How a training task is solved, without collecting what no estimator reads."""

    def averaging_dice(self, dice: DICESettings) -> DICESettings:
        """The estimator behind the baselines' plain averages."""

    def first_state(
        self, settings: MetaSettings, fresh: OwnPolicyT, num_costs: int, contexts: Contexts | None = None
    ) -> StateT:
        """The state before the first task: the fresh policy and the initial rates."""

    def contribute(self, dataset: DatasetT, dice: DICESettings, settings: MetaSettings) -> ItemT:
        """What a solved task contributes to the meta-update."""

    def step(self, state: StateT, items: Sequence[ItemT], settings: MetaSettings, num_iterations: int) -> StateT:
        """One online step of one initialisation on a round of tasks."""

    def loss(self, item: ItemT, policy: Policy) -> float:
        """f_hat of a task for any start ``policy``."""

    def with_support(self, policy: OwnPolicyT, settings: MetaSettings) -> OwnPolicyT:
        """``policy`` as a start: every action keeps a positive probability."""

    def without_memory(self, state: StateT) -> StateT:
        """``state`` with no tasks of its own yet: phi and the rates stay."""


AnyLearning = LearningKind[Any, Any, Any, Any, Any]
LEARNERS: Mapping[str, AnyLearning] = {kind.name: kind for kind in (TABULAR_LEARNING, NEURAL_LEARNING)}
"""By name of the kind of policy."""


def learning_named(name: str) -> AnyLearning:
    """The meta-learner of the kind of policy that files call ``name``.

    Raises:
        ValueError: there is none.
    """
    if name not in LEARNERS:
        raise ValueError(f"no meta-learner for policies of the kind {name!r}; there are {', '.join(LEARNERS)}")
    return LEARNERS[name]


def learning_of(within: WithinTask) -> AnyLearning:
    """The meta-learner of the kind of policy that ``within`` solves with."""
    return learning_named(kind_of(within).name)


def learning_of_policy(policy: Policy) -> AnyLearning:
    """The meta-learner of the kind that ``policy`` is of."""
    return learning_named(kind_of_policy(policy).name)
