"""Storms: several faults in a row in one run, which is resumed whenever one of them ends it."""

from __future__ import annotations

import subprocess
import time
import zlib

import numpy as np
import psutil

from benchmarks.chaos.faults import FAULTS, Fault
from benchmarks.chaos.trial import KEPT, LONGEST, Result, Trial, checked, finished_tasks, under_way

KINDS = tuple(name for name, one in FAULTS.items() if one.act and not one.cpus and one.tracking != "server")
FAULTS_OF_A_STORM = 8
STORM = Fault(family={"num_tasks": 48, "pause": 0.1}, tracking="store", retries=20)
"""The run under a storm: long enough for all faults, and no task is to be blamed for them."""


class Storm:
    """A run that suffers one fault after the other; ``done`` says what was done, ``wrong`` what should not be."""

    def __init__(self, trial: Trial, rng: np.random.Generator) -> None:
        self._trial, self._rng = trial, rng
        self.done: list[str] = []
        self.met: list[str] = []
        self.codes: list[int] = []
        self.wrong: list[str] = []
        self._process = trial.start()

    def suffer(self, name: str) -> bool:
        """Do the fault ``name`` some tasks later, and resume where it ends the run; whether the run goes on."""
        fault, wanted = FAULTS[name], finished_tasks(self._trial) + int(self._rng.integers(0, 5))
        while self._process.poll() is None and not under_way(self._trial, wanted):
            time.sleep(0.05)
        if self._process.poll() is None and fault.act is not None:
            self._note(name, fault.act(self._trial.scene(psutil.Process(self._process.pid), self._rng)))
        if fault.codes == (0,) and self._process.poll() is None:
            return True
        code = self._ended(fault.codes)
        if fault.damage is not None:
            self.done.append(fault.damage(self._trial.scene(psutil.Process(), self._rng)))
        if code != 0:
            self._process = self._trial.start("--resume", str(self._trial.run))
        return code != 0

    def end(self) -> None:
        """Wait for the end of the run."""
        self._ended(())

    def _note(self, name: str, done: str) -> None:
        self.done.append(done)
        if not done.startswith("no "):  # there was nothing to strike, while Ray started a new one
            self.met.append(name)
        if done.isupper() and self._process.poll() is None:
            self.wrong.append(done)

    def _ended(self, codes: tuple[int, ...]) -> int:
        try:
            code = self._process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            self.wrong.append(f"goes on {LONGEST:.0f} s after: {self.done[-1]}")
            self._process.kill()
            code = self._process.wait()
        self.codes.append(code)
        if code not in (0, *codes):
            self.wrong.append(f"exit code {code} after: {self.done[-1]}")
        if "Traceback" in (self._trial.folder / "messages").read_text(errors="replace"):
            self.wrong.append(f"a traceback after: {self.done[-1]}")
        left = self._trial.left()
        self.wrong += [f"left after {self.done[-1]}: {', '.join(sorted(set(left)))}"] if left else []
        return code


def storm(seed: int, undisturbed: Result) -> Result:
    """Do a storm and check what the run made of it."""
    rng = np.random.default_rng([seed, zlib.crc32(b"storm")])
    trial = Trial(KEPT / f"now-{seed}-storm", f"storm-{seed}", "ray", STORM)
    began = time.monotonic()
    try:
        one = Storm(trial, rng)
        goes_on = all(one.suffer(str(name)) for name in rng.choice(KINDS, FAULTS_OF_A_STORM))
        if goes_on:
            one.end()
        wrong = one.wrong + checked(STORM, trial, [0, one.codes[-1]], undisturbed)
    finally:
        trial.end_all()
    seconds = time.monotonic() - began
    return {"seed": seed, "faults": one.met, "done": one.done, "codes": one.codes, "seconds": seconds, "wrong": wrong}
