"""A tour for newcomers: writes docs/tour.md and its screenshots in a few minutes. Needs Debian's Chromium.

The commands run in a bare checkout of the current commit, and the page shows their real output.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.result_page import header
from benchmarks.tour_tools import LONGEST, PICTURES, Camera, Shell, checkout, wait_until
from tests.support.servers import BIN, ROOT, Head, mlflow_server, ray_head

PAGE = ROOT / "docs" / "tour.md"
TASKS = "480"


@dataclass(frozen=True)
class Stage:
    """Where the tour takes place: the checkout's shell, the servers and the camera."""

    shell: Shell
    camera: Camera
    head: Head
    tracking: str
    runs: Path

    @property
    def submit(self) -> str:
        """The command that submits the run."""
        return (
            f"metasrl submit deploy/runs/frozen_lake.yaml --family.num_tasks {TASKS} --output.run_dir {self.runs} "
            "--resume latest --register lakes"
        )

    def run(self, command: str, most: int = LONGEST, *, code: int = 0) -> list[str]:
        """Type a command; the block for the page."""
        return self.shell.shown(command, self.shell.run(command, code=code), most)


def make_stage(folder: Path, head: Head, tracking: str, camera: Camera) -> Stage:
    """A shell in ``folder`` that reaches both servers and hides this machine's paths and ports."""
    hide = {
        str(folder.parent): "~",
        head.dashboard: "http://127.0.0.1:8265",
        head.address: "127.0.0.1:6379",
        tracking: "http://127.0.0.1:5000",
    }
    environment = {
        **head.environment,
        "RAY_API_SERVER_ADDRESS": head.dashboard,
        "MLFLOW_TRACKING_URI": tracking,
        "PYTHONPATH": str(folder),
        "COLUMNS": "120",
    }
    return Stage(Shell(folder, environment, hide), camera, head, tracking, folder / "shared-runs")


def tour(stage: Stage) -> list[str]:
    """The sections of the page, in the order of the tour."""
    job, lines = submitted(stage)
    lines += [*watched(stage), *stopped(stage, job)]
    (run,) = stage.runs.glob("*/*/")
    return [*lines, *tracked(stage, run), *adapted(stage), *reported(stage, run)]


def submitted(stage: Stage) -> tuple[str, list[str]]:
    """Submit the run and wait for its first checkpoint; the job and the section."""
    command = f"{stage.submit} --detach"
    first = stage.shell.run(command)
    lines = [
        "## 1. Submit",
        "",
        "A head on loopback (`ray start --head --dashboard-host 127.0.0.1`) and a tracking server (`mlflow server`, on"
        " loopback by default) are running; `RAY_API_SERVER_ADDRESS` and `MLFLOW_TRACKING_URI` hold their addresses.",
        "",
        *stage.shell.shown(command, first),
    ]
    wait_until(lambda: len(list(stage.runs.glob("*/*/checkpoints/round-*.json"))) > 0)
    return re.findall(r"job ([\w-]+);", first)[0], lines


def watched(stage: Stage) -> list[str]:
    """Ray's dashboard and the metrics."""
    dashboard, take = stage.head.dashboard, stage.camera.take
    return [
        *("## 2. Watch it in Ray's dashboard", ""),
        *(take(f"{dashboard}/#/jobs", "ray-jobs", "RUNNING"), ""),
        *("Actors are named after their roles; a click opens the log of each:", ""),
        *(take(f"{dashboard}/#/actors", "ray-actors", "CRPOWorker(id=0)", "MetaLearner"), ""),
        *(take(f"{dashboard}/#/cluster", "ray-nodes", "ALIVE"), ""),
        "Prometheus scrapes its metrics ([metrics.md](metrics.md#prometheus)); `deploy/monitoring/` has a dashboard for"
        " Grafana:",
        "",
        *stage.shell.shown("curl -s http://127.0.0.1:$METRICS_PORT | grep ^ray_metasrl", scraped(stage.head), 14),
        *stage.run("metasrl jobs"),
    ]


def stopped(stage: Stage, job: str) -> list[str]:
    """Stop the job, then resume it."""
    return [
        *("## 3. Stop it and resume", ""),
        *stage.run(f"metasrl stop {job}"),
        *stage.run(f"metasrl logs {job}", 8, code=143),
        *("Submit the same command again: `--resume latest` finds the run by its settings.", ""),
        *stage.run(stage.submit, 30),
    ]


def tracked(stage: Stage, run: Path) -> list[str]:
    """The run, two of its tasks and the learned start in MLflow."""
    tracking, take, name = stage.tracking, stage.camera.take, f"frozen_lake/{run.name}"
    runs_url, ids = f"{tracking}/#/experiments/1/runs", run_ids(tracking)

    def into(page: Any) -> None:
        page.get_by_text(name).first.click(timeout=60_000)

    compared = f"{tracking}/#/compare-runs?runs=%5B%22{ids[0]}%22%2C%22{ids[1]}%22%5D&experiments=%5B%221%22%5D"
    return [
        *("## 4. One run in MLflow", "", "Both jobs belong to one run; its tasks are nested below it.", ""),
        *(take(runs_url, "mlflow-runs", name), ""),
        *(take(runs_url, "mlflow-run", "Meta-training on", act=into, height=1300), ""),
        *("A comparison of two of its tasks:", "", take(compared, "mlflow-compare", "Comparing"), ""),
        *("The learned start in the registry:", ""),
        *(take(f"{tracking}/#/models/lakes", "mlflow-model", "champion"), ""),
    ]


def adapted(stage: Stage) -> list[str]:
    """Solve a new task from the registered start."""
    return ["## 5. Adapt from the registry", "", *stage.run("metasrl adapt models:/lakes@champion --task-seed 7")]


def reported(stage: Stage, run: Path) -> list[str]:
    """The report of the run, in a wide and in a narrow window."""

    def ready(opened: Any) -> None:
        opened.wait_for_selector("body[data-ready=true]", timeout=60_000)

    lines = ["## 6. The page of the run", "", *stage.run(f"metasrl report {run} --video", 4)]
    page, take = (run / "report.html").as_uri(), stage.camera.take
    return [
        *lines,
        *(take(page, "report-wide", act=ready, height=1500), ""),
        *("In a narrow window:", ""),
        *(take(page, "report-narrow", act=ready, width=420, height=1100), ""),
    ]


def run_ids(tracking: str) -> list[str]:
    """The ids of two nested runs."""
    from mlflow import MlflowClient

    found = MlflowClient(tracking_uri=tracking).search_runs(["1"], "tags.round = '0'", max_results=2)
    return [run.info.run_id for run in found]


def scraped(head: Head) -> str:
    """The project's metrics in Prometheus format, as the node exports them."""
    code = (
        "import ray, urllib.request\n"
        f"ray.init(address='{head.address}', logging_level='ERROR')\n"
        "for node in ray.nodes():\n"
        "    url = 'http://127.0.0.1:%d' % node['MetricsExportPort']\n"
        "    print(urllib.request.urlopen(url, timeout=20).read().decode())\n"
    )
    deadline = time.monotonic() + 60.0
    while True:
        done = subprocess.run(
            [str(BIN / "python"), "-c", code], env=head.environment, capture_output=True, text=True, check=False
        )
        text = [line for line in done.stdout.splitlines() if line.startswith("ray_metasrl")]
        if text or time.monotonic() > deadline:
            return "\n".join(sorted({re.sub(r"\{(.*)\}", _own_labels, line) for line in text}))
        time.sleep(2.0)


def _own_labels(found: re.Match[str]) -> str:
    """The labels that the project itself sets, without the name of the run."""
    own = re.findall(r'(?:phase|cost|objective)="[^"]*"', found[1])
    return "{" + ",".join(own) + "}" if own else ""


def main() -> None:
    """Take the tour and write the page."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("the tour needs Chromium (Debian: apt install chromium)")
    PICTURES.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with checkout() as folder, sync_playwright() as playwright:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=root)
        with ray_head(None) as head, mlflow_server(folder) as tracking:
            lines = tour(make_stage(folder, head, tracking, Camera(browser)))
        browser.close()
    minutes = (time.monotonic() - began) / 60.0
    intro = [
        f"From a bare checkout to a registered start in {minutes:.0f} minutes, with the real commands and their output."
        " First run `make setup` and `source .venv/bin/activate`. Ports and paths are shown as the defaults.",
        "",
        "<!-- no block of this page is run: benchmarks.tour types them; this page is what they print -->",
        "",
    ]
    text = "\n".join([*header("A tour", "python -m benchmarks.tour"), *intro, *lines]).rstrip() + "\n"
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE}: {minutes:.1f} min")


if __name__ == "__main__":
    main()
