"""Families as users write them, each with one property that surprised: most are right, and some cannot be learned."""

from __future__ import annotations

import os
import signal
import tempfile
from typing import Any

import gymnasium
import numpy as np

from tasks.contract.family import Family
from tasks.contract.task import Parameters

_LARGE = float(np.finfo(np.float32).max)


class Cart(gymnasium.Env[Any, Any]):
    """A cart on a line that should stand at its goal; pushing costs effort."""

    observation_space: Any = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space: Any = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    goal, unit = 0.0, 1.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = 0.1 * self.np_random.normal()
        return self.seen(), {}

    def seen(self) -> Any:
        """The observation."""
        return np.array([self.x], np.float32)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        force = float(np.ravel(action)[0])
        self.x += 0.2 * np.clip(force, -1.0, 1.0)
        return self.seen(), self.unit * -abs(self.x - self.goal), False, False, {"cost": self.unit * force**2}


class Carts(Family):
    """Carts with different goals."""

    cost_names = ("effort",)
    cost_limits: tuple[float, ...] = (2.0,)
    horizon: int = 20
    discount: float = 0.9

    def draw(self, rng: np.random.Generator) -> dict[str, float]:
        return {"goal": float(rng.uniform(0.5, 1.5))}

    def cart(self) -> Any:
        """A new cart of this family."""
        return Cart()

    def make(self, parameters: Parameters) -> Any:
        cart = self.cart()
        cart.goal = parameters["goal"]
        return cart


class Strict(Cart):
    """Ends at random, and must not be stepped after its end."""

    over = False

    def reset(self, **arguments: Any) -> Any:
        self.over = False
        return super().reset(**arguments)

    def step(self, action: Any) -> Any:
        assert not self.over, "step after the end"
        observation, reward, _, cut, info = super().step(action)
        self.over = bool(self.np_random.random() < 0.2)
        return observation, reward, self.over, cut, info


class StrictCarts(Carts):
    def cart(self) -> Any:
        return Strict()


_ONE = Cart()


class OneCart(Carts):
    """One heavy simulator, made once."""

    def cart(self) -> Any:
        return _ONE


class OneCartWrapped(Carts):
    """The same behind a wrapper of its own."""

    def make(self, parameters: Parameters) -> Any:
        _ONE.goal = parameters["goal"]
        return gymnasium.wrappers.ClipReward(_ONE, -100.0, 100.0)


_STATE = {"x": 0.0}


class Module(Cart):
    """Keeps its state in the module."""

    @property
    def x(self) -> Any:
        return _STATE["x"]

    @x.setter
    def x(self, value: Any) -> None:
        _STATE["x"] = value


class ModuleCarts(Carts):
    def cart(self) -> Any:
        return Module()


class Global(Cart):
    """Draws from NumPy's global generator."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        np.random.seed(None if seed is None else seed % 2**32)  # noqa: NPY002 - the mistake
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        self.x += 0.1 * np.random.normal()  # noqa: NPY002 - the mistake
        return super().step(action)


class GlobalCarts(Carts):
    def cart(self) -> Any:
        return Global()


class Signed(Cart):
    """A simulator with signed 32-bit seeds."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None and seed >= 2**31:
            raise OverflowError("Python int too large to convert to C int")
        return super().reset(seed=seed)


class SignedCarts(Carts):
    def cart(self) -> Any:
        return Signed()


class Spaces(Carts):
    """``kind`` names the spaces."""

    kind: str = ""

    def make(self, parameters: Parameters) -> Any:
        cart = super().make(parameters)
        box = gymnasium.spaces.Box
        if self.kind == "too wide":
            cart.action_space = box(-_LARGE, _LARGE, (1,), np.float32)
        if self.kind == "unbounded":
            cart.action_space = box(-np.inf, np.inf, (1,), np.float32)
        if self.kind == "half bounded":
            cart.action_space = box(0.0, np.inf, (1,), np.float32)
        if self.kind == "integers from -1":
            cart.action_space = gymnasium.spaces.Discrete(3, start=-1)
        if self.kind == "no observation":
            cart.observation_space = box(-1.0, 1.0, (0,), np.float32)
            cart.seen = lambda: np.zeros(0, np.float32)
        if self.kind == "words":
            cart.observation_space = gymnasium.spaces.Dict({"x": cart.observation_space})
        if self.kind == "float64":
            cart.observation_space = box(-1e300, 1e300, (1,), np.float64)
            cart.seen = lambda: np.array([cart.x])
        if self.kind == "differ":
            high = 1.0 + parameters["goal"]
            cart.action_space = box(-high, high, (1,), np.float32)
        if self.kind == "image":
            cart.observation_space = box(0, 255, (27, 27, 3), np.uint8)
            cart.seen = lambda: np.full((27, 27, 3), int(np.clip(100 + 10 * cart.x, 0, 255)), np.uint8)
        return cart


class Units(Carts):
    """Rewards and costs in very small units."""

    def make(self, parameters: Parameters) -> Any:
        cart = super().make(parameters)
        cart.unit = 1e-9
        return cart


class Paid(Cart):
    """A cost that is sometimes a gain."""

    def step(self, action: Any) -> Any:
        return (*super().step(action)[:4], {"cost": float(np.ravel(action)[0])})


class PaidCarts(Carts):
    def cart(self) -> Any:
        return Paid()


class Free(Cart):
    """Reports no cost."""

    def step(self, action: Any) -> Any:
        return (*super().step(action)[:4], {})


class FreeCarts(Carts):
    def cart(self) -> Any:
        return Free()


class ElsewhereCarts(Carts):
    """The simulator goes to its own folder."""

    def cart(self) -> Any:
        os.chdir(tempfile.gettempdir())
        return Cart()


class Dies(Cart):
    """Kills its process."""

    def step(self, action: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class DyingCarts(Carts):
    def cart(self) -> Any:
        return Dies()
