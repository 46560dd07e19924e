"""The cells of a comparison, in order: describe the tasks, tune every method, judge every method on every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distributed.jobs.cells import Cell, CellRunner, Result
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import RunConfig
from meta.judging.protocol import choose, point_scores
from meta.methods.registry import compared_methods, grid_of
from meta.training.evaluation_settings import GridPoint, MethodName
from meta.training.held_out_tasks import given_tasks


@dataclass(frozen=True)
class Comparison:
    """The results of all cells of a run file.

    ``described`` and each list of ``judged`` follow the order of ``seeds``, each list of ``tuned`` that of the tuning
    seeds. ``points`` are the chosen hyper-parameters. ``cells`` are the contents of all files.
    """

    config: RunConfig
    seeds: tuple[int, ...]
    described: Sequence[Result]
    tuned: Mapping[MethodName, Sequence[Result]]
    points: Mapping[MethodName, GridPoint]
    judged: Mapping[MethodName, Sequence[Result]]
    cells: Sequence[Result]

    def scores(self, method: MethodName) -> list[float]:
        """Score of every grid point of a method; lower is better."""
        return point_scores(self.tuned[method], self.tuned["random"])


def methods_of(config: RunConfig) -> tuple[MethodName, ...]:
    """The methods that ``compare`` runs.

    Raises:
        ConfigurationError: A method does not exist for this algorithm, a seed is used for both tuning and results, or
            one of ``evaluation.tasks`` cannot be used.
    """
    evaluation, family = config.evaluation, config.experiment.family.make()
    both = sorted(set(evaluation.seeds) & set(evaluation.tuning_seeds))
    if both:
        raise ConfigurationError(
            f"evaluation.tuning_seeds: {both} are among evaluation.seeds; what is reported must not choose settings"
        )
    try:
        given_tasks(config.experiment.family, evaluation.tasks or ())
        has_model = family.model(family.parameters("train", 0, 0)) is not None
        return compared_methods(evaluation, config.within_task, has_model=has_model)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """The same run file under another seed."""
    return config.model_copy(update={"seed": seed})


def first_cells(config: RunConfig, methods: Sequence[MethodName]) -> tuple[list[Cell], dict[MethodName, list[Cell]]]:
    """The cells without dependencies: descriptions of every seed's tasks, and every method's grid on tuning seeds.

    A grid of one point needs no tuning. ``random`` is always tuned: its fresh policy sets the scale of rewards.
    """
    evaluation = config.evaluation
    described = [Cell("describe", with_seed(config, seed)) for seed in evaluation.seeds]
    every: tuple[MethodName, ...] = ("random", *methods)
    wanted = [method for method in dict.fromkeys(every) if _is_tuned(config, method)]
    tuned = {
        method: [Cell("tune", with_seed(config, seed), method) for seed in evaluation.tuning_seeds] for method in wanted
    }
    return described, tuned


def _only_point(config: RunConfig, method: MethodName) -> GridPoint:
    return grid_of(config.evaluation, method)[0]


def _is_tuned(config: RunConfig, method: MethodName) -> bool:
    return method == "random" or len(grid_of(config.evaluation, method)) > 1


@dataclass(frozen=True)
class _Plan:
    """The first cells of a run file, and the tuned points once they are known."""

    config: RunConfig
    methods: Sequence[MethodName]
    described: Sequence[Cell]
    tuned: Mapping[MethodName, Sequence[Cell]]

    def first(self) -> list[Cell]:
        """The cells without dependencies."""
        return [*self.described, *(cell for cells in self.tuned.values() for cell in cells)]

    def tuning(self, found: Mapping[str, Result]) -> dict[MethodName, list[Result]]:
        """Tuning results by method."""
        return {method: [found[cell.digest]["result"] for cell in cells] for method, cells in self.tuned.items()}

    def points(self, found: Mapping[str, Result]) -> dict[MethodName, GridPoint]:
        """The best point of every method."""
        results = self.tuning(found)
        return {
            method: choose(results[method], results["random"])
            if method in results
            else _only_point(self.config, method)
            for method in self.methods
        }

    def judging(self, points: Mapping[MethodName, GridPoint]) -> dict[MethodName, list[Cell]]:
        """The cells that judge every method at its point on every seed."""
        seeds = [with_seed(self.config, seed) for seed in self.config.evaluation.seeds]
        return {method: [Cell("judge", config, method, points[method]) for config in seeds] for method in self.methods}


def compare_all(configs: Sequence[RunConfig], runner: CellRunner) -> list[Comparison]:
    """Run the comparisons of several run files together, which keeps every worker busy until the end."""
    plans = [_Plan(config, methods, *first_cells(config, methods)) for config, methods in _with_methods(configs)]
    found = runner.run([cell for plan in plans for cell in plan.first()], "tuning")
    points = [plan.points(found) for plan in plans]
    judging = [plan.judging(chosen) for plan, chosen in zip(plans, points, strict=True)]
    by_seed = [cell for cells in judging for part in zip(*cells.values(), strict=True) for cell in part]
    found |= runner.run(by_seed, "judging")
    return [_comparison(plan, chosen, cells, found) for plan, chosen, cells in zip(plans, points, judging, strict=True)]


def _with_methods(configs: Sequence[RunConfig]) -> list[tuple[RunConfig, tuple[MethodName, ...]]]:
    return [(config, methods_of(config)) for config in configs]


def _comparison(
    plan: _Plan,
    points: Mapping[MethodName, GridPoint],
    judging: Mapping[MethodName, Sequence[Cell]],
    found: Mapping[str, Result],
) -> Comparison:
    cells = [*plan.first(), *(cell for part in judging.values() for cell in part)]
    return Comparison(
        config=plan.config,
        seeds=plan.config.evaluation.seeds,
        described=[found[cell.digest]["result"] for cell in plan.described],
        tuned=plan.tuning(found),
        points=points,
        judged={method: [found[cell.digest]["result"] for cell in part] for method, part in judging.items()},
        cells=[found[cell.digest] for cell in cells],
    )
