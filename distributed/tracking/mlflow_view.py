"""How MLflow's page shows an experiment: training runs alone, with the columns of the verdict.

MLflow keeps a shared view as a tag of the experiment, and opens it by its key in the address. The tag here is the same
thing, so the page opens on the runs of ``train`` without their nested tasks, newest first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from distributed.models.model_registry import connect
from distributed.settings.console import Console
from distributed.settings.errors import first_line
from distributed.settings.tracking_uri import hide_password, tracking_uri
from distributed.tracking.events import NOTE_TAG
from meta.methods.registry import OURS
from meta.reporting.summary import RunSummary

if TYPE_CHECKING:
    from mlflow import MlflowClient

VIEW = "metasrl"
"""The key in the address."""
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
VERDICT_TAG = "verdict"
"""The tag of a run with its verdict, a column of the view."""
TRAINED = "tags.`metasrl.kind` = 'train'"
"""The filter of the view."""
_LOCAL = "http://127.0.0.1:5000"
"""Where ``mlflow ui`` listens."""
_BESIDE = ("random", "pretrained")
"""Methods whose numbers stand beside those of meta_srl, where a run has them."""


def view_state(summary: RunSummary) -> dict[str, object]:
    """The view, in MLflow's words: filter, order and columns."""
    with_gap = summary.test[OURS].gap.mean is not None if OURS in summary.test else False
    measures = ("gap" if with_gap else "reward", "violation_during_adaptation")
    methods = [name for name in (OURS, *_BESIDE) if name in summary.test]
    columns = [f"metrics.`test/{name}/{measure}`" for measure in measures for name in methods]
    return {
        "searchFilter": TRAINED,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "viewMaximized": True,
        "selectedColumns": [f"tags.`{VERDICT_TAG}`", *columns, "tags.`family`", "attributes.`Duration`"],
    }


def view_address(experiment_id: str, server: str) -> str:
    """The address of the view on a ``server`` such as http://127.0.0.1:5000."""
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}"


def show_view(uri: str | None, run_id: str | None, summary: RunSummary, console: Console) -> None:
    """Let the page of the experiment open on its runs, and say where; a warning if that fails, as all else is sent."""
    if run_id is None:
        return
    where = tracking_uri(uri)
    try:
        number = show_runs_first(connect(uri), run_id, summary)
    except Exception as error:  # MLflow, requests and sockets raise their own types
        console.warn(f"MLflow: the view of the experiment was not set ({first_line(error)})")
        return
    served = where.startswith(("http://", "https://"))
    begin = "" if served else f"mlflow ui --backend-store-uri {hide_password(where)}, then "
    console.say(f"MLflow: {begin}{view_address(number, hide_password(where) if served else _LOCAL)}")


def show_runs_first(client: MlflowClient, run_id: str, summary: RunSummary) -> str:
    """Give the experiment of a run the view and, if it has none, a description that links it; return its id.

    Raises:
        mlflow.exceptions.MlflowException: The server refuses or does not answer.
    """
    experiment = client.get_experiment(client.get_run(run_id).info.experiment_id)
    number, tags = str(experiment.experiment_id), experiment.tags
    for name, value in _tags(number, summary, tags).items():
        client.set_experiment_tag(number, name, value)
    return number


def _tags(number: str, summary: RunSummary, there: Mapping[str, str]) -> dict[str, str]:
    """The tags to set; a description that somebody has written stays."""
    tags = {VIEW_TAG: json.dumps(view_state(summary))}
    if not there.get(NOTE_TAG):
        tags[NOTE_TAG] = (
            f"[The runs of `metasrl train` with their verdicts](#/experiments/{number}/runs?viewStateShareKey={VIEW}), "
            "newest first. Training tasks are nested below their run; this view leaves them out, and the filter "
            f"{TRAINED} does so in any view."
        )
    return tags
