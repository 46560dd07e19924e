"""How one task is solved with a neural policy: the ``within_task`` section of a run file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from policies.common.branches import tolerance_of_each
from policies.networks.mlp import Array
from policies.networks.module_network import MLP, ROLES, ModuleSpec
from policies.neural.critic import CriticSettings
from policies.neural.policy_state import Modules
from policies.rules.rule_registry import CRPO_METHOD, RULES, MethodSettings, without_default_method
from policies.steps.natural_gradient import TrustRegionSettings
from tasks.contract.tabular_model import FloatArray

Tolerance = Annotated[float, Field(ge=0.0)]
Width = Annotated[int, Field(gt=0)]


class NeuralSettings(BaseModel):
    """How one task is solved with a neural policy: the ``within_task`` section of a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    algorithm: Literal["neural_crpo"] = "neural_crpo"
    """The within-task algorithm."""
    num_iterations: int = Field(default=10, gt=0)
    """M, policy updates within a task."""
    steps_per_iteration: int = Field(default=4000, gt=0)
    """Environment steps of each iteration, over all copies; each copy must hold at least one complete episode."""
    num_copies: int = Field(default=20, gt=0)
    """n, copies of the task stepped together; the random numbers depend on it."""
    hidden: tuple[Width, ...] = (64, 64)
    """Widths of the actor's hidden layers."""
    critic_hidden: tuple[Width, ...] = (64, 64)
    """Widths of the critic's hidden layers."""
    network: str = Field(default=MLP, min_length=1)
    """The actor: mlp, or a torch.nn.Module as package.module:ClassName or path/to/file.py:ClassName."""
    network_arguments: dict[str, JsonValue] = {}
    """Keyword arguments of that module's constructor, after its numbers of inputs and outputs."""
    critic_network: str = Field(default=MLP, min_length=1)
    """The critic: mlp, or a torch.nn.Module; its outputs are the reward's value and one for each cost."""
    critic_network_arguments: dict[str, JsonValue] = {}
    """Keyword arguments of the critic's constructor, after its numbers of inputs and outputs."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where modules are computed while a task is solved; learning across tasks stays on the CPU."""
    initial_log_std: float = Field(default=-0.5, allow_inf_nan=False)
    """Log standard deviation of a fresh Gaussian actor, in units of half the action range."""
    final_log_std: float | None = Field(default=None, allow_inf_nan=False)
    """Log standard deviation after the last update, reached in equal steps over the last updates; null learns it."""
    final_noise_share: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the updates that go to `final_log_std`, the last ones; those before them learn it."""
    reward_trace: float = Field(default=0.95, ge=0.0, le=1.0)
    """lambda of the reward's advantages."""
    cost_trace: float = Field(default=0.95, ge=0.0, le=1.0)
    """lambda of every cost's advantages."""
    tolerance: Tolerance | tuple[Tolerance, ...] = 0.0
    """eta, by which a cost may exceed its limit before a step is spent on it; one number, or one per cost."""
    safety_margin: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of every limit that is kept free: CRPO sees (1 - share) d_i, so that overshoots stay under d_i."""
    constraint_choice: Literal["largest", "first", "random"] = "largest"
    """Which violated cost to descend on: the largest violation relative to its limit, the first, or a random one."""
    output: Literal["best", "uniform", "last"] = "best"
    """Which iterate is the result: of the feasible ones the one of best reward, a uniform draw, or the last."""
    returns: Literal["discounted", "episodic"] = "discounted"
    """Whether limits are on the discounted or on the plain sum of an episode's costs; J_0 follows."""
    return_estimate: Literal["life_table", "complete"] = "life_table"
    """J_i from every step by its age (bias of order 1 / copies^2 if episodes end early), or from complete episodes."""
    dataset_size: int = Field(default=1000, gt=0)
    """Observations of a task, drawn evenly over its iterations, on which the meta-learner compares policies."""
    dataset_transitions: int = Field(default=4000, ge=0)
    """Transitions of a task for DICE's estimators: complete paths of some copies under every iterate."""
    evaluate_last: bool = True
    """Collect one more batch to evaluate the last iterate; without it the output is one of the first M iterates."""
    update_statistics: bool = True
    """Merge each batch into the observation statistics after the step."""
    keep_function: bool = False
    """Change the first layers with the statistics, so that actor and critic stay the functions that they were."""
    trust_region: TrustRegionSettings = TrustRegionSettings()
    """Conjugate gradient and the caps on a step."""
    critic: CriticSettings = CriticSettings()
    """The fit of the critic."""
    method: MethodSettings = CRPO_METHOD
    """The rule that decides each step, with its own settings."""

    @model_serializer(mode="wrap")
    def _dumped(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_default_method(self, dump)

    @model_validator(mode="after")
    def _copies_share_the_steps(self) -> NeuralSettings:
        if self.steps_per_iteration % self.num_copies:
            raise ValueError(
                f"steps_per_iteration {self.steps_per_iteration} is not a multiple of num_copies {self.num_copies}"
            )
        return self

    @model_validator(mode="after")
    def _networks_have_their_settings(self) -> NeuralSettings:
        for role, widths in zip(ROLES, ("hidden", "critic_hidden"), strict=True):
            of_module = getattr(self, role) != MLP
            unused = widths if of_module else f"{role}_arguments"
            if getattr(self, unused) != type(self).model_fields[unused].default:
                raise ValueError(f"{unused} has no effect where {role} is {getattr(self, role)}")
        if self.network != MLP and self.trust_region.preconditioner != "none":
            raise ValueError(
                f"trust_region.preconditioner {self.trust_region.preconditioner} needs the layers of an mlp; set it to "
                f"none where network is {self.network}"
            )
        if self.device != "cpu" and self.network == self.critic_network == MLP:
            raise ValueError(f"device {self.device} has no effect where network and critic_network are mlp")
        return self

    @property
    def modules(self) -> Modules:
        """The modules that network and critic_network name."""
        actor = ModuleSpec.of(self.network, self.network_arguments, "within_task.network")
        critic = ModuleSpec.of(self.critic_network, self.critic_network_arguments, "within_task.critic_network")
        return Modules(actor, critic)

    @model_validator(mode="after")
    def _functions_change_with_statistics(self) -> NeuralSettings:
        if self.keep_function and not self.update_statistics:
            raise ValueError("keep_function: has no effect where update_statistics is false")
        return self

    @model_validator(mode="after")
    def _clipped_steps_keep_nothing(self) -> NeuralSettings:
        if self.trust_region.keep_satisfied and self.clipped:
            raise ValueError(f"trust_region.keep_satisfied: has no effect on the clipped steps of {self.method.name}")
        return self

    @model_validator(mode="after")
    def _noise_goes_somewhere(self) -> NeuralSettings:
        if self.final_log_std is None and self.final_noise_share != 1.0:
            raise ValueError("final_noise_share: has no effect where final_log_std is null")
        return self

    @property
    def clipped(self) -> bool:
        """Whether the steps are epochs on a clipped surrogate, whose lengths no learning rate decides."""
        rule = RULES.get(self.method.name)
        return rule is not None and "clipped" in rule.model_fields

    @property
    def evaluation(self) -> Literal["sampled"]:
        """Values of neural policies are estimates from rollouts."""
        return "sampled"

    @property
    def final_batches(self) -> int:
        """Batches that evaluate the last iterate."""
        return int(self.evaluate_last)

    @property
    def steps_of_batch(self) -> int:
        """Environment steps of one iteration."""
        return self.steps_per_iteration

    def noise_after(self, iteration: int, log_std: Array) -> Array | None:
        """Log standard deviations that follow ``log_std`` [k] after an iteration; None where they are learned.

        However small the share and few the updates, the last one goes to ``final_log_std``.
        """
        left, lowered = self.num_iterations - iteration, round(self.final_noise_share * self.num_iterations)
        if self.final_log_std is None or left > max(1, lowered):
            return None
        return log_std + (self.final_log_std - log_std) / left

    def at(self, iteration: int) -> NeuralSettings:
        """The settings of one iteration: those of its trust region."""
        return self.model_copy(update={"trust_region": self.trust_region.at(iteration, self.num_iterations)})

    def tolerances(self, num_costs: int) -> FloatArray:
        """eta as an array [p]."""
        return tolerance_of_each(self.tolerance, num_costs)
