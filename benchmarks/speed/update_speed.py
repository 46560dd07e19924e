"""The neural CRPO update against simpler alternatives: ``make bench`` writes docs/results/neural_update.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.result_page import header, table, write
from benchmarks.speed.half_cheetah import HalfCheetahBatch
from policies.networks.distributions import extra_of
from policies.networks.mlp import Array, Network, apply
from policies.neural.advantages import explained_variance
from policies.neural.critic import CriticSettings, fit_critic
from policies.neural.crpo import fresh_policy
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import Parameters, PolicyState, critic_values, new_policy
from policies.neural.rollouts import NeuralRollouts, NeuralTransitions
from policies.neural.update import Problem, UpdateReport, estimate_advantages, improve
from policies.steps.natural_gradient import TrustRegionSettings
from tasks.contract.tabular_model import FloatArray

COPIES, HORIZON, ITERATIONS, HELD_OUT_EVERY = 20, 200, 30, 3
DISCOUNT = 0.99
SETTINGS = NeuralSettings(steps_per_iteration=COPIES * HORIZON, num_copies=COPIES, returns="episodic")
PROBLEM = Problem(np.ones(2), np.array([25.0]), np.zeros(1), DISCOUNT, HORIZON)


@dataclass(frozen=True)
class Iteration:
    """A policy with its batch and update, and in some iterations a held-out batch of the same policy."""

    policy: PolicyState
    data: NeuralTransitions
    held_out: NeuralTransitions | None
    report: UpdateReport
    wall_seconds: float
    cpu_seconds: float


def training_run(settings: NeuralSettings, iterations: int) -> list[Iteration]:
    """CRPO from a fresh policy with the time of every update."""
    batch = HalfCheetahBatch(COPIES, HORIZON)
    policy = fresh_policy(batch, settings, 0)
    train, other = (NeuralRollouts(batch, HORIZON, seed, "half_cheetah") for seed in (0, 1))
    rng = np.random.default_rng(0)
    result = []
    for index in range(iterations):
        data = train.collect(policy, index).copy()
        held_out = other.collect(policy, index).copy() if index % HELD_OUT_EVERY == 0 else None
        wall, cpu = time.perf_counter(), time.process_time()
        improved, report = improve(policy, data, PROBLEM, settings, rng)
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        result.append(Iteration(policy, data, held_out, report, *seconds))
        policy = improved
    return result


def update_times(run: Sequence[Iteration], plain: Sequence[Iteration]) -> list[str]:
    """Seconds of the update and its parts, and products with and without the preconditioner."""
    rows = []
    for name, iterations in (("Kronecker-preconditioned", run), ("plain conjugate gradient", plain)):
        later = iterations[1:]
        rows.append(
            [
                name,
                f"{median(i.wall_seconds for i in later):.3f}",
                f"{max(i.wall_seconds for i in later):.3f}",
                f"{median(i.cpu_seconds for i in later):.3f}",
                f"{median(i.report.update_seconds for i in later):.3f}",
                f"{median(i.report.critic_seconds for i in later):.3f}",
                f"{median(i.report.step.cg_iterations for i in later):.0f}",
                f"{median(i.report.step.cg_residual for i in later):.2f}",
                f"{np.mean([i.report.values[0] for i in iterations[-5:]]):.0f}",
            ]
        )
    columns = ["update", "wall s, median", "wall s, worst", "CPU s, median", "branch to line search", "critic fit"]
    return [
        "## Seconds of an update",
        "",
        f"Branch, advantages, natural-gradient step, line search, critic fit and statistics on {COPIES * HORIZON} "
        "samples, 17 observations, 6 actions, two layers of 64 units, one thread. The first update, which also fits a "
        "fresh critic, is left out. Target: at most 0.25 s.",
        "",
        *table([*columns, "products", "residual", f"reward after {len(run)} iterations"], rows),
    ]


Fit = Callable[[list[Parameters], Array, Array, np.random.Generator], list[Parameters]]
Batch = tuple[Array, Array, tuple[Array, Array] | None]
"""Inputs, targets, and inputs and returns of the held-out batch if there is one."""


def one_critic(critics: list[Parameters], inputs: Array, targets: Array, rng: np.random.Generator) -> list[Parameters]:
    """Fit one critic with a head for each objective."""
    return [fit_critic(critics[0], inputs, targets, CriticSettings(), rng)]


def several_critics(
    critics: list[Parameters], inputs: Array, targets: Array, rng: np.random.Generator
) -> list[Parameters]:
    """Fit one critic for each objective."""
    columns = range(targets.shape[1])
    return [fit_critic(critics[i], inputs, targets[:, i : i + 1], CriticSettings(), rng) for i in columns]


class PlainAdam:
    """A torch network for each objective on raw returns: Adam at 1e-3, minibatches of 128, kept over iterations."""

    def __init__(self, heads: int, epochs: int) -> None:
        torch.manual_seed(0)
        self._epochs = epochs
        self._networks = [
            torch.nn.Sequential(
                *(torch.nn.Linear(17, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh()),
                torch.nn.Linear(64, 1),
            )
            for _ in range(heads)
        ]
        self._optimizers = [torch.optim.Adam(network.parameters(), lr=1e-3) for network in self._networks]

    def fit(self, inputs: Array, targets: Array) -> None:
        """Train for some epochs on one batch."""
        data, wanted = torch.from_numpy(inputs), torch.from_numpy(targets)
        for index, (network, optimizer) in enumerate(zip(self._networks, self._optimizers, strict=True)):
            for _ in range(self._epochs):
                for rows in torch.split(torch.randperm(len(data)), 128):
                    optimizer.zero_grad()
                    loss = torch.nn.functional.mse_loss(network(data[rows])[:, 0], wanted[rows, index])
                    torch.autograd.backward(loss)
                    optimizer.step()

    def values(self, inputs: Array) -> Array:
        """Predictions [N, h]."""
        with torch.inference_mode():
            return torch.cat([network(torch.from_numpy(inputs)) for network in self._networks], dim=1).numpy()


def critic_fits(run: Sequence[Iteration]) -> list[str]:
    """Explained variance on held-out returns of the same policy; every critic is kept from batch to batch."""
    trace = np.full(2, 0.95)
    batches: list[Batch] = []
    for item in run[1:]:
        estimates = estimate_advantages(item.policy, item.data, DISCOUNT, trace)
        held = None
        if item.held_out is not None:
            found = estimate_advantages(item.policy, item.held_out, DISCOUNT, np.ones(2))
            held = found.inputs, found.targets
        batches.append((estimates.inputs, estimates.targets, held))
    rows = []
    for name, heads, fit in (("one critic, 2 heads", [2], one_critic), ("2 critics", [1, 1], several_critics)):
        critics = [new_policy(17, 6, h - 1, continuous=True, seed=i).critic for i, h in enumerate(heads)]
        rows.append([name, *_follow(batches, critics, fit)])
    for epochs in (10, 40):
        rows.append([f"plain: 2 torch critics, Adam, {epochs} epochs", *_follow_plain(batches, PlainAdam(2, epochs))])
    return [
        "## Critic",
        "",
        f"Critics are warm-started over {len(batches)} batches of 4,000 samples. The score is the mean explained "
        "variance over held-out batches of the same policy, on their Monte Carlo returns (lambda = 1; the run's own "
        "critic completes episodes cut at the horizon). All fits use the run's lambda-returns as targets. Most of the "
        "remaining variance is noise of the returns.",
        "",
        *table(["fit", "CPU s a batch", "explained variance, reward", "cost", "cost, last 3 batches"], rows),
    ]


def _follow(batches: Sequence[Batch], critics: list[Parameters], fit: Fit) -> list[str]:
    rng, seconds = np.random.default_rng(0), []
    scores: list[FloatArray] = []
    for inputs, targets, held in batches:
        began = time.process_time()
        critics = fit(critics, inputs, targets, rng)
        seconds.append(time.process_time() - began)
        if held is not None:
            scores.append(explained_variance(np.hstack([critic_values(c, held[0]) for c in critics]), held[1]))
    return _summary(seconds, scores)


def _follow_plain(batches: Sequence[Batch], plain: PlainAdam) -> list[str]:
    seconds: list[float] = []
    scores: list[FloatArray] = []
    for inputs, targets, held in batches:
        began = time.process_time()
        plain.fit(inputs, targets)
        seconds.append(time.process_time() - began)
        if held is not None:
            scores.append(explained_variance(plain.values(held[0]), held[1]))
    return _summary(seconds, scores)


def _summary(seconds: list[float], scores: list[FloatArray]) -> list[str]:
    mean, last = np.mean(scores, axis=0), np.mean(scores[-3:], axis=0)
    return [f"{median(seconds):.3f}", f"{mean[0]:.3f}", f"{mean[1]:.3f}", f"{last[1]:.3f}"]


def policy_calls(policy: PolicyState) -> list[str]:
    """Microseconds of one batched policy call, in NumPy and in torch."""
    network, vector = policy.actor.network, policy.actor.vector
    assert isinstance(network, Network)
    normalize, extra = policy.statistics.normalizer(), extra_of(network, vector)
    std = np.exp(extra)
    layers = [(torch.from_numpy(w.copy()), torch.from_numpy(b.copy())) for w, b in network.layers(vector)]
    mean, scale = (torch.from_numpy(a.astype(np.float32)) for a in (policy.statistics.mean, policy.statistics.scale))

    def in_numpy(observations: Array, noise: Array) -> Array:
        return np.asarray(apply(network, vector, normalize(observations)) + std * noise)

    def in_torch(observations: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        hidden = ((observations - mean) * scale).clamp(-10.0, 10.0)
        for weights, bias in layers[:-1]:
            hidden = torch.tanh(torch.addmm(bias, hidden, weights))
        return torch.addmm(layers[-1][1], hidden, layers[-1][0]) + torch.from_numpy(std) * noise

    rows = []
    for copies in (1, 4, 20, 100):
        rng = np.random.default_rng(0)
        observations = rng.normal(size=(copies, 17)).astype(np.float32)
        noise = rng.normal(size=(copies, 6)).astype(np.float32)
        pair = torch.from_numpy(observations), torch.from_numpy(noise)
        numpy_time = _microseconds(partial(in_numpy, observations, noise))
        with torch.inference_mode():
            torch_time = _microseconds(partial(in_torch, *pair))
        rows.append([copies, f"{numpy_time:.0f}", f"{torch_time:.0f}"])
    return ["## One batched policy call", "", *table(["copies", "NumPy, microseconds", "torch"], rows)]


def _microseconds(call: Callable[[], object], repeats: int = 2000) -> float:
    for _ in range(50):
        call()
    began = time.process_time()
    for _ in range(repeats):
        call()
    return 1e6 * (time.process_time() - began) / repeats


def main() -> None:
    """Run everything on one thread and write the page."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        run = training_run(SETTINGS, ITERATIONS)
        plain = TrustRegionSettings(preconditioner="none", cg_iterations=30)
        other = training_run(SETTINGS.model_copy(update={"trust_region": plain}), ITERATIONS)
        lines = [
            *header("The neural CRPO update", "python -m benchmarks.speed.update_speed"),
            "HalfCheetah-v5 with a cost of 1 for every step faster than 1 m/s, limit 25 in 200 steps, 20 copies.",
            "",
            *update_times(run, other),
            *critic_fits(run),
            *policy_calls(run[-1].policy),
        ]
    write("neural_update.md", lines)


if __name__ == "__main__":
    main()
