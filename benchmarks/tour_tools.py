"""Tools of the tour: a shell that records its commands, a camera for web pages, and a fresh checkout."""

from __future__ import annotations

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

from tests.support.servers import ROOT

PICTURES = ROOT / "docs" / "tour"
LONGEST = 26
"""Lines of output that the page shows, unless a command asks for another number."""


class Shell:
    """Runs commands in the checkout and formats them for the page."""

    def __init__(self, checkout: Path, environment: dict[str, str], hide: dict[str, str]) -> None:
        self._checkout, self._environment, self._hide = checkout, environment, hide

    def run(self, command: str, *, code: int = 0) -> str:
        """Run a command and return its output; the exit code must be ``code``."""
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

    def shown(self, command: str, output: str, most: int = LONGEST) -> list[str]:
        """A block for the page: the command and the last ``most`` lines of its output."""
        lines = [line.rstrip() for line in self.clean(output).splitlines() if line.strip()]
        if len(lines) > most:
            lines = ["...", *lines[-most:]]
        return ["```console", f"$ {self.clean(command)}", *lines, "```", ""]

    def clean(self, text: str) -> str:
        """``text`` without this machine's paths and ports."""
        for found, shown in self._hide.items():
            text = text.replace(found, shown)
        text = re.sub(r"\b(?!127\.)\d+\.\d+\.\d+\.\d+:\d+", "127.0.0.1:6379", text)  # the node's own address
        return re.sub(r"\x1b\[[0-9;]*m", "", text)


class Camera:
    """Takes screenshots of web pages."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser

    def take(self, url: str, name: str, *texts: str, width: int = 1400, height: int = 900, act: Any = None) -> str:
        """Open a page, wait for its texts, write ``docs/tour/<name>.png``, and return Markdown that shows it."""
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
    """A fresh clone of the current commit."""
    folder = Path(tempfile.mkdtemp(prefix="metasrl-tour-"))
    try:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "metasrl")], check=True)
        yield folder / "metasrl"
    finally:
        shutil.rmtree(folder)


def wait_until(condition: Callable[[], bool], seconds: float = 180.0) -> None:
    """Wait for ``condition``; raise RuntimeError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the condition did not hold within {seconds:g} seconds")
        time.sleep(0.3)
