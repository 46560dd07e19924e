"""Whether corrections matter: ``make bench-corrections`` writes docs/results/corrections.md and its figure.

The error of f_hat against the exact value (FrozenLake) or fresh episodes of pi_hat (HalfCheetah), by estimator; what
corrections change in what is learned; and what the meta-learner costs on HalfCheetah.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from threadpoolctl import threadpool_limits

from benchmarks.page import RESULTS, header, table
from distributed.cluster.workplace import workplace
from distributed.settings.console import Console
from distributed.settings.run_file import load_config
from meta.estimators.estimation import estimate_corrections
from meta.judging.protocol import drawn_tasks, judge
from meta.learning.bounds import initialization_loss
from meta.learning.neural import policy_divergence
from meta.learning.tabular import MetaSettings, contribution
from meta.measuring.measures import interval
from meta.offline.dice_settings import DICESettings, LinearDICESettings
from meta.offline.target_policy import NeuralTarget
from meta.training.evaluation_settings import GridPoint
from meta.training.experiment import Experiment, draw
from meta.training.loop import Position, TrainingPlan, train
from policies.common.results import Start, table_of
from policies.common.transition_sample import sample_of
from policies.exact.solver import ExactModel, occupancy
from policies.neural.policy_state import PolicyState
from policies.neural.rollouts import NeuralRollouts
from policies.neural.solving import NeuralDataset
from policies.solving.solve_task import TaskDataset, solve_task
from tasks.contract.tabular_model import FloatArray
from tasks.stepping.batch import make_batch

LAKE, CHEETAH = Path("deploy/runs/paper/frozen_lake_high.yaml"), Path("deploy/runs/paper/half_cheetah_high.yaml")
MAIN = Path("deploy/runs/half_cheetah_velocity.yaml")
LAKE_ESTIMATORS = ("dualdice_tabular", "dualdice_linear", "importance", "none")
CHEETAH_ESTIMATORS = (
    "dualdice_linear, last layer",
    "dualdice_linear",
    "dualdice_neural",
    "bestdice",
    "importance",
    "none",
)
FRESH_EPISODES = 400
SEEDS = tuple(range(40, 50))


def settings_of(name: str) -> DICESettings:
    """Of one estimator; ``dualdice_linear, last layer`` has the policy's own features."""
    estimator, _, features = name.partition(", ")
    linear = LinearDICESettings(features="last_layer") if features else LinearDICESettings()
    return DICESettings.model_validate({"estimator": estimator, "linear": linear})


def lake_errors(names: Sequence[str], seeds: Sequence[int], tasks: int) -> FloatArray:
    """(f_hat - f) / f [names, seeds * tasks] with f = sum_s nu^{pi_hat}(s) KL(pi_hat || phi), exact; values sampled.

    Tasks start from the policy that the one before them ended with, as in a run, every third one from a uniform one.
    """
    errors = []
    for seed in seeds:
        config = load_config(LAKE, [("within_task.evaluation", "sampled")])
        experiment = config.experiment.with_seed(seed)
        _, drawn = drawn_tasks(experiment, tasks)
        family, phi = experiment.family.make(), table_of(drawn.fresh)
        for number, task in enumerate(drawn.train):
            start = Start(phi if number % 3 else table_of(drawn.fresh), np.full(1 + drawn.num_costs, 1.0))
            _, dataset = solve_task(family, task, start, experiment.within, collect=True)
            assert isinstance(dataset, TaskDataset)
            model = family.model(task.parameters)
            assert model is not None
            begun = table_of(start.initialization)
            exact = initialization_loss(occupancy(ExactModel(model), dataset.policy), dataset.policy, begun)
            found = [contribution(dataset, settings_of(name), MetaSettings()).loss for name in names]
            errors.append([loss / exact - 1.0 for loss in found])
            phi = 0.9 * dataset.policy + 0.1 / dataset.policy.shape[1]
    return np.array(errors).T


def cheetah_errors(names: Sequence[str], seeds: Sequence[int], tasks: int, fresh: int) -> tuple[FloatArray, FloatArray]:
    """(f_hat - f) / f [names, seeds * tasks] with f from ``fresh`` episodes of pi_hat, and CPU seconds [names]."""
    errors, seconds = [], np.zeros(len(names))
    for seed in seeds:
        experiment = load_config(CHEETAH, [("dice.estimator", "dualdice_linear")]).experiment.with_seed(seed)
        _, drawn = drawn_tasks(experiment, tasks)
        family = experiment.family.make()
        phi = drawn.fresh
        for number, task in enumerate(drawn.train):
            start = Start(phi if number % 3 else drawn.fresh, np.full(1 + drawn.num_costs, 0.1))
            _, dataset = solve_task(family, task, start, experiment.within, collect=True)
            assert isinstance(dataset, NeuralDataset)
            assert dataset.sample is not None
            assert isinstance(start.initialization, PolicyState)
            batch = make_batch(family, task, fresh)
            rows = NeuralRollouts(batch, batch.horizon, 90_000_000 + task.seed % 1000, task.label).collect(
                dataset.policy, 0
            )
            long_run = sample_of(rows, fresh, 0, 0)
            batch.close()
            weights = family.discount ** long_run.ages.astype(np.float64)
            divergence = policy_divergence(dataset.policy, start.initialization, long_run.observations)
            exact = float(weights @ divergence / weights.sum())
            ours = policy_divergence(dataset.policy, start.initialization, dataset.sample.observations)
            found = []
            for place, name in enumerate(names):
                began = time.process_time()
                mass = estimate_corrections(
                    dataset.sample,
                    NeuralTarget(dataset.policy),
                    family.discount,
                    dataset.horizon,
                    settings_of(name),
                    task.index,
                ).mass
                seconds[place] += time.process_time() - began
                shares = np.maximum(mass, 0.0)
                found.append(float(mass.sum() * (shares @ ours) / shares.sum()))
            errors.append([loss / exact - 1.0 for loss in found])
            phi = dataset.policy
    return np.array(errors).T, seconds / len(errors)


def error_rows(names: Sequence[str], errors: FloatArray) -> list[list[str]]:
    """Mean absolute error of each estimator, and what it is less than that of plain weights, paired by task."""
    plain = np.abs(errors[names.index("none")])
    rows = []
    for name, found in zip(names, errors, strict=True):
        own, less = interval(np.abs(found)), interval(np.abs(found) - plain)
        difference = "–" if name == "none" else f"{less.mean:+.4f} [{less.low:+.4f}, {less.high:+.4f}]"
        rows.append(
            [f"`{name}`", f"{own.mean:.4f} [{own.low:.4f}, {own.high:.4f}]", f"{found.mean():+.4f}", difference]
        )
    return rows


def learned_with(
    path: Path, overrides: Sequence[tuple[str, str]], seeds: Sequence[int], point: GridPoint
) -> dict[str, FloatArray]:
    """meta_srl of a run file by seed: gaps or rewards and violations, of training tasks and of held-out ones."""
    cells = [judge(load_config(path, overrides).experiment.with_seed(seed), "meta_srl", point) for seed in seeds]
    measure = "gap" if cells[0]["test"]["gap"] is not None else "reward"
    taken = {
        ("TAOG" if measure == "gap" else "mean reward of training tasks"): ("training", measure),
        "TACV": ("training", "violation"),
        "violation during adaptation, training": ("training", "violation_during"),
        f"held-out {measure}": ("test", measure),
        "held-out violation during adaptation": ("test", "violation_during"),
    }
    return {name: np.array([np.mean(cell[part][key]) for cell in cells]) for name, (part, key) in taken.items()}


def effect_rows(corrected: dict[str, FloatArray], plain: dict[str, FloatArray]) -> list[list[str]]:
    """Both, and the difference paired by seed."""
    rows = []
    for name, with_them in corrected.items():
        less = interval(with_them - plain[name])
        shown = f"{less.mean:+.4f} [{less.low:+.4f}, {less.high:+.4f}]"
        rows.append([name, f"{with_them.mean():.4f}", f"{plain[name].mean():.4f}", shown])
    return rows


def meta_learner_share(num_tasks: int, repeats: int) -> list[float]:
    """Seconds of estimates and updates over the wall-clock of training on HalfCheetah, as the main run file says."""
    shares = []
    for repeat in range(repeats):
        config = load_config(MAIN, [("family.num_tasks", str(num_tasks)), ("seed", str(repeat))])
        experiment: Experiment = config.experiment
        with workplace(config, Console().say) as place:
            drawn = draw(place.pool, experiment)
            plan = TrainingPlan(drawn.train, experiment.tasks_per_round, experiment.training_within)
            began = time.perf_counter()
            train(plan, place.pool, place.learner, [], Position(drawn.initial_state(experiment.meta)))
            seconds = time.perf_counter() - began
            learner = place.learner
            assert hasattr(learner, "busy_seconds")
            shares.append(learner.busy_seconds() / seconds)
    return shares


def figure(results: dict[str, tuple[Sequence[str], FloatArray]], path: Path) -> None:
    """Absolute errors of every estimator on every family."""
    picture, axes = plt.subplots(
        1, len(results), figsize=(5.5 * len(results), 4.0), layout="constrained", squeeze=False
    )
    for panel, (title, (names, errors)) in zip(axes[0], results.items(), strict=True):
        panel.boxplot(np.abs(errors).T, tick_labels=[name.replace("dualdice_", "") for name in names], showfliers=False)
        panel.set(title=title, ylabel="|f_hat - f| / f")
        panel.tick_params(axis="x", rotation=35)
        panel.grid(visible=True, axis="y", alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=110)
    plt.close(picture)


def page(target: Path, *, quick: bool) -> list[str]:
    """Measure everything and make the page."""
    seeds = SEEDS[:2] if quick else SEEDS
    tasks, fresh = (2, 5) if quick else (6, FRESH_EPISODES)
    lake_names, names = LAKE_ESTIMATORS, ("dualdice_linear", "none") if quick else CHEETAH_ESTIMATORS
    lakes = lake_errors(lake_names, seeds, tasks)
    cheetah, seconds = cheetah_errors(names, seeds[:1] if quick else seeds, tasks, fresh)
    figure(
        {"FrozenLake, sampled": (lake_names, lakes), "HalfCheetah": (names, cheetah)},
        target / "corrections" / "error.png",
    )
    few = [("family.num_tasks", "4" if quick else "12"), ("evaluation.num_test_tasks", "2" if quick else "8")]
    lake_point, point = GridPoint(forgetting=0.8), GridPoint(rate=0.1, step=0.001)
    sampled = [("within_task.evaluation", "sampled"), *([("family.num_tasks", "8")] if quick else [])]
    effects = {
        "FrozenLake, values sampled": [
            learned_with(LAKE, [*sampled, ("dice.estimator", name)], seeds, lake_point)
            for name in ("dualdice_tabular", "none")
        ],
        "HalfCheetah, 12 training tasks": [
            learned_with(CHEETAH, [*few, ("dice.estimator", name)], seeds[:1] if quick else seeds[:5], point)
            for name in ("dualdice_linear", "none")
        ],
    }
    columns = ["estimator", "mean of the absolute error", "mean error", "absolute error less that of `none`"]
    timed = [[*row, f"{spent:.2f}"] for row, spent in zip(error_rows(names, cheetah), seconds, strict=True)]
    lines = [
        *header("Do corrections matter?", "python -m benchmarks.dice.corrections"),
        f"Relative errors of f_hat over {lakes.shape[1]} lakes and {cheetah.shape[1]} HalfCheetah tasks of "
        f"{len(seeds)} seeds ({seeds[0]} to {seeds[-1]}); 95 % t-intervals over tasks, differences paired by task.",
        "",
        "## FrozenLake with sampled values",
        "",
        "Against the exact f_hat: nu of pi_hat in the true model.",
        "",
        *table(columns, error_rows(lake_names, lakes)),
        "## HalfCheetah at target speeds",
        "",
        f"Against {fresh} fresh episodes of pi_hat, discounted. 4,000 transitions a task; CPU seconds of an estimate.",
        "",
        *table([*columns, "s"], timed),
        "![errors](corrections/error.png)",
        "",
        "## What they change in what is learned",
        "",
        "meta_srl with the default estimator and with plain weights, same tasks and seeds; differences paired by seed.",
        "",
    ]
    for title, (corrected, plain) in effects.items():
        lines += [f"{title}:", "", *table(["", "corrected", "plain", "difference"], effect_rows(corrected, plain))]
    return lines


def share_lines(*, quick: bool) -> list[str]:
    """The meta-learner's share, as a section."""
    shares = meta_learner_share(4 if quick else 24, 1 if quick else 3)
    told = ", ".join(f"{share:.3f}" for share in shares)
    return [
        "## What the meta-learner costs",
        "",
        f"Estimation and update, `{MAIN}` with two workers: share of the wall-clock of training {told} (at most 0.10).",
        "",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small form of everything, in a minute")
    parser.add_argument("--results", type=Path, help="folder of the page; by default docs/results, quick: runs/quick")
    given = parser.parse_args(arguments)
    target = given.results or (Path("runs/quick") if given.quick else RESULTS)
    with threadpool_limits(1):
        lines = page(target, quick=given.quick)
    lines += share_lines(quick=given.quick)
    (target / "corrections.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
