"""The folder ``quarantine/`` of a run: one JSON file for each task that is set aside."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from distributed.settings.bounded_reading import read_json
from distributed.settings.run_config import RunConfig
from distributed.storage.checkpoints import DamagedFileError, write_atomically
from meta.training.quarantine import Quarantine, SetAside

FOLDER = "quarantine"
_FIELDS = {field.name for field in dataclasses.fields(SetAside)}


def quarantine_of(path: Path, config: RunConfig, say: Callable[[str], None]) -> Quarantine:
    """The quarantine of the run in ``path``, with the tasks that it has set aside so far.

    Raises:
        DamagedFileError: A file of the folder is damaged.
    """
    folder, evaluation = path / FOLDER, config.evaluation
    held_out = evaluation.num_test_tasks if evaluation.tasks is None else len(evaluation.tasks)

    def keep(entry: SetAside) -> None:
        folder.mkdir(exist_ok=True)
        write_atomically(folder / f"{entry.stem}.json", json.dumps(entry.to_json(), indent=1).encode())

    return Quarantine(
        config.cluster.task_attempts,
        config.cluster.set_aside_share,
        {False: config.family.num_tasks, True: held_out},
        [_read(file) for file in sorted(folder.glob("*.json"))],
        keep,
        say,
    )


def remember(path: Path, indices: Iterable[int]) -> None:
    """Check that ``quarantine/`` of ``path`` still has the training tasks ``indices``, which a checkpoint has left out.

    Raises:
        DamagedFileError: A file is gone.
    """
    for index in indices:
        file = path / FOLDER / f"train-{index}.json"
        if not file.is_file():
            raise DamagedFileError(
                f"{file}: is gone, but the checkpoint was learned without that task; put the file back: only a task "
                "of a round that is not over can be tried again"
            )


def _read(file: Path) -> SetAside:
    try:
        content = read_json(file)
        if not isinstance(content, dict) or set(content) != _FIELDS or content["stem"] != file.stem:
            raise ValueError("is not what a run writes")
        return SetAside(**content)
    except (OSError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{file}: {error}; delete it, and the task is tried again") from error
