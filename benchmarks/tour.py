"""A newcomer's hour, done for real: writes docs/tour.md and its screenshots. Needs Debian's Chromium; a few minutes.

The commands are typed into a bare checkout of the current commit; what they print is put into the page as it came.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.result_page import header
from tests.support.servers import BIN, ROOT, Head, mlflow_server, ray_head

PAGE, PICTURES = ROOT / "docs" / "tour.md", ROOT / "docs" / "tour"
TASKS = "480"
_LONGEST = 26


class Shell:
    """Runs commands in the checkout and keeps what was typed and printed."""

    def __init__(self, checkout: Path, environment: dict[str, str], hide: dict[str, str]) -> None:
        self._checkout, self._environment, self._hide = checkout, environment, hide

    def run(self, command: str, *, code: int = 0) -> str:
        """Type a command; its output. The exit code must be ``code``."""
        done = subprocess.run(
            ["bash", "-c", f"{command} 2>&1"],
            cwd=self._checkout,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != code:
            raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stdout}")
        print(f"$ {command}\n{done.stdout}", flush=True)
        return done.stdout

    def shown(self, command: str, output: str, most: int = _LONGEST) -> list[str]:
        """A block for the page: the command and (the end of) what it printed."""
        lines = [line.rstrip() for line in self.clean(output).splitlines() if line.strip()]
        if len(lines) > most:
            lines = ["...", *lines[-most:]]
        return ["```console", f"$ {self.clean(command)}", *lines, "```", ""]

    def clean(self, text: str) -> str:
        """Without this machine's paths and ports."""
        for found, formatted in self._hide.items():
            text = text.replace(found, formatted)
        text = re.sub(r"\b(?!127\.)\d+\.\d+\.\d+\.\d+:\d+", "127.0.0.1:6379", text)  # the node's own address
        return re.sub(r"\x1b\[[0-9;]*m", "", text)


class Camera:
    """Takes pictures of pages."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser

    def take(self, url: str, name: str, *texts: str, width: int = 1400, height: int = 900, act: Any = None) -> str:
        """Open a page, wait for its texts, and write ``docs/tour/<name>.png``; Markdown for it."""
        page = self._browser.new_page(viewport={"width": width, "height": height})
        try:
            page.goto(url)
            if act is not None:
                act(page)
            for text in texts:
                page.get_by_text(text).first.wait_for(state="visible", timeout=60_000)
            page.wait_for_timeout(1500)
            path = PICTURES / f"{name}.png"
            page.screenshot(path=path)
        finally:
            page.close()
        Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(path, optimize=True)
        print(f"picture: {path}", flush=True)
        return f"![{name.replace('-', ' ')}](tour/{name}.png)"


@contextmanager
def checkout() -> Iterator[Path]:
    """The current commit, as `git clone` gives it."""
    folder = Path(tempfile.mkdtemp(prefix="metasrl-tour-"))
    try:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "metasrl")], check=True)
        yield folder / "metasrl"
    finally:
        shutil.rmtree(folder)


def wait_until(condition: Callable[[], bool], seconds: float = 180.0) -> None:
    """Wait; RuntimeError where it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("waited in vain")
        time.sleep(0.3)


def tour(folder: Path, head: Head, tracking: str, camera: Camera) -> list[str]:
    """The hour itself; the page's sections."""
    dashboard, runs = head.dashboard, folder / "shared-runs"
    hide = {
        str(folder.parent): "~",
        dashboard: "http://127.0.0.1:8265",
        head.address: "127.0.0.1:6379",
        tracking: "http://127.0.0.1:5000",
    }
    environment = {
        **head.environment,
        "RAY_API_SERVER_ADDRESS": dashboard,
        "MLFLOW_TRACKING_URI": tracking,
        "PYTHONPATH": str(folder),
        "COLUMNS": "120",
    }
    shell = Shell(folder, environment, hide)
    submit = (
        f"metasrl submit deploy/runs/frozen_lake.yaml --family.num_tasks {TASKS} --output.run_dir {runs} "
        "--resume latest --register lakes"
    )
    lines = [
        "## 1. Submit",
        "",
        "A head on loopback (`ray start --head --dashboard-host 127.0.0.1`) and a tracking server (`mlflow server`, on"
        " loopback by default) are up; `RAY_API_SERVER_ADDRESS` and `MLFLOW_TRACKING_URI` name them.",
        "",
    ]
    first = shell.run(f"{submit} --detach")
    job = re.findall(r"job (raysubmit_\w+)", first)[0]
    lines += shell.shown(f"{submit} --detach", first)
    wait_until(lambda: len(list(runs.glob("*/*/checkpoints/round-*.json"))) > 0)

    lines += ["## 2. Watch it in Ray's dashboard", ""]
    lines += [camera.take(f"{dashboard}/#/jobs", "ray-jobs", "RUNNING"), ""]
    lines += ["Actors are called what they are; a click leads to the log of each:", ""]
    lines += [camera.take(f"{dashboard}/#/actors", "ray-actors", "CRPOWorker(id=0)", "MetaLearner"), ""]
    lines += [camera.take(f"{dashboard}/#/cluster", "ray-nodes", "ALIVE"), ""]
    lines += [
        "Its metrics are where Prometheus finds them ([metrics.md](metrics.md#prometheus)); Grafana's dashboard is in"
        " `deploy/monitoring/`:",
        "",
    ]
    lines += shell.shown("curl -s http://127.0.0.1:$METRICS_PORT | grep ^ray_metasrl", scraped(head), 14)
    listed = shell.run("metasrl jobs")
    lines += shell.shown("metasrl jobs", listed)

    lines += ["## 3. Stop it, and go on", ""]
    lines += shell.shown(f"metasrl stop {job}", shell.run(f"metasrl stop {job}"))
    ended = shell.run(f"metasrl logs {job}", code=143)
    lines += shell.shown(f"metasrl logs {job}", ended, 8)
    again = shell.run(submit)
    lines += ["The same command again: `--resume latest` finds the run by its settings.", ""]
    lines += shell.shown(submit, again, 30)

    (run,) = runs.glob("*/*/")
    name = f"frozen_lake/{run.name}"
    lines += ["## 4. One run in MLflow", "", "The two jobs are one run; its tasks are nested under it.", ""]
    lines += [camera.take(f"{tracking}/#/experiments/1/runs", "mlflow-runs", name), ""]

    def into(page: Any) -> None:
        page.get_by_text(name).first.click(timeout=60_000)

    runs_url = f"{tracking}/#/experiments/1/runs"
    lines += [camera.take(runs_url, "mlflow-run", "Meta-training on", act=into, height=1300), ""]
    ids = run_ids(tracking)
    compared = f"{tracking}/#/compare-runs?runs=%5B%22{ids[0]}%22%2C%22{ids[1]}%22%5D&experiments=%5B%221%22%5D"
    lines += ["Two of its tasks beside each other:", "", camera.take(compared, "mlflow-compare", "Comparing"), ""]
    lines += ["The learned start in the registry:", ""]
    lines += [camera.take(f"{tracking}/#/models/lakes", "mlflow-model", "champion"), ""]

    lines += ["## 5. Adapt from the registry", ""]
    adapt = "metasrl adapt models:/lakes@champion --task-seed 7"
    lines += shell.shown(adapt, shell.run(adapt))

    lines += ["## 6. The page of the run", ""]
    report = f"metasrl report {run} --video"
    lines += shell.shown(report, shell.run(report), 4)
    page = (run / "report.html").as_uri()
    ready = lambda opened: opened.wait_for_selector("body[data-ready=true]", timeout=60_000)  # noqa: E731
    lines += [camera.take(page, "report-wide", act=ready, height=1500), ""]
    lines += ["In a narrow window:", "", camera.take(page, "report-narrow", act=ready, width=420, height=1100), ""]
    return lines


def run_ids(tracking: str) -> list[str]:
    """Two nested runs."""
    from mlflow import MlflowClient

    found = MlflowClient(tracking_uri=tracking).search_runs(["1"], "tags.round = '0'", max_results=2)
    return [run.info.run_id for run in found]


def scraped(head: Head) -> str:
    """Our metrics, as Prometheus gets them."""
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
    """Of a metric's labels those that we gave it, but for the run's name."""
    own = re.findall(r'(?:phase|cost|objective)="[^"]*"', found[1])
    return "{" + ",".join(own) + "}" if own else ""


def main() -> None:
    """Do it and write the page."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("needs Chromium (Debian: apt install chromium)")
    PICTURES.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with checkout() as folder, sync_playwright() as playwright:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=root)
        with ray_head(None) as head, mlflow_server(folder) as tracking:
            lines = tour(folder, head, tracking, Camera(browser))
        browser.close()
    minutes = (time.monotonic() - began) / 60.0
    intro = [
        f"From a bare checkout to a start that others adapt, as it was typed and as it came, in {minutes:.0f} minutes:"
        " `make setup` first, then `source .venv/bin/activate`. Ports and paths are written as the defaults.",
        "",
    ]
    text = "\n".join([*header("A tour", "python -m benchmarks.tour"), *intro, *lines]).rstrip() + "\n"
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE}: {minutes:.1f} min")


if __name__ == "__main__":
    main()
