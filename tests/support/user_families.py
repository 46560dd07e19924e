"""Families as a user would write them: a courier with two costs, and variants that break the contract."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np

from tasks.contract.tabular_model import FloatArray, TabularModel
from tasks.contract.task import Parameters, Split
from tests.support.problems import tabular

NUM_STATES = 6
GOAL = NUM_STATES - 1
WALK, DRIVE, CROSS = range(3)
NOT_A_CLASS = 3

FAULTS = (
    "no_cost",
    "one_cost",
    "three_costs",
    "cost_not_a_number",
    "infinite_cost",
    "cost_is_text",
    "reward_not_a_number",
    "observation_too_large",
    "observation_negative",
)


def kernel(grip: float) -> FloatArray:
    """P [S, A, S]: walking advances 1 with probability 1/2, driving 1 with 0.9, crossing the lawn 2 with ``grip``."""
    result = np.zeros((NUM_STATES, 3, NUM_STATES))
    for state in range(NUM_STATES):
        for action, (steps, chance) in enumerate([(1, 0.5), (1, 0.9), (2, grip)]):
            result[state, action, min(state + steps, GOAL)] += chance
            result[state, action, state] += 1.0 - chance
    result[GOAL, :, :] = np.eye(NUM_STATES)[GOAL]
    return result


class Courier(gymnasium.Env[Any, Any]):
    """Reward 1 on reaching the goal; costs: fuel (driving, and a toll on every step) and damage (crossing the lawn)."""

    def __init__(self, grip: float, toll: float) -> None:
        self.observation_space = gymnasium.spaces.Discrete(NUM_STATES)
        self.action_space = gymnasium.spaces.Discrete(3)
        self._kernel, self._toll, self._state = kernel(grip), toll, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._state = 0
        return self._state, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._state = int(self.np_random.choice(NUM_STATES, p=self._kernel[self._state, action]))
        reached = self._state == GOAL
        cost = [float(action == DRIVE) + self._toll, float(action == CROSS)]
        return self._state, float(reached), reached, False, {"cost": cost}


class Faulty(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Breaks the contract at step ``when`` of every episode."""

    def __init__(self, env: gymnasium.Env[Any, Any], fault: str, when: int) -> None:
        super().__init__(env)
        self._fault, self._when, self._time = fault, when, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._time = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        now, self._time = self._time, self._time + 1
        if now != self._when:
            return observation, reward, terminated, truncated, info
        cost = {
            "no_cost": {},
            "one_cost": {"cost": 1.0},
            "three_costs": {"cost": [1.0, 1.0, 1.0]},
            "cost_not_a_number": {"cost": [0.0, float("nan")]},
            "infinite_cost": {"cost": [float("inf"), 0.0]},
            "cost_is_text": {"cost": ["low", "high"]},
        }.get(self._fault, info)
        if self._fault == "reward_not_a_number":
            reward = float("nan")
        observation = {"observation_too_large": NUM_STATES, "observation_negative": -1}.get(self._fault, observation)
        return observation, reward, terminated, truncated, cost


@dataclasses.dataclass(frozen=True)
class CourierFamily:
    """Couriers that differ in the grip of the lawn. ``fault`` breaks the contract at step ``fault_step``."""

    seed: int
    num_tasks: int
    with_model: bool = True
    limit: tuple[float, ...] | float = 0.5
    toll: float = 0.0
    horizon: int = 60
    discount: float = 0.8
    fault: str | None = None
    fault_step: int = 2

    @property
    def cost_names(self) -> tuple[str, ...]:
        return ("fuel", "damage")

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        rng = np.random.default_rng([self.seed, ("train", "test").index(split), index, attempt])
        return {"grip": float(rng.uniform(0.6, 0.9))}

    def make(self, parameters: Parameters) -> gymnasium.Env[Any, Any]:
        courier = Courier(parameters["grip"], self.toll)
        return courier if self.fault is None else Faulty(courier, self.fault, self.fault_step)

    def model(self, parameters: Parameters) -> TabularModel | None:
        if not self.with_model:
            return None
        reward = kernel(parameters["grip"])[:, :, GOAL].copy()
        costs = np.zeros((2, NUM_STATES, 3))
        costs[0, :, DRIVE] = costs[1, :, CROSS] = 1.0
        costs[0] += self.toll
        reward[GOAL], costs[:, GOAL] = 0.0, 0.0
        model = tabular(kernel(parameters["grip"]), reward, costs, np.eye(NUM_STATES)[0], self.discount)
        return dataclasses.replace(model, absorbing=np.arange(NUM_STATES) == GOAL)

    def limits(self, parameters: Parameters) -> tuple[float, ...] | float:
        return self.limit


class WrongSpaces(CourierFamily):
    """Spaces that a table cannot hold: ``fault`` names the space and its kind."""

    def make(self, parameters: Parameters) -> gymnasium.Env[Any, Any]:
        courier = Courier(parameters["grip"], self.toll)
        spaces = {"box": gymnasium.spaces.Box(0.0, 1.0, (2,)), "from_one": gymnasium.spaces.Discrete(3, start=1)}
        space, kind = str(self.fault).split("/")
        setattr(courier, space, spaces[kind])
        return courier


class LostAtStart(CourierFamily):
    """``reset`` gives an observation that is no state."""

    def make(self, parameters: Parameters) -> gymnasium.Env[Any, Any]:
        class Lost(Courier):
            def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
                super().reset(**arguments)
                return -1, {}

        return Lost(parameters["grip"], self.toll)


class NeverBinds(CourierFamily):
    """Nothing to trade: the reward or the costs, as ``fault`` says, are zero in the first ``fault_step`` attempts."""

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        return {**super().parameters(split, index, attempt), "binds": attempt >= self.fault_step}

    def model(self, parameters: Parameters) -> TabularModel | None:
        model = super().model(parameters)
        assert model is not None
        field = str(self.fault)
        return model if parameters["binds"] else dataclasses.replace(model, **{field: 0.0 * getattr(model, field)})


class Incomplete:
    """Lacks most of a family."""

    def __init__(self, seed: int, num_tasks: int) -> None:
        self.cost_names = ("fuel",)
        self.discount = 0.9


class Unmakeable:
    """Its constructor fails."""

    def __init__(self, seed: int, num_tasks: int) -> None:
        raise RuntimeError("no such road")
