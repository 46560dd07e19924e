from __future__ import annotations

import itertools
from typing import Any

import gymnasium
import numpy as np
import pydantic
import pytest
from gymnasium.envs.toy_text.frozen_lake import MAPS, is_valid
from numpy.typing import NDArray

from tasks.contract.task import Split, TaskFamily
from tasks.lakes.frozen_lake import FrozenLake
from tests.support.problems import dense_transitions

LEFT, DOWN, RIGHT, UP = range(4)
SPLITS: tuple[Split, ...] = ("train", "test")


def _tiles(parameters: Any) -> str:
    return "".join(parameters["desc"])


def _distance(one: Any, other: Any) -> int:
    one, other = ("".join(desc) for desc in (one, other))
    return sum(a != b for a, b in zip(one, other, strict=True))


def _draw(family: FrozenLake, count: int, split: Split = "train") -> list[list[str]]:
    return [list(family.parameters(split, index, 0)["desc"]) for index in range(count)]


def test_it_is_a_task_family() -> None:
    family = FrozenLake(seed=0)
    assert isinstance(family, TaskFamily)
    assert family.cost_names == ("holes_entered",)


@pytest.mark.parametrize("hole_ends_episode", [False, True])
@pytest.mark.parametrize("success_rate", [0.8, 1.0])
@pytest.mark.parametrize("map_size", [4, 8, 11])
def test_model_is_gymnasiums_own_table(map_size: int, success_rate: float, hole_ends_episode: bool) -> None:
    family = FrozenLake(
        seed=1, map_size=map_size, success_rate=success_rate, hole_ends_episode=hole_ends_episode, discount=0.9
    )
    parameters = family.parameters("train", 0, 0)
    tiles, count = _tiles(parameters), map_size**2
    desc = parameters["desc"] if hole_ends_episode else [row.replace("H", "F") for row in parameters["desc"]]
    table: Any = gymnasium.make("FrozenLake-v1", desc=desc, is_slippery=True, success_rate=success_rate).unwrapped
    ends = [tile == "G" or (hole_ends_episode and tile == "H") for tile in tiles]
    kernel, reward, cost = np.zeros((count, 4, count)), np.zeros((count, 4)), np.zeros((count, 4))
    for state, action in itertools.product(range(count), range(4)):
        if ends[state]:
            kernel[state, action, state] = 1.0
            continue
        for probability, following, gain, terminated in table.P[state][action]:
            kernel[state, action, following] += probability
            reward[state, action] += probability * gain
            cost[state, action] += probability * (tiles[following] == "H" and following != state)
            assert terminated == ends[following]
    model = family.model(parameters)
    np.testing.assert_allclose(dense_transitions(model), kernel, atol=1e-15)
    np.testing.assert_allclose(model.reward, reward, atol=1e-15)
    np.testing.assert_allclose(model.costs, cost[None], atol=1e-15)
    np.testing.assert_array_equal(model.absorbing, ends)
    np.testing.assert_array_equal(model.initial, np.eye(count)[0])
    assert model.discount == 0.9
    assert cost.max() > 0.5


def _walk(family: FrozenLake, desc: list[str], actions: list[int]) -> list[tuple[int, float, float, bool]]:
    env = family.make({"desc": desc})
    env.reset(seed=0)
    steps = [env.step(action) for action in actions]
    return [(int(state), float(gain), info["cost"], ended) for state, gain, ended, _, info in steps]


def test_thin_ice_costs_on_entering_only_and_the_episode_continues() -> None:
    family = FrozenLake(seed=0, map_size=4, success_rate=1.0)
    desc = ["SHHF", "FFFF", "FFFF", "FFFG"]
    steps = _walk(family, desc, [RIGHT, UP, RIGHT, LEFT, LEFT, UP])
    assert steps == [
        (1, 0.0, 1.0, False),
        (1, 0.0, 0.0, False),
        (2, 0.0, 1.0, False),
        (1, 0.0, 1.0, False),
        (0, 0.0, 0.0, False),
        (0, 0.0, 0.0, False),
    ]


def test_a_hole_costs_and_ends_the_episode_where_gymnasium_ends_it() -> None:
    family = FrozenLake(seed=0, map_size=4, success_rate=1.0, hole_ends_episode=True)
    desc = ["SFHF", "FFFF", "FFFF", "FFFG"]
    assert _walk(family, desc, [RIGHT, RIGHT]) == [(1, 0.0, 0.0, False), (2, 0.0, 1.0, True)]


@pytest.mark.parametrize("hole_ends_episode", [False, True])
def test_the_goal_pays_and_ends_the_episode(hole_ends_episode: bool) -> None:
    family = FrozenLake(seed=0, map_size=4, success_rate=1.0, hole_ends_episode=hole_ends_episode)
    steps = _walk(family, ["SFFF", "FFFF", "FFFF", "FFFG"], [DOWN] * 3 + [RIGHT] * 3)
    assert steps[-1] == (15, 1.0, 0.0, True)
    assert [(gain, ended) for _, gain, _, ended in steps[:-1]] == [(0.0, False)] * 5


def test_an_episode_is_truncated_at_the_horizon() -> None:
    env = FrozenLake(seed=0, map_size=4, success_rate=1.0, horizon=3).make({"desc": MAPS["4x4"]})
    env.reset(seed=0)
    assert [env.step(LEFT)[3] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("map_size", "similarity", "changed"),
    [(8, "high", 1), (8, "low", 12), (8, 1, 1), (8, 5, 5), (8, 12, 12), (4, "high", 1), (4, 5, 5)],
)
def test_tasks_differ_from_gymnasiums_map_in_exactly_that_many_tiles(
    map_size: int, similarity: str | int, changed: int
) -> None:
    family = FrozenLake(seed=0, map_size=map_size, similarity=similarity)
    assert family.num_changes == changed
    for split in SPLITS:
        for desc in _draw(family, 20, split):
            assert _distance(desc, MAPS[f"{map_size}x{map_size}"]) == changed


@pytest.mark.parametrize("map_size", [4, 5, 7, 8, 16, 33, 64])
def test_maps_are_solvable_squares_with_start_and_goal_in_the_corners(map_size: int) -> None:
    family = FrozenLake(seed=2, map_size=map_size, similarity=3)
    for split in SPLITS:
        for desc in _draw(family, 3, split):
            assert [len(row) for row in desc] == [map_size] * map_size
            tiles = "".join(desc)
            assert (tiles[0], tiles[-1], tiles.count("S"), tiles.count("G")) == ("S", "G", 1, 1)
            assert set(tiles) == set("SFHG")
            assert is_valid([list(row) for row in desc], map_size)
    assert family.model(family.parameters("train", 0, 0)).num_states == map_size**2


def test_tasks_of_a_size_without_a_map_of_gymnasium_share_a_base() -> None:
    drawn = _draw(FrozenLake(seed=2, map_size=10, similarity="high"), 10)
    assert max(_distance(*pair) for pair in itertools.combinations(drawn, 2)) == 2
    other = _draw(FrozenLake(seed=3, map_size=10, similarity="high"), 1)
    assert _distance(drawn[0], other[0]) > 4


def test_holes_neither_grow_nor_vanish() -> None:
    base = "".join(MAPS["8x8"]).count("H")
    counts = [desc.count("H") for desc in map("".join, _draw(FrozenLake(seed=0, similarity="low"), 100))]
    assert set(counts) == {base}
    odd = [desc.count("H") - base for desc in map("".join, _draw(FrozenLake(seed=0, similarity=5), 100))]
    assert set(odd) == {-1, 1}


@pytest.mark.parametrize(
    "settings",
    [
        {"map_size": 4},
        {"map_size": 8},
        {"map_size": 4, "similarity": 3},
        {"map_size": 8, "sequence": "drifting"},
        {"map_size": 8, "sequence": "clustered"},
    ],
)
def test_no_map_is_in_both_splits(settings: dict[str, Any]) -> None:
    for seed in range(3):
        family = FrozenLake(seed=seed, num_tasks=40, **settings)
        drawn = {
            split: {_tiles(family.parameters(split, index, attempt)) for index in range(40) for attempt in range(5)}
            for split in SPLITS
        }
        assert min(map(len, drawn.values())) > 1
        assert not drawn["train"] & drawn["test"]


def test_drawing_is_pure_and_depends_on_each_argument() -> None:
    family = FrozenLake(seed=0, similarity="low")
    first = family.parameters("train", 3, 0)
    for _ in _draw(FrozenLake(seed=9, sequence="drifting"), 3):
        assert FrozenLake(seed=0, similarity="low").parameters("train", 3, 0) == first
    others = [
        FrozenLake(seed=1, similarity="low").parameters("train", 3, 0),
        family.parameters("test", 3, 0),
        family.parameters("train", 4, 0),
        family.parameters("train", 3, 1),
    ]
    assert all(other != first for other in others)


@pytest.mark.parametrize("drift", [1, 4])
def test_a_drifting_base_moves_by_drift_tiles_a_task(drift: int) -> None:
    """Task t differs from base t in 1 tile: neighbours differ in at most drift + 2 tiles and in as many modulo 2."""
    drawn = _draw(FrozenLake(seed=0, sequence="drifting", drift=drift), 31)
    steps = np.array([_distance(one, other) for one, other in itertools.pairwise(drawn)])
    assert steps.max() <= drift + 2
    np.testing.assert_array_equal(steps % 2, drift % 2)
    far = np.array([_distance(one, other) for one, other in zip(drawn, drawn[15:], strict=False)])
    assert far.mean() > 2.0 * steps.mean()
    assert _distance(drawn[0], MAPS["8x8"]) == 1


def test_the_drift_does_not_depend_on_how_many_tasks_follow() -> None:
    short, long = (FrozenLake(seed=0, sequence="drifting", num_tasks=count) for count in (5, 96))
    assert _draw(short, 5) == _draw(long, 5)


def test_test_tasks_of_a_drift_come_from_where_it_ends() -> None:
    family = FrozenLake(seed=0, sequence="drifting", drift=4, num_tasks=30)
    tests = _draw(family, 10, "test")
    first, last = (family.parameters("train", index, 0)["desc"] for index in (0, 29))
    assert max(_distance(*pair) for pair in itertools.combinations(tests, 2)) == 2
    assert max(_distance(desc, last) for desc in tests) <= 4 + 2
    assert min(_distance(desc, first) for desc in tests) > 4 + 2


@pytest.mark.parametrize("num_clusters", [2, 3])
def test_clusters_are_groups_around_bases_far_from_each_other(num_clusters: int) -> None:
    family = FrozenLake(seed=0, sequence="clustered", num_clusters=num_clusters, cluster_distance=16)
    for split in SPLITS:
        groups: list[list[list[str]]] = []
        for desc in _draw(family, 60, split):
            near = [group for group in groups if _distance(group[0], desc) <= 2]
            assert len(near) <= 1
            near[0].append(desc) if near else groups.append([desc])
        assert len(groups) == num_clusters
        assert min(map(len, groups)) >= 60 / num_clusters / 3
        to_first = sorted(_distance(group[0], MAPS["8x8"]) for group in groups)
        assert to_first[0] == 1
        assert all(distance in (15, 17) for distance in to_first[1:])


@pytest.mark.parametrize("sequence", ["drifting", "clustered"])
def test_every_task_of_a_long_sequence_can_be_drawn(sequence: Any) -> None:
    for seed in (6, 7, 12):
        for settings in ({"map_size": 4, "cluster_distance": 6}, {"map_size": 8, "cluster_distance": 30}):
            family = FrozenLake(seed=seed, sequence=sequence, num_tasks=96, **settings)
            for index in range(0, 96, 5):
                family.parameters("train", index, 0)
            family.parameters("test", 0, 0)


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        ({"similarity": 0}, "similarity.*at least 1"),
        ({"similarity": -3}, "similarity.*at least 1"),
        ({"similarity": "medium"}, "similarity.*'high' or 'low'"),
        ({"similarity": 1.5}, "similarity"),
        ({"similarity": 63}, "63 tiles cannot change on a map with 62 tiles"),
        ({"map_size": 4, "similarity": 15}, "15 tiles cannot change on a map with 14 tiles"),
        ({"map_size": 4, "sequence": "clustered"}, "16 tiles cannot change on a map with 14 tiles"),
        ({"map_size": 4, "sequence": "drifting", "drift": 15}, "15 tiles cannot change on a map with 14 tiles"),
        ({"drift": 0}, "drift"),
        ({"num_clusters": 1}, "num_clusters"),
        ({"map_size": 3}, "map_size"),
        ({"map_size": 65}, "map_size"),
        ({"success_rate": 0.0}, "success_rate"),
        ({"discount": 1.0}, "discount"),
        ({"limit_fraction": 1.0}, "limit_fraction"),
        ({"limit": -1.0}, "limit"),
        ({"sequence": "random"}, "sequence"),
        ({"slippery": True}, "slippery"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], reported: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=f"(?s){reported}"):
        FrozenLake(seed=0, **settings)


def test_where_no_map_is_left_the_error_names_the_split_and_what_to_change() -> None:
    family = FrozenLake(seed=0, map_size=4, similarity=14)
    with pytest.raises(
        ValueError, match=r"train split differs from its base in 14 tiles; change similarity or map_size"
    ):
        family.parameters("train", 0, 0)


def _pushes(holes: NDArray[np.float64]) -> NDArray[np.float64]:
    """What holes do to the logits of a square map, [n, n, A], for random weights."""
    size, effects = len(holes), FrozenLake(seed=0, map_size=len(holes)).context_effects()
    weights = np.random.default_rng(0).normal(size=int(effects[:, 3].max()) + 1)
    state, action, entry, number = effects.T
    pushes = np.bincount(state * 4 + action, weights[number] * holes.ravel()[entry], size * size * 4)
    return pushes.reshape(size, size, 4)


def test_holes_act_alike_wherever_they_are_and_however_the_map_is_turned() -> None:
    holes = (np.random.default_rng(1).random((7, 7)) < 0.3).astype(float)
    turned = _pushes(np.rot90(holes))  # counterclockwise: left becomes down, down right, right up, up left
    np.testing.assert_allclose(np.rot90(_pushes(holes)), turned[..., [1, 2, 3, 0]], atol=1e-12)
    mirrored = _pushes(holes[:, ::-1])
    np.testing.assert_allclose(_pushes(holes)[:, ::-1], mirrored[..., [2, 1, 0, 3]], atol=1e-12)
    one, moved = np.zeros((7, 7)), np.zeros((7, 7))
    one[3, 3], moved[4, 4] = 1.0, 1.0
    np.testing.assert_allclose(_pushes(one)[:6, :6], _pushes(moved)[1:, 1:], atol=1e-12)
    corner = np.zeros((9, 9))
    corner[0, 0] = 1.0
    assert not _pushes(corner)[4:].any()
    assert _pushes(corner)[3, 3].all()
