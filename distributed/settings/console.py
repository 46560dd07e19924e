"""Terminal output: messages on standard error, results on standard output."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import rich.console
from rich.markdown import Markdown

from distributed.settings.bounded_reading import shortened

_LONGEST_ERROR = 10_000
"""Characters; what others wrote may be part of an error."""


class Console:
    """Prints messages to standard error and results to standard output."""

    def __init__(self) -> None:
        self.error = rich.console.Console(stderr=True, highlight=False)
        self._out = rich.console.Console(highlight=False)

    def say(self, message: str) -> None:
        """Print an informational message."""
        self.error.print(message, markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a warning."""
        self.error.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)

    def fail(self, message: str) -> None:
        """Print the error that ends the program."""
        text = shortened(message, _LONGEST_ERROR)
        self.error.print(f"error: {text}", style="bold red", markup=False, soft_wrap=True)

    def result(self, markdown: str) -> None:
        """Print a result: rendered on a terminal, plain Markdown otherwise."""
        self._out.print(Markdown(markdown) if self._out.is_terminal else markdown, soft_wrap=True, markup=False)

    @contextlib.contextmanager
    def status(self, what: str) -> Iterator[None]:
        """Show a spinner with the text ``what`` while the body runs; nothing outside a terminal."""
        with self.error.status(what) if self.error.is_terminal else contextlib.nullcontext():
            yield
