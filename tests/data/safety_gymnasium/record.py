"""Records what Safety-Gymnasium itself does in its own old environment, as reference for the tests beside it.

Runs apart from metasrl, with the package's own pins, on Python 3.10:

    python3.10 -m venv old
    old/bin/pip install gymnasium==0.28.1 mujoco==2.3.3 numpy==1.23.5 xmltodict pyyaml pygame
    old/bin/pip install imageio jinja2 "pettingzoo<1.25"
    old/bin/pip install --no-deps safety-gymnasium==1.0.0 gymnasium-robotics==1.2.2
    old/bin/python tests/data/safety_gymnasium/record.py

Writes one .npz per task: seed, layout (names, places), actions [T, A], observations [T + 1, d], rewards and costs [T].
"""

from pathlib import Path

import numpy as np
import safety_gymnasium

HERE = Path(__file__).parent
STEPS = {"Point": 60, "Car": 40, "Doggo": 20, "Racecar": 12, "Ant": 12}
VELOCITY = ("HalfCheetah", "Hopper", "Swimmer", "Walker2d", "Ant", "Humanoid")
VELOCITY_STEPS, HELD, SEED = 30, 5, 11
# Point and Car drive ahead, from starts where they soon meet what costs or what they are after. The car stands exactly
# on the floor, so that rounding decides which wheels touch it in the first instant: from these starts MuJoCo 2.3.3 and
# 3.17 agree on that, but for Goal1 from 23.
SEEDS = {
    ("Point", "Goal1"): 2,
    ("Point", "Button1"): 39,
    ("Point", "Push1"): 26,
    ("Point", "Circle1"): 24,
    ("Point", "Run0"): 12,
    ("Point", "FadingEasy1"): 4,
    ("Car", "Goal1"): 33,
    ("Car", "Button1"): 14,
    ("Car", "Push1"): 10,
    ("Car", "Circle1"): 24,
    ("Car", "Run0"): 2,
    ("Car", "FadingEasy1"): 30,
}
TASKS = ("Goal1", "Button1", "Push1", "Circle1", "Run0", "FadingEasy1")


def drive(robot, drawn, high):
    """The action of a robot from a random one."""
    action = drawn.copy()
    if robot == "Point":
        action[0], action[1] = high[0], 0.3 * drawn[1]
    elif robot == "Car":
        action = high * (0.7 + 0.3 * drawn)
    return action.astype(np.float32)


def record(task_id, robot, seed, steps, suffix=""):
    """A short episode under random actions, each held for a few steps; it stops where the episode does."""
    env = safety_gymnasium.make(task_id)
    # The very first reset computes positions once less than all others, which in MuJoCo 2.3.3 moves the last digit.
    env.reset(seed=seed)
    observation, _ = env.reset(seed=seed)
    layout = {}
    if robot is not None:
        layout = dict(env.unwrapped.task.world_info.layout)
    rng = np.random.RandomState(seed)
    low, high = env.action_space.low, env.action_space.high
    observations, actions, rewards, costs, ended = [observation], [], [], [], False
    while len(actions) < steps and not ended:
        if len(actions) % HELD == 0:
            drawn = rng.uniform(low, high)
        action = drive(robot, drawn, high)
        observation, reward, cost, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(reward)
        costs.append(cost)
        ended = terminated or truncated
    np.savez_compressed(
        HERE / (task_id + suffix + ".npz"),
        seed=np.int64(seed),
        names=np.array(list(layout), dtype=np.str_),
        places=np.array(list(layout.values()), dtype=np.float64).reshape(-1, 2),
        actions=np.array(actions, np.float32),
        observations=np.array(observations, np.float64),
        rewards=np.array(rewards, np.float64),
        costs=np.array(costs, np.float64),
        terminated=np.bool_(terminated),
    )
    print(task_id, len(actions), "steps, cost", np.sum(costs), "terminated", terminated)


def main():
    """Record everything."""
    for robot, steps in STEPS.items():
        for task in TASKS:
            record(f"Safety{robot}{task}-v0", robot, SEEDS.get((robot, task), SEED), steps)
    record("SafetyCarGoal1-v0", "Car", 23, STEPS["Car"], "-other-wheels")
    for robot in VELOCITY:
        record(f"Safety{robot}Velocity-v1", None, SEED, VELOCITY_STEPS)


if __name__ == "__main__":
    main()
