"""Direct steps before the online ones, and starts that know their task."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from meta.learning.neural import NeuralMetaState
from meta.learning.online import State, first_state, warm_up
from meta.learning.settings import ContextSettings, LearningRateSettings, MetaSettings, WarmUpSettings
from meta.learning.settings import NeuralInitializationSettings as Initialization
from meta.offline.dice_settings import DICESettings
from meta.training.evaluation_settings import EvaluationSettings
from meta.training.experiment import Drawn, Experiment, draw, require_noise
from meta.training.loop import Position, train, training_plan
from meta.training.pool import LocalLearner, LocalPool
from meta.training.quarantine import Quarantine, SetAsideError
from meta.training.warm_up import teams_of
from policies.mixtures.team import TeamStep, mean_policy, team_step
from policies.networks.distributions import extra_of
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState, merge, new_policy
from tasks.contract.context import ContextError
from tasks.contract.contextual_family import Contexts, ContextualFamily
from tasks.contract.family_registry import FamilySpec
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import TaskError

WITHIN = NeuralSettings(num_iterations=1, steps_per_iteration=200, num_copies=10, hidden=(8,), critic_hidden=(8,))
FAMILY = "tests.support.goal_family:GoalFamily"
STRENGTHS = "tests.support.strength_family:StrengthFamily"
WARM = WarmUpSettings(rounds=4, teams=2, tasks=5, distinct_tasks=12)


def _experiment(
    context: Any = "given",
    warm: WarmUpSettings = WARM,
    contexts: ContextSettings | None = None,
    name: str = FAMILY,
    **family: Any,
) -> Experiment:
    meta = MetaSettings(
        context=context,
        contexts=contexts or ContextSettings(),
        warm_up=warm,
        neural=Initialization(steps=2, step_size=1e-5),
        learning_rates=LearningRateSettings(initial=0.1),
    )
    spec, evaluation = FamilySpec(name, 0, 4, family), EvaluationSettings(num_test_tasks=4)
    return Experiment(spec, 2, WITHIN, DICESettings(estimator="none"), meta, evaluation)


class Seen:
    """What a tracker is told."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.states: list[State] = []
        self.steps: list[Sequence[TeamStep]] = []
        self._stop_after = stop_after

    def warmed_up(self, state: State, steps: Sequence[TeamStep]) -> None:
        self.states.append(state)
        self.steps.append(steps)
        if state.warm_up_rounds == self._stop_after:
            raise KeyboardInterrupt

    def task_finished(self, finished: Any, result: Any) -> None:
        """Not of interest."""

    def round_finished(self, state: State, rows: Any) -> None:
        """Not of interest."""


def _train(experiment: Experiment, tracker: Seen, position: Position | None = None) -> tuple[Drawn, State]:
    pool = LocalPool(experiment.family)
    drawn = draw(pool, experiment)
    learner = LocalLearner(experiment.meta, experiment.dice, WITHIN.num_iterations)
    start = position or Position(drawn.initial_state(experiment.meta))
    return drawn, train(training_plan(experiment, drawn), pool, learner, [tracker], start)


def test_teams_take_all_tasks_in_turn_whatever_the_number_of_rounds() -> None:
    drawn = draw(LocalPool(_experiment().family), _experiment())
    rounds = [teams_of(drawn.together, WARM, number) for number in range(6)]
    assert [len(teams) for teams in rounds] == [1, 2, 2, 2, 2, 2]
    taken = [task.index for teams in rounds for team in teams for task in team.tasks]
    assert len(taken) == 55
    for begin in range(0, 48, 12):
        assert sorted(taken[begin : begin + 12]) == list(range(12))
    assert taken[:12] != taken[12:24]


def test_the_noise_falls_with_the_last_direct_step_alone() -> None:
    quiet = WARM.model_copy(update={"least_log_std": -3.0, "last_log_std": -4.5})
    drawn = draw(LocalPool(_experiment().family), _experiment())
    bounds = [
        [(team.least_log_std, team.most_log_std) for team in teams_of(drawn.together, quiet, number)]
        for number in range(4)
    ]
    assert bounds == [[(-3.0, np.inf)], *[[(-3.0, np.inf)] * 2] * 2, [(-4.5, -4.5)] * 2]
    louder = WARM.model_copy(update={"least_log_std": -3.0, "last_log_std": -1.0})
    assert louder.noise_at(3) == (-3.0, -1.0)  # a ceiling only: less noise may stay
    assert WARM.noise_at(3) == (WARM.least_log_std, np.inf)


def test_the_first_direct_step_takes_away_the_noise_of_a_fresh_policy() -> None:
    noisy = WARM.model_copy(update={"least_log_std": -3.0, "first_log_std": -2.0, "last_log_std": -4.5})
    assert [noisy.noise_at(number) for number in range(4)] == [(-3.0, -2.0), *[(-3.0, np.inf)] * 2, (-4.5, -4.5)]
    assert noisy.model_copy(update={"rounds": 1}).noise_at(0) == (-4.5, -4.5)
    with pytest.raises(ValueError, match=r"first_log_std must be at least least_log_std, -3, got -3\.5"):
        WarmUpSettings(least_log_std=-3.0, first_log_std=-3.5)


def test_the_first_round_runs_with_the_noise_that_it_is_given() -> None:
    within, wide = WITHIN.model_copy(update={"initial_log_std": -2.0}), WARM.model_copy(update={"begin_log_std": 0.0})
    experiment = dataclasses.replace(_experiment(), within=within)
    drawn = draw(LocalPool(experiment.family), experiment)
    teams = [team for number in range(2) for team in teams_of(drawn.together, wide, number)]
    assert [team.begin_log_std for team in teams] == [0.0, None, None]
    fresh, team = drawn.fresh, teams[0]
    assert isinstance(fresh, PolicyState)
    family = drawn.family.make()
    given = team_step(family, team, fresh, within)
    same = team_step(family, dataclasses.replace(team, begin_log_std=within.initial_log_std), fresh, within)
    plain = team_step(family, dataclasses.replace(team, begin_log_std=None), fresh, within)
    np.testing.assert_array_equal(same.policy.actor.vector, plain.policy.actor.vector)
    noises = [extra_of(one.actor.network, one.actor.vector) for one in (given.policy, plain.policy, fresh)]
    assert np.abs(noises[0]).max() < 0.5
    assert np.abs(noises[1] - within.initial_log_std).max() < 0.5
    np.testing.assert_array_equal(noises[2], within.initial_log_std)


def test_a_start_does_not_depend_on_the_noise_of_a_fresh_policy_where_the_first_round_has_its_own() -> None:
    own = WARM.model_copy(update={"begin_log_std": 0.0, "first_log_std": -2.0})
    states = []
    for log_std in (-2.0, 0.0):
        experiment = _experiment(warm=own)
        absolute = LearningRateSettings(initial=0.1, units="absolute")  # observed units are those of a fresh policy
        meta = experiment.meta.model_copy(update={"learning_rates": absolute})
        within = WITHIN.model_copy(update={"initial_log_std": log_std})
        states.append(_train(dataclasses.replace(experiment, within=within, meta=meta), Seen())[1])
    assert states[0].sha256() == states[1].sha256()
    assert states[0].sha256() != _train(_experiment(), Seen())[1].sha256()


def test_teams_that_grow_take_all_tasks_in_turn_and_count_their_steps() -> None:
    growing = WARM.model_copy(update={"first_tasks": 1, "rounds": 5})
    experiment = _experiment()
    grown = dataclasses.replace(experiment, meta=experiment.meta.model_copy(update={"warm_up": growing}))
    drawn = draw(LocalPool(grown.family), grown)
    rounds = [teams_of(drawn.together, growing, number) for number in range(6)]
    assert [[len(team.tasks) for team in teams] for teams in rounds] == [[1], [2, 2], [3, 3], [4, 4], [5, 5], [5, 5]]
    taken = [task.index for teams in rounds for team in teams for task in team.tasks]
    for begin in range(0, 36, 12):
        assert sorted(taken[begin : begin + 12]) == list(range(12))
    seen = Seen()
    _train(grown, seen)
    steps = sum(step.env_steps for each in seen.steps for step in each)
    assert steps == grown.warm_up_steps == (1 + 2 * (2 + 3 + 4 + 5)) * 20


def test_an_interrupted_warm_up_goes_on_to_the_same_bits() -> None:
    whole, half = Seen(), Seen(stop_after=2)
    _, state = _train(_experiment(), whole)
    with pytest.raises(KeyboardInterrupt):
        _train(_experiment(), half)
    kept = cast("NeuralMetaState", half.states[-1])
    restored = NeuralMetaState.from_arrays(kept.to_arrays())
    assert restored.warm_up_rounds == 2
    _, again = _train(_experiment(), Seen(), Position(restored))
    assert again.sha256() == state.sha256()
    assert [one.warm_up_rounds for one in whole.states] == [1, 2, 3, 4]
    assert state.num_tasks == 4
    assert sum(step.env_steps for steps in whole.steps for step in steps) == 7 * 5 * 20


def _trained_with(quarantine: Quarantine, experiment: Experiment) -> tuple[list[int], Seen]:
    """The tasks of the team, and what a run with this quarantine shows."""
    pool, seen = LocalPool(experiment.family, quarantine), Seen()
    drawn = draw(pool, experiment)
    learner = LocalLearner(experiment.meta, experiment.dice, WITHIN.num_iterations)
    train(training_plan(experiment, drawn), pool, learner, [seen], Position(drawn.initial_state(experiment.meta)))
    return [task.index for task in drawn.together], seen


def test_a_task_that_fails_in_a_team_is_set_aside_and_the_others_go_on() -> None:
    goals = sorted(
        float(task.parameters["goal"]) for task in draw(LocalPool(_experiment().family), _experiment()).together
    )
    broken = _experiment(breaks_above=(goals[-2] + goals[-1]) / 2.0)
    told: list[str] = []
    aside = Quarantine(share=0.3, totals={False: 12, True: 4}, say=told.append)
    together, seen = _trained_with(aside, broken)
    (entry,) = aside
    assert entry.parameters["goal"] == goals[-1]
    assert "the goal is out of reach" in entry.error
    assert any("set aside" in text for text in told)
    stepped = {index for steps in seen.steps for step in steps for index in step.tasks}
    assert stepped == set(together) - {entry.index}
    assert [state.warm_up_rounds for state in seen.states] == [1, 2, 3, 4]

    known = Quarantine(share=0.3, totals={False: 12, True: 4}, earlier=list(aside))
    assert _trained_with(known, broken)[1].states[-1].sha256() == seen.states[-1].sha256(), "a resume knows it"
    with pytest.raises(TaskError, match="the goal is out of reach"):
        _train(broken, Seen())  # a run that may set no task aside
    with pytest.raises(SetAsideError, match="training tasks are set aside"):
        _trained_with(Quarantine(share=0.3, totals={False: 12, True: 4}), _experiment(breaks_above=-2.0))


def test_the_mean_of_teams_is_the_mean_of_their_functions_first_layers_included() -> None:
    drawn = draw(LocalPool(_experiment().family), _experiment())
    family = drawn.family.make()
    (first,) = teams_of(drawn.together, WARM, 0)
    begin = team_step(family, first, cast("PolicyState", drawn.fresh), WITHIN)
    policy = mean_policy(cast("PolicyState", drawn.fresh), [begin])
    np.testing.assert_array_equal(policy.actor.vector, begin.policy.actor.vector)
    steps = [team_step(family, team, policy, WITHIN) for team in teams_of(drawn.together, WARM, 1)]
    mean = mean_policy(policy, steps)
    statistics = merge(merge(policy.statistics, steps[0].seen), steps[1].seen)
    assert mean.statistics.count == statistics.count
    np.testing.assert_allclose(mean.statistics.mean[:-1], statistics.mean[:-1])
    assert (mean.statistics.mean[-1], mean.statistics.variance[-1]) == (0.0, 1.0)
    vector = np.mean([step.policy.actor.vector for step in steps], axis=0)
    plain = dataclasses.replace(policy, actor=dataclasses.replace(policy.actor, vector=vector))
    observations = np.column_stack([np.zeros(9), np.linspace(-1.0, 1.0, 9)]).astype(np.float32)
    np.testing.assert_allclose(mean.act(observations)[0], plain.act(observations)[0], atol=1e-5)
    with pytest.raises(ValueError, match="takes its statistics from one team"):
        mean_policy(cast("PolicyState", drawn.fresh), [begin, begin])


@pytest.mark.slow
def test_a_start_with_contexts_goes_to_the_goal_of_a_new_task_at_once() -> None:
    warm = WarmUpSettings(rounds=60, teams=2, tasks=10, distinct_tasks=40, delta_max=0.1)
    rewards = {}
    for context in ("none", "given", "probed"):
        experiment = _experiment(context, warm)
        drawn, state = _train(experiment, Seen())
        pool = LocalPool(drawn.family)
        solved = pool.solve(drawn.test, state.start, experiment.held_out_within, collect=False)
        rewards[context] = float(np.mean([found.result.values[0, 0] for found in solved]))
    best = -0.4  # |a - goal| of a policy with a standard deviation of e^-3, over 20 discounted steps: about -0.7
    assert rewards["given"] > best - 1.5
    assert rewards["probed"] > best - 2.5
    assert rewards["none"] < best - 4.0


def test_contexts_that_nobody_tells_are_learned_and_found_on_a_new_task() -> None:
    warm = WarmUpSettings(rounds=80, teams=1, tasks=20, distinct_tasks=20, delta_max=0.1)
    experiment = _experiment("learned", warm, ContextSettings(latent_rate=1.0))
    drawn, state = _train(experiment, Seen())
    assert isinstance(state, NeuralMetaState)
    assert state.latents is not None
    goals = [float(task.parameters["goal"]) for task in drawn.together]
    assert abs(np.corrcoef(state.latents[:, 0], goals)[0, 1]) > 0.7
    solved = LocalPool(drawn.family).solve(drawn.test, state.start, experiment.held_out_within, collect=False)
    results = [found.result for found in solved]
    assert np.mean([result.values[0, 0] for result in results]) > -3.5  # without contexts: below -4.4, see above
    assert all(result.probe_steps == WITHIN.steps_per_iteration for result in results)


def test_learned_contexts_survive_a_checkpoint_and_tell_nothing_before_they_are_learned() -> None:
    experiment = _experiment("learned", WARM.model_copy(update={"rounds": 3}))
    whole, half = Seen(), Seen(stop_after=2)
    drawn, state = _train(experiment, whole)
    with pytest.raises(KeyboardInterrupt):
        _train(experiment, half)
    restored = NeuralMetaState.from_arrays(cast("NeuralMetaState", half.states[-1]).to_arrays())
    _, again = _train(experiment, Seen(), Position(restored))
    assert again.sha256() == state.sha256()
    family = drawn.family.make()
    assert isinstance(family, ContextualFamily)
    np.testing.assert_array_equal(family.context_of(drawn.together[2]), [0.0])
    np.testing.assert_array_equal(family.context_of(drawn.test[0]), [0.0])
    contexts = state.starts[0].contexts
    assert contexts is not None
    assert contexts == Contexts.from_json(json.loads(json.dumps(contexts.to_json())))
    learned = family.with_contexts(contexts)
    np.testing.assert_array_equal(learned.context_of(drawn.together[2]), contexts.known[2])
    assert learned.must_find(drawn.test[0])
    with pytest.raises(ContextError, match="only for the first 12 training tasks"):
        learned.context_of(dataclasses.replace(drawn.together[2], index=12))


OBSERVING = WarmUpSettings(rounds=10, teams=1, tasks=10, distinct_tasks=20)


def test_a_context_that_shows_in_the_dynamics_is_inferred_from_the_first_batch() -> None:
    experiment = _experiment("inferred", OBSERVING, ContextSettings(observed_rounds=10), name=STRENGTHS)
    seen = Seen()
    drawn, state = _train(experiment, seen)
    assert isinstance(state, NeuralMetaState)
    assert state.observed is not None
    assert state.observed.moments.count.tolist() == [5.0 * 19.0] * 20
    fitted = state.start.regression
    assert fitted is not None
    assert fitted.trusted
    assert fitted.error < 0.3
    assert sum(step.env_steps for steps in seen.steps for step in steps) == experiment.warm_up_steps == 20 * 10 * 20
    actor = [cast("NeuralMetaState", one).initialization.actor.vector for one in seen.states]
    np.testing.assert_array_equal(actor[9], actor[-1])
    solved = list(LocalPool(drawn.family).solve(drawn.test, state.start, experiment.held_out_within, collect=False))
    family = drawn.family.make()
    assert isinstance(family, ContextualFamily)
    true = [family.contexts.space.of(family.plain, found.result.task)[0] for found in solved]
    inferred = [cast("FloatArray", found.result.context)[0] for found in solved]
    assert np.abs(np.array(inferred) - true).mean() < 0.4  # in units of the spread of the training contexts
    assert all(found.result.probe_steps == WITHIN.steps_per_iteration for found in solved)


def test_a_context_that_shows_nowhere_is_probed_and_an_interrupted_observation_goes_on() -> None:
    experiment = _experiment("inferred", WARM.model_copy(update={"rounds": 2}), ContextSettings(observed_rounds=6))
    _, state = _train(experiment, Seen())
    assert isinstance(state, NeuralMetaState)
    assert state.observed is not None
    assert state.observed.regression is not None
    assert state.observed.regression.error > 0.7
    assert not state.observed.regression.trusted
    assert state.start.regression == state.observed.regression
    half = Seen(stop_after=5)
    with pytest.raises(KeyboardInterrupt):
        _train(experiment, half)
    restored = NeuralMetaState.from_arrays(cast("NeuralMetaState", half.states[-1]).to_arrays())
    _, again = _train(experiment, Seen(), Position(restored))
    assert again.sha256() == state.sha256()


def test_a_warmed_state_has_a_digest_of_its_own_and_an_unwarmed_one_that_of_before() -> None:
    _, state = _train(_experiment(warm=WarmUpSettings()), Seen())
    assert isinstance(state, NeuralMetaState)
    assert state.warm_up_rounds == 0
    assert dataclasses.replace(state, warm_up_rounds=1).sha256() != state.sha256()
    old = {name: part for name, part in state.to_arrays().items() if name != "warm_up_rounds"}
    assert NeuralMetaState.from_arrays(old).sha256() == state.sha256()


def test_tables_take_no_direct_steps() -> None:
    state = first_state(MetaSettings(), np.full((3, 2), 0.5), 1)
    with pytest.raises(TypeError, match="a tabular state takes no direct steps"):
        warm_up(state, [])


def test_contexts_that_teach_nothing_are_an_error_that_names_the_entry() -> None:
    with pytest.raises(ContextError, match=r"the context's entry goal is 0 in all 12 training tasks"):
        draw(LocalPool(_experiment().family), _experiment(widest=0.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": "given", "num_initializations": 2}, r"meta\.context: needs num_initializations 1, which is 2"),
        ({"warm_up": WARM, "num_initializations": 2}, r"meta\.warm_up\.rounds: needs num_initializations 1"),
        ({"contexts": ContextSettings(limits=True)}, r"meta\.contexts: needs meta\.context given, probed"),
        ({"context": "learned"}, r"meta\.warm_up\.rounds: must be above 0 where meta\.context is learned"),
        (
            {"context": "learned", "warm_up": WARM, "contexts": ContextSettings(limits=True)},
            r"meta\.contexts\.limits: has no effect with meta\.context learned",
        ),
        (
            {"context": "given", "contexts": ContextSettings(latent_size=2)},
            r"meta\.contexts\.latent_size: needs meta\.context learned, which is given",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MetaSettings(**settings)


def test_noise_of_discrete_actions_is_an_error_that_names_the_setting() -> None:
    discrete, continuous = (new_policy(2, 3, 2, continuous=one, seed=0) for one in (False, True))
    for within, warm, name in (
        (WITHIN.model_copy(update={"initial_log_std": -2.0}), WARM, "within_task.initial_log_std"),
        *((WITHIN, WARM.model_copy(update={one: -1.0}), f"meta.warm_up.{one}") for one in _noise_settings()),
    ):
        require_noise(within, MetaSettings(warm_up=warm), continuous)
        with pytest.raises(TaskError, match=f"{name}: has no effect where actions are discrete; leave it out"):
            require_noise(within, MetaSettings(warm_up=warm), discrete)
    require_noise(WITHIN, MetaSettings(warm_up=WARM), discrete)


def _noise_settings() -> list[str]:
    found = [name for name in WarmUpSettings.model_fields if name.endswith("log_std")]
    assert len(found) == 4
    return found
