"""A torch module as a network: the same numbers as the NumPy network of the same weights, and as autograd."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call

from policies.networks.mlp import Array, Network, initialize
from policies.networks.module_network import (
    INPUT_SCALE,
    INPUT_SHIFT,
    MODULE,
    ModuleError,
    ModuleNetwork,
    ModuleSpec,
    initial_network,
    modules_allowed,
    modules_named,
    network_of_module,
)
from policies.steps.natural_gradient import (
    Samples,
    TrustRegionSettings,
    fisher_product,
    natural_gradient_step,
    policy_gradient,
)
from tests.support.modules import Normed

ROOT = Path(__file__).parents[3]
MODULES = "tests.support.modules"
EXTRAS = {"categorical": (), "gaussian": (("log_std", 3),)}
SETTINGS = TrustRegionSettings(preconditioner="none", cg_iterations=30, cg_residual=1e-5)


def made(name: str, extras: tuple[tuple[str, int], ...] = (), inputs: int = 5, outputs: int = 3) -> Any:
    return initial_network(ModuleSpec(f"{MODULES}:{name}"), inputs, outputs, extras, 3)


def twins(extras: tuple[tuple[str, int], ...]) -> tuple[Network, Array, ModuleNetwork, Array]:
    """An mlp and the module of the same weights, which torch keeps transposed."""
    mlp = Network((5, 8, 8, 3), extras)
    vector = initialize(mlp, 0, 0.5)
    vector += 0.1 * np.random.default_rng(1).standard_normal(vector.size).astype(np.float32)
    network, other = made("Tanh", extras)
    for number, name in enumerate(("body.0", "body.1", "head")):
        network.part(other, f"{name}.weight")[:] = mlp.part(vector, f"weights_{number}").T
        network.part(other, f"{name}.bias")[:] = mlp.part(vector, f"bias_{number}")
    for name, _ in extras:
        network.part(other, name)[:] = mlp.part(vector, name)
    return mlp, vector, network, other


def as_module(mlp: Network, network: ModuleNetwork, vector: Array) -> Array:
    """A vector in the mlp's layout in that of the module."""
    result = np.zeros(network.num_parameters, vector.dtype)
    for number, name in enumerate(("body.0", "body.1", "head")):
        network.part(result, f"{name}.weight")[:] = mlp.part(vector, f"weights_{number}").T
        network.part(result, f"{name}.bias")[:] = mlp.part(vector, f"bias_{number}")
    for name, _ in mlp.extras:
        network.part(result, name)[:] = mlp.part(vector, name)
    return result


def samples(extras: tuple[tuple[str, int], ...], rows: int = 40, inputs: int = 5) -> Samples:
    rng = np.random.default_rng(2)
    given = rng.standard_normal((rows, inputs)).astype(np.float32)
    actions = rng.standard_normal((rows, 3)).astype(np.float32) if extras else rng.integers(3, size=rows)
    weights = rng.random(rows).astype(np.float32)
    advantages = rng.standard_normal((rows, 2)).astype(np.float32)
    return Samples(given, actions, advantages, weights / weights.sum())


@pytest.mark.parametrize("kind", EXTRAS)
def test_outputs_and_products_are_those_of_the_mlp(kind: str) -> None:
    mlp, vector, network, other = twins(EXTRAS[kind])
    data, rng = samples(EXTRAS[kind]), np.random.default_rng(5)
    first, second = mlp.linearize(vector, data.inputs), network.linearize(other, data.inputs)
    np.testing.assert_allclose(second.outputs, first.outputs, atol=1e-5)
    np.testing.assert_allclose(network.apply(other, data.inputs), mlp.apply(vector, data.inputs), atol=1e-5)
    direction = rng.standard_normal(vector.size).astype(np.float32)
    tangent = second.tangent(as_module(mlp, network, direction))
    np.testing.assert_allclose(tangent, first.tangent(direction), rtol=1e-5, atol=1e-5)
    covectors = rng.standard_normal(first.outputs.shape).astype(np.float32) / len(data.inputs)
    pulled = as_module(mlp, network, first.pullback(covectors))
    np.testing.assert_allclose(second.pullback(covectors), pulled, rtol=1e-5, atol=1e-5)
    moved = vector + 0.01 * direction
    np.testing.assert_allclose(
        second.at(as_module(mlp, network, moved) + _inputs_part(network)), first.at(moved), atol=1e-5
    )


def _inputs_part(network: ModuleNetwork) -> Array:
    part = np.zeros(network.num_parameters, np.float32)
    network.part(part, INPUT_SCALE)[:] = 1.0
    return part


@pytest.mark.parametrize("kind", EXTRAS)
def test_the_natural_gradient_step_is_that_of_the_mlp(kind: str) -> None:
    mlp, vector, network, other = twins(EXTRAS[kind])
    data = samples(EXTRAS[kind])
    lines = mlp.linearize(vector, data.inputs), network.linearize(other, data.inputs)
    direction = np.random.default_rng(6).standard_normal(vector.size).astype(np.float32)
    product = as_module(mlp, network, fisher_product(mlp, lines[0], data.weights, direction))
    found = fisher_product(network, lines[1], data.weights, as_module(mlp, network, direction))
    np.testing.assert_allclose(found, product, rtol=1e-5, atol=1e-5)
    gradient = as_module(mlp, network, policy_gradient(mlp, lines[0], data, 1))
    np.testing.assert_allclose(policy_gradient(network, lines[1], data, 1), gradient, rtol=1e-5, atol=1e-5)
    new, report = natural_gradient_step(mlp, vector, data, 0, 0.05, 0.9, SETTINGS)
    after, again = natural_gradient_step(network, other, data, 0, 0.05, 0.9, SETTINGS)
    np.testing.assert_allclose(after - other, as_module(mlp, network, new - vector), atol=1e-5)
    assert (again.cap, again.backtracks, again.cg_iterations) == (report.cap, report.backtracks, report.cg_iterations)
    assert again.kl == pytest.approx(report.kl, rel=1e-3)
    np.testing.assert_array_equal(after[network.places[INPUT_SCALE]], 1.0)
    np.testing.assert_array_equal(after[network.places[INPUT_SHIFT]], 0.0)


@pytest.mark.parametrize("kind", EXTRAS)
def test_fisher_products_are_those_of_double_back_propagation(kind: str) -> None:
    """The Hessian of the KL in the parameters times v, by torch.autograd applied twice, for a module with a norm."""
    network, vector = made("Normed", EXTRAS[kind])
    vector = vector.astype(np.float64)
    vector[: sum(np.prod(shape, dtype=int) for _, shape in network.shapes)] += 0.3
    data = samples(EXTRAS[kind])
    data = Samples(
        *(part.astype(np.float64) for part in (data.inputs,)),
        data.actions,
        data.advantages,
        data.weights.astype(np.float64),
    )
    module = Normed(5, 3).double()
    fixed = torch.from_numpy(vector)

    def distribution(point: torch.Tensor) -> Any:
        named = {name: point[network.places[name]].view(shape) for name, shape in network.shapes}
        outputs = functional_call(module, named, (torch.from_numpy(data.inputs),))
        if not EXTRAS[kind]:
            return torch.distributions.Categorical(logits=outputs)
        std = point[network.places["log_std"]].exp()
        return torch.distributions.Independent(torch.distributions.Normal(outputs, std.expand_as(outputs)), 1)

    point = fixed.clone().requires_grad_()
    divergence = torch.distributions.kl_divergence(distribution(fixed), distribution(point))
    (gradient,) = torch.autograd.grad(torch.from_numpy(data.weights) @ divergence, point, create_graph=True)
    direction = np.random.default_rng(7).standard_normal(vector.size)
    (expected,) = torch.autograd.grad(gradient @ torch.from_numpy(direction), point)
    found = fisher_product(network, network.linearize(vector, data.inputs), data.weights, direction)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-10)
    assert np.abs(found).max() > 0.01


@pytest.mark.parametrize("name", ["Normed", "Recurrent", "Headless"])
def test_any_module_has_derivatives_that_differences_confirm(name: str) -> None:
    network, vector = made(name, inputs=8)
    vector = vector.astype(np.float64)
    inputs = np.random.default_rng(3).standard_normal((6, 8))
    linear = network.linearize(vector, inputs)
    own = sum(int(np.prod(shape)) for _, shape in network.shapes)
    direction = np.zeros_like(vector)
    direction[:own] = np.random.default_rng(4).standard_normal(own)
    step = 1e-6
    difference = (linear.at(vector + step * direction) - linear.at(vector - step * direction)) / (2.0 * step)
    np.testing.assert_allclose(linear.tangent(direction), difference, atol=1e-7)
    covectors = np.random.default_rng(5).standard_normal(linear.outputs.shape)
    np.testing.assert_allclose(linear.pullback(covectors) @ direction, (covectors * difference).sum(), atol=1e-6)


def test_the_head_is_a_view_and_its_inputs_are_its_inputs() -> None:
    network, vector = made("Normed")
    weights, bias = network.last_layer(vector)
    inputs = np.random.default_rng(3).standard_normal((6, 5)).astype(np.float32)
    weights[:], bias[:] = np.eye(16, 3), 2.0
    np.testing.assert_allclose(network.apply(vector, inputs), network.features(vector, inputs)[:, :3] + 2.0, atol=1e-5)
    network, vector = made("Headless")
    assert network.last_layer(vector) is None


def test_other_inputs_keep_the_function() -> None:
    network, vector = made("Normed")
    rng = np.random.default_rng(8)
    for _ in range(2):
        ratio, shift = rng.uniform(0.5, 2.0, 5), rng.standard_normal(5)
        inputs = rng.standard_normal((7, 5))
        before = network.apply(vector, (ratio * inputs + shift).astype(np.float32))
        vector = network.with_inputs(vector, ratio, shift)
        np.testing.assert_allclose(network.apply(vector, inputs.astype(np.float32)), before, atol=1e-5)


def test_a_seed_gives_the_same_parameters_and_leaves_random_numbers_of_the_process_alone() -> None:
    torch.manual_seed(11)
    first, expected = made("Tanh")[1], torch.rand(3)
    torch.manual_seed(11)
    again = torch.rand(3)
    assert torch.equal(expected, again)
    np.testing.assert_array_equal(made("Tanh")[1], first)
    other = initial_network(ModuleSpec(f"{MODULES}:Tanh"), 5, 3, (), 4)[1]
    assert not np.array_equal(other, first)


def test_a_network_goes_through_arrays_without_its_code() -> None:
    network, vector = made("Tanh", EXTRAS["gaussian"])
    arrays = network.arrays(vector)
    assert list(arrays)[:3] == [MODULE, "body.0.weight", "body.0.bias"]
    again, back = network_of_module(arrays)
    assert again == network
    np.testing.assert_array_equal(back, vector)
    assert modules_named({f"initialization.actor.{name}": part for name, part in arrays.items()}) == {
        (f"{MODULES}:Tanh", "{}")
    }
    unknown = ModuleNetwork(ModuleSpec("nowhere:Actor"), 5, 3, network.shapes, network.extras)
    found, _ = network_of_module(unknown.arrays(vector))
    assert found == unknown, "reading needs no class"
    inputs = np.zeros((1, 5), np.float32)
    with pytest.raises(ModuleError, match="come from a file that names this class, which is code"):
        found.apply(vector, inputs)
    with modules_allowed({"network": "nowhere:Actor"}):
        found, _ = network_of_module(unknown.arrays(vector))
    with pytest.raises(ModuleError, match=r"within_task\.network: module 'nowhere' does not import"):
        found.apply(vector, inputs)
    with pytest.raises(ValueError, match=r"body.0.bias must have shape \(8,\), got \(7,\)"):
        network_of_module({**arrays, "body.0.bias": np.zeros(7, np.float32)})
    with pytest.raises(ValueError, match="not readable"):
        network_of_module({**arrays, MODULE: np.frombuffer(b"{}", np.uint8)})


def test_parameters_of_another_architecture_are_refused() -> None:
    network, vector = made("Tanh")
    other = ModuleNetwork(ModuleSpec(network.spec.name, '{"hidden": [4]}'), 5, 3, network.shapes)
    with pytest.raises(ModuleError, match=r"has other parameters \(body.0.weight \[4, 5\].*than the policy"):
        other.apply(vector, np.zeros((1, 5), np.float32))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("WrongShape", r"outputs must have shape \[3, 3\] for 3 observations, got \[3, 2\]"),
        ("NotFinite", "outputs are not finite"),
        ("Mixing", "the outputs of one observation depend on the others"),
        ("Empty", "has no parameters"),
        ("EarlyHead", "called head that is not its last step"),
        ("Failing", r"its forward failed: RuntimeError: cannot take \[3, 5\]"),
        ("Unused", "the outputs do not depend on the parameters"),
        ("NoModule", "is not a torch.nn.Module"),
        ("Nothing", "has no class 'Nothing'"),
    ],
)
def test_a_module_that_cannot_be_a_network_is_refused(name: str, message: str) -> None:
    with pytest.raises(ModuleError, match=f"within_task.network: .*{message}"):
        made(name)


def test_wrong_arguments_and_taken_names_are_refused() -> None:
    with pytest.raises(ModuleError, match=r"could not be made for 5 inputs: TypeError: .*'depth'"):
        initial_network(ModuleSpec(f"{MODULES}:Tanh", '{"depth": 3}'), 5, 3, (), 0)
    with pytest.raises(ModuleError, match=r"has a parameter head.bias, a name that the policy itself uses"):
        made("Tanh", (("head.bias", 3),))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModuleError, match=r"within_task\.device: cuda: torch finds no GPU"):
        ModuleSpec(f"{MODULES}:Tanh").require_usable("cuda")
    ModuleSpec(f"{MODULES}:Tanh").require_usable(None)  # another machine has it


PROGRAM = """
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
from meta.training.pool import LocalPool
from policies.common.results import Start
from policies.neural.kind import NEURAL
from policies.neural.neural_settings import NeuralSettings
from tasks.contract.family_registry import FamilySpec
import numpy as np
settings = NeuralSettings(num_iterations=1, steps_per_iteration=200, num_copies=2, hidden=(4,), critic_hidden=(4,))
pool = LocalPool(FamilySpec("acrobot", 0, 1, {{"horizon": 100}}))
(task,) = pool.draw("train", [0])
fresh = NEURAL.fresh(FamilySpec("acrobot", 0, 1, {{"horizon": 100}}).make(), task, settings, 0)
(solved,) = pool.solve([task], Start(fresh, np.full(1 + len(task.limits), 0.1)), settings, collect=True)
print(solved.result.env_steps, "torch" in sys.modules)
"""


def test_torch_is_not_imported_where_nobody_names_a_module() -> None:
    rooms = ("tasks", "policies", "meta")
    files = sorted(path for room in rooms for path in (ROOT / room).rglob("*.py") if path.name != "torch_backend.py")
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(modules=modules)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["400", "False"]
