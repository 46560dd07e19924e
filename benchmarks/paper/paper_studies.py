"""The studies of ``make paper`` on exact tasks: dissimilar tasks, drifting tasks, wrong corrections and ablations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distributed.jobs.cells import Cell, CellRunner, Result
from distributed.jobs.comparison_cells import Comparison, with_seed
from distributed.settings.run_config import RunConfig
from meta.training.disturbance import Disturbance
from meta.training.evaluation_settings import MethodName


@dataclass(frozen=True)
class StudyPlan:
    """Sizes of the studies: ``changed_tiles`` between tasks (of 62), ``drifts`` in tiles a task, relative ``errors``.

    The ablation uses the first ``ablation_seeds`` of the comparison's own seeds, so both can be paired.
    """

    changed_tiles: tuple[int, ...] = (1, 2, 4, 8, 12, 16, 24, 32)
    drifts: tuple[int, ...] = (1, 2, 4, 8)
    errors: tuple[float, ...] = (0.0, 0.3, 1.0, 3.0)
    num_tasks: int = 48
    seeds: tuple[int, ...] = tuple(range(200, 206))
    ablation_seeds: int = 6
    bases: tuple[str, ...] = ("high", "low")


@dataclass(frozen=True)
class Point:
    """One setting of a study: ``x`` is the varied value; ``judged`` and ``described`` follow the order of the seeds."""

    x: float
    described: Sequence[Result]
    judged: dict[MethodName, Sequence[Result]]


@dataclass(frozen=True)
class Studies:
    """The results: ``dissimilarity`` over changed tiles, ``drifting`` over the drift, ``sensitivity`` by (base, kind),
    and ``ablation`` by base and changed part.
    """

    plan: StudyPlan
    dissimilarity: Sequence[Point]
    drifting: Sequence[Point]
    sensitivity: dict[tuple[str, str], Sequence[Point]]
    ablation: dict[str, dict[str, Sequence[Result]]]
    cells: Sequence[Result]


METHODS: tuple[MethodName, ...] = ("random", "meta_srl")
ABLATIONS: dict[str, dict[str, dict[str, object]]] = {
    "plain average instead of the corrected one": {"initialization": {"method": "fal"}},
    "gradient steps (ogd) instead of the leader": {"initialization": {"method": "ogd"}},
    "start not learned, rates only": {"initialization": {"method": "fixed"}},
    "rates not learned: 1": {"learning_rates": {"method": "fixed", "initial": 1.0}},
    "rates from each objective's own steps": {"learning_rates": {"curvature": "measured"}},
    "rates forget as the start does": {"learning_rates": {"forgetting": 0.8}},
}
"""The changes to the section ``meta``, one part at a time."""


def study_config(base: RunConfig, plan: StudyPlan, name: str, **family: object) -> RunConfig:
    """The lake's run file with another distribution of tasks."""
    changed = base.family.model_copy(update={"num_tasks": plan.num_tasks, **family})
    return base.model_copy(update={"name": f"paper_{name}", "family": changed})


def judged_cells(config: RunConfig, plan: StudyPlan, found: Comparison) -> list[Cell]:
    """Cells that describe the tasks and judge both methods, with the hyper-parameters of the lake's comparison."""
    cells = []
    for seed in plan.seeds:
        own = with_seed(config, seed)
        cells.append(Cell("describe", own))
        cells += [Cell("judge", own, method, found.points[method]) for method in METHODS]
    return cells


def disturbed_cells(config: RunConfig, plan: StudyPlan, found: Comparison, kind: str, error: float) -> list[Cell]:
    """Cells of meta_srl with corrections that are wrong by ``error``; noise and bias share the cell of error 0."""
    cells = []
    for seed in plan.seeds:
        wrong = Disturbance(**{kind: error}, seed=seed) if error else Disturbance(seed=seed)
        cells.append(Cell("judge", with_seed(config, seed), "meta_srl", found.points["meta_srl"], wrong))
    return cells


def ablated_cells(found: Comparison, plan: StudyPlan, changes: dict[str, dict[str, object]]) -> list[Cell]:
    """Cells of meta_srl with one part replaced and everything else as in the lake's comparison."""
    config = found.config
    sections = {name: getattr(config.meta, name).model_copy(update=values) for name, values in changes.items()}
    changed = config.model_copy(update={"meta": config.meta.model_copy(update=sections)})
    seeds = found.seeds[: plan.ablation_seeds]
    return [Cell("judge", with_seed(changed, seed), "meta_srl", found.points["meta_srl"]) for seed in seeds]


@dataclass(frozen=True)
class StudyCells:
    """The cells of every study: ``unlike`` by changed tiles, ``drifting`` by drift, ``wrong`` by (base, kind, error),
    ``ablated`` by base and changed part.
    """

    unlike: dict[int, list[Cell]]
    drifting: dict[int, list[Cell]]
    wrong: dict[tuple[str, str, float], list[Cell]]
    ablated: dict[str, dict[str, list[Cell]]]

    def all(self) -> list[Cell]:
        """Every cell, in the order of the studies."""
        parts = [*self.unlike.values(), *self.drifting.values(), *self.wrong.values()]
        parts += [cells for part in self.ablated.values() for cells in part.values()]
        return [cell for part in parts for cell in part]


def study_cells(found: dict[str, Comparison], plan: StudyPlan) -> StudyCells:
    """The cells of all studies; ``found`` holds the lake's comparisons by similarity."""
    high = found["high"]
    return StudyCells(
        unlike={
            k: judged_cells(study_config(high.config, plan, f"unlike_{k}", similarity=k), plan, high)
            for k in plan.changed_tiles
        },
        drifting={
            d: judged_cells(study_config(high.config, plan, f"drift_{d}", sequence="drifting", drift=d), plan, high)
            for d in plan.drifts
        },
        wrong={
            (base, kind, error): disturbed_cells(
                study_config(found[base].config, plan, f"wrong_{base}"), plan, found[base], kind, error
            )
            for base in plan.bases
            for kind in ("noise", "bias")
            for error in plan.errors
        },
        ablated={
            base: {name: ablated_cells(found[base], plan, changes) for name, changes in ABLATIONS.items()}
            for base in plan.bases
        },
    )


def run_studies(found: dict[str, Comparison], plan: StudyPlan, runner: CellRunner) -> Studies:
    """Run all studies together; ``found`` holds the lake's comparisons by similarity."""
    chosen = study_cells(found, plan)
    results = runner.run(chosen.all(), "studies")

    def point(x: float, cells: Sequence[Cell]) -> Point:
        def of(kind: str, method: MethodName | None) -> list[Result]:
            return [results[c.digest]["result"] for c in cells if c.kind == kind and c.method == method]

        return Point(x, of("describe", None), {m: of("judge", m) for m in METHODS if of("judge", m)})

    return Studies(
        plan=plan,
        dissimilarity=[point(k, cells) for k, cells in chosen.unlike.items()],
        drifting=[point(d, cells) for d, cells in chosen.drifting.items()],
        sensitivity={
            (base, kind): [point(error, chosen.wrong[base, kind, error]) for error in plan.errors]
            for base in plan.bases
            for kind in ("noise", "bias")
        },
        ablation={
            base: {name: [results[cell.digest]["result"] for cell in cells] for name, cells in part.items()}
            for base, part in chosen.ablated.items()
        },
        cells=list(results.values()),
    )
