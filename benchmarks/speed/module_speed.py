"""An update with a module of torch beside the NumPy network of the same architecture; writes docs/results/torch.md.

4,000 samples of HalfCheetah, actor and critic of widths 64, 64 and 256, 256; CPU seconds of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from benchmarks.result_page import header, table, write
from benchmarks.speed.half_cheetah import HalfCheetahBatch
from benchmarks.speed.update_speed import COPIES, HORIZON, PROBLEM, SETTINGS
from policies.neural.crpo import fresh_policy
from policies.neural.neural_settings import NeuralSettings
from policies.neural.rollouts import NeuralRollouts
from policies.neural.update import improve

REPEATS, WARM_UP = 5, 2
WIDTHS = (64, 256)


class Tanh(nn.Module):
    """The mlp of the NumPy backend."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.first, self.second, self.head = (
            nn.Linear(inputs, width),
            nn.Linear(width, width),
            nn.Linear(width, outputs),
        )
        with torch.no_grad():
            self.head.weight.mul_(0.01)
            self.head.bias.zero_()

    def forward(self, observations: Tensor) -> Tensor:
        """Outputs [N, k]."""
        found: Tensor = self.head(torch.tanh(self.second(torch.tanh(self.first(observations)))))
        return found


def of_width(width: int, preconditioner: str) -> NeuralSettings:
    """The settings of an mlp of two layers of this width."""
    region = SETTINGS.trust_region.model_copy(update={"preconditioner": preconditioner})
    widths = {"hidden": (width, width), "critic_hidden": (width, width)}
    return SETTINGS.model_copy(update={**widths, "trust_region": region})


def of_module(width: int) -> NeuralSettings:
    """The settings of the same network in torch."""
    name, arguments = f"{__spec__.name}:Tanh", {"width": width}
    named = dict.fromkeys(("network", "critic_network"), name)
    given = {f"{role}_arguments": arguments for role in named}
    region = SETTINGS.trust_region.model_copy(update={"preconditioner": "none"})
    return SETTINGS.model_copy(update={**named, **given, "trust_region": region})


def row(label: str, settings: NeuralSettings) -> list[str]:
    """CPU milliseconds of an update, its Fisher products, and CPU microseconds of a call for 20 observations."""
    batch = HalfCheetahBatch(COPIES, HORIZON)
    policy = fresh_policy(batch, settings, 0)
    rollouts, rng = NeuralRollouts(batch, HORIZON, 0, "half_cheetah"), np.random.default_rng(0)
    steps, products = list[float](), list[int]()
    for index in range(WARM_UP + REPEATS):
        data = rollouts.collect(policy, index)
        began = time.process_time()
        policy, report = improve(policy, data, PROBLEM, settings, rng)
        steps.append(time.process_time() - began)
        products.append(report.step.cg_iterations)
    seen = data.observations[0]
    call = _seconds(lambda: policy.act(seen), 500)
    return [
        label,
        f"{1e3 * median(steps[WARM_UP:]):.0f}",
        f"{median(products[WARM_UP:]):.0f}",
        f"{1e6 * call:.0f}",
    ]


def _seconds(call: Callable[[], object], repeats: int) -> float:
    call()
    began = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - began) / repeats


def main() -> None:
    """Measure and write the page."""
    rows = []
    with threadpool_limits(1):
        torch.set_num_threads(1)
        for width in WIDTHS:
            rows.append(row(f"NumPy, {width} x {width}, kronecker", of_width(width, "kronecker")))
            rows.append(row(f"NumPy, {width} x {width}, no preconditioner", of_width(width, "none")))
            rows.append(row(f"torch, {width} x {width}, no preconditioner", of_module(width)))
    write(
        "torch.md",
        [
            *header("Modules of torch beside the NumPy network", "python -m benchmarks.speed.module_speed"),
            f"One CRPO update on {COPIES * HORIZON:,} samples of HalfCheetah (the actor's step and the critic's fit), "
            f"and a call for {COPIES} observations; CPU time of one thread, median of {REPEATS} iterations after "
            f"{WARM_UP}. `device: cuda` was not run: no GPU was at hand.",
            "",
            *table(["network", "update, ms", "Fisher products", "call, µs"], rows),
        ],
    )


if __name__ == "__main__":
    main()
