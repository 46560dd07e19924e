"""How a start is learned: the ``meta`` section of a run file."""

from __future__ import annotations

import math
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from policies.common.results import Selection
from policies.mixtures.mixture import Centring
from tasks.contract.tabular_model import FloatArray

Schedule = Literal["static", "dynamic"]
MixedSchedule = Literal["static", "dynamic", "mixture"]
Units = Literal["absolute", "observed"]
Curvature = Literal["measured", "measured_shared", "worst_case"]
ContextMap = Literal["kernel", "log_linear"]
ContextMode = Literal["none", "given", "probed", "inferred", "learned"]
Part = Literal["actor", "critic", "statistics"]
PARTS: tuple[Part, ...] = get_args(Part)
Rate = Annotated[float, Field(gt=0.0)]
Bandwidth = Annotated[float, Field(gt=0.0)]


class InitializationSettings(BaseModel):
    """How phi is learned: the ``meta.initialization`` section of a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    method: Literal["ftl", "ogd", "fal", "fixed"] = "ftl"
    """ftl: occupancy-weighted average of the policies; ogd: online gradient descent; fal: plain average; fixed."""
    step_size: float = Field(default=3.0, gt=0.0)
    """beta of ogd."""
    schedule: MixedSchedule = "static"
    """ogd: static is beta / sqrt(t), for a fixed comparator; dynamic is constant, for a drifting one; or a mixture."""
    num_experts: int = Field(default=7, ge=2)
    """Step sizes that `mixture` mixes by exponential weights: beta times powers of 2, beta in the middle."""
    switching: float = Field(default=0.01, gt=0.0, lt=1.0)
    """Share of the experts' weight that moves evenly to all of them each round, so that another one can take over."""
    forgetting: float = Field(default=1.0, gt=0.0, le=1.0)
    """Factor on what ftl and fal remember, applied once per round; 1 remembers all tasks equally."""
    shrinkage: float = Field(default=0.01, gt=0.0, lt=1.0)
    """rho_min: every action keeps at least the probability rho_min / |A|."""
    prior_weight: float = Field(default=1e-3, gt=0.0)
    """Weight of the uniform policy in the average of ftl, in units of one task's occupancy."""


class NeuralInitializationSettings(BaseModel):
    """How phi is learned where policies are neural: the ``meta.neural`` section of a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    method: Literal["ogd", "ftl", "fixed"] = "ogd"
    """ogd: Adam steps on the newest round's tasks; ftl: on a sample of all tasks; fixed: the fresh policy stays."""
    reservoir: int = Field(default=20_000, gt=0)
    """Observations that ftl remembers of all tasks, whatever their number."""
    forgetting: float = Field(default=1.0, gt=0.0, le=1.0)
    """Factor on the weight of what ftl remembers, applied once per round; 1 remembers all tasks equally."""
    steps: int = Field(default=40, gt=0)
    """Adam steps of a round."""
    step_size: float = Field(default=1e-3, gt=0.0)
    """Adam's step size, beta."""
    minibatch: int = Field(default=512, gt=0)
    """Observations per Adam step, over all tasks of the round."""
    schedule: MixedSchedule = "dynamic"
    """static: beta / sqrt(t), for a fixed comparator; dynamic: constant, for a drifting one; or a mixture."""
    num_experts: int = Field(default=5, ge=2)
    """Step sizes that `mixture` tries side by side, beta times powers of 2; the one with the least loss is used."""
    switching: float = Field(default=0.01, gt=0.0, lt=1.0)
    """Share of the experts' weight that moves evenly to all of them each round, so that another one can take over."""
    learned: tuple[Part, ...] = PARTS
    """What of the start is learned; the rest of a task's start stays fresh. For ablations."""
    critic_share: float = Field(default=0.5, ge=0.0, le=1.0)
    """How far the critic's start moves towards the mean critic of a round's tasks."""


class LearningRateSettings(BaseModel):
    """How alpha is learned: the ``meta.learning_rates`` section of a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    method: Literal["ftl", "ogd", "fixed"] = "ftl"
    """ftl: minimiser of the summed bounds; ogd: gradient steps on log alpha; fixed."""
    initial: Rate | tuple[Rate, ...] = 1.0
    """alpha before the first task: one number, or one for the reward and one per cost."""
    minimum: float = Field(default=1e-4, gt=0.0)
    """a_min, the least rate."""
    maximum: float = Field(default=1e3, gt=0.0)
    """a_max, the largest rate."""
    step_size: float = Field(default=0.5, gt=0.0)
    """Step size of ogd on log alpha."""
    schedule: Schedule = "dynamic"
    """Step sizes of ogd: static divides by sqrt(t); dynamic is constant."""
    forgetting: float = Field(default=1.0, gt=0.0, le=1.0)
    """Factor on the sums of ftl, applied once per round; 1 remembers all tasks equally."""
    regularizer: float = Field(default=1e-6, gt=0.0)
    """eps, added to both sums of ftl."""
    units: Units = "observed"
    """observed: initial, minimum, maximum and evaluation.rate_grid are in units of 1 / limit for a cost, and for the
    reward of 1 / (J_0* - J_0) of a fresh policy (1 / |J_0| without a model; of networks, those of one step)."""
    new_tasks: Literal["same", "scaled"] = "same"
    """Learned rates on a new task of M' updates, training tasks having M: the same, or scaled by sqrt(M / M')."""
    curvature: Curvature = "measured"
    """b: mean over an objective's own steps; measured_shared: over all; worst_case: CRPO's constant for costs <= 1."""

    @model_validator(mode="after")
    def _in_range(self) -> LearningRateSettings:
        if self.minimum >= self.maximum:
            raise ValueError(f"minimum {self.minimum} must be less than maximum {self.maximum}")
        rates = self.initial if isinstance(self.initial, tuple) else (self.initial,)
        if not all(self.minimum <= rate <= self.maximum for rate in rates):
            raise ValueError(f"initial {self.initial} must lie between {self.minimum} and {self.maximum}")
        return self

    def initial_rates(self, num_costs: int) -> FloatArray:
        """alpha_1 as an array [1+p].

        Raises:
            ValueError: a tuple of another length.
        """
        if isinstance(self.initial, tuple):
            if len(self.initial) != 1 + num_costs:
                raise ValueError(
                    f"meta.learning_rates.initial: {len(self.initial)} rates given; "
                    f"1 + {num_costs} are needed (reward, then costs)"
                )
            return np.array(self.initial, dtype=np.float64)
        return np.full(1 + num_costs, self.initial)


class GroupSettings(BaseModel):
    """How tasks and several initialisations find each other: the ``meta.groups`` section of a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    selection: Selection = "probe"
    """Which start a new task takes: probe, the best after a short rollout of each; round_robin, in turn."""
    probe_episodes: int | None = Field(default=None, gt=0)
    """Episodes of that rollout, for each start; empty takes as many as an iteration has. None with exact values."""
    split_after: int = Field(default=4, ge=0)
    """Initial rounds in which only the first initialisation learns: tasks are divided once they are solved well."""
    restart_after: int = Field(default=8, gt=0)
    """Rounds without a task after which an initialisation restarts, at the task farthest from all others."""


class ContextSettings(BaseModel):
    """What a context holds and how it is used: the ``meta.contexts`` section of a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    limits: bool = False
    """Whether the limits are entries of the context, so that one start serves tasks of different limits."""
    map: ContextMap = "kernel"
    """Of tables: kernel averages tasks whose contexts are near; log_linear: logits that are linear in the context, with
    weights that the family may share between states (its context_effects)."""
    bandwidths: tuple[Bandwidth, ...] = Field(default=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0, math.inf), min_length=1)
    """Of tables: distances over which tasks count for each other; one is learned, .inf counts all tasks alike."""
    bandwidth_rate: float = Field(default=1.0, gt=0.0)
    """Of tables: lambda of the exponential weights over the bandwidths, or over the ridges."""
    ridges: tuple[Bandwidth, ...] = Field(default=(1e-3, 0.1, math.inf), min_length=1)
    """Of log_linear tables: penalties on the squared weights; one is learned, .inf leaves the context out."""
    latent_size: int = Field(default=1, gt=0)
    """Of learned contexts: k, the numbers in which training tasks may differ."""
    latent_rate: float = Field(default=3.0, gt=0.0)
    """Of learned contexts: alpha of their steps, which are taken in each direct step that the task is part of."""
    latent_delta: float = Field(default=0.02, gt=0.0)
    """Of learned contexts: largest KL divergence that one of their steps causes."""
    observed_rounds: int = Field(default=25, gt=0)
    """Of inferred contexts: rounds after the direct steps in which training tasks run under contexts of others, which
    shows how a context appears in transitions; their environment steps count."""
    largest_error: float = Field(default=0.7, gt=0.0)
    """Of inferred contexts: root mean squared error on tasks left out, in units of the spread of the contexts, above
    which a new task probes instead."""


class WarmUpSettings(BaseModel):
    """Direct CRPO steps of phi before the first online step: the ``meta.warm_up`` section of a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rounds: int = Field(default=0, ge=0)
    """Rounds of direct steps; 0 begins with the online steps at once."""
    teams: int = Field(default=1, gt=0)
    """Teams of tasks in a round, each on a worker; phi becomes the mean of what they learn."""
    tasks: int = Field(default=20, gt=0)
    """Training tasks of a team, in turn, each with one copy of its environment and a branch of its own."""
    first_tasks: int | None = Field(default=None, gt=0)
    """Training tasks of a team in the first round, which grow linearly to meta.warm_up.tasks; empty: as many."""
    distinct_tasks: int | None = Field(default=None, gt=0)
    """Training tasks that the teams take in turn, the first of the training split; empty: family.num_tasks."""
    rate: Rate = 1.0
    """alpha of the direct steps, for the reward and every cost."""
    delta_max: float = Field(default=0.2, gt=0.0)
    """Largest KL divergence of the first direct step, in the place of within_task.trust_region.delta_max."""
    delta_last: float = Field(default=0.02, gt=0.0)
    """Largest KL divergence of the last direct step, reached linearly: a start should end where it does not jitter."""
    centring: Centring = "task"
    """Mean that is taken off the advantages: task, each task's own; batch, one of all, which leaves in what the few
    episodes of a task have earned: better where episodes end early."""
    least_log_std: float = -3.5
    """Floor under the log standard deviations of the actor, so that a start can still explore."""
    begin_log_std: float | None = None
    """Log standard deviations of the fresh policy in the first round, whose observations normalise the network's first
    inputs: more noise shows it more of them; empty: within_task.initial_log_std."""
    first_log_std: float | None = None
    """Log standard deviations that the first direct step ends with, at most: a fresh policy's noise may cost more than
    the limits allow, and steps that take it away learn nothing else; empty: they stay."""
    last_log_std: float | None = None
    """Log standard deviations that the last direct step ends with, at most: training needs more noise than a start that
    is good already, which noise costs reward; empty: they stay."""

    def delta_at(self, number: int) -> float:
        """Largest KL divergence of a step in round ``number``, counted from 0."""
        done = number / max(1, self.rounds - 1)
        return (1.0 - done) * self.delta_max + done * self.delta_last

    def noise_at(self, number: int) -> tuple[float, float]:
        """The least and the largest log standard deviation after round ``number``, counted from 0."""
        most = self.first_log_std if number == 0 and self.first_log_std is not None else math.inf
        if number == self.rounds - 1 and self.last_log_std is not None:
            return min(self.least_log_std, self.last_log_std), min(most, self.last_log_std)
        return self.least_log_std, most

    @model_validator(mode="after")
    def _first_noise_is_above_the_floor(self) -> WarmUpSettings:
        least, first = self.least_log_std, self.first_log_std
        if first is not None and first < least:
            raise ValueError(f"first_log_std must be at least least_log_std, {least:g}, got {first:g}")
        return self

    def tasks_at(self, number: int) -> int:
        """Training tasks of a team in round ``number``, counted from 0; later rounds have as many as the last."""
        first = self.tasks if self.first_tasks is None else self.first_tasks
        done = min(1.0, number / max(1, self.rounds - 1))
        return round((1.0 - done) * first + done * self.tasks)

    def tasks_before(self, number: int) -> int:
        """Places in the teams of all rounds before round ``number``; round 0 has one team."""
        return sum(self.tasks_at(one) * (self.teams if one else 1) for one in range(number))


_OF_MODE = {"learned": ("latent_size", "latent_rate", "latent_delta"), "inferred": ("observed_rounds", "largest_error")}
"""Settings of contexts that belong to one mode."""


class MetaSettings(BaseModel):
    """How the start of a task is learned: the ``meta`` section of a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    initialization: InitializationSettings = InitializationSettings()
    """The initialisation phi of tabular policies."""
    neural: NeuralInitializationSettings = NeuralInitializationSettings()
    """The initialisation phi of neural policies."""
    learning_rates: LearningRateSettings = LearningRateSettings()
    """The learning rates alpha."""
    num_initializations: int = Field(default=1, gt=0)
    """K, initialisations learned side by side, each with rates of its own; 1 is one for all tasks."""
    context: ContextMode = "none"
    """What a start knows of its task: none; given: the task's context; probed: given in training, found by the first
    batch of a new task; inferred: the same, from the transitions of that batch; learned: the family gives none, they
    are learned in training and found by a first batch."""
    contexts: ContextSettings = ContextSettings()
    """What a context holds."""
    warm_up: WarmUpSettings = WarmUpSettings()
    """Direct steps before the online ones."""
    groups: GroupSettings = GroupSettings()
    """How tasks find their initialisation where there are several."""

    @model_validator(mode="after")
    def _one_start_with_contexts(self) -> MetaSettings:
        if self.num_initializations > 1 and (self.context != "none" or self.warm_up.rounds):
            what = "meta.context" if self.context != "none" else "meta.warm_up.rounds"
            raise ValueError(f"{what}: needs num_initializations 1, which is {self.num_initializations}")
        if self.context == "none" and self.contexts != ContextSettings():
            raise ValueError("meta.contexts: needs meta.context given, probed, inferred or learned, which is none")
        return self

    @model_validator(mode="after")
    def _settings_of_other_maps_are_unset(self) -> MetaSettings:
        unused = "ridges" if self.contexts.map == "kernel" else "bandwidths"
        if getattr(self.contexts, unused) != ContextSettings.model_fields[unused].default:
            raise ValueError(f"meta.contexts.{unused}: has no effect where meta.contexts.map is {self.contexts.map}")
        return self

    @model_validator(mode="after")
    def _settings_of_other_contexts_are_unset(self) -> MetaSettings:
        for mode, names in _OF_MODE.items():
            for name in names:
                if self.context != mode and getattr(self.contexts, name) != ContextSettings.model_fields[name].default:
                    raise ValueError(f"meta.contexts.{name}: needs meta.context {mode}, which is {self.context}")
        if self.context in _OF_MODE and not self.warm_up.rounds:
            raise ValueError(
                f"meta.warm_up.rounds: must be above 0 where meta.context is {self.context}: contexts are learned there"
            )
        if self.context == "learned" and self.contexts.limits:
            raise ValueError("meta.contexts.limits: has no effect with meta.context learned; set it to given or probed")
        return self
