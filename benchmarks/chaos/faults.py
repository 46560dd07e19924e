"""The faults of ``make chaos``: what each does to a run, and what the run must make of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

from benchmarks.chaos.nodes import Nodes
from benchmarks.chaos.stores import STORE, Server, deleted, locked
from distributed.settings.errors import CLUSTER_LOST_EXIT_CODE, SET_ASIDE_EXIT_CODE
from distributed.settings.stopping import STOPPED_EXIT_CODE

WORKER, LEARNER = "ray::CRPOWorker", "ray::MetaLearner"


@dataclass(frozen=True)
class Scene:
    """A run under way: its driver, its directory, the command line that started it, and the fault's random numbers.

    ``nodes``: the cluster of several nodes that it has joined; ``server``: the tracking server that it sends to.
    """

    driver: psutil.Process
    run: Path
    command: Callable[..., subprocess.CompletedProcess[str]]
    rng: np.random.Generator
    nodes: Nodes | None = None
    server: Server | None = None

    def processes(self, name: str) -> list[psutil.Process]:
        """The processes below the driver whose command line begins with ``name``, or that are called so."""
        found = []
        for process in self.driver.children(recursive=True):
            try:
                words = " ".join(process.cmdline())
                if words.startswith(name) or process.name() == name:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def strike(self, name: str, what: signal.Signals) -> str:
        """Send a signal to one of the processes ``name``."""
        found = self.processes(name)
        if not found:
            return f"no {name}"
        process = found[int(self.rng.integers(len(found)))]
        process.send_signal(what)
        return f"{what.name} to {name}"


Act = Callable[[Scene], str]


@dataclass(frozen=True)
class Fault:
    """``act`` is done to a run under way; None where the family does it (``family``: its keys, instead).

    ``codes``: what the first command may end in; unless it is 0 or 3, ``--resume`` follows, after ``damage`` to the run
    directory. ``aside``: tasks that must end in quarantine. ``cpus`` of the head and of the other nodes of a cluster
    that the run joins; a resume starts its own. ``tracking``: whether the run is tracked, in a store or by a server.
    ``retries`` of a task before it is set aside.
    """

    act: Act | None = None
    codes: tuple[int, ...] = (0,)
    damage: Act | None = None
    family: Mapping[str, Any] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()
    tracking: Literal["off", "store", "server"] = "off"
    retries: int = 2


def _signal(name: str, what: signal.Signals) -> Act:
    return lambda scene: scene.strike(name, what)


def _driver(what: signal.Signals) -> Act:
    def act(scene: Scene) -> str:
        scene.driver.send_signal(what)
        return f"{what.name} to the driver"

    return act


def _paused(name: str) -> Act:
    """Stop one of the processes for some seconds."""

    def act(scene: Scene) -> str:
        found = scene.processes(name)
        if not found:
            return f"no {name}"
        process, seconds = found[int(scene.rng.integers(len(found)))], float(scene.rng.uniform(1.0, 6.0))
        process.suspend()
        time.sleep(seconds)
        process.resume()
        return f"{name} stopped for {seconds:.1f} s"

    return act


def _second_driver(scene: Scene) -> str:
    done = scene.command("--resume", str(scene.run))
    if not scene.driver.is_running() or scene.driver.status() == psutil.STATUS_ZOMBIE:
        return "no first driver any more, when the second one came"
    refused = done.returncode == 2 and "belongs to process" in " ".join(done.stderr.split())
    return "a second driver was refused" if refused else f"A SECOND DRIVER ENDED IN {done.returncode}"


def _cut(pattern: str) -> Act:
    """Cut the newest file of ``pattern``, or flip a bit of it."""

    def act(scene: Scene) -> str:
        found = sorted(scene.run.glob(pattern))
        if not found:
            return f"no {pattern}"
        content = bytearray(found[-1].read_bytes())
        place = int(scene.rng.integers(len(content)))
        if scene.rng.random() < 0.5:
            content = content[:place]
        else:
            content[place] ^= 1 << int(scene.rng.integers(8))
        found[-1].write_bytes(bytes(content))
        return f"damaged {found[-1].name} at byte {place}"

    return act


_MOVED = "-moved"


def _renamed(scene: Scene) -> str:
    """Take the run directory away from the run, as a clean-up or a lost mount does."""
    scene.run.rename(scene.run.with_name(scene.run.name + _MOVED))
    return "the run directory was renamed"


def _renamed_back(scene: Scene) -> str:
    scene.run.rename(scene.run.with_name(scene.run.name.removesuffix(_MOVED)))
    return "and renamed back"


def _nodes(*words: str) -> Act:
    """Tell the cluster ``words``, with some seconds between them."""

    def act(scene: Scene) -> str:
        assert scene.nodes is not None
        for place, word in enumerate(words):
            time.sleep(float(scene.rng.uniform(0.5, 4.0)) if place else 0.0)
            scene.nodes.tell(word)
        return f"{' and '.join(words)} a node"

    return act


def _store_deleted(scene: Scene) -> str:
    deleted(_store(scene))
    return "the tracking store was deleted"


def _store_locked(scene: Scene) -> str:
    seconds = float(scene.rng.uniform(1.0, 8.0))
    locked(_store(scene), seconds)
    return f"the tracking store was locked for {seconds:.1f} s"


def _server_away(scene: Scene) -> str:
    assert scene.server is not None
    seconds = float(scene.rng.uniform(0.0, 5.0))
    scene.server.kill()
    time.sleep(seconds)
    scene.server.start()
    return f"the tracking server was away for {seconds:.1f} s and a start"


def _store(scene: Scene) -> Path:
    return scene.run.parent.parent.parent / STORE


_KILL, _STOP, _TERM = signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM
_GONE = (CLUSTER_LOST_EXIT_CODE,)
FAULTS: dict[str, Fault] = {
    "worker killed": Fault(_signal(WORKER, _KILL)),
    "meta-learner killed": Fault(_signal(LEARNER, _KILL)),
    "worker stopped": Fault(_signal(WORKER, _STOP)),
    "meta-learner stopped": Fault(_signal(LEARNER, _STOP)),
    "worker paused": Fault(_paused(WORKER)),
    "meta-learner paused": Fault(_paused(LEARNER)),
    "raylet paused": Fault(_paused("raylet")),
    "driver killed": Fault(_driver(_KILL), (-_KILL,)),
    "driver terminated": Fault(_driver(_TERM), (STOPPED_EXIT_CODE,)),
    "raylet killed": Fault(_signal("raylet", _KILL), _GONE),
    "control service killed": Fault(_signal("gcs_server", _KILL), _GONE),
    "raylet stopped": Fault(_signal("raylet", _STOP), _GONE),
    "second driver": Fault(_second_driver),
    "checkpoint damaged": Fault(_driver(_KILL), (-_KILL,), _cut("checkpoints/round-*.safetensors")),
    "finished task damaged": Fault(_driver(_KILL), (-_KILL,), _cut("checkpoints/finished/task-*.*")),
    "run directory renamed": Fault(_renamed, (1,), _renamed_back),
    "node removed": Fault(_nodes("remove"), cpus=(4, 2)),
    "node removed, another added": Fault(_nodes("remove", "add"), cpus=(2, 2)),
    "node added": Fault(_nodes("add"), cpus=(4, 2)),
    "joined cluster lost": Fault(_nodes("lose"), _GONE, cpus=(4, 2)),
    "tracking store deleted": Fault(_store_deleted, tracking="store"),
    "tracking store locked": Fault(_store_locked, tracking="store"),
    "tracking server killed": Fault(_server_away, tracking="server"),
    **{
        f"environment fails twice: {how}": Fault(family={"fails": {"train-5": how}, "times": 2})
        for how in ("raise", "exit", "interrupt", "leave", "die")
    },
    **{
        f"environment always fails: {how}": Fault(
            codes=(SET_ASIDE_EXIT_CODE,), family={"fails": {"train-5": how}}, aside=("train-5",)
        )
        for how in ("raise", "exit", "interrupt", "leave", "die")
    },
}
"""Every fault by name; a resume after one ends in 0, or in 3 where tasks are set aside."""


def is_left(process: psutil.Process, mark: str) -> bool:
    """Whether a process of the run that has ``mark`` in its environment still is there."""
    try:
        return process.pid != os.getpid() and mark in process.environ().values()
    except (psutil.Error, OSError):
        return False
