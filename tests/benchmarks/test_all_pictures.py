"""Every function that makes a picture, on small made-up results: nothing is covered, empty, or of two looks."""

from __future__ import annotations

import ast
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.dice import accuracy_page, corrections
from benchmarks.dice.accuracy import ESTIMATORS, Errors
from benchmarks.dice.correction_errors import CHEETAH_ESTIMATORS, LAKE_ESTIMATORS
from benchmarks.learning import (
    contexts,
    contexts_budgets,
    contexts_page,
    contexts_rows,
    curve_page,
    meta_page,
    several_starts,
    similarity_curve,
    within_task_page,
)
from benchmarks.paper import paper_figures
from benchmarks.safety import anytime_safety_page
from benchmarks.safety.anytime_safety import SETTINGS
from distributed.tuning import sweep_report
from distributed.tuning.trials import Trial
from meta.methods.registry import METHODS
from meta.reporting import figures, one_task
from meta.reporting.plot_model import Figure
from meta.reporting.render_matplotlib import draw
from meta.reporting.render_plotly import draw as draw_page
from meta.reporting.styles import method_style
from policies.rules.rule_registry import RULES
from tests.benchmarks import made_up_results as made
from tests.benchmarks.test_anytime_safety import cells as safety_cells
from tests.meta.reporting.test_page import rows, summary
from tests.support.pictures_checked import check_canvas
from tests.support.wings import ROOT, imported_modules

EVERY = tuple(METHODS)


def run_of(name: str) -> Figure:
    entry = summary().test["random"]
    run = summary(test={name: entry.model_dump() for name in EVERY})
    varied = rows(40, violation_1=0.2)
    for index, row in enumerate(varied):
        row["violation_during_1"] = 10.0 ** (-(index % 4))
    return {figure.name: figure for figure in figures.run_figures(run, varied)}[name]


def one_adaptation() -> Figure:
    task = SimpleNamespace(split="test", label="test-0", parameters={"target_speed": 1.25}, limits=(0.4, 0.3))
    results = {
        name: SimpleNamespace(task=task, values=np.array(made.numbers(place, made.UPDATES, 3)))
        for place, name in enumerate(("random", "meta_srl"))
    }
    return one_task.adaptation_figure(results)  # type: ignore[arg-type]


def contexts_figure() -> Figure:
    setting = max(contexts.SETTINGS, key=lambda setting: len(setting.variants))
    records = {
        name: {seed: made.held_out_record(seed + 10 * place) for seed in range(3)}
        for place, name in enumerate([*(variant.name for variant in setting.variants), contexts_page.HIDDEN])
    }
    return contexts_page.figure(records, "contexts", robot=True)


def budgets() -> Figure:
    def cell(seed: int, steps: int) -> dict[str, Any]:
        return {"env_steps": steps, "held_out": made.held_out_record(seed, iterates=contexts_budgets.UPDATES + 1)}

    found = {
        variant.name: [
            contexts_budgets.spent({seed: cell(seed + 10 * place, steps) for seed in range(3)})
            for steps in (200_000, 600_000, 1_992_000)
        ]
        for place, variant in enumerate(contexts_budgets.BUDGET_SETTINGS[0].variants)
    }
    return contexts_budgets.budget_figure(found, "budgets")


def learning_curve() -> Figure:
    steps = np.linspace(1e4, 1e6, 50)
    runs = [
        {"seed": seed, "curve": {"steps": steps, "reward": steps / 1e3, "cost_1": 500.0 * np.exp(-steps / 1e5) + 0.1}}
        for seed in range(3)
    ]
    return curve_page.figure(("half_cheetah", 1_000_000), runs)


def estimators_accuracy() -> Figure:
    sizes = ((20, 20), (200, 20), (2000, 200))
    found = {
        (name, 0.0, size): Errors(np.array([1.0 / np.sqrt(size[0] * size[1]) / (1 + place)]), np.zeros(1), 1.0)
        for place, name in enumerate(ESTIMATORS)
        for size in sizes
    }
    return accuracy_page.figure(found, list(ESTIMATORS), "GridWalk 10 x 10")


def errors_of_corrections() -> Figure:
    return corrections.figure(
        {
            "FrozenLake, sampled": (LAKE_ESTIMATORS, np.array(made.numbers(0, len(LAKE_ESTIMATORS), 6))),
            "HalfCheetah": (CHEETAH_ESTIMATORS, np.array(made.numbers(1, len(CHEETAH_ESTIMATORS), 6))),
        }
    )


def groups() -> Figure:
    cell = {"held_out": made.held_out_record(0, 2), "limits": made.numbers(3, made.TASKS, 2)}
    return several_starts.figure({name: [cell, cell] for name in several_starts.NAMES}, "groups")


def similarity() -> Figure:
    results = {
        k: [
            {"task_similarity": 0.1 * k + 0.01 * seed, "taog": taog, "bound": 1e3 * bound, "gap_ratio": ratio}
            for seed in range(3)
            for taog, bound, ratio in [made.numbers(k + seed, 3)]
        ]
        for k in similarity_curve.CHANGES
    }
    return similarity_curve.figure(results)


def within_task() -> Figure:
    curves = {
        name: (np.array(made.numbers(place, 3, 50)), np.array(made.numbers(place + 20, 3, 50)))
        for place, name in enumerate(RULES)
    }
    return within_task_page.figure(curves, "lakes", "policy updates", "reward J₀")


def trials() -> Figure:
    found = [
        Trial(name, {"meta.rate": 10.0**-place, "dice.estimator": name}, made.numbers(place, 4), place != 2, None)
        for place, name in enumerate(("dualdice_linear", "none", "importance", "gendice"))
    ]
    return sweep_report.plot_trials(found)


def safety() -> Figure:
    return anytime_safety_page.figure(SETTINGS[0], safety_cells(3), "gap")


def tightness() -> Figure:
    return paper_figures.tightness([made.comparison(EVERY, name) for name in "abc"])


def of_methods(name: str) -> Callable[[], Figure]:
    return lambda: getattr(paper_figures, name)(made.comparison(EVERY))


def of_studies(name: str) -> Callable[[], Figure]:
    return lambda: getattr(paper_figures, name)(made.studies())


META_CELLS = [made.meta_cell(seed) for seed in range(3)]
PICTURES: dict[str, Callable[[], Figure]] = {
    **{f"meta.reporting.figures.{name}": lambda name=name: run_of(name) for name in  # type: ignore[misc]
       ("adaptation", "held_out", "training", "learning_rates", "estimation")},
    "meta.reporting.one_task.adaptation_figure": one_adaptation,
    **{f"benchmarks.paper.paper_figures.{name}": of_methods(name) for name in
       ("adaptation", "profiles", "training", "inexactness")},
    **{f"benchmarks.paper.paper_figures.{name}": of_studies(name) for name in ("trends", "sensitivity", "stress")},
    "benchmarks.paper.paper_figures.tightness": tightness,
    "benchmarks.safety.anytime_safety_page.figure": safety,
    "benchmarks.learning.contexts_page.figure": contexts_figure,
    "benchmarks.learning.contexts_budgets.budget_figure": budgets,
    "benchmarks.learning.curve_page.figure": learning_curve,
    "benchmarks.learning.meta_page.curves_figure": lambda: meta_page.curves_figure(META_CELLS),
    "benchmarks.learning.meta_page.by_task_figure": lambda: meta_page.by_task_figure(META_CELLS),
    "benchmarks.learning.several_starts.figure": groups,
    "benchmarks.learning.similarity_curve.figure": similarity,
    "benchmarks.learning.within_task_page.figure": within_task,
    "benchmarks.dice.accuracy_page.figure": estimators_accuracy,
    "benchmarks.dice.corrections.figure": errors_of_corrections,
    "distributed.tuning.sweep_report.plot_trials": trials,
}  # fmt: skip
"""A figure of every function that makes one, by the function's name."""
HELPERS = {"meta.reporting.plot_model.shown", "benchmarks.result_plots.reward_and_cost"}
"""Functions of the same type that only change or complete what others made."""


@pytest.fixture(params=PICTURES)
def figure(request: pytest.FixtureRequest) -> Figure:
    return PICTURES[request.param]()


def test_nothing_covers_data_texts_do_not_overlap_and_no_axes_are_empty(figure: Figure) -> None:
    assert figure.panels
    canvas = draw(figure)
    check_canvas(canvas)
    assert len(canvas.axes) == len(figure.panels)
    draw_page(figure)


def test_a_method_looks_the_same_everywhere_and_unlike_all_else_beside_it(figure: Figure) -> None:
    seen: dict[str, tuple[Any, ...]] = {}
    for panel in figure.panels:
        for series in panel.series:
            look = (series.colour, series.marker if series.style in ("points", "marked") else "", series.dash)
            assert seen.setdefault(series.label, look) == look, series.label
            if series.label in METHODS:
                style = method_style(series.label)
                assert (series.colour, series.marker, series.style) == (style.colour, style.marker, "marked")
        for bar in panel.bars:
            assert bar.label not in METHODS or bar.colour == method_style(bar.label).colour
    assert len(set(seen.values())) == len(seen), seen


@pytest.mark.parametrize("setting", contexts.SETTINGS, ids=lambda setting: setting.name)
def test_every_table_of_contexts_has_a_picture_whose_rows_are_told_apart(setting: contexts_rows.Setting) -> None:
    records = {variant.name: {0: made.held_out_record(place)} for place, variant in enumerate(setting.variants)}
    drawn = contexts_page.figure(records, setting.name, robot=False)
    for panel in drawn.panels:
        assert len({(one.colour, one.marker, one.dash) for one in panel.series}) == len(panel.series), panel.title
    assert sum(len(panel.series) for panel in drawn.panels) == 2 * len(setting.variants)


def test_the_table_has_every_function_that_makes_a_figure() -> None:
    found = set()
    for room in ("meta", "benchmarks", "distributed", "metasrl"):
        for path in (ROOT / room).rglob("*.py"):
            source = path.read_text(encoding="utf-8")
            if "plot_model" in source:
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                found |= {
                    f"{name}.{node.name}"
                    for node in ast.parse(source).body
                    if isinstance(node, ast.FunctionDef)
                    and node.returns is not None
                    and ast.unparse(node.returns) == "Figure"
                }
    assert found - HELPERS == set(PICTURES)


@pytest.mark.parametrize(
    ("part", "alone"),
    [
        ("matplotlib.axes", "meta/reporting/render_matplotlib.py"),
        ("plotly.subplots", "meta/reporting/render_plotly.py"),
    ],
)
def test_one_module_draws_with_each_library(part: str, alone: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for room in ("tasks", "policies", "meta", "benchmarks", "distributed", "metasrl")
        for path in (ROOT / room).rglob("*.py")
        if part in imported_modules(path.read_text(encoding="utf-8"))
    }
    assert users == {alone}
