"""Checks of what a family's environments do, each on recorded episodes of random actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from policies.checking.evidence import Evidence, Moment, moments
from policies.checking.family_form import Check, ok, warning, wrong
from policies.checking.recording import Recording, fixed_actions
from tasks.contract import returned
from tasks.contract.task import TaskError
from tasks.stepping.batch import make_batch
from tasks.stepping.spaces import observation_fault

_COMPARED = 50
"""Steps over which a family's own batch is compared with its environment: later, chaos amplifies rounding errors."""


def check_spaces(evidence: Evidence) -> Check:
    """All tasks have the same spaces, at the end of an episode too."""
    name, first = "spaces", evidence.episodes[0].spaces
    for label, recording in evidence.labelled:
        for space, wanted in zip(recording.spaces, first, strict=True):
            if space != wanted:
                return wrong(name, f"{label} has {space}, {evidence.tasks[0].label} has {wanted}; all need the same")
        for space, wanted in zip(recording.spaces_after, recording.spaces, strict=True):
            if space != wanted:
                return wrong(name, f"{label}: {wanted} became {space} during an episode; spaces must stay")
    return ok(name, f"the same in {len(evidence.tasks)} tasks: observations {first[0]}, actions {first[1]}")


def check_returned(evidence: Evidence) -> Check:
    """Reset gives two values, every step five or six, with ends that are booleans."""
    fault = _first_fault(evidence, lambda moment: None)
    count = len(evidence.episodes[0].steps[0]) if fault is None else 0
    return wrong("returned", fault) if fault else ok("returned", f"2 values from reset, {count} from step")


def check_observations(evidence: Evidence) -> Check:
    """Every observation has the type, the shape and the bounds of its space."""
    space = evidence.episodes[0].spaces[0]

    def look(moment: Moment) -> None:
        fault = observation_fault(moment.observation, space)
        if fault is not None:
            raise TaskError(f"{moment.where}: {fault}")

    fault = _first_fault(evidence, look)
    return wrong("observations", fault) if fault else ok("observations", "of the space's type, shape and bounds")


def check_rewards(evidence: Evidence) -> Check:
    """Every reward is a finite number."""
    values: list[float] = []

    def look(moment: Moment) -> None:
        if moment.info is not None:
            values.append(returned.number(moment.reward, "the reward", lambda: moment.where))

    fault = _first_fault(evidence, look)
    if fault:
        return wrong("rewards", fault)
    return ok("rewards", f"finite, {min(values):.4g} to {max(values):.4g} per step")


def check_costs(evidence: Evidence) -> Check:
    """Every step reports p finite costs, none of them negative."""
    names, values = evidence.family.cost_names, list[list[float]]()

    def look(moment: Moment) -> None:
        if moment.info is None:
            return
        values.append(returned.costs(moment.info, len(names), lambda: moment.where))

    fault = _first_fault(evidence, look)
    if fault is not None:
        return wrong("costs", f"{fault} ({', '.join(names)})")
    low, high = np.min(values, axis=0), np.max(values, axis=0)
    ranges = ", ".join(f"{one} {a:.4g} to {b:.4g}" for one, a, b in zip(names, low, high, strict=True))
    never = [one for one, most in zip(names, high, strict=True) if most == 0.0]
    if never:
        return warning("costs", f"{ranges} per step: random actions never cost any {', '.join(never)}")
    return ok("costs", f"in every step: {ranges}")


def check_seeding(evidence: Evidence) -> Check:
    """The same seed and actions give the same episode; another seed another."""
    name, first, label = "seeding", evidence.episodes[0], evidence.tasks[0].label
    for recording, whose in ((evidence.repeated, "after another episode"), (evidence.renewed, "in a new environment")):
        step = first_difference(first, recording)
        if step is not None:
            return wrong(
                name,
                f"{label}, step {step}: the same seed and actions give another result {whose}; draw every random "
                "number from self.np_random, call super().reset(seed=seed), and set all state in reset",
            )
    if first_difference(first, evidence.other) is None:
        return warning(
            name,
            "the same seed gives the same episode, but another seed gives it too: right only if nothing is random; "
            "otherwise call super().reset(seed=seed) and draw from self.np_random",
        )
    return ok(name, "the same seed gives the same episode, another seed another")


def check_copies(evidence: Evidence) -> Check:
    """A copy is not changed by another one that is stepped in turn with it, as training steps them."""
    name, first, label = "copies", evidence.episodes[0], evidence.tasks[0].label
    if any(first_difference(first, other) is not None for other in (evidence.repeated, evidence.renewed)):
        return Check(name, "skipped", "runs once the same seed gives the same episode")
    step = first_difference(first, evidence.beside)
    if step is None:
        return ok(name, "a copy gives the same episode while another one is stepped in turn")
    return wrong(
        name,
        f"{label}, step {step}: the same seed and actions give another result while another copy is stepped in turn; "
        "keep all state and random numbers in the environment object (self.np_random), not in a module, a class, a "
        "shared simulator or the global np.random",
    )


def first_difference(one: Recording, two: Recording) -> int | None:
    """The first step (0: the reset) at which two recordings differ, as far as both go; None if they agree."""
    pairs = zip(moments("", one), moments("", two), strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if _key(a) != _key(b)), None)


def check_batch(evidence: Evidence) -> Check:
    """The family's own ``batch`` gives the numbers of its environment (observations as float32)."""
    task, episode, name = evidence.tasks[0], evidence.episodes[0], "batch"
    if getattr(evidence.family, "batch", None) is None:
        return Check(name, "skipped", "the family has no batch method of its own; environments are stepped one by one")
    batch = make_batch(evidence.family, task, 1)
    space, compared = episode.spaces[1], min(len(episode.steps), _COMPARED)
    discrete = isinstance(space, gymnasium.spaces.Discrete)
    actions = fixed_actions(space, evidence.family.horizon)
    actions = actions - space.start if discrete else actions.astype(np.float32).reshape(len(actions), -1)
    batch.reset(np.array([0]), np.array([episode.seed]))
    try:
        for number, moment in zip(range(compared + 1), moments(task.label, episode), strict=False):
            values: list[Any] = [moment.observation]
            ours: list[Any] = [batch.observations[0]]
            if moment.info is not None:
                values += [moment.reward, moment.info["cost"], moment.ended[0]]
                ours += [batch.reward[0], batch.costs[0], batch.terminated[0]]
            for a, b in zip(values, ours, strict=True):
                if not np.allclose(np.ravel(a), np.ravel(b), rtol=1e-4, atol=1e-5):
                    return wrong(name, f"{moment.where}: batch gives {b}, the environment of make {a}; they must agree")
            if number < compared:
                batch.step(actions[number : number + 1])
    finally:
        batch.close()
    return ok(name, f"agrees with the environment of make over {compared} steps")


def check_speed(evidence: Evidence) -> Check:
    """How fast an environment is and how long its episodes are, for information."""
    steps, seconds = len(evidence.episodes[0].steps), evidence.episodes[0].seconds
    lengths = [len(one.steps) for one in evidence.episodes if one.complete]
    speed = f"{steps / max(seconds, 1e-9):,.0f} steps per second in one environment"
    if not lengths:
        return ok("speed", f"{speed}; no episode ended within the time of the check")
    return ok("speed", f"{speed}; {len(lengths)} episodes of {min(lengths)} to {max(lengths)} steps")


STEP_CHECKS: tuple[Callable[[Evidence], Check], ...] = (
    check_spaces,
    check_observations,
    check_rewards,
    check_costs,
    check_seeding,
    check_copies,
    check_batch,
    check_speed,
)
"""Checks of values that :func:`check_returned` has found readable."""


def _first_fault(evidence: Evidence, look: Callable[[Moment], None]) -> str | None:
    try:
        for label, recording in evidence.labelled:
            for moment in moments(label, recording):
                look(moment)
    except TaskError as error:
        return str(error)
    return None


def _key(moment: Moment) -> tuple[Any, ...]:
    cost = None if moment.info is None else moment.info.get("cost")
    return (*map(_bits, (moment.observation, moment.reward, cost)), moment.ended)


def _bits(value: Any) -> Any:
    array = np.asarray(value)
    return (str(array.dtype), array.shape, array.tobytes() if array.dtype != object else repr(value))
