"""The summary of a training run: the typed content of ``summary.json``; docs/metrics.md explains every key.

``python -m meta.reporting.summary`` writes its JSON schema to docs/schemas.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SCHEMA_VERSION: Final = 1
SCHEMA_FILE = Path("docs/schemas/summary.schema.json")


class SummaryError(ValueError):
    """A file is not a summary of a training run; the message names the offending key."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class IntervalSummary(_Part):
    """A mean with its 95 % confidence interval."""

    mean: float | None
    """Sample mean; null without a value."""
    ci95: tuple[float | None, float | None]
    """Lower and upper bound; null for samples smaller than two."""
    n: int = Field(ge=0)
    """Sample size."""


class DifferencesSummary(_Part):
    """A method's results minus those of meta_srl on the same held-out tasks: means of paired differences."""

    gap: IntervalSummary
    """Of the optimality gap; null without an exact model."""
    reward: IntervalSummary
    """Of J_0 of the output."""
    violation_during_adaptation: IntervalSummary
    """Of the violation over all iterates."""


class MethodSummary(_Part):
    """One method on the held-out tasks. Intervals are over tasks, curves are means over tasks."""

    gap: IntervalSummary
    """Optimality gap of the output; null without an exact model."""
    reward: IntervalSummary
    """J_0 of the output."""
    violation: IntervalSummary
    """Violation of the output, mean over costs."""
    violation_during_adaptation: IntervalSummary
    """Violation over all iterates, mean over costs."""
    score: float
    """Selection score; lower is better."""
    env_steps: float
    """Mean environment steps of a task."""
    starts_used: tuple[int, ...]
    """Tasks that chose each initialisation."""
    learning_rates: tuple[float, ...] | tuple[tuple[float, ...], ...]
    """Rates [1+p] of the only start, or a list of such lists for several starts."""
    reward_curve: tuple[float, ...]
    """J_0 after 0..M updates."""
    cost_curve: tuple[tuple[float, ...], ...]
    """J_1..J_p after 0..M updates, [M+1, p]."""
    episodic_curve: tuple[tuple[float, ...], ...] | None
    """Undiscounted sums [M+1, 1+p]; null where they are not measured."""
    minus_meta_srl: DifferencesSummary | None = None
    """Its differences from meta_srl; null for meta_srl itself, where it was not judged, and in older runs."""


class GroupsSummary(_Part):
    """How tasks were divided among several initialisations."""

    num_initializations: int
    """Number of initialisations."""
    tasks: tuple[int, ...]
    """Training tasks from which each initialisation learned."""
    starts_used: tuple[int, ...]
    """Training tasks that started from each initialisation."""
    probe_steps: int
    """Environment steps spent on choosing starts."""


class EstimatesSummary(_Part):
    """Quality of the estimated corrections over the training tasks."""

    left_out: int
    """Tasks with weight 0."""
    down_weighted: int
    """Tasks with a weight between 0 and 1."""
    mean_weight: float
    """Mean weight of a task."""
    failed: int
    """Tasks whose estimate failed a diagnostic."""
    reasons: dict[str, int]
    """Failures by diagnostic."""
    problems: tuple[str, ...]
    """Reasons for which a task had no estimate, at most ten."""


class TrendSummary(_Part):
    """Whether a measure improved over training, and whether it is rising at the end."""

    improved: bool
    """Whether the last half lies below the first round (one-sided Mann-Whitney test, p < 0.05)."""
    improvement_p: float
    """P-value of that test."""
    rising: bool
    """Whether the last half has a rising trend (Kendall's tau > 0, p < 0.05)."""
    trend: float
    """Kendall's tau of the last half."""
    trend_p: float
    """P-value of the trend."""


class FailureSummary(_Part):
    """The trend of each main measure; null for fewer than 8 tasks, and for values that are unknown or 0 throughout."""

    gap: TrendSummary | None
    """Trend of the optimality gap."""
    violation_during_adaptation: TrendSummary | None
    """Trend of the violation during adaptation."""


class SimilaritySummary(_Part):
    """How alike the training tasks are."""

    task_similarity: float
    """D*^2."""
    task_relatedness: float
    """V_psi^2."""
    path_length: float
    """Path length of the comparators."""
    conditional_similarity: float | None = None
    """D*^2_Phi, where the comparator may depend on the context; null without contexts."""


class SetAsideSummary(_Part):
    """A task whose environment failed every attempt, and that all means leave out."""

    task: str
    """Stem of its file in quarantine/, which has the traceback, the parameters and the seed."""
    label: str
    """Name of the task in messages."""
    held_out: bool
    """Whether it is a held-out task rather than a training task."""
    attempts: int
    """Number of attempts."""
    step: int | None
    """Step of the episode that failed; null if it is not known."""
    error: str
    """The last attempt's error."""


class RunFacts(_Part):
    """What a summary repeats from the run file and the pool."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this format."""
    name: str
    """Name of the run."""
    family: str
    """Name of the family."""
    seed: int
    """Seed of the run."""
    num_iterations: int
    """M, policy updates within a training task."""
    algorithm: str
    """Within-task algorithm."""
    evaluation: str
    """How values were obtained: exact or sampled."""
    pool: str
    """Pool that solved the tasks: local or ray."""
    num_workers: int
    """Tasks solved at the same time."""
    tasks_per_round: int
    """B, tasks of a round."""
    warm_up_steps: int = 0
    """Environment steps of the direct steps before the first task."""
    context_errors: dict[str, float] | None = None
    """Of inferred contexts, by entry: error on tasks left out, in units of the spread; null without such."""
    rates_at_bounds: dict[str, float] = Field(default_factory=dict)
    """Learned rates that lie on a bound of meta.learning_rates, by objective."""


class RunSummary(RunFacts):
    """A finished training run."""

    num_tasks: int
    """Training tasks."""
    mean_reward: float | None
    """Mean J_0 of the training tasks' outputs."""
    taog: float | None
    """Task-averaged optimality gap; null without an exact model."""
    tacv: tuple[float, ...]
    """Task-averaged constraint violation of each cost."""
    taog_last_half: float | None
    """TAOG of the last half of the tasks."""
    tacv_last_half: tuple[float, ...]
    """TACV of the last half of the tasks."""
    learning_rates: tuple[float, ...] | tuple[tuple[float, ...], ...]
    """Learned rates [1+p], or a list of such lists for several initialisations."""
    meta_state_sha256: str
    """SHA-256 of the learned state."""
    groups: GroupsSummary | None
    """Null for a single initialisation."""
    env_steps: int
    """Environment steps of all training tasks."""
    estimates: EstimatesSummary
    """Quality of the estimates."""
    failure_signature: FailureSummary
    """Trends over the training tasks."""
    similarity: SimilaritySummary | None
    """Null without an exact model."""
    limits_mean: tuple[float, ...]
    """Mean limit [p] of the held-out tasks."""
    wall_seconds: float
    """Wall-clock time of the run in seconds, across resumes."""
    test: dict[str, MethodSummary]
    """Results on held-out tasks by method."""
    set_aside: tuple[SetAsideSummary, ...] = ()
    """Tasks in quarantine; empty for most runs."""

    def to_json(self) -> str:
        """The content of ``summary.json``."""
        return json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False)


def parse_summary(text: str) -> RunSummary:
    """Parse the content of ``summary.json``.

    Raises:
        SummaryError: The text is not JSON, or a key is missing, unknown or of the wrong type.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise SummaryError(f"is not JSON: {error}") from error
    if not isinstance(content, dict) or "taog" not in content:
        raise SummaryError("is not the summary of a training run")
    try:
        return RunSummary.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise SummaryError(f"is not the summary of a training run: {key}: {first['msg']}") from error


def json_schema() -> str:
    """The JSON schema of ``summary.json`` as text."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **RunSummary.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.parent.mkdir(parents=True, exist_ok=True)
    SCHEMA_FILE.write_text(json_schema(), encoding="utf-8")
