"""The machines of own_family.py with their exact model: every result can be measured against the optimum."""
# ruff: noqa: D102

import numpy as np
from own_family import Machines

from tasks.contract.tabular_model import TabularModel


class ModelledMachines(Machines):
    """The same environments and limits; the limits are now checked when a task is drawn."""

    def model(self, parameters):
        kernel = np.zeros((6, 3, 6))  # P(next wear | wear, action)
        for wear in range(6):
            for action, chance in enumerate((0.1, parameters["chance"])):
                kernel[wear, action, min(wear + 1, 5)] += chance
                kernel[wear, action, wear] += 1.0 - chance
        kernel[:, 2, 0] = 1.0
        rows = kernel.reshape(18, 6)  # row = state * number of actions + action
        pairs, next_states = np.nonzero(rows)
        return TabularModel(
            pairs=pairs,
            next_states=next_states,
            probabilities=rows[pairs, next_states],
            reward=np.tile([0.4, 1.0, 0.0], (6, 1)),
            costs=np.stack([kernel[:, :, 5], np.tile([0.0, 0.0, 1.0], (6, 1))]),
            initial=np.eye(6)[0],
            absorbing=np.zeros(6, dtype=bool),
            discount=self.discount,
        )
