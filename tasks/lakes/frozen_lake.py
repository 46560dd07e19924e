"""Gymnasium's FrozenLake as a family of constrained MDPs: reach the goal, enter few holes.

States: the tiles of a square map, row by row. Actions: left, down, right, up; a step goes in the chosen direction with
probability ``success_rate`` and to either side otherwise. Reward: 1 on reaching the goal, which ends the episode.
Cost: 1 on entering a hole; by default holes are thin ice and the episode continues. Tasks differ in the holes' places.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, ClassVar, Literal, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.envs.toy_text.frozen_lake import MAPS, generate_random_map, is_valid
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StrictInt, field_validator, model_validator

from tasks.contract.context import Distance
from tasks.contract.tabular_model import TabularModel, model_from_gymnasium
from tasks.contract.task import Parameters, Split, TaskError

SIMILARITY = {"high": 1, "low": 12}
_TEST_SHARE = 3
"""One map in this many belongs to the test split, by a hash of the map."""
_DRAWS = 10_000
_DIRECTIONS = ((0, -1), (1, 0), (0, 1), (-1, 0))
"""(rows down, columns right) of the actions."""
_REACH = 3
"""How far away holes may matter to the start of a lake (:meth:`FrozenLake.context_effects`)."""


class _HoleCost(gymnasium.Wrapper[int, int, int, int]):
    """Adds ``info["cost"]``: 1 if the step entered a hole. ``holes`` holds state numbers."""

    def __init__(self, env: gymnasium.Env[int, int], holes: frozenset[int]) -> None:
        super().__init__(env)
        self._holes = holes
        self._state = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._state = int(observation)
        return self._state, info

    def step(self, action: int) -> tuple[int, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(int(action))
        state = int(observation)
        info["cost"] = _hole_cost(self._holes, self._state, state)
        self._state = state
        return state, reward, terminated, truncated, info


def _hole_cost(holes: frozenset[int], state: int, next_state: int) -> float:
    """The cost of a transition: entering a hole costs 1, staying on it nothing."""
    return 1.0 if next_state in holes and next_state != state else 0.0


class FrozenLake(BaseModel):
    """The ``frozen_lake`` family; its fields are the keys of a run file's ``family`` section."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    seed: int = Field(ge=0)
    """Seed of every draw of the family."""
    num_tasks: int = Field(default=96, gt=0)
    """Length of the training sequence."""
    similarity: Literal["high", "low"] | StrictInt = "high"
    """Tiles in which each task differs from its base map: high is 1, low is 12, or give a number."""
    sequence: Literal["iid", "drifting", "clustered"] = "iid"
    """iid: one base map; drifting: the base changes by `drift` tiles per task; clustered: `num_clusters` base maps."""
    map_size: int = Field(default=8, ge=4, le=64)
    """Tiles along one side. Sizes 4 and 8 use Gymnasium's own base maps, other sizes a random solvable one."""
    success_rate: float = Field(default=0.8, gt=0.0, le=1.0)
    """Probability that a step goes in the chosen direction."""
    horizon: int = Field(default=200, gt=0)
    """Steps after which an episode is truncated."""
    discount: float = Field(default=0.97, gt=0.0, lt=1.0)
    """Discount of rewards and costs."""
    hole_ends_episode: bool = False
    """True keeps Gymnasium's rule; false makes holes thin ice: they cost 1 and the episode continues."""
    limit_fraction: float = Field(default=0.3, gt=0.0, lt=1.0)
    """Position of the limit between the least reachable cost (0) and the unconstrained optimum's cost (1)."""
    limit: float | None = Field(default=None, ge=0.0)
    """One limit for every task instead of a fraction; a task that cannot keep it is an error."""
    drift: int = Field(default=1, ge=1)
    """Tiles by which the base map changes from task to task (sequence: drifting)."""
    num_clusters: int = Field(default=2, ge=2)
    """Number of base maps (sequence: clustered)."""
    cluster_distance: int = Field(default=16, ge=1)
    """Tiles by which the other base maps differ from the first (sequence: clustered)."""

    @field_validator("similarity")
    @classmethod
    def _similarity_in_range(cls, value: str | int) -> str | int:
        if isinstance(value, int) and value < 1:
            raise ValueError("similarity as a number of changed tiles must be at least 1")
        return value

    @model_validator(mode="after")
    def _enough_tiles(self) -> FrozenLake:
        free = self.map_size**2 - 2
        moved = {"iid": 0, "drifting": self.drift, "clustered": self.cluster_distance}[self.sequence]
        most = max(self.num_changes, moved)
        if most > free:
            raise ValueError(f"{most} tiles cannot change on a map with {free} tiles other than start and goal")
        return self

    @property
    def cost_names(self) -> tuple[str, ...]:
        """One cost."""
        return ("holes_entered",)

    @property
    def num_changes(self) -> int:
        """k, the number of tiles in which a task differs from its base map."""
        return SIMILARITY[self.similarity] if isinstance(self.similarity, str) else self.similarity

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        """The map of task ``index``, redrawn until it is solvable and belongs to ``split``."""
        rng = np.random.default_rng([self.seed, ("train", "test").index(split), index, attempt])
        base = self._base(split, index, rng)
        for _ in range(_DRAWS):
            desc = _change(base, self.num_changes, rng)
            if self._split_of(desc) == split and is_valid([list(row) for row in desc], self.map_size):
                return {"desc": list(desc)}
        raise TaskError(
            f"frozen_lake: no solvable map of the {split} split differs from its base in {self.num_changes} tiles; "
            "change similarity or map_size"
        )

    context_distance: ClassVar[Distance] = "differing"
    """Two maps are as far apart as the number of their tiles that differ."""

    def context(self, parameters: Parameters) -> dict[str, float]:
        """The tiles of the map: 1 for a hole, 0 for another one."""
        rows = parameters["desc"]
        return {f"hole[{i}][{j}]": float(tile == "H") for i, row in enumerate(rows) for j, tile in enumerate(row)}

    def context_effects(self) -> NDArray[np.int64]:
        """What holes near a tile do to its actions, alike on every tile: rows (state, action, entry, weight) [E, 4].

        A hole has one weight for each place relative to the tile and to the action's direction: how far ahead of it (or
        behind) and how far to its side, at most three tiles away. Left and right are alike.
        """
        size, reach = self.map_size, _REACH
        rows = []
        for state, (action, (down, right)) in itertools.product(range(size**2), enumerate(_DIRECTIONS)):
            for ahead, aside in itertools.product(range(-reach, reach + 1), repeat=2):
                row = state // size + ahead * down + aside * right
                column = state % size + ahead * right - aside * down
                if 0 <= row < size and 0 <= column < size:
                    weight = (ahead + reach) * (reach + 1) + abs(aside)
                    rows.append((state, action, row * size + column, weight))
        return np.array(rows, np.int64)

    def check_parameters(self, parameters: Parameters) -> None:
        """Check a map that somebody gave: a square of S (one), F, H and G.

        Raises:
            ValueError: it is another map.
        """
        rows, size = parameters["desc"], self.map_size
        for number, row in enumerate(rows):
            if len(row) != size or not set(row) <= set("SFHG"):
                raise ValueError(f"desc[{number}] must have {size} tiles of S, F, H and G, got {row!r}")
        tiles = "".join(rows)
        if tiles.count("S") != 1 or "G" not in tiles:
            raise ValueError(f"desc must have one S and a G, got {tiles.count('S')} and {tiles.count('G')}")

    def make(self, parameters: Parameters, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
        """Gymnasium's FrozenLake-v1 on the task's map, with the cost added."""
        env = gymnasium.make(
            "FrozenLake-v1",
            desc=self._gymnasium_map(parameters),
            is_slippery=True,
            success_rate=self.success_rate,
            max_episode_steps=self.horizon,
            render_mode=render_mode,
            disable_env_checker=True,
        )
        if render_mode is not None:  # pictures show thin ice as holes; nothing else reads this
            vars(env.unwrapped)["desc"] = np.asarray(parameters["desc"], dtype="c")
        return _HoleCost(env, self._holes(parameters))

    def model(self, parameters: Parameters) -> TabularModel:
        """The exact model, read from the environment's own table."""
        holes = self._holes(parameters)
        env: Any = self.make(parameters).unwrapped
        return model_from_gymnasium(
            env.P, env.initial_state_distrib, lambda s, t: _hole_cost(holes, s, t), self.discount, num_costs=1
        )

    def limits(self, parameters: Parameters) -> tuple[float, ...] | float:
        """``limit`` for every task, or ``limit_fraction``."""
        del parameters
        return self.limit_fraction if self.limit is None else (self.limit,)

    def _gymnasium_map(self, parameters: Parameters) -> list[str]:
        if self.hole_ends_episode:
            return list(parameters["desc"])
        return [row.replace("H", "F") for row in parameters["desc"]]

    @staticmethod
    def _holes(parameters: Parameters) -> frozenset[int]:
        return frozenset(i for i, tile in enumerate("".join(parameters["desc"])) if tile == "H")

    def _split_of(self, desc: tuple[str, ...]) -> Split:
        digest = hashlib.sha256(f"{self.seed}:{''.join(desc)}".encode()).digest()
        return "test" if digest[0] % _TEST_SHARE == 0 else "train"

    def _base(self, split: Split, index: int, rng: np.random.Generator) -> tuple[str, ...]:
        base = _base_map(self.map_size, self.seed)
        if self.sequence == "drifting":
            steps = self.num_tasks if split == "test" else index
            return _drifted(base, self.seed, self.drift, steps)
        if self.sequence == "clustered":
            cluster = int(rng.integers(self.num_clusters))
            if cluster:
                return _solvable_change(base, self.cluster_distance, np.random.default_rng([self.seed, 2, cluster]))
        return base


@lru_cache(maxsize=8)
def _base_map(size: int, seed: int) -> tuple[str, ...]:
    name = f"{size}x{size}"
    return tuple(MAPS[name] if name in MAPS else generate_random_map(size=size, p=0.84, seed=seed))


@lru_cache(maxsize=4096)
def _drifted(base: tuple[str, ...], seed: int, drift: int, steps: int) -> tuple[str, ...]:
    """The base map after ``steps`` steps of the drift."""
    for desc in _drift_path(base, seed, drift, steps):
        base = desc
    return base


def _drift_path(base: tuple[str, ...], seed: int, drift: int, steps: int) -> Iterator[tuple[str, ...]]:
    rng = np.random.default_rng([seed, 3])
    for _ in range(steps):
        base = _solvable_change(base, drift, rng)
        yield base


def _solvable_change(desc: tuple[str, ...], count: int, rng: np.random.Generator) -> tuple[str, ...]:
    for _ in range(_DRAWS):
        changed = _change(desc, count, rng)
        if is_valid([list(row) for row in changed], len(desc)):
            return changed
    raise TaskError(f"frozen_lake: no solvable map differs from its base in {count} tiles")


def _change(desc: tuple[str, ...], count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Change ``count`` tiles, half of them to holes and half from holes as far as possible, to keep maps comparable."""
    tiles = np.array(list("".join(desc)))
    holes, frozen = np.flatnonzero(tiles == "H"), np.flatnonzero(tiles == "F")
    removed = count // 2 + (int(rng.integers(2)) if count % 2 else 0)
    removed = min(max(removed, count - frozen.size), holes.size)
    tiles[rng.choice(holes, removed, replace=False)] = "F"
    tiles[rng.choice(frozen, count - removed, replace=False)] = "H"
    size = len(desc)
    return tuple("".join(tiles[row * size : (row + 1) * size]) for row in range(size))
