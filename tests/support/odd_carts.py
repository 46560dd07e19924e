"""Carts of which each has one property of users' environments: its spaces, rewards, costs, episodes or code."""

from __future__ import annotations

import fractions
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from tasks.contract.family import Family
from tasks.contract.task import Parameters
from tests.support.situations import Cart

Make = Callable[[Cart, float], Any]
"""Changes a cart (of a goal) into one with the property."""
box, discrete = gymnasium.spaces.Box, gymnasium.spaces.Discrete
ODD: dict[str, Make] = {}


def odd(name: str) -> Callable[[Make], Make]:
    """Name a property."""

    def register(make: Make) -> Make:
        assert name not in ODD, name
        ODD[name] = make
        return make

    return register


class Stepped(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Changes what a step returns."""

    def __init__(self, cart: Any, change: Callable[..., Any]) -> None:
        super().__init__(cart)
        self._change, self.time = change, 0

    def reset(self, **given: Any) -> Any:
        self.time = 0
        return self.env.reset(**given)

    def step(self, action: Any) -> Any:
        self.time += 1
        return self._change(self.time, *self.env.step(action))


class Reset(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Changes what a reset returns."""

    def __init__(self, cart: Any, change: Callable[..., Any]) -> None:
        super().__init__(cart)
        self._change = change

    def reset(self, **given: Any) -> Any:
        return self._change(*self.env.reset(**given))


def _spaces(name: str, action: Any = None, observation: Any = None, seen: Callable[[float], Any] | None = None) -> None:
    def make(cart: Cart, goal: float) -> Any:
        del goal
        if action is not None:
            cart.action_space = action
        if observation is not None:
            cart.observation_space = observation
        if seen is not None:
            cart.seen = lambda: seen(cart.x)  # type: ignore[method-assign]
        return cart

    odd(name)(make)


def _returns(name: str, change: Callable[..., Any]) -> None:
    odd(name)(lambda cart, goal: Stepped(cart, change))


def _costs(name: str, cost: Any, key: str = "cost") -> None:
    """``cost`` of the time since the reset, or the same at every step."""

    def change(time: int, seen: Any, reward: Any, end: Any, cut: Any, info: Any) -> Any:
        return seen, reward, end, cut, {key: cost(time) if callable(cost) else cost}

    _returns(name, change)


def _rewards(name: str, reward: Callable[[float], Any]) -> None:
    _returns(name, lambda time, seen, own, end, cut, info: (seen, reward(own), end, cut, info))


def _seen(name: str, change: Callable[[int, Any], Any]) -> None:
    _returns(name, lambda time, seen, reward, end, cut, info: (change(time, seen), reward, end, cut, info))


# spaces
_spaces("action: two numbers", box(-1.0, 1.0, (2,), np.float32))
_spaces("action: a matrix", box(-1.0, 1.0, (2, 2), np.float32))
_spaces("action: no dimension", box(-1.0, 1.0, (), np.float32))
_spaces("action: float64", box(-1.0, 1.0, (1,), np.float64))
_spaces("action: float16", box(-1.0, 1.0, (1,), np.float16))
_spaces("action: whole numbers", box(-3, 3, (1,), np.int32))
_spaces("action: not about 0", box(2.0, 6.0, (1,), np.float32))
_spaces("action: tiny", box(-1e-6, 1e-6, (1,), np.float32))
_spaces("action: one point", box(1.0, 1.0, (1,), np.float32))
_spaces("action: one choice", discrete(1))
_spaces("action: two choices", discrete(2))
_spaces("action: many choices", discrete(50))
_spaces("action: several choices", gymnasium.spaces.MultiDiscrete([3, 3]))
_spaces("action: bits", gymnasium.spaces.MultiBinary(3))
_spaces("action: text", gymnasium.spaces.Text(5))
_spaces("action: a tuple", gymnasium.spaces.Tuple((discrete(2), discrete(2))))
_spaces("action: 40 numbers", box(-1.0, 1.0, (40,), np.float32))
_spaces("observation: a row", None, box(-9.0, 9.0, (1, 1), np.float32), lambda x: np.array([[x]], np.float32))
_spaces("observation: no dimension", None, box(-9.0, 9.0, (), np.float32), lambda x: np.float32(x))
_spaces("observation: a list", None, box(-9.0, 9.0, (2,), np.float32), lambda x: [x, 1.0])
_spaces("observation: whole numbers", None, box(-90, 90, (1,), np.int64), lambda x: np.array([round(10 * x)]))
_spaces("observation: bits", None, gymnasium.spaces.MultiBinary(3), lambda x: np.array([x > 0, x > 1, 1], np.int8))
_spaces(
    "observation: counts", None, gymnasium.spaces.MultiDiscrete([4, 4]), lambda x: np.array([min(3, int(abs(x))), 1])
)
_spaces("observation: constant", None, None, lambda x: np.zeros(1, np.float32))
_spaces("observation: huge", None, None, lambda x: np.array([1e30 * x], np.float32))
_spaces("observation: tiny", None, None, lambda x: np.array([1e-30 * x], np.float32))
_spaces("observation: 300 numbers", None, box(-9.0, 9.0, (300,), np.float32), lambda x: np.full(300, x, np.float32))
_spaces("observation: outside its bounds", None, box(-1e-3, 1e-3, (1,), np.float32))
_spaces("observation: another length", None, box(-9.0, 9.0, (3,), np.float32))
_spaces("observation: text", None, None, lambda x: "here")
_spaces("observation: nothing", None, None, lambda x: None)
_spaces("observation: objects", None, None, lambda x: np.array([None], object))
_seen("observation: another dtype", lambda time, seen: seen.astype(np.float64))
_seen("observation: not a number", lambda time, seen: seen * (np.nan if time == 3 else 1.0))
_seen("observation: infinite", lambda time, seen: seen * (np.inf if time == 3 else 1.0))
_seen("observation: grows", lambda time, seen: np.append(seen, seen)[: 1 + (time == 3)])
_seen("observation: read-only", lambda time, seen: [seen, seen.setflags(write=False)][0])

_SHARED = np.zeros(1, np.float32)


@odd("observation: one buffer")
def _one_buffer(cart: Cart, goal: float) -> Any:
    own = np.zeros(1, np.float32)

    def seen() -> Any:
        own[0] = cart.x
        return own

    cart.seen = seen  # type: ignore[method-assign]
    return cart


@odd("observation: one buffer for all")
def _one_buffer_for_all(cart: Cart, goal: float) -> Any:
    def seen() -> Any:
        _SHARED[0] = cart.x
        return _SHARED

    cart.seen = seen  # type: ignore[method-assign]
    return cart


# rewards
_rewards("reward: whole number", lambda reward: round(10 * reward))
_rewards("reward: an array of one", lambda reward: np.array([reward]))
_rewards("reward: an array of none", lambda reward: np.array(reward))
_rewards("reward: float16", lambda reward: np.float16(reward))
_rewards("reward: a truth", lambda reward: bool(reward > -0.5))
_rewards("reward: a fraction", lambda reward: fractions.Fraction(reward).limit_denominator(100))
_rewards("reward: huge", lambda reward: 1e9 * reward)
_rewards("reward: tiny", lambda reward: 1e-9 * reward)
_rewards("reward: shifted", lambda reward: reward + 1e6)
_rewards("reward: always 0", lambda reward: 0.0)
_rewards("reward: two", lambda reward: np.array([reward, reward]))
_rewards("reward: text", lambda reward: "much")
_rewards("reward: a number as text", lambda reward: "0.5")
_rewards("reward: nothing", lambda reward: None)
_rewards("reward: not a number", lambda reward: float("nan"))
_rewards("reward: infinite", lambda reward: float("-inf"))
_rewards("reward: complex", lambda reward: complex(reward))

# costs
_costs("cost: whole number", 1)
_costs("cost: a truth", lambda time: time % 2 == 0)
_costs("cost: an array of one", lambda time: np.array([0.1]))
_costs("cost: an array of none", lambda time: np.array(0.1))
_costs("cost: a list", [0.1])
_costs("cost: a tuple", (0.1,))
_costs("cost: always 0", 0.0)
_costs("cost: rare", lambda time: float(time == 19))
_costs("cost: huge", 1e9)
_costs("cost: tiny negative zero", -0.0)
_costs("cost: named", {"effort": 0.1})
_costs("cost: of another name", {"fuel": 0.1})
_costs("cost: two", [0.1, 0.2])
_costs("cost: none of them", [])
_costs("cost: text", "0.1")
_costs("cost: nothing", None)
_costs("cost: not a number", float("nan"))
_costs("cost: infinite", float("inf"))
_costs("cost: negative", -1.0)
_costs("cost: sometimes negative", lambda time: -1e-3 if time == 7 else 0.1)
_costs("cost: under another key", 0.1, "costs")
_costs("cost: cost_sum", 0.1, "cost_sum")
_returns("cost: missing at the end", lambda time, *rest: (*rest[:2], time == 9, False, {} if time == 9 else rest[-1]))
_returns("cost: missing now and then", lambda time, *rest: (*rest[:4], {} if time == 11 else rest[-1]))
_returns("cost: info is nothing", lambda time, *rest: (*rest[:4], None))

# episodes
_returns("episode: ends at once", lambda time, *rest: (*rest[:2], True, False, rest[-1]))
_returns("episode: ends at 5", lambda time, *rest: (*rest[:2], time == 5, False, rest[-1]))
_returns("episode: cut at 5", lambda time, *rest: (*rest[:2], False, time == 5, rest[-1]))
_returns("episode: both at 5", lambda time, *rest: (*rest[:2], time == 5, time == 5, rest[-1]))
_returns("episode: NumPy truths", lambda time, *rest: (*rest[:2], np.bool_(time == 5), np.bool_(False), rest[-1]))
_returns("episode: numbers as truths", lambda time, *rest: (*rest[:2], int(time == 5), 0, rest[-1]))
_returns("episode: truth in an array", lambda time, *rest: (*rest[:2], np.array([time == 5]), False, rest[-1]))
_returns("episode: end is nothing", lambda time, *rest: (*rest[:2], None, False, rest[-1]))
_returns("episode: old step", lambda time, *rest: (*rest[:2], False, rest[-1]))
_returns("episode: step returns nothing", lambda time, *rest: None)
odd("episode: old reset")(lambda cart, goal: Reset(cart, lambda seen, info: seen))
odd("episode: reset returns nothing")(lambda cart, goal: Reset(cart, lambda seen, info: None))
odd("episode: reset info is nothing")(lambda cart, goal: Reset(cart, lambda seen, info: (seen, None)))
odd("episode: limited by gymnasium")(lambda cart, goal: gymnasium.wrappers.TimeLimit(cart, 10))
odd("episode: limited above the horizon")(lambda cart, goal: gymnasium.wrappers.TimeLimit(cart, 1000))
odd("episode: order enforced")(lambda cart, goal: gymnasium.wrappers.OrderEnforcing(cart))


@odd("episode: never reset itself")
def _keeps(cart: Cart, goal: float) -> Any:
    """The position survives a reset."""
    reset = cart.reset

    def keep(**given: Any) -> Any:
        before = getattr(cart, "x", None)
        found = reset(**given)
        cart.x = found[0][0] if before is None else before
        return cart.seen(), {}

    cart.reset = keep  # type: ignore[method-assign]
    return cart


# seeds and random numbers
@odd("seed: not taken")
def _no_seed(cart: Cart, goal: float) -> Any:
    reset = cart.reset
    cart.reset = lambda options=None: reset()  # type: ignore[method-assign, misc, assignment]
    return cart


@odd("seed: ignored")
def _ignored_seed(cart: Cart, goal: float) -> Any:
    reset, rng = cart.reset, np.random.default_rng()

    def at_random(**given: Any) -> Any:
        reset(**given)
        cart.x = float(rng.normal())
        return cart.seen(), {}

    cart.reset = at_random  # type: ignore[method-assign]
    return cart


@odd("seed: always the same")
def _same_seed(cart: Cart, goal: float) -> Any:
    reset = cart.reset
    cart.reset = lambda **given: reset(seed=0)  # type: ignore[method-assign]
    return cart


@odd("seed: the clock")
def _clock(cart: Cart, goal: float) -> Any:
    step = cart.step

    def at_this_time(action: Any) -> Any:
        cart.x += 1e-3 * (time.perf_counter_ns() % 1000)
        return step(action)

    cart.step = at_this_time  # type: ignore[method-assign]
    return cart


@odd("seed: options wanted")
def _options(cart: Cart, goal: float) -> Any:
    reset = cart.reset

    def with_options(*, seed: int | None = None, options: Any) -> Any:
        return reset(seed=seed, options=options)

    cart.reset = with_options  # type: ignore[method-assign, assignment]
    return cart


# behaviour
@odd("code: changes its action")
def _changes_action(cart: Cart, goal: float) -> Any:
    step = cart.step

    def in_place(action: Any) -> Any:
        found = step(action)
        action *= 0.0
        return found

    cart.step = in_place  # type: ignore[method-assign]
    return cart


@odd("code: keeps its action")
def _keeps_action(cart: Cart, goal: float) -> Any:
    step = cart.step
    cart.past = []  # type: ignore[attr-defined]

    def remember(action: Any) -> Any:
        cart.past.append(action)  # type: ignore[attr-defined]
        return step(cart.past[0])  # type: ignore[attr-defined]

    cart.step = remember  # type: ignore[method-assign]
    return cart


@odd("code: raises on close")
def _close(cart: Cart, goal: float) -> Any:
    def fail() -> None:
        raise RuntimeError("already closed")

    cart.close = fail  # type: ignore[method-assign]
    return cart


@odd("code: prints")
def _prints(cart: Cart, goal: float) -> Any:
    step = cart.step

    def aloud(action: Any) -> Any:
        print("step")
        return step(action)

    cart.step = aloud  # type: ignore[method-assign]
    return cart


@odd("code: warns")
def _warns(cart: Cart, goal: float) -> Any:
    import warnings

    step = cart.step

    def warned(action: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        return step(action)

    cart.step = warned  # type: ignore[method-assign]
    return cart


@odd("code: raises in reset")
def _fails_in_reset(cart: Cart, goal: float) -> Any:
    def fail(**given: Any) -> Any:
        raise ValueError("no such level")

    cart.reset = fail  # type: ignore[method-assign]
    return cart


@odd("code: raises a stop")
def _stops(cart: Cart, goal: float) -> Any:
    def stop(action: Any) -> Any:
        raise StopIteration

    cart.step = stop  # type: ignore[method-assign]
    return cart


@odd("code: recurses")
def _recurses(cart: Cart, goal: float) -> Any:
    cart.step = lambda action: cart.step(action)  # type: ignore[method-assign]
    return cart


@odd("code: no environment")
def _nothing(cart: Cart, goal: float) -> Any:
    return None


@odd("code: the class")
def _class(cart: Cart, goal: float) -> Any:
    return Cart


@odd("code: no spaces")
def _without(cart: Cart, goal: float) -> Any:
    cart.action_space = None
    return cart


@odd("code: a vector environment")
def _vector(cart: Cart, goal: float) -> Any:
    return gymnasium.vector.SyncVectorEnv([Cart, Cart])


@odd("code: a passive checker")
def _checker(cart: Cart, goal: float) -> Any:
    return gymnasium.wrappers.PassiveEnvChecker(cart)


@odd("code: slots")
def _slots(cart: Cart, goal: float) -> Any:
    return gymnasium.wrappers.TransformReward(cart, lambda reward: 2.0 * reward)


@odd("code: normalised by gymnasium")
def _normalised(cart: Cart, goal: float) -> Any:
    return gymnasium.wrappers.NormalizeObservation(cart)


@odd("code: flattened by gymnasium")
def _flattened(cart: Cart, goal: float) -> Any:
    cart.observation_space = gymnasium.spaces.Dict({"x": box(-9.0, 9.0, (1,), np.float32)})
    cart.seen = lambda: {"x": np.array([cart.x], np.float32)}  # type: ignore[method-assign]
    return gymnasium.wrappers.FlattenObservation(cart)


@odd("code: clipped actions by gymnasium")
def _clipped(cart: Cart, goal: float) -> Any:
    return gymnasium.wrappers.ClipAction(cart)


@odd("code: frames stacked by gymnasium")
def _stacked(cart: Cart, goal: float) -> Any:
    return gymnasium.wrappers.FlattenObservation(gymnasium.wrappers.FrameStackObservation(cart, 3))


class OddCarts(Family):
    """Carts with the property ``kind``."""

    cost_names = ("effort",)
    cost_limits: tuple[float, ...] = (2.0,)
    horizon: int = 20
    discount: float = 0.9
    kind: str = ""

    def draw(self, rng: np.random.Generator) -> dict[str, float]:
        return {"goal": float(rng.uniform(0.5, 1.5))}

    def make(self, parameters: Parameters) -> Any:
        cart = Cart()
        cart.goal = parameters["goal"]
        return ODD[self.kind](cart, cart.goal)
