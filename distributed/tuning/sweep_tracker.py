"""MLflow tracking of a sweep: a parent run, and a nested run for each trial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distributed.settings.console import Console
from distributed.settings.keys import flatten
from distributed.settings.provenance import environment_tags
from distributed.settings.run_config import RunConfig
from distributed.tracking.events import NOTE_TAG, ResumeEvent, StartEvent, now
from distributed.tracking.mlflow_sender import MLflowSender
from distributed.tracking.mlflow_tracker import run_key
from distributed.tracking.outbox import Outbox
from distributed.tuning.trials import SCORE, SweepSettings, Trial

_LONGEST_ERROR = 500


class SweepTracker:
    """Opens the outbox of a sweep and creates or resumes its parent run.

    Args:
        config: Settings that the trials vary.
        folder: Directory of the sweep.
        space: The varied settings as text.
        settings: Number of trials and search.
        console: Shows messages.
    """

    def __init__(
        self, config: RunConfig, folder: Path, space: Sequence[str], settings: SweepSettings, console: Console
    ) -> None:
        self._key = run_key(folder)
        self._timeout = config.tracking.flush_timeout_seconds
        self._outbox = Outbox(folder / "tracking", MLflowSender(config.tracking, folder), console.say)
        start: StartEvent = {
            "kind": "start",
            "key": self._key,
            "name": self._key,
            "time": now(),
            "tags": {"metasrl.kind": "sweep"},
            "params": {
                **dict(flatten(config.model_dump(mode="json"))),
                "sweep.space": "; ".join(space),
                **{f"sweep.{name}": value for name, value in vars(settings).items()},
            },
            "log_tags": environment_tags(),
        }
        resumed: ResumeEvent = {"kind": "resume", "time": now(), "log_tags": {}}
        self._outbox.append(start if self._outbox.empty else resumed)

    def trial(self, trial: Trial) -> None:
        """Log a nested run with the trial's values and its score after every round."""
        time = now()
        self._outbox.append(
            {
                "kind": "task",
                "key": f"{self._key}/{trial.name}",
                "name": f"trial {trial.name}",
                "time": time,
                "end_time": time,
                "tags": {
                    "metasrl.kind": "trial",
                    "trial.state": trial.state,
                    "trial.error": str(trial.error or "")[:_LONGEST_ERROR],
                },
                "params": dict(flatten(trial.values)) if trial.values else {},
                "metrics": [(SCORE, score, number + 1) for number, score in enumerate(trial.scores)],
            }
        )

    def close(self, status: str, description: str, files: Sequence[Path]) -> int:
        """Finish the parent run; return the number of unsent events."""
        self._outbox.append(
            {
                "kind": "end",
                "time": now(),
                "status": status,
                "metrics": [],
                "artifacts": [(str(path), "") for path in files],
                "log_tags": {NOTE_TAG: description} if description else {},
            }
        )
        return self._outbox.close(self._timeout)
