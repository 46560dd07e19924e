"""docs/results/anytime_safety.md: tables and plots of the cells of ``benchmarks.safety.anytime_safety``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.learning.contexts_page import commits
from benchmarks.learning.contexts_verdict import shown
from benchmarks.result_page import RESULTS, header, table, write
from benchmarks.result_plots import save
from meta.measuring.intervals import Interval, interval
from meta.reporting.plot_model import Figure, Level, Panel, Series
from meta.reporting.styles import INK, method_style, numbered

COMMAND = "make anytime-safety"
Cell = dict[str, Any]
Tables = Sequence[tuple[Any, Sequence[Cell]]]
"""Settings with their finished cells."""
ASKED = 0.95
_PARTS = {"safe": numbered(0), "plain": numbered(1)}
_LEVELS = {"crpo": numbered(3).colour, "random": method_style("random").colour}
_NOTHING = np.zeros(0), np.zeros(0)
MOST = 0.05
"""At 95 % asked, at most this share of the deployed policies may be over the limit, on lakes."""


def write_page(tables: Tables) -> None:
    """Write the page of the cells that are finished."""
    done = [(setting, cells) for setting, cells in tables if cells]
    lines = [
        *header("Anytime-safe adaptation", COMMAND),
        *[line for setting, cells in done for line in (verdict(setting, cells), "")],
        "Deployed policies are the iterates 0..M of the held-out tasks. `random` and `crpo` take plain CRPO's steps, "
        "from the fresh and from the learned start, with the same rates; `safe` begins from the learned start made "
        "safe and takes safe steps ([algorithms.md](../algorithms.md#anytime-safe-adaptation)); `same start, plain` "
        "takes plain steps from there. Means over seeds with 95 % t-intervals. No setting was chosen on these seeds, "
        "but that the robots' limits were lowered once seed 400 of HalfCheetah had come nowhere near the first one. "
        "Two parts of the method, the steps of a policy that is surely over a limit and the end of the path of starts, "
        "were changed after an earlier page, because of what seeds 402, 403 and 417 of the lakes had shown, and all "
        "lakes were run again ([decision 0047](../decisions/0047-anytime-safe-adaptation.md)). "
        "Excess is that of the cost over its limit, in shares of it, over all deployed policies.",
        "",
        *commits([cell for _, cells in done for cell in cells]),
    ]
    for setting, cells in done:
        lines += section(setting, cells)
    write("anytime_safety.md", lines)


def records_of(cells: Sequence[Cell], name: str, part: str | None = None) -> list[Cell]:
    """The records of a row, of the seeds that have one."""
    found = [cell["found"][name] for cell in cells if name in cell["found"]]
    return [one if part is None else one[part] for one in found if "error" not in one]


def share_over(record: Cell) -> float:
    """Share of the deployed policies of a seed that are over a limit."""
    return float(np.mean(record["over"]))


def excess(record: Cell) -> float:
    """Mean of (J - d)_+ / d over the deployed policies of a seed."""
    return float(np.maximum(np.array(record["costs"]) - 1.0, 0.0).mean())


def lost(record: Cell) -> float:
    """Mean gap of the output to the optimum, or without one its negative reward."""
    rewards = [rows[output] for rows, output in zip(record["rewards"], record["outputs"], strict=True)]
    optima = [0.0 if optimum is None else optimum for optimum in record["optima"]]
    return float(np.mean(np.array(optima) - np.array(rewards)))


def over_seeds(records: Sequence[Cell], number: Any) -> Interval:
    """A number over seeds."""
    return interval([number(record) for record in records])


def verdict(setting: Any, cells: Sequence[Cell]) -> str:
    """What the table shows, in a sentence."""
    asked = ASKED if ASKED in setting.confidences else max(setting.confidences)
    name = f"{asked:g}"
    safe, crpo = records_of(cells, name, "safe"), records_of(cells, "crpo")
    missing = len(cells) - len(safe)
    none = f" ({missing} of {len(cells)} seeds have no start that is safe enough)" if missing else ""
    if not safe:
        return f"**{setting.title}: at {asked:.0%} asked, no seed has a start that is safe enough.**"
    share = over_seeds(safe, share_over).mean
    kept = ""
    if setting.name == "lakes":
        kept = ", as asked" if share <= MOST else f", more than the {MOST:.0%} that were asked for"
    return (
        f"**{setting.title}: at {asked:.0%} asked, {share:.1%} of the deployed policies are over the "
        f"limit{kept}{none}; of CRPO's from the learned start {over_seeds(crpo, share_over).mean:.1%}, from a random "
        f"one {over_seeds(records_of(cells, 'random'), share_over).mean:.1%}.**"
    )


def section(setting: Any, cells: Sequence[Cell]) -> list[str]:
    """One table and its plot."""
    rows: list[list[object]] = []
    for label, name, part in _rows(setting):
        records = records_of(cells, name, part)
        if not records:
            rows.append([label, 0, *["-"] * 5])
            continue
        first = over_seeds(records, lambda record: float(np.mean([over[0] for over in record["over"]])))
        taken = [share for one in records for shares in one["shares"] if shares is not None for share in shares]
        row: list[object] = [label, len(records), shown(over_seeds(records, share_over), 3), f"{first.mean:.3f}"]
        row += [shown(over_seeds(records, excess), 4), shown(over_seeds(records, lost), 4)]
        rows.append([*row, f"{np.mean(taken):.2f}, {np.mean(np.array(taken) == 0.0):.2f}" if taken else "-"])
    exact = setting.name == "lakes"
    gap = "gap of the output" if exact else "reward of the output, negative"
    columns = ["confidence asked", "seeds", "share over the limit", "of the starts", "excess", gap]
    save(RESULTS / "anytime_safety", figure(setting, cells, gap))
    return [
        f"## {setting.title}",
        "",
        *table([*columns, "mean share of a step, steps not taken"], rows),
        *errors(cells),
        f"![{setting.title}](anytime_safety/{setting.name}.png)",
        "",
    ]


def _rows(setting: Any) -> list[tuple[str, str, str | None]]:
    both = [(f"{c:.0%}", f"{c:g}") for c in setting.confidences]
    return [
        ("random", "random", None),
        ("crpo", "crpo", None),
        *((f"{label}, safe", name, "safe") for label, name in both),
        *((f"{label}, same start, plain", name, "plain") for label, name in both),
    ]


def errors(cells: Sequence[Cell]) -> list[str]:
    """How many seeds had no start that was safe enough, by confidence."""
    found: dict[str, int] = {}
    for cell in cells:
        for name, one in cell["found"].items():
            if "error" in one:
                found[name] = found.get(name, 0) + 1
    text = ", ".join(f"{count} at {float(name):.0%}" for name, count in found.items())
    return [f"Seeds without a start that is safe enough: {text} (an error says so).", ""] if found else []


def figure(setting: Any, cells: Sequence[Cell], gap: str) -> Figure:
    """Share over the limit, and what is lost, against the confidence asked for."""
    panels = []
    for number, label in ((share_over, "share over the limit"), (lost, gap)):
        series = []
        for part, style in _PARTS.items():
            points = [(c, records_of(cells, f"{c:g}", part)) for c in setting.confidences]
            known = [(c, float(np.mean([number(record) for record in found]))) for c, found in points if found]
            x, means = (np.array(values, np.float64) for values in zip(*known, strict=True)) if known else _NOTHING
            name = "safe" if part == "safe" else "same start, plain"
            series.append(Series(name, x, means, style.colour, "marked", marker=style.marker))
        if number is share_over:
            asked = np.array(setting.confidences, np.float64)
            series.append(Series("asked", asked, 1.0 - asked, INK, "marked", "dot", "hexagram"))
        levels = [
            Level(float(np.mean([number(record) for record in records_of(cells, name)])), name, "dash", colour)
            for name, colour in _LEVELS.items()
        ]
        panels.append(Panel("", "confidence asked for", label, tuple(series), levels=tuple(levels)))
    return Figure(setting.name, "", tuple(panels))
