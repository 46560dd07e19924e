"""Every call to an actor or a Ray task survives the death or the stop of its process, whichever call it is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from distributed.cluster import meta_learner
from distributed.cluster.calls import Calls, Lone, Patience, Rules, WorkerLostError
from distributed.cluster.meta_learner import RayLearner
from distributed.cluster.ray_pool import RayPool
from meta.training.experiment import draw, measure_similarity
from tests.distributed.families import note, notes
from tests.distributed.helpers import learn, parsed, tiny, undisturbed_sha

pytestmark = pytest.mark.usefixtures("ray_cluster")
OF_WORKERS = ("draw train", "draw test", "task", "reference")
OF_THE_LEARNER = ("MetaLearner.restore", "MetaLearner.update", "MetaLearner.busy_seconds")
NAMES = (*OF_WORKERS, *OF_THE_LEARNER, "estimate")
"""How the names of all calls of a tabular run begin."""
QUICK = Patience(2.0, 2.5, 5.0)


class Bench:
    """A pool of two workers, a learner, and what they say."""

    def __init__(self, rules: Callable[[Callable[[str], None]], Rules]) -> None:
        self.said = list[str]()
        experiment = parsed(tiny()).experiment
        made = rules(self.said.append)
        self.learner = RayLearner(experiment.meta, experiment.dice, experiment.within.num_iterations, made)
        self.pool = RayPool(experiment.family, 2, made, 120.0)

    def close(self) -> None:
        """Free the workers' CPUs."""
        for actor in (*self.pool.workers, self.learner.actor):
            ray.kill(actor)

    def run(self) -> str:
        """What a run does: draw, learn, note the time spent, measure the similarity; the digest of its state."""
        config = parsed(tiny())
        state, _ = learn(config, self.pool, self.learner)
        assert self.learner.busy_seconds() >= 0.0
        assert measure_similarity(self.pool, config.experiment, draw(self.pool, config.experiment)) is not None
        return state.sha256()


@pytest.fixture
def bench(workplace: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """As ``request.param``, or with three retries."""
    made = Bench(getattr(request, "param", lambda say: Rules(3, say=say)))
    yield made
    made.close()


class Strikes:
    """Sends a signal to the process of a call, before or after it is made, ``times`` times for each name."""

    def __init__(self, bench: Bench, names: tuple[str, ...], when: str, times: int, what: signal.Signals) -> None:
        self._bench, self._when, self._what = bench, when, what
        self.left = dict.fromkeys(names, times)

    def make(self, job: Any, slot: int, make: Callable[[], None]) -> None:
        """Make a call, and strike."""
        name = next((name for name, left in self.left.items() if left and job.name.startswith(name)), None)
        if name is None:
            make()
            return
        actor = self._bench.learner.actor if isinstance(job, Lone) else self._bench.pool.workers[slot]
        pid = ray.get(actor.pid.remote())
        self.left[name] -= 1
        if self._when == "after":
            os.kill(pid, signal.SIGSTOP)  # or a short call would be answered before the process dies
            make()
        os.kill(pid, self._what)
        if self._when == "before":
            make()


def strike(
    monkeypatch: pytest.MonkeyPatch, folder: Path, bench: Bench, when: str, times: int, *names: str, stop: bool = False
) -> Strikes:
    """Kill (or stop) the processes of the calls ``names`` of ``bench``."""
    what = signal.SIGSTOP if stop else signal.SIGKILL
    strikes = Strikes(bench, tuple(name for name in names if name != "estimate"), when, times, what)
    make = Calls._make

    def made(self: Calls, slot: int, position: int) -> None:
        strikes.make(self._jobs[position], slot, lambda: make(self, slot, position))

    monkeypatch.setattr(Calls, "_make", made)
    if "estimate" in names:
        monkeypatch.setattr(meta_learner, "_estimate", dying_estimate(folder, times, what))
    return strikes


def dying_estimate(folder: Path, times: int, what: signal.Signals) -> Any:
    """The estimate, whose process strikes itself the first ``times`` times."""
    contribute = meta_learner._estimate._function

    def estimate(*arguments: Any) -> Any:
        if len(notes(folder, "strikes")) < times:
            note(folder, "strikes", "estimate")
            os.kill(os.getpid(), what)
        return contribute(*arguments)

    return ray.remote(num_cpus=0)(estimate)


@pytest.mark.slow
def test_each_process_may_die_at_each_call_once(bench: Bench, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strikes = strike(monkeypatch, workplace, bench, "after", 1, *NAMES)
    assert bench.run() == undisturbed_sha()
    assert set(strikes.left.values()) == {0}
    assert notes(workplace, "strikes") == ["estimate"]
    assert len(bench.said) == len(NAMES)
    for name in NAMES:
        assert sum(f"of {name}" in message and " died; " in message for message in bench.said) == 1, bench.said


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("when", "times"), [("before", 1), ("after", 1), ("before", 3), ("after", 3)])
def test_a_process_may_die_at_a_call(
    name: str, when: str, times: int, bench: Bench, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strikes = strike(monkeypatch, workplace, bench, when, times, name)
    assert bench.run() == undisturbed_sha()
    assert sum(strikes.left.values()) == 0
    assert len(bench.said) == times


@pytest.mark.slow
@pytest.mark.parametrize("bench", [lambda say: Rules(0, say=say)], indirect=True)
@pytest.mark.parametrize("name", NAMES)
def test_without_retries_a_death_ends_the_run_with_the_name_of_the_call(
    name: str, bench: Bench, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strike(monkeypatch, workplace, bench, "after", 1, name)
    with pytest.raises(WorkerLostError, match=rf"^{name}.*: its (worker|process) died 1 times; giving up$"):
        bench.run()


@pytest.mark.slow
@pytest.mark.parametrize("bench", [lambda say: Rules(3, QUICK, say)], indirect=True)
@pytest.mark.parametrize("name", NAMES)
def test_a_process_that_is_stopped_is_replaced(
    name: str, bench: Bench, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strike(monkeypatch, workplace, bench, "before", 1, name, stop=True)
    began = time.monotonic()
    assert bench.run() == undisturbed_sha()
    assert time.monotonic() - began < 60.0
    assert any(f"of {name}" in message and "did not answer" in message for message in bench.said), bench.said


def test_patience_follows_the_slowest_call_and_its_work() -> None:
    patience = Patience(factor=10.0, least=2.0, first=100.0)
    assert patience.limit("solve", 50.0) == 100.0
    patience.took("solve", 50.0, 20.0)
    patience.took("solve", 50.0, 5.0)
    assert patience.limit("solve", 50.0) == 200.0
    assert patience.limit("solve", 100.0) == 400.0
    assert patience.limit("solve", 0.1) == 2.0
    assert patience.limit("draw", 1.0) == 100.0


def test_processes_of_estimates_live_on_where_workers_hold_every_cpu(ray_cluster: str) -> None:
    """Ray ends an idle process after a second where no CPU is free; every round would start new ones."""

    @ray.remote
    class Holder:
        def ready(self) -> bool:
            return True

    @ray.remote(num_cpus=0)
    def process() -> int:
        return os.getpid()

    actor: Any = Holder
    holder = actor.options(num_cpus=ray.available_resources()["CPU"]).remote()
    assert ray.get(holder.ready.remote())
    assert ray.available_resources().get("CPU", 0.0) == 0.0
    first = ray.get(process.remote())
    time.sleep(3.0)
    assert ray.get(process.remote()) == first
    ray.kill(holder)
