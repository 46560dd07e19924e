"""The trackers of a training run."""

from __future__ import annotations

from collections.abc import Sequence

from distributed.cluster.ray_metrics import RayMetricsTracker
from distributed.tracking.directory_trackers import DirectoryTracker, MirrorTracker
from distributed.tracking.mlflow_tracker import MLflowTracker
from distributed.tracking.progress_bar import ProgressTracker
from distributed.tracking.run_tracker import RunContext, RunTracker, Trackers
from distributed.tracking.tensorboard_tracker import TensorBoardTracker

TRACKERS: tuple[type[RunTracker], ...] = (
    MLflowTracker,
    DirectoryTracker,
    ProgressTracker,
    RayMetricsTracker,
    TensorBoardTracker,
    MirrorTracker,
)
"""Every tracker, in the order of calls; a new tracker is one class in this tuple.

MLflow comes before the run directory: after a crash between the two the event is sent twice under the same key, whereas
in the other order it would be lost. The mirror comes last, so that it copies what the others wrote.
"""


def trackers_of(context: RunContext, more: Sequence[RunTracker] = ()) -> Trackers:
    """The trackers that a run needs, and ``more`` of the caller's.

    Raises:
        ConfigurationError: A tracker cannot work with these settings.
    """
    made = [kind.of(context) for kind in TRACKERS]
    return Trackers([*(tracker for tracker in made if tracker is not None), *more])
