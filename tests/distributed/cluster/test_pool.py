"""Both pools give the same bits; workers and the meta-learner may die; datasets stay where they are made."""

from __future__ import annotations

import csv
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray._private.internal_api import memory_summary
from ray.exceptions import ObjectLostError, OutOfMemoryError

from distributed.cluster.calls import Rules, WorkerLostError
from distributed.cluster.meta_learner import RayLearner
from distributed.cluster.ray_pool import RayPool
from distributed.cluster.worker import CRPOWorker
from distributed.settings.provenance import environment_tags
from meta.learning.settings import MetaSettings, WarmUpSettings
from meta.learning.tabular import MetaState
from meta.offline.dice_settings import DICESettings
from meta.training.evaluation_settings import EvaluationSettings
from meta.training.experiment import Experiment, draw
from meta.training.loop import Finished, Position, train, training_plan
from meta.training.pool import LocalLearner, LocalPool, Pending
from meta.training.records import Row
from policies.common.results import Start, TaskResult
from policies.neural.neural_settings import NeuralSettings
from policies.tabular.solving import TaskDataset
from tasks.contract.family_registry import FamilySpec
from tasks.contract.task import TaskError
from tests.distributed.families import counts, modules_of_the_driver, notes
from tests.distributed.helpers import courier, learn, local, noted, parsed, tiny, undisturbed_sha, wait_until
from tests.support.few_variants import few

pytestmark = pytest.mark.usefixtures("ray_cluster")
Said = list[str]


@pytest.fixture(scope="module")
def said() -> Said:
    """What the pool of two workers tells."""
    return []


@pytest.fixture(scope="module")
def two(ray_cluster: str, said: Said) -> RayPool:
    """A pool of two workers that the tests of this module share."""
    return RayPool(parsed(tiny()).experiment.family, 2, Rules(3, say=said.append), 120.0)


@pytest.fixture(scope="module")
def one(ray_cluster: str) -> RayPool:
    """A pool of one worker, and no second try."""
    return RayPool(parsed(tiny()).experiment.family, 1, Rules(1), 120.0)


@pytest.fixture(scope="module")
def learner(ray_cluster: str) -> RayLearner:
    """A meta-learner that the tests share; each run restores its own state."""
    experiment = parsed(tiny()).experiment
    return RayLearner(experiment.meta, experiment.dice, experiment.within.num_iterations, Rules(3))


@pytest.fixture(autouse=True)
def _quiet(workplace: Path, said: Said) -> None:
    said.clear()


def table(folder: Path) -> list[dict[str, str]]:
    """``tasks.csv`` as text, without the time that each task took."""
    with (folder / "tasks.csv").open(encoding="utf-8", newline="") as file:
        return [
            {name: text for name, text in row.items() if not name.endswith("seconds")} for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("evaluation", few(["exact", "sampled"], 1))
def test_local_pool_and_ray_pools_give_the_same_bits(
    evaluation: str, one: RayPool, two: RayPool, learner: RayLearner
) -> None:
    config = parsed(tiny(within_task={"evaluation": evaluation}))
    results = [learn(config, *local(config)), learn(config, one, learner), learn(config, two, learner)]
    assert {state.sha256() for state, _ in results} == {undisturbed_sha(evaluation)}
    tables = [table(directory.path) for _, directory in results]
    assert len(tables[0]) == 8
    assert tables[0] == tables[1] == tables[2]


@pytest.mark.parametrize("evaluation", ["exact", "sampled"])
def test_the_number_of_copies_changes_nothing(evaluation: str) -> None:
    config = parsed(tiny(within_task={"evaluation": evaluation, "num_copies": 3}))
    assert learn(config, *local(config))[0].sha256() == undisturbed_sha(evaluation)


def test_seed_and_evaluation_change_the_state() -> None:
    shas = {undisturbed_sha("exact"), undisturbed_sha("sampled"), undisturbed_sha("exact", seed=4)}
    assert len(shas) == 3


def test_both_pools_draw_and_solve_by_linear_programme_alike(two: RayPool) -> None:
    config = parsed(tiny())
    pool, _ = local(config)
    two.use(config.experiment.family)
    tasks = pool.draw("test", range(20))
    assert two.draw("test", range(20)) == tasks
    for ours, theirs in zip(pool.references(tasks), two.references(tasks), strict=True):
        assert ours is not None
        assert theirs is not None
        np.testing.assert_array_equal(ours.policy, theirs.policy)


def contextual() -> Experiment:
    warm_up = WarmUpSettings(rounds=3, teams=2, tasks=4, distinct_tasks=10)
    within = NeuralSettings(num_iterations=1, steps_per_iteration=200, num_copies=10, hidden=(8,), critic_hidden=(8,))
    spec = FamilySpec("tests.support.goal_family:GoalFamily", 0, 4, {})
    meta, dice = MetaSettings(context="probed", warm_up=warm_up), DICESettings(estimator="none")
    return Experiment(spec, 2, within, dice, meta, EvaluationSettings(num_test_tasks=2))


def test_warm_up_and_contexts_give_the_same_bits_on_ray(one: RayPool, two: RayPool) -> None:
    experiment = contextual()
    arguments = (experiment.meta, experiment.dice, experiment.within.num_iterations)
    digests, solved = set(), []
    for pool, learner in (
        (LocalPool(experiment.family), LocalLearner(*arguments)),
        (one, RayLearner(*arguments, Rules(3))),
        (two, RayLearner(*arguments, Rules(3))),
    ):
        drawn = draw(pool, experiment)
        state = train(
            training_plan(experiment, drawn), pool, learner, [], Position(drawn.initial_state(experiment.meta))
        )
        assert state.warm_up_rounds == 3
        digests.add(state.sha256())
        results = pool.solve(drawn.test, state.start, experiment.held_out_within, collect=False)
        solved.append(sorted((item.result.task.index, item.result.values.tolist()) for item in results))
    assert len(digests) == 1
    assert solved[0] == solved[1] == solved[2]


@pytest.mark.slow
def test_a_meta_learner_killed_in_the_warm_up_continues_from_its_last_state(two: RayPool) -> None:
    experiment = contextual()
    learner = RayLearner(experiment.meta, experiment.dice, experiment.within.num_iterations, Rules(3))
    drawn = draw(two, experiment)
    begin = Position(drawn.initial_state(experiment.meta))
    undisturbed = train(training_plan(experiment, drawn), two, learner, [], begin)
    killing = Killing(learner)
    state = train(training_plan(experiment, drawn), two, learner, [killing], begin)
    assert killing.killed == 1
    assert state.sha256() == undisturbed.sha256()


class Killing:
    """Kills the meta-learner after its second direct step."""

    def __init__(self, learner: RayLearner) -> None:
        self._learner, self.killed = learner, 0

    def warmed_up(self, state: Any, steps: Any) -> None:
        if state.warm_up_rounds == 2:
            os.kill(ray.get(self._learner.actor.pid.remote()), signal.SIGKILL)
            self.killed += 1

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """Not of interest."""

    def round_finished(self, state: Any, rows: list[Row]) -> None:
        """Not of interest."""


def test_a_task_whose_worker_is_killed_is_run_again(
    two: RayPool, learner: RayLearner, said: Said, tmp_path: Path
) -> None:
    config = parsed(noted(tmp_path / "notes", family={"kill": 5}))
    before = set(ray.get([worker.pid.remote() for worker in two.workers]))
    state, directory = learn(config, two, learner)
    assert said == [f"the worker of task {config.family.name}/train/5 died; a new one reruns it"]
    assert counts(notes(tmp_path / "notes", "runs")) == {f"train/{i}": 2 if i == 5 else 1 for i in range(8)}
    assert state.sha256() == undisturbed_sha()
    assert [row["task_index"] for row in table(directory.path)] == [str(i) for i in range(8)]
    after = set(ray.get([worker.pid.remote() for worker in two.workers]))
    assert len(after) == 2
    assert len(after & before) == 1


def test_an_idle_worker_that_is_killed_costs_nothing(two: RayPool, learner: RayLearner, said: Said) -> None:
    for pid in ray.get([worker.pid.remote() for worker in two.workers]):
        os.kill(pid, signal.SIGKILL)
    config = parsed(tiny())
    assert learn(config, two, learner)[0].sha256() == undisturbed_sha()
    assert sorted(message.split(" died")[0] for message in said) == [
        "the worker of draw train 0",
        "the worker of draw train 1",
    ]


def test_a_task_that_kills_every_worker_ends_the_run(one: RayPool, learner: RayLearner, tmp_path: Path) -> None:
    config = parsed(noted(tmp_path / "notes", family={"kill": 1, "kills": 99}))
    with pytest.raises(WorkerLostError, match=r"task .*/train/1: its worker died 2 times"):
        learn(config, one, learner)
    assert notes(tmp_path / "notes", "deaths") == ["train/1", "train/1"]
    assert counts(notes(tmp_path / "notes", "runs")) == {"train/0": 1, "train/1": 2}


@pytest.mark.slow
def test_a_worker_that_ray_kills_to_save_memory_is_replaced_too(
    two: RayPool, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, get, raised = parsed(tiny()), ray.get, [OutOfMemoryError("killed by the memory monitor")]
    two.use(config.experiment.family)

    def short_of_memory(reference: Any) -> Any:
        value = get(reference)
        if raised:
            raise raised.pop()
        return value

    monkeypatch.setattr(ray, "get", short_of_memory)
    assert [task.index for task in two.draw("train", range(3))] == [0, 1, 2]
    assert len(said) == 1


class _Killer:
    """Kills the meta-learner's process after some tasks are finished."""

    def __init__(self, learner: RayLearner, after: set[int]) -> None:
        self._learner, self._after, self._count = learner, after, 0

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        del finished, result
        self._count += 1
        if self._count in self._after:
            os.kill(ray.get(self._learner.actor.pid.remote()), signal.SIGKILL)

    def warmed_up(self, state: Any, steps: Any) -> None:
        raise AssertionError("no direct steps were asked for")

    def round_finished(self, state: MetaState, rows: list[Row]) -> None:
        pass


def test_a_killed_meta_learner_continues_from_its_last_state(two: RayPool, learner: RayLearner) -> None:
    config = parsed(tiny())
    first = ray.get(learner.actor.pid.remote())
    state, _ = learn(config, two, learner, None, _Killer(learner, {4, 6}))
    assert state.sha256() == undisturbed_sha()
    assert ray.get(learner.actor.pid.remote()) != first


class _Careless:
    """A learner that kills the worker whose dataset it is about to read, once."""

    def __init__(self, learner: RayLearner, pool: RayPool) -> None:
        self._learner, self._pool, self.killed = learner, pool, 0
        self.restore, self.update = learner.restore, learner.update

    def estimate(self, dataset: Any, label: str) -> Pending:
        if not self.killed:
            self.killed += 1
            os.kill(ray.get(self._pool.workers[0].pid.remote()), signal.SIGKILL)
            wait_until(lambda: _is_lost(dataset))
        return self._learner.estimate(dataset, label)


def _is_lost(reference: Any) -> bool:
    try:
        ray.get(reference)
    except ObjectLostError:
        return True
    return False


def test_a_task_whose_dataset_died_with_its_worker_is_run_again(
    one: RayPool, learner: RayLearner, tmp_path: Path
) -> None:
    config = parsed(noted(tmp_path / "notes"))
    careless = _Careless(learner, one)
    assert learn(config, one, careless)[0].sha256() == undisturbed_sha()
    assert careless.killed == 1
    assert counts(notes(tmp_path / "notes", "runs")) == {f"train/{i}": 2 if i == 0 else 1 for i in range(8)}


def test_too_many_workers_for_the_cluster_are_reported(ray_cluster: str) -> None:
    spec = parsed(tiny()).experiment.family
    message = r"only \d of 7 workers started in 0.2 s; each needs 1 of 6 CPU of the cluster: lower cluster.num_workers"
    with pytest.raises(WorkerLostError, match=message):
        RayPool(spec, 7, Rules(0), 0.2)


def test_a_worker_reports_a_hanging_environment(one: RayPool, learner: RayLearner) -> None:
    """An actor's methods run in its main thread, where the limit ends a sleep too."""
    config = parsed(courier(name="tests.distributed.families:HangsAt", with_model=False, limit=[5.0, 5.0]))
    config = config.model_copy(update={"within_task": config.within_task.model_copy(update={"evaluation": "sampled"})})
    began = time.monotonic()
    with pytest.raises(TaskError, match=r"HangsAt/train/2, iteration 0, .*step 2: step: no answer within 0\.3 seconds"):
        learn(config, one, learner)
    assert time.monotonic() - began < 20.0


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (tiny(family={"limit": 0.0}), TaskError),
        (courier(fault="no_cost", with_model=False, limit=[5.0, 5.0]), TaskError),
        (courier(fault="reward_not_a_number", with_model=False, limit=[5.0, 5.0]), TaskError),
    ],
    ids=["infeasible", "no cost", "reward not a number"],
)
def test_errors_of_a_family_come_out_of_the_workers_unchanged(
    raw: dict[str, Any], error: type[TaskError], one: RayPool, learner: RayLearner
) -> None:
    raw["within_task"] |= {"evaluation": "sampled"}
    config = parsed(raw)
    with pytest.raises(error) as here:
        learn(config, *local(config))
    with pytest.raises(error) as there:
        learn(config, one, learner)
    assert str(there.value) == str(here.value)
    assert "/train/" in str(there.value)


class _Recorder:
    """A learner that notes the handles it is given."""

    def __init__(self, learner: RayLearner) -> None:
        self._learner, self.handles = learner, list[str]()
        self.restore, self.update = learner.restore, learner.update

    def estimate(self, dataset: Any, label: str) -> Pending:
        self.handles.append(type(dataset).__name__)
        return self._learner.estimate(dataset, label)


@pytest.fixture
def read_here(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Task indices of the datasets that are deserialised in this process."""
    read, setstate = list[int](), TaskDataset.__setstate__

    def noting(self: TaskDataset, state: Any) -> None:
        setstate(self, state)
        read.append(self.task_index)

    monkeypatch.setattr(TaskDataset, "__setstate__", noting)
    return read


@pytest.mark.slow
def test_datasets_do_not_pass_through_this_process(
    two: RayPool, learner: RayLearner, read_here: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    put, given = ray.put, list[Any]()
    monkeypatch.setattr(ray, "put", lambda value: given.append(value) or put(value))
    recorder = _Recorder(learner)
    config = parsed(tiny())
    learn(config, two, recorder)
    assert recorder.handles == ["ObjectRef"] * 8
    assert read_here == []
    assert [type(value) for value in given] == [Start, Start]
    start = given[0]
    (solved,) = two.solve(two.draw("train", [6]), start, config.within_task, collect=True)
    ray.get(solved.dataset)
    assert read_here == [6], "the measurement itself must see a dataset that is read here"


class _Watch:
    """A learner that notes which datasets it is given, and which of the earlier ones the cluster still knows then."""

    def __init__(self, learner: RayLearner) -> None:
        self._learner, self.seen, self.kept = learner, list[str](), list[int]()
        self.restore, self.update = learner.restore, learner.update

    def estimate(self, dataset: Any, label: str) -> Pending:
        self.seen.append(dataset.hex())
        item = self._learner.estimate(dataset, label)
        self.kept.append(len(self.known()))
        return item

    def known(self) -> list[str]:
        """Datasets given so far that some process still refers to."""
        known = memory_summary(ray.get_runtime_context().gcs_address)
        return [name for name in self.seen if name in known]


def test_datasets_are_released(two: RayPool, learner: RayLearner) -> None:
    watch = _Watch(learner)
    learn(parsed(tiny()), two, watch)
    wait_until(lambda: not watch.known(), seconds=10.0)
    assert len(set(watch.seen)) == 8
    assert 1 <= max(watch.kept) <= 4, "at most those of one round"


def test_actors_have_informative_names(two: RayPool, learner: RayLearner) -> None:
    config = parsed(tiny())
    learn(config, two, learner)
    shown = ray.get([worker.__ray_call__.remote(repr) for worker in two.workers])
    ids = [
        int(re.fullmatch(r"CRPOWorker\(id=(\d+), task=frozen_lake/train/\d, done\)", text).group(1)) for text in shown
    ]
    assert len(set(ids)) == 2
    reported = ray.get(learner.actor.__ray_call__.remote(repr))
    assert re.fullmatch(r"MetaLearner\(round=2, tasks=\d+\)", reported)


def test_a_worker_shows_task_and_iteration_while_it_solves(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parsed(tiny())
    pool, _ = local(config)
    (task,) = pool.draw("train", [3])
    worker = CRPOWorker.__ray_metadata__.modified_class(7)
    seen = [repr(worker)]

    def spy(*arguments: Any, on_iteration: Any, **keywords: Any) -> Any:
        on_iteration(1)
        seen.append(repr(worker))
        return None, None

    monkeypatch.setattr("distributed.cluster.worker.solve_task", spy)
    start = Start(np.full((16, 4), 0.25), np.ones(2))
    worker.solve(config.experiment.family, task, start, config.within_task, True)
    assert seen == ["CRPOWorker(id=7)", "CRPOWorker(id=7, task=frozen_lake/train/3, iteration=1)"]


def test_actors_know_nothing_of_tracking(two: RayPool, learner: RayLearner) -> None:
    actors = [*two.workers, learner.actor]
    assert ray.get([actor.__ray_call__.remote(modules_of_the_driver) for actor in actors]) == [[], [], []]


def test_the_tags_of_a_run_name_the_ray_job() -> None:
    tags = environment_tags()
    assert re.fullmatch(r"[0-9a-f]{8}", tags["ray_job_id"])
    assert tags["version.ray"] == ray.__version__


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> str:
    """As if the driver had been submitted as a job."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_7"}}')
    return "raysubmit_7"


def test_the_tags_of_a_submitted_run_name_the_submission(submitted: str) -> None:
    assert environment_tags()["ray_submission_id"] == submitted


def test_with_another_family_a_worker_makes_it_anew(two: RayPool) -> None:
    small, large = (parsed(tiny(family={"map_size": size, "horizon": 30})) for size in (4, 8))
    shapes = list[int]()
    for config in (small, large, small):
        two.use(config.experiment.family)
        (task,) = two.draw("train", [0])
        shapes.append(len(task.parameters["desc"]))
    assert shapes == [4, 8, 4]
