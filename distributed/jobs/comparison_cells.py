"""The cells of one run file's comparison, in order: tasks described, grids tried, methods judged on every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distributed.jobs.cells import Cell, CellRunner, Result
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import RunConfig
from meta.judging.protocol import choose, point_scores
from meta.training.evaluation_settings import GridPoint, Method, compared_methods


@dataclass(frozen=True)
class Comparison:
    """Results of all cells of a run file.

    ``judged`` by method and ``described`` are in the order of ``seeds``; ``tuned`` by method in that of the tuning
    seeds; ``cells`` are all of them with what is known about each.
    """

    config: RunConfig
    seeds: tuple[int, ...]
    described: Sequence[Result]
    tuned: Mapping[Method, Sequence[Result]]
    points: Mapping[Method, GridPoint]
    judged: Mapping[Method, Sequence[Result]]
    cells: Sequence[Result]

    def scores(self, method: Method) -> list[float]:
        """Score of every grid point of a method, less is better."""
        return point_scores(self.tuned[method], self.tuned["random"])


def methods_of(config: RunConfig) -> tuple[Method, ...]:
    """The methods that `compare` runs.

    Raises:
        ConfigurationError: a method has no form here, or a seed is both tuned and reported on.
    """
    evaluation, family = config.evaluation, config.experiment.family.make()
    both = sorted(set(evaluation.seeds) & set(evaluation.tuning_seeds))
    if both:
        raise ConfigurationError(
            f"evaluation.tuning_seeds: {both} are among evaluation.seeds; what is reported must not choose settings"
        )
    try:
        has_model = family.model(family.parameters("train", 0, 0)) is not None
        return compared_methods(evaluation, config.within_task, has_model=has_model)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """The same run file under another seed."""
    return config.model_copy(update={"seed": seed})


def first_cells(config: RunConfig, methods: Sequence[Method]) -> tuple[list[Cell], dict[Method, list[Cell]]]:
    """What depends on nothing: the tasks of every seed described, and every method's grid on every tuning seed.

    A grid of one point is not tried; ``random`` always is, since its fresh policy sets the scale of rewards.
    """
    evaluation = config.evaluation
    described = [Cell("describe", with_seed(config, seed)) for seed in evaluation.seeds]
    every: tuple[Method, ...] = ("random", *methods)
    wanted = [method for method in dict.fromkeys(every) if _is_tuned(config, method)]
    tuned = {
        method: [Cell("tune", with_seed(config, seed), method) for seed in evaluation.tuning_seeds] for method in wanted
    }
    return described, tuned


def _only_point(config: RunConfig, method: Method) -> GridPoint:
    return config.evaluation.grid(method)[0]


def _is_tuned(config: RunConfig, method: Method) -> bool:
    return method == "random" or len(config.evaluation.grid(method)) > 1


def compare_all(configs: Sequence[RunConfig], runner: CellRunner) -> list[Comparison]:
    """Run the comparisons of several run files together, so that workers have something to do until the end."""
    plans = [(config, methods_of(config)) for config in configs]
    first = [first_cells(config, methods) for config, methods in plans]
    begun = [cell for described, tuned in first for cell in (*described, *(c for part in tuned.values() for c in part))]
    found = runner.run(begun, "tuning")
    comparisons, judging = [], []
    for (config, methods), (described, tuned) in zip(plans, first, strict=True):
        results = {method: [found[cell.digest]["result"] for cell in part] for method, part in tuned.items()}
        points = {
            method: choose(results[method], results["random"]) if method in results else _only_point(config, method)
            for method in methods
        }
        cells = {
            method: [Cell("judge", with_seed(config, seed), method, points[method]) for seed in config.evaluation.seeds]
            for method in methods
        }
        judging += [cell for part in zip(*cells.values(), strict=True) for cell in part]
        comparisons.append((config, described, tuned, results, points, cells))
    found |= runner.run(judging, "judging")
    return [
        Comparison(
            config=config,
            seeds=config.evaluation.seeds,
            described=[found[cell.digest]["result"] for cell in described],
            tuned=results,
            points=points,
            judged={method: [found[cell.digest]["result"] for cell in part] for method, part in cells.items()},
            cells=[
                found[cell.digest]
                for cell in (*described, *(c for group in (tuned, cells) for part in group.values() for c in part))
            ],
        )
        for config, described, tuned, results, points, cells in comparisons
    ]
