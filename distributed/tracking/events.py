"""The events between a run and its tracking server, as they are stored in ``outbox.jsonl``."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

NOTE_TAG = "mlflow.note.content"
"""Tag whose Markdown text MLflow shows as a run's description."""
Point = tuple[str, float, int]
"""A metric's name, value and step."""


class Logged(TypedDict):
    """What every event may log."""

    time: int
    metrics: NotRequired[list[Point]]
    params: NotRequired[dict[str, object]]
    log_tags: NotRequired[dict[str, str]]


class Created(Logged):
    """An event that creates a run; ``key`` identifies the run, so that it is created once."""

    key: str
    name: str
    tags: dict[str, str]


class StartEvent(Created):
    """Create the parent run."""

    kind: Literal["start"]


class ResumeEvent(Logged):
    """Mark the parent run as running again."""

    kind: Literal["resume"]


class TaskEvent(Created):
    """Create a nested run and finish it."""

    kind: Literal["task"]
    end_time: int


class RoundEvent(Logged):
    """Log metrics of the parent run."""

    kind: Literal["round"]
    key: str


class DatasetEntry(TypedDict):
    """The tasks of one split, as a dataset of MLflow."""

    name: str
    context: str
    digest: str
    source: str
    schema: str
    profile: str


class DatasetsEvent(Logged):
    """Log the datasets of the parent run."""

    kind: Literal["datasets"]
    key: str
    datasets: list[DatasetEntry]


class EndEvent(Logged):
    """Log the last results and finish the parent run. ``artifacts`` are (path, folder) pairs."""

    kind: Literal["end"]
    status: str
    artifacts: list[tuple[str, str]]
    model: NotRequired[str | None]


KINDS = ("start", "resume", "task", "round", "datasets", "end")
"""Of the events below."""
Event = StartEvent | ResumeEvent | TaskEvent | RoundEvent | DatasetsEvent | EndEvent


class Memory(TypedDict, total=False):
    """What the sender remembers between processes."""

    experiment_id: str
    run_id: str
    model_id: str


def now() -> int:
    """Milliseconds since 1970."""
    return int(1000 * time.time())


def finite(metrics: Sequence[Point]) -> list[Point]:
    """The metrics with finite values: some stores of MLflow reject NaN."""
    return [(name, float(value), step) for name, value, step in metrics if math.isfinite(value)]
