"""What we show in MLflow and in Ray's dashboard is found on their pages, in a real browser."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import opened
from tests.distributed.helpers import command, noted, only_run, run_file, started, tiny, wait_until
from tests.support.servers import free_port, mlflow_server

pytestmark = pytest.mark.slow
PATIENCE = 60_000


def text_appears(page: Any, text: str) -> None:
    """Wait until the page shows a text."""
    page.get_by_text(text).first.wait_for(state="visible", timeout=PATIENCE)


def test_mlflow_shows_the_run_its_tasks_its_page_and_its_model(browser: Any, tmp_path: Path) -> None:
    raw = tiny(tracking={"enabled": True, "flush_timeout_seconds": 120.0})
    done = command(["train", run_file(tmp_path, raw), "--register", "lakes"], tmp_path)
    assert done.returncode == 0, done.stderr
    name = f"tiny/{only_run(tmp_path).name}"
    with mlflow_server(tmp_path) as url:
        with opened(browser, f"{url}/#/experiments/1/runs") as (page, _):
            text_appears(page, name)
            page.get_by_text(name).first.click()
            text_appears(page, "Meta-training on")
            for found in ("final/taog", "frozen_lake-training", "meta_policy"):
                text_appears(page, found)
            where = page.url.split("?")[0]
            page.goto(f"{where}/artifacts/report.html")
            text_appears(page, "report.html")
            frame = page.frame_locator("iframe").first
            frame.locator("h1").wait_for(timeout=PATIENCE)
            assert frame.locator("h1").inner_text() == "tiny, seed 3"
            frame.locator("body[data-ready=true]").wait_for(timeout=PATIENCE)
            assert frame.locator("#training .main-svg").count() >= 1
        with opened(browser, f"{url}/#/models/lakes") as (page, _):
            text_appears(page, "Version 1")
            text_appears(page, "champion")


def test_mlflow_opens_on_the_runs_with_their_verdicts(browser: Any, tmp_path: Path) -> None:
    """The address that train prints: the run, its verdict and numbers as columns, and none of its eight tasks."""
    raw = tiny(tracking={"enabled": True, "flush_timeout_seconds": 120.0})
    done = command(["train", run_file(tmp_path, raw)], tmp_path)
    assert done.returncode == 0, done.stderr
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("MLflow: mlflow ui")]
    address = told.split("then ")[1]
    with mlflow_server(tmp_path) as url, opened(browser, address.replace(_UI, url), width=2600) as (page, _):
        text_appears(page, f"tiny/{only_run(tmp_path).name}")
        for column in ("verdict", "test/meta_srl/gap", "test/meta_srl/violation_during_adaptation"):
            text_appears(page, column)
        text_appears(page, "A new task of frozen_lake is solved")
        page.screenshot(path=tmp_path / "view.png")
        assert page.get_by_text("task frozen_lake/train").count() == 0


_UI = "http://127.0.0.1:5000"


def test_rays_dashboard_names_workers_tasks_and_learner(browser: Any, tmp_path: Path) -> None:
    """While a run waits in its sixth task: who is there, what they do."""
    (tmp_path / "notes").mkdir()
    port = free_port()
    cluster = {"pool": "ray", "num_workers": 2, "tasks_per_round": 4, "dashboard": True, "dashboard_port": port}
    raw = noted(tmp_path / "notes", family={"hold": 5}, cluster={**cluster, "object_store_mb": 80})
    with started(["train", run_file(tmp_path, raw)], tmp_path, RAY_AUTH_MODE="disabled"):
        wait_until(lambda: (tmp_path / "notes" / "waiting").exists(), 120.0)
        url = f"http://127.0.0.1:{port}"
        with opened(browser, f"{url}/#/actors") as (page, _):
            for name in ("CRPOWorker(id=0)", "CRPOWorker(id=1)", "MetaLearner"):
                text_appears(page, name)
        with opened(browser, f"{url}/#/jobs") as (page, _):
            text_appears(page, "RUNNING")
        names = task_names(url)
        assert any("frozen_lake" in name or "NotedLake" in name for name in names), names
        (tmp_path / "notes" / "go").touch()


def task_names(url: str) -> set[str]:
    """Names of the tasks that the dashboard's own API lists."""
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"{url}/api/v0/tasks?limit=1000", timeout=10.0) as reply:
            reported = json.load(reply)["data"]["result"]["result"]
        names = {str(entry["name"]) for entry in reported}
        if any(name.startswith("task ") for name in names):
            return names
        time.sleep(0.5)
    return names
