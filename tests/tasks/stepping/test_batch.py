from __future__ import annotations

import threading
import time
from typing import Any

import gymnasium
import numpy as np
import pytest

from tasks.contract.task import TaskError
from tasks.stepping.batch import BatchEnvironment, GymnasiumBatch


class Walk(gymnasium.Env[Any, Any]):
    """A noisy walk on a line that reports what it is told to at its third step."""

    def __init__(self, fault: Any = None, discrete: bool = False) -> None:
        self.observation_space = gymnasium.spaces.Box(-50.0, 50.0, (1, 2), np.float64)
        self.action_space: Any = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        if discrete:
            self.action_space = gymnasium.spaces.Discrete(3, start=-1)
        self.fault = fault

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.steps = np.zeros((1, 2)), 0
        return self.place.copy(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        assert -1.0 <= float(np.ravel(action)[0]) <= 1.0
        self.place = self.place + float(np.ravel(action)[0]) + self.np_random.normal()
        result: dict[str, Any] = {
            "observation": self.place.copy(),
            "reward": float(self.place[0, 0]),
            "cost": [1.0, self.steps],
        }
        if self.steps == 3 and self.fault is not None:
            name, value = self.fault
            if name == "raise":
                raise value
            if name == "hang":
                time.sleep(value)
            result[name] = value
        if "result" in result:
            return result["result"]
        info = {} if result["cost"] is None else {"cost": result["cost"]}
        return result["observation"], result["reward"], self.steps == 8, False, info


def _batch(num_copies: int = 2, horizon: int = 5, **walk: Any) -> GymnasiumBatch:
    return GymnasiumBatch(lambda: Walk(**walk), num_copies, 2, horizon, "walk/train/4")


def test_it_steps_clips_and_truncates() -> None:
    batch, env = _batch(), Walk()
    assert isinstance(batch, BatchEnvironment)
    assert (batch.observation_size, batch.num_costs, batch.num_actions) == (2, 2, None)
    batch.reset(np.arange(2), np.array([8, 9]))
    env.reset(seed=9)
    for step in range(1, 6):
        batch.step(np.array([[0.5], [7.0]]))
        observation, reward, _, _, _ = env.step([1.0])
        np.testing.assert_array_equal(batch.observations[1], observation[0].astype(np.float32))
        assert batch.reward[1] == reward
        assert batch.costs.tolist() == [[1.0, step]] * 2
        assert batch.truncated.tolist() == [step == 5] * 2
        assert not batch.terminated.any()
    batch.reset(np.array([1]), np.array([9]))
    assert batch.observations[1].tolist() == [0.0, 0.0]
    assert batch.observations[0, 0] != 0.0
    batch.close()


def test_discrete_actions_start_where_the_space_does() -> None:
    batch = _batch(discrete=True)
    assert (batch.num_actions, batch.action_low) == (3, None)
    batch.reset(np.arange(2), np.zeros(2, int))
    batch.step(np.array([0, 2]))
    assert batch.observations[1, 0] - batch.observations[0, 0] == pytest.approx(2.0)
    with pytest.raises(TaskError, match=r"walk/train/4, step 2, copy 0: action 3 is not one of 0\.\.2"):
        batch.step(np.array([3, 0]))


@pytest.mark.parametrize(
    ("fault", "reported"),
    [
        (("raise", RuntimeError("stuck")), "step raised RuntimeError: stuck"),
        (("cost", None), r'step reports no info\["cost"\]; it must hold 2 number\(s\)'),
        (("cost", 1.0), r'info\["cost"\] must hold 2 number\(s\), got 1.0'),
        (("cost", [[1.0, 2.0]]), r'info\["cost"\] must hold 2'),
        (("cost", [1.0, float("nan")]), r'info\["cost"\] is nan'),
        (("reward", float("inf")), "the reward is inf"),
        (("reward", "much"), "the reward must be a number, got 'much'"),
        (("observation", np.zeros((1, 2), np.float32)), r"must be float64 of shape \[1, 2\].*got float32 of shape"),
        (("observation", np.zeros(2)), r"got float64 of shape \[2\]"),
        (("observation", [0.0, 0.0]), "got list"),
        (("observation", np.array([[0.0, 51.0]])), r"observation\[0, 1\] is 51.0, not a number in \[-50.0, 50.0\]"),
        (("observation", np.array([[np.nan, 0.0]])), r"observation\[0, 0\] is nan"),
        (("result", (1.0, 2.0)), "step must return .*cost, terminated, truncated, info.*, got 2 values"),
        (("result", None), "step must return .*, got a NoneType"),
        (("result", (np.zeros((1, 2)), 0.0, {}, False, False)), r"terminated \{\}, truncated False, info False"),
    ],
)
def test_a_fault_names_task_step_and_copy(fault: Any, reported: str) -> None:
    envs = iter([Walk(), Walk(fault)])
    batch = GymnasiumBatch(lambda: next(envs), 2, 2, 50, "walk/train/4")
    batch.reset(np.arange(2), np.arange(2))
    for _ in range(2):
        batch.step(np.zeros((2, 1)))
    with pytest.raises(TaskError, match=f"walk/train/4, step 3, copy 1: .*{reported}"):
        batch.step(np.zeros((2, 1)))


def test_spaces_it_cannot_step_are_reported() -> None:
    def taxi() -> gymnasium.Env[Any, Any]:
        return gymnasium.make("Taxi-v3")

    with pytest.raises(TaskError, match="walk: observations must come from a Box space, got Discrete"):
        GymnasiumBatch(taxi, 1, 1, 5, "walk")


def test_it_wants_a_reset_first() -> None:
    batch = _batch()
    batch.reset(np.array([0]), np.array([0]))
    with pytest.raises(TaskError, match="copy 1 was never reset"):
        batch.step(np.zeros((2, 1)))


def test_a_step_that_hangs_is_reported() -> None:
    batch = GymnasiumBatch(lambda: Walk(("hang", 30.0)), 2, 2, 50, "walk/train/4", seconds=0.2)
    batch.reset(np.arange(2), np.arange(2))
    for _ in range(2):
        batch.step(np.zeros((2, 1)))
    began = time.monotonic()
    with pytest.raises(TaskError, match=r"walk/train/4, step 3, copy 0: step: no answer within 0\.2 seconds"):
        batch.step(np.zeros((2, 1)))
    assert time.monotonic() - began < 5.0


def test_a_step_that_hangs_is_reported_in_another_thread_too() -> None:
    class Stuck(Walk):
        def step(self, action: Any) -> Any:
            result = super().step(action)
            while self.steps == 3:
                time.sleep(0.01)
            return result

    batch = GymnasiumBatch(Stuck, 2, 2, 50, "walk/train/4", seconds=0.2)
    reported: list[str] = []

    def run() -> None:
        batch.reset(np.arange(2), np.arange(2))
        try:
            for _ in range(3):
                batch.step(np.zeros((2, 1)))
        except TaskError as error:
            reported.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(5.0)
    assert reported == ["walk/train/4, step 3, copy 0: step: no answer within 0.2 seconds"]


def test_a_reset_that_hangs_or_raises_is_reported() -> None:
    class Stuck(Walk):
        def reset(self, **arguments: Any) -> Any:
            time.sleep(30.0)

    class Torn(Walk):
        def reset(self, **arguments: Any) -> Any:
            raise OSError("no such map")

    batch = GymnasiumBatch(Stuck, 2, 2, 50, "walk/train/4", seconds=0.1)
    with pytest.raises(TaskError, match=r"walk/train/4, step 0, copy 0: reset: no answer within 0\.1 seconds"):
        batch.reset(np.arange(2), np.arange(2))
    with pytest.raises(TaskError, match="walk/train/4, step 0, copy 1: reset raised OSError: no such map"):
        GymnasiumBatch(Torn, 2, 2, 50, "walk/train/4").reset(np.array([1]), np.array([1]))


def test_the_time_is_that_of_one_copy() -> None:
    """Three copies that take 0.1 s each keep a limit of 0.2 s."""

    class Slow(Walk):
        def step(self, action: Any) -> Any:
            time.sleep(0.1)
            return super().step(action)

    batch = GymnasiumBatch(Slow, 3, 2, 50, "walk/train/4", seconds=0.2)
    batch.reset(np.arange(3), np.arange(3))
    batch.step(np.zeros((3, 1)))
    assert batch.costs[:, 1].tolist() == [1.0, 1.0, 1.0]


class SixValues(Walk):
    """Safety-Gymnasium's step; info says something else."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, info["cost"], terminated, truncated, {"cost": [9.0, 9.0]}


def test_the_cost_of_a_six_value_step_is_its_third() -> None:
    six, five = (GymnasiumBatch(kind, 2, 2, 50, "walk/train/4") for kind in (SixValues, Walk))
    for batch in (six, five):
        batch.reset(np.arange(2), np.arange(2))
        for _ in range(2):
            batch.step(np.full((2, 1), 0.5))
    assert six.costs.tolist() == five.costs.tolist() == [[1.0, 2.0]] * 2
    np.testing.assert_array_equal(six.observations, five.observations)
    np.testing.assert_array_equal(six.reward, five.reward)


@pytest.mark.parametrize("cost", [2, 2.5, np.float32(2.5), np.array(2.5), [2.5], np.array([2.5], np.float32)])
def test_one_cost_may_be_a_plain_number(cost: Any) -> None:
    class Single(Walk):
        def step(self, action: Any) -> Any:
            return (*super().step(action)[:4], {"cost": cost})

    batch = GymnasiumBatch(Single, 1, 1, 50, "walk/train/4")
    batch.reset(np.array([0]), np.array([0]))
    batch.step(np.zeros((1, 1)))
    assert batch.costs.tolist() == [[float(np.ravel(cost)[0])]]


def test_spaces_that_change_are_reported() -> None:
    class Growing(Walk):
        def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
            self.observation_space = gymnasium.spaces.Box(-60.0, 50.0, (1, 2), np.float64)
            return super().reset(**arguments)

    batch = GymnasiumBatch(Growing, 1, 2, 5, "walk/train/4")
    with pytest.raises(TaskError, match=r"walk/train/4, step 0, copy 0: the space was Box.* and has become Box\(-60"):
        batch.reset(np.arange(1), np.arange(1))


def test_an_instability_of_an_environment_on_mujoco_is_reported() -> None:
    class Costly(gymnasium.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            observation, reward, terminated, truncated, info = self.env.step(action)
            return observation, reward, terminated, truncated, info | {"cost": 0.0}

    env = gymnasium.make("Hopper-v5", disable_env_checker=True)
    batch = GymnasiumBatch(lambda: Costly(env), 1, 1, 50, "jump/test/0")
    batch.reset(np.arange(1), np.arange(1))
    batch.step(np.zeros((1, 3)))
    env.unwrapped.data.qvel[0] = 1e12  # type: ignore[attr-defined]
    with pytest.raises(TaskError, match=r"jump/test/0, step 2, copy 0: MuJoCo warns: .*unstable.*Observation before"):
        batch.step(np.zeros((1, 3)))
    batch.reset(np.arange(1), np.arange(1))
    batch.step(np.zeros((1, 3)))
