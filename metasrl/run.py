"""A finished run: its tables, its plots and what it has learned."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import RunConfig
from distributed.storage.csv_tables import read_rows
from distributed.storage.run_directory import HELD_OUT, load_summary, stored_config
from distributed.storage.run_page import PAGE
from meta.reporting.figures import run_figures
from meta.reporting.plot_model import Figure as Drawing
from meta.reporting.summary import RunSummary
from meta.reporting.tables import report_lines
from meta.reporting.verdict import verdict

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Run:
    """The directory ``path`` of a finished run. Nothing in it is executed, but for the family that you name.

    Args:
        path: The run directory, ``runs/<name>/<timestamp>``.
        family: The run's own family, as its config.yaml names it, where new tasks of it are to be made; a built-in one
            needs no naming.

    Raises:
        metasrl.errors.ConfigurationError: It is not the directory of a finished run.
    """

    def __init__(self, path: str | Path, family: str | None = None) -> None:
        self.path, self.family = Path(path), family
        self.summary: RunSummary = load_summary(self.path)

    @cached_property
    def config(self) -> RunConfig:
        """The settings of the run, defaults included."""
        return stored_config(self.path)

    @property
    def verdict(self) -> str:
        """What the run has shown on new tasks, in a few sentences."""
        return verdict(self.summary)

    @property
    def page(self) -> Path:
        """The page with all results, one HTML file."""
        return self.path / PAGE

    @cached_property
    def tasks(self) -> pd.DataFrame:
        """One row for each training task (tasks.csv); docs/metrics.md explains the columns."""
        return _table(self.path / "tasks.csv")

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """One row for each held-out task, method and policy update (held_out.csv)."""
        return _table(self.path / HELD_OUT)

    @property
    def plots(self) -> tuple[str, ...]:
        """Names of the plots."""
        return tuple(figure.name for figure in self._figures)

    def plot(self, name: str | None = None) -> Figure:
        """A plot of the run as a Matplotlib figure: one of :attr:`plots`, by default the first.

        Raises:
            ValueError: There is no such plot.
        """
        from meta.reporting.render_matplotlib import draw

        if name is not None and name not in self.plots:
            raise ValueError(f"name: must be one of {', '.join(self.plots)}, got {name!r}")
        return draw(next(figure for figure in self._figures if name in (None, figure.name)))

    @cached_property
    def _figures(self) -> list[Drawing]:
        return run_figures(self.summary, read_rows(self.path / "tasks.csv"))

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}): {self.verdict}"

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        return report_lines(self.summary)


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise ConfigurationError(f"{path}: is missing; finish the run, or put a copy of it back")
    return pd.DataFrame(read_rows(path))
