"""Every rule against a closed form, an identity or a solver of its own problem."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from policies.exact.softmax import kl_divergence, log_normalizer, log_policy, natural_gradient_step
from policies.exact.solver import ExactModel, evaluate, occupancy, optimal_policy
from policies.rules.c_trpo import CTRPO, barrier_direction, barrier_divergence
from policies.rules.cpo import CPO, MOST_COSTS, linear_step
from policies.rules.npg_primal_dual import NPGPrimalDual
from policies.rules.p3o import P3O
from policies.rules.pcrpo import PCRPO, manipulated
from policies.rules.ppo_lagrangian import Controller, PPOLagrangian
from policies.rules.rule import Barrier, Decision, Rule, View, decided
from policies.rules.switching import CRPO
from policies.tabular.crpo import ExactEvaluator
from policies.tabular.geometry import Products, combined
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import TaskError
from tests.support.few_variants import few
from tests.support.problems import interior_limits, random_cmdp, random_policy

RULES: dict[str, Rule] = {
    "crpo": CRPO(),
    "npg_primal_dual": NPGPrimalDual(),
    "cpo": CPO(),
    "ppo_lagrangian": PPOLagrangian(),
    "p3o": P3O(),
    "c_trpo": CTRPO(weight=1e-12),
    "pcrpo": PCRPO(),
}
FORMS = ("entropy", "logarithm")


def _products(seed: int, costs: int) -> FloatArray:
    """A random positive definite K [1+p, 1+p]."""
    factor = np.random.default_rng(seed).normal(size=(1 + costs, 4 + costs))
    return np.asarray(factor @ factor.T)


def _view(values: Any, limits: Any, products: FloatArray | None = None, **given: Any) -> View:
    values, limits = np.array(values, np.float64), np.array(limits, np.float64)
    matrix = np.eye(values.size) if products is None else products
    parts = {"tolerance": np.zeros(limits.size), "rates": 0.1 * np.arange(1, 1 + values.size), **given}
    return View(values, limits, products=lambda: matrix, spreads=lambda: np.sqrt(np.diag(matrix)), **parts)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("costs", [1, 2, 3])
def test_far_from_every_limit_all_rules_take_crpos_step_on_the_reward(name: str, costs: int) -> None:
    rule, products = RULES[name], _products(1, costs)
    view = _view([1.0] * (1 + costs), [1e6] * costs, products)
    decision = rule.decide(view, rule.first(costs))
    np.testing.assert_allclose(decision.coefficients, [0.1, *[0.0] * costs], atol=1e-9)
    assert decision.branch == 0


@pytest.mark.parametrize("seed", range(3))
def test_products_are_derivatives_of_the_returns(seed: int) -> None:
    """dJ_i / dt along z + t sum_j c_j A_j / (1 - gamma) is (K c)_i, and c' K c / 2 the divergence's quadratic model."""
    model, policy = ExactModel(random_cmdp(seed, 4, 3, 2, 0.8)), random_policy(seed, 4, 3)
    advantages, visits = evaluate(model, policy).advantages(), occupancy(model, policy)
    products = Products(policy, advantages, 0.8, ExactEvaluator(model))
    step = np.array([0.7, -0.4, 0.2])

    def moved(size: float) -> FloatArray:
        return np.exp(log_policy(np.log(policy) + size * combined(step, advantages) / 0.2))

    rises = (evaluate(model, moved(1e-5)).values - evaluate(model, moved(-1e-5)).values) / 2e-5
    np.testing.assert_allclose(products.matrix() @ step, rises, rtol=1e-6, atol=1e-8)
    size = 1e-3
    divergence = visits @ (policy * (np.log(policy) - np.log(moved(size)))).sum(axis=1)
    assert divergence == pytest.approx(0.5 * size**2 * step @ products.matrix() @ step, rel=5e-3)
    expected = np.sqrt(np.einsum("s,sa,isa->i", visits, policy, advantages**2))
    np.testing.assert_allclose(products.spreads(), expected)


def _solved(products: FloatArray, excess: FloatArray, delta: float) -> float | None:
    """The optimum of CPO's problem by SLSQP from several starts, or None where it finds no feasible point."""
    best = None
    for start in np.random.default_rng(0).normal(scale=0.3, size=(6, len(products))):
        found = minimize(
            lambda c: -(products @ c)[0],
            start,
            jac=lambda c: -products[0],
            constraints=[
                {"type": "ineq", "fun": lambda c: 2.0 * delta - c @ products @ c, "jac": lambda c: -2.0 * products @ c},
                {"type": "ineq", "fun": lambda c: -excess - (products @ c)[1:], "jac": lambda c: -products[1:]},
            ],
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        c = found.x
        kept = c @ products @ c <= 2.0 * delta + 1e-7 and (excess + (products @ c)[1:] <= 1e-7).all()
        if kept and (best is None or -found.fun > best):
            best = -found.fun
    return best


@pytest.mark.parametrize("costs", few([1, 2, 3], 0, 1))
def test_cpo_solves_its_programme(costs: int) -> None:
    """Against a general solver; among the cases are some without a feasible step and every number of binding costs."""
    bindings = set()
    for seed in range(25):
        products = _products(seed, costs)
        excess = np.random.default_rng([seed, 5]).normal(scale=1.0, size=costs)
        found, expected = linear_step(products, excess, 0.1), _solved(products, excess, 0.1)
        assert (found is None) == (expected is None), seed
        if found is None or expected is None:
            bindings.add(-1)
            continue
        assert found @ products @ found <= 0.2 * (1.0 + 1e-9)
        rises = excess + (products @ found)[1:]
        assert (rises <= 1e-7).all()
        assert (products @ found)[0] == pytest.approx(expected, abs=1e-6)
        bindings.add(int((np.abs(rises) < 1e-7).sum()))
    assert {-1, 0, 1} <= bindings


def test_cpo_with_one_constraint_has_the_papers_closed_form() -> None:
    """Achiam et al. 2017, section 6.1: lambda = sqrt((q - r^2 / s) / (2 delta - c^2 / s)), nu = (lambda c + r) / s."""
    products, excess, delta = np.array([[2.0, 0.9], [0.9, 1.5]]), np.array([-0.1]), 0.05
    (q, r), s = products[0], products[1, 1]
    weight = np.sqrt((q - r**2 / s) / (2.0 * delta - excess[0] ** 2 / s))
    price = (weight * excess[0] + r) / s
    assert price > 0.0
    np.testing.assert_allclose(linear_step(products, excess, delta), [1.0 / weight, -price / weight], rtol=1e-12)


def test_cpo_where_the_reward_can_only_rise_with_the_cost() -> None:
    """Parallel gradients: the step ends on the constraint, wherever its reward is."""
    products = np.array([[4.0, 2.0], [2.0, 1.0]])
    step = linear_step(products, np.array([0.1]), 1.0)
    assert step is not None
    assert (products @ step)[1] == pytest.approx(-0.1)
    assert step @ products @ step <= 2.0


def test_cpo_recovers_at_its_own_rate_within_the_radius() -> None:
    products = np.diag([1.0, 2.0, 0.5])
    decision = CPO().decide(_view([1.0, 9.0, 2.0], [1.0, 1.0], products), ())
    assert decision.branch == 1
    np.testing.assert_allclose(decision.coefficients, [0.0, -0.2, 0.0])
    shorter = CPO().decide(_view([1.0, 9.0, 2.0], [1.0, 1.0], products, radius=0.01), ())
    assert 0.5 * shorter.coefficients @ products @ shorter.coefficients == pytest.approx(0.01)


def test_cpo_refuses_more_costs_than_it_can_try() -> None:
    with pytest.raises(ValueError, match=f"cpo takes at most {MOST_COSTS} costs"):
        CPO().first(MOST_COSTS + 1)


@pytest.mark.parametrize(
    "rule", [PPOLagrangian(proportional=0.5, integral=0.2, derivative=0.3, largest_multiplier=2.0)]
)
def test_the_controller_is_the_papers_recursion(rule: PPOLagrangian) -> None:
    violations = np.array([[0.5, -1.0], [0.9, -0.5], [0.2, 0.7], [-3.0, 0.1], [40.0, 0.0], [-0.1, 0.0]])
    memory, totals, previous = rule.first(2), np.zeros(2), None
    for row in violations:
        multipliers, memory = rule.controlled(memory, row)
        for cost, error in enumerate(row):
            totals[cost] = min(max(totals[cost] + error, 0.0), 2.0 / 0.2)
            rise = 0.0 if previous is None else max(error - previous[cost], 0.0)
            expected = min(max(0.5 * error + 0.2 * totals[cost] + 0.3 * rise, 0.0), 2.0)
            assert multipliers[cost] == pytest.approx(expected)
        previous = row
    assert isinstance(memory, Controller)


def test_the_lagrangian_is_normalised_and_in_units_of_spreads() -> None:
    products = np.diag([4.0, 0.25])
    view = _view([1.0, 3.0], [2.0], products)
    decision = PPOLagrangian(proportional=1.0, integral=0.0).decide(view, PPOLagrangian().first(1))
    price = 0.5  # (3 - 2) / 2
    np.testing.assert_allclose(decision.coefficients, 0.1 * np.array([1.0, -price * 2.0 / 0.5]) / (1.0 + price))
    absolute = PPOLagrangian(proportional=1.0, integral=0.0, units="absolute")
    np.testing.assert_allclose(absolute.decide(view, absolute.first(1)).coefficients, 0.1 * np.array([1.0, -1.0]) / 2.0)


def test_a_cost_without_a_gradient_has_no_price() -> None:
    view = _view([1.0, 3.0], [2.0], np.diag([4.0, 0.0]))
    assert P3O().decide(view, ()).coefficients.tolist() == [0.1, 0.0]


def test_multipliers_follow_projected_descent() -> None:
    rule, memory = NPGPrimalDual(dual_rate=0.5, largest_multiplier=1.0), np.zeros(2)
    for values, expected in [([0, 2.0, 0.0], [0.5, 0.0]), ([0, 3.0, 1.5], [1.0, 0.25]), ([0, 0.0, 0.0], [0.5, 0.0])]:
        decision = rule.decide(_view(values, [1.0, 1.0]), memory)
        np.testing.assert_allclose(decision.coefficients, [0.1, *(-0.1 * memory)])
        memory = decision.memory
        np.testing.assert_allclose(memory, expected)


def test_the_penalty_is_that_of_the_violated_costs() -> None:
    rule = P3O(penalty=3.0, units="absolute")
    decision = rule.decide(_view([1.0, 2.0, 0.5, 1.0], [1.0, 1.0, 1.0]), ())
    np.testing.assert_allclose(decision.coefficients, [0.1, -0.3, 0.0, 0.0])
    np.testing.assert_allclose(decision.hinges, [3.0, 3.0, 3.0])


def test_the_penalised_step_is_the_gradient_of_the_penalised_objective() -> None:
    """d/dt [J_0 - kappa sum_i (J_i - d_i)_+] along any direction is the product of K with the step's coefficients."""
    model, policy = ExactModel(random_cmdp(3, 4, 3, 2, 0.8)), random_policy(3, 4, 3)
    found = evaluate(model, policy)
    limits = found.values[1:] + np.array([-0.2, 0.3])
    products = Products(policy, found.advantages(), 0.8, ExactEvaluator(model))
    view = _view(found.values, limits, products.matrix(), rates=np.ones(3))
    step = P3O(penalty=1.7, units="absolute").decide(view, ()).coefficients
    other = np.array([0.3, 0.5, -0.8])

    def objective(size: float) -> float:
        logits = np.log(policy) + size * combined(other, found.advantages()) / 0.2
        values = evaluate(model, np.exp(log_policy(logits))).values
        return float(values[0] - 1.7 * np.maximum(values[1:] - limits, 0.0).sum())

    slope = (objective(1e-5) - objective(-1e-5)) / 2e-5
    assert other @ products.matrix() @ step == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_barrier_direction_solves_its_own_metric(form: Any) -> None:
    """H^{-1} g with H = F + sum_i beta phi''(slack_i) g_i g_i', all matrices explicit."""
    rng = np.random.default_rng(2)
    factor, gradients, slope, weight = rng.normal(size=(9, 9)), rng.normal(size=(3, 9)), 0.7, 2.0
    fisher, slack = factor @ factor.T + np.eye(9), np.array([0.3, 1.4])
    directions = np.linalg.solve(fisher, gradients.T).T
    second = 1.0 / slack if form == "entropy" else 1.0 / slack**2
    metric = fisher + sum(
        weight * part * slope**2 * np.outer(one, one) for part, one in zip(second, gradients[1:], strict=True)
    )
    expected = np.linalg.solve(metric, gradients[0])
    found = barrier_direction(gradients @ directions.T, slack, weight, form, slope)
    np.testing.assert_allclose(found @ directions, expected, rtol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_the_divergence_of_the_slack_is_bregmans(form: Any) -> None:
    """Its value from the definition, gradient 0 and the second derivative beta phi''(slack) at no change."""
    barrier, size = Barrier(1.5, form, np.array([0.4, 2.0])), 1e-4

    def phi(x: float) -> float:
        return float(x * np.log(x)) if form == "entropy" else float(-np.log(x))

    def bregman(rises: FloatArray) -> float:
        parts = []
        for slack, rise in zip(barrier.slack, rises, strict=True):
            first = np.log(slack) + 1.0 if form == "entropy" else -1.0 / slack
            parts.append(phi(slack - rise) - phi(slack) + first * rise)
        return 1.5 * sum(parts)

    for rises in ([0.1, -0.3], [0.39, 1.9], [-2.0, -5.0]):
        assert barrier_divergence(np.array(rises), barrier) == pytest.approx(bregman(np.array(rises)), rel=1e-10)
    assert barrier_divergence(np.zeros(2), barrier) == 0.0
    for axis, slack in enumerate(barrier.slack):
        step = size * np.eye(2)[axis]
        sides = barrier_divergence(step, barrier), barrier_divergence(-step, barrier)
        second = 1.0 / slack if form == "entropy" else 1.0 / slack**2
        assert (sides[0] + sides[1]) / size**2 == pytest.approx(1.5 * second, rel=1e-5)
        assert (sides[0] - sides[1]) / size == pytest.approx(0.0, abs=1e-5)
    assert barrier_divergence(np.array([0.41, 0.0]), barrier) == np.inf


def test_c_trpo_keeps_away_from_a_limit_that_is_near() -> None:
    """At no slack the cost's first-order change is 0; with more of it the step nears the reward's own."""
    products = np.array([[2.0, 1.0], [1.0, 1.5]])
    rises = [
        (products @ CTRPO().decide(_view([1.0, 1.0 - slack], [1.0], products), np.zeros(1, bool)).coefficients)[1]
        for slack in (0.0, 0.1, 1.0, 1e9)
    ]
    np.testing.assert_allclose([rises[0], rises[-1]], [0.0, 0.1], atol=1e-8)
    assert rises == sorted(rises)


def test_c_trpo_takes_a_step_of_its_own_divergence() -> None:
    products, slack, radius = np.array([[2.0, 1.0], [1.0, 1.5]]), 0.2, 1e-3
    view = _view([1.0, 0.8], [1.0], products, radius=radius, rates=np.array([5.0, 1.0]))
    step = CTRPO(weight=0.7).decide(view, np.zeros(1, bool)).coefficients
    along = products @ step
    assert 0.5 * (step @ along + 0.7 / slack * along[1] ** 2) == pytest.approx(radius)


def test_c_trpo_recovers_with_hysteresis_cost_by_cost() -> None:
    rule, memory = CTRPO(recover_to=0.8), np.zeros(2, dtype=np.bool_)
    branches = []
    for costs in ([0.9, 0.9], [1.1, 0.9], [0.9, 1.2], [0.81, 0.9], [0.8, 0.9], [0.8, 0.79], [0.9, 0.9]):
        decision = rule.decide(_view([0.0, *costs], [1.0, 1.0]), memory)
        memory = decision.memory
        branches.append(decision.branch)
    assert branches == [0, 1, 2, 2, 2, 0, 0]


@pytest.mark.parametrize("seed", range(6))
def test_manipulated_directions_do_not_harm_each_other(seed: int) -> None:
    products, rates = _products(seed, 2), np.array([0.3, 0.2, 0.5])
    products[0, 2] = products[2, 0] = 0.6 * np.sqrt(products[0, 0] * products[2, 2])
    reward = manipulated(products, rates, 2, 1.0 - 1e-15)
    descent = manipulated(products, rates, 2, 1e-15)
    assert (products @ reward)[2] == pytest.approx(0.0, abs=1e-9)
    assert (products @ descent)[0] == pytest.approx(0.0, abs=1e-9)
    assert (products @ reward)[0] > 0.0 > (products @ descent)[2]
    step = manipulated(products, rates, 2, 0.5)
    np.testing.assert_allclose(step, 0.5 * (reward + descent), atol=1e-12)
    cosine = np.sqrt(1.0 - 0.36)
    assert (products @ reward)[0] == pytest.approx(0.3 * products[0, 0] * cosine**2)


def test_directions_that_agree_are_averaged_as_they_are() -> None:
    products = np.array([[1.0, -0.5], [-0.5, 1.0]])
    np.testing.assert_allclose(manipulated(products, np.array([0.3, 0.2]), 1, 0.25), [0.075, -0.15])


@pytest.mark.parametrize("name", RULES)
def test_a_tolerance_is_a_larger_limit(name: str) -> None:
    """eta counts everywhere; shares of a limit, of bands and of recovery, stay those of the limit itself."""
    products = _products(4, 2)
    absolute = {"npg_primal_dual": NPGPrimalDual(), "p3o": P3O(units="absolute"), "pcrpo": PCRPO(below=0.0, above=0.0)}
    rule = absolute.get(name, PPOLagrangian(units="absolute") if name == "ppo_lagrangian" else RULES[name])
    for costs in ([1.25, 0.7], [1.1, 1.4], [1.9, 0.2]):
        wider = _view([1.0, *costs], [1.0, 1.0], products, tolerance=np.array([0.2, 0.3]))
        plain = _view([1.0, *costs], [1.2, 1.3], products)
        memory = np.full(2, 0.5) if name == "npg_primal_dual" else rule.first(2)
        expected, found = rule.decide(plain, memory), rule.decide(wider, memory)
        assert found.branch == expected.branch
        np.testing.assert_allclose(found.coefficients, expected.coefficients, rtol=1e-9)
        if name == "npg_primal_dual":
            np.testing.assert_allclose(found.memory, expected.memory)


def test_pcrpo_switches_softly() -> None:
    rule, found = PCRPO(below=0.1, above=0.2), []
    for cost in (0.89, 0.95, 1.15, 1.21):
        decision = rule.decide(_view([1.0, cost], [1.0], np.array([[1.0, 0.0], [0.0, 1.0]])), ())
        found.append((decision.branch, decision.coefficients.tolist()))
    both = (0, [0.05, -0.1])
    assert found == [(0, [0.1, 0.0]), both, both, (1, [0.0, -0.2])]


def test_a_decision_of_the_users_is_checked() -> None:
    view = _view([1.0, 1.0], [1.0])

    class Own:
        """Gives ``memory``, or raises it."""

        def first(self, num_costs: int) -> Any:
            raise NotImplementedError

        def decide(self, view: View, memory: Any) -> Decision:
            if isinstance(memory, Exception):
                raise memory
            return memory  # type: ignore[no-any-return]

    for coefficients in ([1.0], [1.0, np.nan], [[1.0, 0.0]]):
        with pytest.raises(TaskError, match="Own: a decision needs 2 finite coefficients"):
            decided(Own(), view, Decision(np.array(coefficients), 0, None))
    with pytest.raises(TaskError, match="Own: the branch must be 0 to 1, got 2"):
        decided(Own(), view, Decision(np.zeros(2), 2, None))
    with pytest.raises(TaskError, match=r"within_task.method: Own.decide: KeyError: 'price'"):
        decided(Own(), view, KeyError("price"))
    with pytest.raises(TaskError, match=r"Own.decide: AttributeError: 'NoneType' object has no attribute"):
        decided(Own(), view, None)


@dataclasses.dataclass(frozen=True)
class Walk:
    """M exact steps of a rule of rate alpha on a table: what the regret identity needs."""

    values: FloatArray
    coefficients: FloatArray
    memories: list[Any]
    start: FloatArray
    last: FloatArray
    log_normalizers: FloatArray


def _walk(rule: Rule, model: ExactModel, limits: FloatArray, rate: float, count: int) -> Walk:
    discount, memory = model.tabular.discount, rule.first(limits.size)
    logits = start = np.log(random_policy(7, *model.shape))
    values, coefficients, memories, logs = [], [], [], []
    for _ in range(count):
        found, policy = evaluate(model, np.exp(logits)), np.exp(logits)
        products = Products(policy, found.advantages(), discount, ExactEvaluator(model))
        rates = np.full(found.values.size, rate)
        view = View(found.values, limits, np.zeros(limits.size), rates, products.matrix, products.spreads)
        decision = rule.decide(view, memory)
        direction = combined(decision.coefficients, found.advantages())
        values.append(found.values)
        coefficients.append(decision.coefficients)
        memories.append(memory)
        logs.append(log_normalizer(logits, direction, 1.0, discount))
        logits, memory = natural_gradient_step(logits, direction, 1.0, discount), decision.memory
    return Walk(np.array(values), np.array(coefficients), memories, start, logits, np.array(logs))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("costs", [1, 3])
def test_the_regret_identity_holds_for_every_rule(name: str, costs: int) -> None:
    """sum_m sum_i c_mi (J_i(pi*) - J_i(pi_m)) = E[KL(pi*||phi) - KL(pi*||pi_M)] + sum_m E[log Z_m], E over nu*."""
    model = ExactModel(random_cmdp(1, 5, 3, costs, 0.8))
    limits = interior_limits(model.tabular, 0.5)
    best = optimal_policy(model, limits)
    walk = _walk(RULES[name], model, limits, 0.3, 30)
    left = float((walk.coefficients * (best.values - walk.values)).sum())
    moved = float(best.occupancy @ (best.policy * (walk.last - walk.start)).sum(axis=1))
    assert left == pytest.approx(moved + float((walk.log_normalizers @ best.occupancy).sum()), abs=1e-9)


def _bound(walk: Walk, best: Any, rate: float) -> float:
    """f(phi) / (alpha M) + alpha b with the measured b."""
    count = len(walk.values)
    loss = float(best.occupancy @ kl_divergence(best.policy, np.exp(walk.start)))
    curvature = float((walk.log_normalizers @ best.occupancy).mean()) / rate**2
    return loss / (rate * count) + rate * curvature


@pytest.mark.parametrize(("seed", "costs"), list(itertools.product(range(4), (1, 2, 3))))
def test_primal_dual_keeps_its_bound(seed: int, costs: int) -> None:
    """mean gap <= f(phi) / (alpha M) + alpha b + eta_2 / 2 mean |J_c - d|^2 (docs/algorithms.md)."""
    model = ExactModel(random_cmdp(seed, 5, 3, costs, 0.8))
    limits = interior_limits(model.tabular, 0.5)
    best, rule = optimal_policy(model, limits), NPGPrimalDual(dual_rate=0.2, largest_multiplier=1e9)
    walk = _walk(rule, model, limits, 0.3, 40)
    over = walk.values[:, 1:] - limits
    dual = 0.5 * rule.dual_rate * float((over**2).sum(axis=1).mean())
    assert -float((np.array(walk.memories) * over).sum(axis=1).mean()) <= dual + 1e-12
    assert best.values[0] - float(walk.values[:, 0].mean()) <= _bound(walk, best, 0.3) + dual + 1e-9


@pytest.mark.parametrize(("seed", "costs"), list(itertools.product(range(4), (1, 2, 3))))
def test_the_exact_penalty_keeps_its_bound(seed: int, costs: int) -> None:
    """mean gap + kappa mean sum_i (J_i - d_i)_+ <= f(phi) / (alpha M) + alpha b (docs/algorithms.md)."""
    model = ExactModel(random_cmdp(seed, 5, 3, costs, 0.8))
    limits = interior_limits(model.tabular, 0.5)
    best = optimal_policy(model, limits)
    walk = _walk(P3O(penalty=3.0, units="absolute"), model, limits, 0.1, 40)
    over = np.maximum(walk.values[:, 1:] - limits, 0.0).sum(axis=1)
    assert over.max() > 0.0
    penalised = best.values[0] - float((walk.values[:, 0] - 3.0 * over).mean())
    assert penalised <= _bound(walk, best, 0.1) + 1e-9
