"""Off-policy problems with known occupancy and value: GridWalk, Taxi and random MDPs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve

from policies.common.transition_sample import TransitionSample
from tasks.contract.tabular_model import FloatArray
from tasks.stepping.batch import Float32Array

NOISE = 0.1
"""Share of random actions of the target policies."""
GRIDWALK_VALUE = 0.963859
"""Normalised value of GridWalk's target policy (Nachum et al. 2019)."""
_SIZE = 10


@dataclass(frozen=True)
class CodedTable:
    """A table [S, A] as a policy on coded observations; ``index`` returns the state of each observation."""

    table: FloatArray
    index: Callable[[Float32Array], NDArray[np.int64]]
    state_table: ClassVar[None] = None
    network: ClassVar[None] = None

    @property
    def num_actions(self) -> int | None:
        """A."""
        return int(self.table.shape[1])

    def sample(self, observations: Float32Array, rng: np.random.Generator) -> NDArray[Any]:
        """Sample with the inverse cumulative distribution."""
        cumulative = np.cumsum(self.probabilities(observations), axis=1)[:, :-1]
        return np.asarray((rng.random((len(observations), 1)) >= cumulative).sum(axis=1))

    def log_probabilities(self, observations: Float32Array, actions: NDArray[Any]) -> FloatArray:
        """Log-probabilities of the actions taken."""
        return np.log(self.table[self.index(observations), actions])

    def probabilities(self, observations: Float32Array) -> FloatArray:
        """Rows of the table."""
        return self.table[self.index(observations)]


@dataclass(frozen=True, eq=False)
class TabularProblem:
    """A Markov decision process with a target policy and the greedy policy that behaviour policies are mixed from.

    ``successors`` and ``chances`` [S, A, K] hold next states and their probabilities; ``ends`` [S, A] marks the pairs
    that end the episode. ``reward``, ``target`` and ``greedy`` have shape [S, A], ``initial`` [S]. ``codes`` [S, d] are
    the observations of estimators that work on features.
    """

    name: str
    discount: float
    successors: NDArray[np.int64]
    chances: FloatArray
    ends: NDArray[np.bool_]
    reward: FloatArray
    initial: FloatArray
    target: FloatArray
    greedy: FloatArray
    codes: Float32Array

    def behaviour(self, alpha: float) -> FloatArray:
        """The greedy policy with a share 0.1 + 0.6 (1 - alpha) of random actions [S, A]; alpha = 1 is the target."""
        return mixed(self.greedy, NOISE + 0.6 * (1.0 - alpha))

    def transition(self, policy: FloatArray) -> Any:
        """P^pi, sparse [S A, S A]; rows of pairs that end the episode are 0."""
        states, actions = policy.shape
        pairs, live = np.arange(states * actions), self.chances * ~self.ends[:, :, None]
        rows = np.repeat(pairs, self.chances.shape[2])
        kernel = sparse.csr_array((live.ravel(), (rows, self.successors.ravel())), shape=(pairs.size, states))
        choose = sparse.csr_array((policy.ravel(), (pairs // actions, pairs)), shape=(states, pairs.size))
        return kernel @ choose

    def occupancy(self, policy: FloatArray) -> FloatArray:
        """d^pi [S, A], (1 - gamma) sum_k gamma^k P(s_k = s, a_k = a), over steps before the end of the episode."""
        first = ((1.0 - self.discount) * self.initial[:, None] * policy).ravel()
        matrix = sparse.eye_array(first.size) - self.discount * self.transition(policy).T
        return np.asarray(spsolve(matrix.tocsc(), first)).reshape(policy.shape)

    @cached_property
    def exact(self) -> FloatArray:
        """The target's occupancy [S, A]."""
        return self.occupancy(self.target)

    @lru_cache(maxsize=64)  # noqa: B019 - problems live as long as the benchmark
    def visited(self, alpha: float, steps: int) -> FloatArray:
        """The share [S, A] of each pair among the steps of the behaviour's episodes, cut after ``steps``."""
        policy = self.behaviour(alpha)
        now, total, back = (self.initial[:, None] * policy).ravel(), np.zeros(policy.size), self.transition(policy).T
        back = back.tocsr()
        for _ in range(steps):
            total += now
            now = back @ now
        return (total / total.sum()).reshape(policy.shape)

    @property
    def value(self) -> float:
        """sum d^pi r of the target; rewards after the end of the episode are 0."""
        return float((self.exact * self.reward).sum())

    def sample(self, policy: FloatArray, episodes: int, steps: int, rng: np.random.Generator) -> TransitionSample:
        """Complete episodes of ``policy``, stepped together; observations [N, 1] hold the index of the state."""
        state = rng.choice(len(self.initial), size=episodes, p=self.initial)
        policy_sums, chance_sums = np.cumsum(policy, axis=1)[:, :-1], np.cumsum(self.chances, axis=2)[:, :, :-1]
        alive, path = np.ones((steps, episodes), dtype=np.bool_), np.zeros((4, steps, episodes), dtype=np.int64)
        for step in range(steps):
            action = (rng.random((episodes, 1)) >= policy_sums[state]).sum(axis=1)
            outcome = (rng.random((episodes, 1)) >= chance_sums[state, action]).sum(axis=1)
            after, ended = self.successors[state, action, outcome], self.ends[state, action]
            path[:, step] = state, action, after, ended
            if step + 1 < steps:
                alive[step + 1] = alive[step] & ~ended
            state = after
        kept = alive.T.ravel()
        states, actions, following, ends = (part.T.ravel()[kept] for part in path)
        ages, number = (part.ravel()[kept] for part in np.meshgrid(np.arange(steps), np.arange(episodes)))
        terminated = ends.astype(np.bool_)
        return TransitionSample(
            observations=states[:, None].astype(np.float32),
            actions=actions,
            next_observations=following[:, None].astype(np.float32),
            terminated=terminated,
            truncated=(ages == steps - 1) & ~terminated,
            iterations=np.zeros(len(states), dtype=np.int32),
            episodes=number.astype(np.int32),
            ages=ages.astype(np.int32),
            log_probabilities=np.log(policy[states, actions]),
        )


def mixed(policy: FloatArray, share: float) -> FloatArray:
    """``policy`` with a ``share`` of random actions."""
    return np.asarray((1.0 - share) * policy + share / policy.shape[1])


def gridwalk() -> TabularProblem:
    """10 x 10 cells with walls and four moves; the greedy policy moves along the longer axis first.

    The reward is exp(-2 L1 / 10), where L1 is the distance of the cell entered to the goal.

    Nachum et al. 2019, appendix.
    """
    x, y = (part.ravel() for part in np.meshgrid(np.arange(_SIZE), np.arange(_SIZE), indexing="ij"))
    moves = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
    after_x, after_y = (np.clip(p[:, None] + moves[:, i], 0, _SIZE - 1) for i, p in enumerate((x, y)))
    distance = (_SIZE - 1 - after_x) + (_SIZE - 1 - after_y)
    greedy = np.zeros((x.size, 4))
    greedy[:, 0], greedy[:, 1] = 0.5 * (x == y) + (x < y), 0.5 * (x == y) + (y < x)
    return TabularProblem(
        name="GridWalk",
        discount=0.995,
        successors=(after_x * _SIZE + after_y)[:, :, None],
        chances=np.ones((x.size, 4, 1)),
        ends=np.zeros((x.size, 4), dtype=np.bool_),
        reward=np.exp(-0.2 * distance),
        initial=np.full(x.size, 1.0 / x.size),
        target=mixed(greedy, NOISE),
        greedy=greedy,
        codes=np.stack([x, y], axis=1).astype(np.float32),
    )


def taxi() -> TabularProblem:
    """Gymnasium's Taxi-v3: 500 states, 6 actions; the drop-off ends an episode. The greedy policy is optimal."""
    env: Any = gymnasium.make("Taxi-v3").unwrapped
    table = [[env.P[s][a][0] for a in range(6)] for s in range(500)]
    successors = np.array([[entry[1] for entry in row] for row in table], dtype=np.int64)
    reward = np.array([[float(entry[2]) for entry in row] for row in table])
    ends = np.array([[bool(entry[3]) for entry in row] for row in table])
    discount, values = 0.95, np.zeros(500)
    for _ in range(1000):
        q = reward + discount * np.where(ends, 0.0, values[successors])
        values = q.max(axis=1)
    greedy = np.eye(6)[q.argmax(axis=1)]
    codes = np.zeros((500, 19), dtype=np.float32)
    for state in range(500):
        for offset, part in zip((0, 5, 10, 15), env.decode(state), strict=True):
            codes[state, offset + part] = 1.0
    return TabularProblem(
        name="Taxi",
        discount=discount,
        successors=successors[:, :, None],
        chances=np.ones((500, 6, 1)),
        ends=ends,
        reward=reward,
        initial=np.asarray(env.initial_state_distrib, np.float64),
        target=mixed(greedy, NOISE),
        greedy=greedy,
        codes=codes,
    )


def random_problem(seed: int) -> TabularProblem:
    """10 states, 3 actions and 3 successors each, drawn from ``seed``; greedy is a random deterministic policy."""
    rng = np.random.default_rng([seed, 71])
    return TabularProblem(
        name="random",
        discount=0.95,
        successors=rng.integers(10, size=(10, 3, 3)),
        chances=rng.dirichlet(np.ones(3), size=(10, 3)),
        ends=np.zeros((10, 3), dtype=np.bool_),
        reward=rng.random((10, 3)),
        initial=rng.dirichlet(np.ones(10)),
        target=mixed(np.eye(3)[(chosen := rng.integers(3, size=10))], NOISE),
        greedy=np.eye(3)[chosen],
        codes=np.eye(10, dtype=np.float32),
    )


def coded(problem: TabularProblem, rows: TransitionSample) -> tuple[TransitionSample, CodedTable]:
    """The sample with coded observations, and the target policy on them."""
    lookup = {code.tobytes(): state for state, code in enumerate(problem.codes)}

    def index(observations: Float32Array) -> NDArray[np.int64]:
        distinct, inverse = np.unique(observations, axis=0, return_inverse=True)
        states = np.array([lookup[row.tobytes()] for row in distinct.astype(np.float32)], dtype=np.int64)
        return states[inverse.ravel()]

    def code(observations: Float32Array) -> Float32Array:
        return problem.codes[observations[:, 0].astype(np.int64)]

    names = [name for name in TransitionSample.__slots__ if not name.endswith("observations")]
    kept = {name: getattr(rows, name) for name in names}
    made = TransitionSample(
        observations=code(rows.observations), next_observations=code(rows.next_observations), **kept
    )
    return made, CodedTable(problem.target, index)
