"""Machines that wear: running fast earns more and wears faster, a repair takes a step without income."""
# ruff: noqa: D102

import gymnasium
import numpy as np

SLOW, FAST, REPAIR = range(3)


class Machine(gymnasium.Env):
    """States: wear 0 to 5. Costs: 1 for each step that ends worn out (wear 5), and 1 for each repair."""

    observation_space, action_space = gymnasium.spaces.Discrete(6), gymnasium.spaces.Discrete(3)

    def __init__(self, chance):
        self.chance = {SLOW: 0.1, FAST: chance, REPAIR: 0.0}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.wear = 0
        return self.wear, {}

    def step(self, action):
        worn = self.np_random.random() < self.chance[action]
        self.wear = 0 if action == REPAIR else min(self.wear + worn, 5)
        cost = [float(self.wear == 5), float(action == REPAIR)]
        return self.wear, (0.4, 1.0, 0.0)[action], False, False, {"cost": cost}


class Machines:
    """A family of machines that differ in the chance to wear while they run fast."""

    cost_names, discount, horizon = ("worn_out", "repairs"), 0.9, 60

    def __init__(self, seed, num_tasks, least_chance=0.4):
        self.seed, self.least_chance = seed, least_chance

    def parameters(self, split, index, attempt):
        rng = np.random.default_rng([self.seed, split == "test", index, attempt])
        return {"chance": rng.uniform(self.least_chance, 0.9)}

    def make(self, parameters):
        return Machine(parameters["chance"])

    def model(self, parameters):
        return None

    def limits(self, parameters):
        return (0.1, 1.2)
