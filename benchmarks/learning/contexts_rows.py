"""The tables of ``make contexts``: run files, their changes, seeds and rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from meta.methods.registry import OURS
from meta.training.evaluation_settings import GridPoint
from policies.rules.rule_registry import MethodSettings

Changes = tuple[tuple[str, str], ...]


def method_changes(method: MethodSettings) -> Changes:
    """The changes to a run file that choose a within-task algorithm with its own settings."""
    own = ((f"within_task.method.{key}", json.dumps(value)) for key, value in method.parameters.items())
    return (("within_task.method.name", method.name), *own)


@dataclass(frozen=True)
class Variant:
    """One row of a table: a ``method`` with ``changes`` to the run file and hyper-parameters ``point``.

    Without a ``point`` the method's grid is tried on the training tasks of the tuning seed, as by `metasrl compare`.
    ``hidden``: the same start is also judged with the contexts of the held-out tasks hidden.
    """

    name: str
    method: str
    changes: Changes = ()
    point: GridPoint | None = None
    hidden: bool = False


@dataclass(frozen=True)
class Setting:
    """One table: a run file with changes, its seeds and its rows."""

    name: str
    title: str
    run_file: Path
    changes: Changes
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]


WITHOUT: Changes = (("meta.context", "none"),)
TODAY: Changes = (
    *WITHOUT,
    ("meta.warm_up.rounds", "0"),
    ("family.num_tasks", "83"),
    ("meta.neural.method", "ftl"),
    ("meta.neural.forgetting", "0.8"),
    ("meta.neural.steps", "100"),
    ("meta.neural.step_size", "1e-3"),
    ("meta.learning_rates.method", "fixed"),
    ("within_task.trust_region.delta_max", "0.2"),
)
"""meta_srl without contexts, as the run file half_cheetah_velocity.yaml has it, for as many environment steps."""
SEEDS = (200, 201, 202, 203, 204)
"""Of the robots; no setting was chosen on them."""
NEW_SEEDS = (205, 206, 207, 208, 209)
"""Of rows whose settings were changed after results on the usual seeds had been seen."""
RATE = GridPoint(rate=0.1)
LONG: Changes = (("evaluation.pretrain_iterations", "null"),)
"""Pretraining for as many environment steps as the other methods."""
WIDE_STEPS: Changes = (("within_task.trust_region.delta_max", "0.2"),)
NARROW: Changes = (("within_task.initial_log_std", "-2.0"),)
"""A fresh policy of little noise, as meta_srl's first direct step makes it, for a method that cannot narrow its own."""
RANDOM = Variant("random", "random", WITHOUT, RATE)
PRETRAINED = Variant("pretrained", "pretrained", (*WITHOUT, *LONG), RATE)
KNOWING = (Variant("meta_srl, context", OURS),)
ROBOT_VARIANTS = (
    Variant("meta_srl, context", OURS, hidden=True),
    Variant("meta_srl, learned", OURS, (("meta.context", "learned"),)),
    Variant("meta_srl, none", OURS, TODAY),
    Variant("multitask, context", "multitask", WIDE_STEPS, RATE),
    Variant("multitask, none", "multitask", (*WITHOUT, *WIDE_STEPS), RATE),
    RANDOM,
    Variant("reptile, context", "reptile", (), GridPoint(rate=0.1, step=0.5)),
    Variant("reptile, none", "reptile", WITHOUT, GridPoint(rate=0.1, step=0.5)),
    Variant("fal, context", "fal", (), RATE),
    Variant("fal, none", "fal", WITHOUT, RATE),
    PRETRAINED,
)
INFERRING = (
    Variant("meta_srl, context", OURS),
    Variant("meta_srl, inferred", OURS, (("meta.context", "inferred"), ("meta.warm_up.rounds", "425"))),
    Variant("meta_srl, none", OURS, WITHOUT),
)
"""Bodies: all rows take direct steps; a regression learns from some of the tasks of `inferred`."""
SHORT: Changes = (
    ("meta.warm_up.tasks", "5"),
    ("meta.warm_up.rounds", "352"),
    ("meta.warm_up.delta_max", "0.1"),
    ("family.num_tasks", "2"),
    ("cluster.tasks_per_round", "2"),
)
"""Few steps in all: more and smaller steps of small teams, and few online tasks (docs/decisions/0040-contexts.md)."""
HOPPING: Changes = (
    ("within_task.safety_margin", "0.12"),
    ("meta.warm_up.centring", "batch"),
    ("meta.warm_up.begin_log_std", "null"),
    ("meta.warm_up.first_log_std", "null"),
    ("meta.warm_up.last_log_std", "null"),
)
"""For robots that fall: episodes end early, and a wide first batch falls at once (docs/decisions/0040-contexts.md)."""
SETTLING: Changes = (("meta.warm_up.delta_last", "0.02"), ("meta.warm_up.last_log_std", "-4.5"))
"""For a Humanoid, as for HalfCheetah: ever shorter direct steps, and little noise at the end."""
ONLINE: Changes = (
    ("family.num_tasks", "80"),
    ("meta.warm_up", "{}"),
    ("meta.neural", "{steps: 100}"),
    ("meta.learning_rates.method", "fixed"),
)
"""Acrobot without direct steps, for as many environment steps."""
LIMITS: Changes = (
    ("family.limit_factors", "[0.25, 2.0]"),
    ("meta.contexts.limits", "true"),
    ("within_task.safety_margin", "0.15"),
)
"""Limits that differ between tasks and are told to the start."""
SPEEDS_UNDER_LIMITS = [
    {"target_speed": speed, "limit_factor": factor}
    for factor in (0.25, 0.5, 1.0, 2.0)
    for speed in (0.4, 0.8, 1.2, 1.6, 2.0)
]
"""Held-out tasks that show what a limit is worth: only it differs."""
CHEETAH = Path("deploy/runs/half_cheetah_velocity_context.yaml")
HUMANOID = Path("deploy/runs/humanoid_velocity_context.yaml")
ACROBOT = Path("deploy/runs/acrobot.yaml")
SETTINGS = (
    Setting(
        "half_cheetah_velocity",
        "HalfCheetah, target speeds from 0 to 2, effort limit 10, 2 million steps of training",
        CHEETAH,
        (),
        SEEDS,
        (
            *ROBOT_VARIANTS,
            Variant("simple_average, context", "simple_average", (), RATE),
            Variant("simple_average, none", "simple_average", WITHOUT, RATE),
        ),
    ),
    Setting(
        "half_cheetah_noisy",
        "HalfCheetah from a fresh standard deviation of 1 (initial_log_std 0)",
        CHEETAH,
        (("within_task.initial_log_std", "0.0"),),
        SEEDS,
        (Variant("meta_srl, context", OURS), RANDOM),
    ),
    Setting(
        "half_cheetah_noisy_margin",
        "HalfCheetah from a fresh standard deviation of 1, with 12 % of every limit kept free in place of 7 %",
        CHEETAH,
        (("within_task.initial_log_std", "0.0"), ("within_task.safety_margin", "0.12")),
        NEW_SEEDS,
        (Variant("meta_srl, context", OURS),),
    ),
    Setting(
        "half_cheetah_short",
        "HalfCheetah with 400,000 steps of training",
        CHEETAH,
        SHORT,
        SEEDS,
        KNOWING,
    ),
    Setting(
        "half_cheetah_limits",
        "HalfCheetah, limits from a quarter to twice the usual one as part of the context",
        CHEETAH,
        LIMITS,
        SEEDS,
        KNOWING,
    ),
    Setting(
        "half_cheetah_each_limit",
        "HalfCheetah, the same starts as above on the same five speeds under each of four limits",
        CHEETAH,
        (*LIMITS, ("evaluation.tasks", json.dumps(SPEEDS_UNDER_LIMITS))),
        SEEDS,
        KNOWING,
    ),
    Setting(
        "half_cheetah_bodies",
        "HalfCheetah, bodies of other masses, friction, gravity and strength (the rows of meta_srl take direct steps)",
        CHEETAH,
        (("family.variant", "body"),),
        SEEDS,
        INFERRING,
    ),
    Setting(
        "half_cheetah_motors",
        "HalfCheetah, one of six motors damaged or turning the other way",
        CHEETAH,
        (("family.variant", "motors"),),
        SEEDS,
        INFERRING,
    ),
    Setting(
        "half_cheetah_direction",
        "HalfCheetah, forwards or backwards",
        CHEETAH,
        (("family.variant", "direction"),),
        SEEDS,
        (Variant("meta_srl, context", OURS, hidden=True),),
    ),
    Setting(
        "hopper_velocity",
        "Hopper, target speeds, effort limit 8, 2 million steps of training",
        CHEETAH,
        (("family.name", "hopper"), ("family.limit", "8.0"), ("meta.warm_up.delta_last", "0.2")),
        SEEDS,
        (
            Variant("meta_srl, context", OURS, HOPPING, hidden=True),
            Variant("meta_srl, none", OURS, TODAY),
            RANDOM,
            PRETRAINED,
            Variant("simple_average", "simple_average", WITHOUT, RATE),
        ),
    ),
    Setting(
        "humanoid_velocity",
        "Humanoid, target speeds, effort limit 2, 2 million steps of training",
        HUMANOID,
        (("meta.warm_up.delta_last", "0.2"), ("meta.warm_up.last_log_std", "null")),
        SEEDS,
        (
            Variant("meta_srl, context", OURS, SETTLING),
            RANDOM,
            PRETRAINED,
            Variant("simple_average", "simple_average", WITHOUT, RATE),
            Variant("reptile, context", "reptile", (), GridPoint(rate=0.1, step=0.5)),
            Variant("multitask, context", "multitask", WIDE_STEPS, RATE),
            Variant("multitask, context, narrow", "multitask", (*WIDE_STEPS, *NARROW), RATE),
            Variant("pretrained, narrow", "pretrained", (*WITHOUT, *LONG, *NARROW), RATE),
        ),
    ),
    Setting(
        "acrobot",
        "Acrobot, unlike links, two limits, 1.9 million steps of training (meta_srl takes direct steps)",
        ACROBOT,
        (("family.similarity", "low"),),
        SEEDS,
        (
            Variant("meta_srl, none", OURS),
            Variant("meta_srl, context", OURS, (("meta.context", "given"),)),
            Variant("meta_srl, no direct steps", OURS, ONLINE),
            Variant("pretrained", "pretrained", (*ONLINE, *LONG), RATE),
            Variant("simple_average", "simple_average", ONLINE, RATE),
            Variant("multitask, none", "multitask", ONLINE, RATE),
            Variant("random", "random", ONLINE, RATE),
        ),
    ),
)
