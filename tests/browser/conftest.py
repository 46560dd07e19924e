"""Debian's Chromium, driven by Playwright; where it is missing the tests say so and are skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One browser without a window."""
    where = shutil.which("chromium")
    if where is None:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        found = playwright.chromium.launch(executable_path=where, args=root)
        yield found
        found.close()


class Faults(list[str]):
    """What went wrong on a page."""


@contextmanager
def opened(
    browser: Any, url: str | Path, width: int = 1400, color_scheme: str = "light"
) -> Iterator[tuple[Any, Faults]]:
    """A page in a window of that width, and the errors that it throws or logs."""
    page, faults = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=color_scheme), Faults()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    try:
        page.goto(url if isinstance(url, str) else url.as_uri())
        yield page, faults
    finally:
        page.close()
