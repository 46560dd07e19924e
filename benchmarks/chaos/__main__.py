"""``make chaos``: seeded faults in real runs on Ray; writes docs/results/chaos.md. Goes on where it was stopped.

Each fault is a cell, a file in ``runs/chaos`` named by fault, seed and digest of the code. A cell trains twelve
lakes as a process of its own, does one fault at a random moment, resumes where the run ended, and checks: exit codes,
the state that the undisturbed run leads to, each task once in tasks.csv, the quarantine, and that no process is left.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil

from benchmarks.chaos.faults import FAULTS, Fault
from benchmarks.chaos.stores import STORE, tracked
from benchmarks.chaos.storm import FAULTS_OF_A_STORM, STORM, storm
from benchmarks.chaos.trial import (
    KEPT,
    LONGEST,
    ROOT,
    SECONDS_OF_AGENTS,
    SECONDS_TO_BE_GONE,
    Result,
    Trial,
    checked,
    under_way,
    until_ray_starts,
)
from benchmarks.kept_cells import kept
from benchmarks.result_page import header, table, write


def code_digest() -> str:
    """Digest of all code that a cell runs."""
    digest = hashlib.sha256()
    for room in ("tasks", "policies", "meta", "distributed", "benchmarks/chaos"):
        for path in sorted((ROOT / room).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def disturbed(fault: Fault, trial: Trial, rng: np.random.Generator) -> tuple[int, str]:
    """Run with the fault; its exit code, and what was done."""
    process, done = trial.start(), "the family's own"
    if fault.act is not None:
        wanted = int(rng.integers(0, 11))
        while process.poll() is None and len(list(trial.folder.glob("notes/*"))) == 0 and not under_way(trial, wanted):
            time.sleep(0.05)
        time.sleep(float(rng.uniform(0.0, 0.4)))
        if process.poll() is None:
            done = fault.act(trial.scene(psutil.Process(process.pid), rng))
    return process.wait(LONGEST), done


def cell(name: str, seed: int, undisturbed: Result) -> Result:
    """Do one fault and check what the run made of it."""
    fault = FAULTS[name]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    trial = Trial(KEPT / f"now-{stem_of(name, seed)}", f"{name}-{seed}", "ray", fault)
    began = time.monotonic()
    try:
        code, done = disturbed(fault, trial, rng)
        codes = [code]
        if code not in (0, 3):
            trial.close()
            left = trial.left()
            if fault.damage is not None:
                done += f", {fault.damage(trial.scene(psutil.Process(), rng))}"
            codes.append(trial.command("--resume", str(trial.run), "--cluster.address", "null").returncode)
        seconds = time.monotonic() - began
        trial.close()
        wrong = checked(fault, trial, codes, undisturbed["without" if fault.aside else "whole"])
        left = trial.left() + (left if len(codes) > 1 else [])
    finally:
        trial.end_all()
    wrong += [f"left: {', '.join(sorted(set(left)))}"] if left else []
    wrong += [done] if done.isupper() else []
    return {"fault": name, "seed": seed, "done": done, "codes": codes, "seconds": seconds, "wrong": wrong}


UNDISTURBED = {
    "whole": Fault(tracking="store"),
    "without": Fault(family={"fails": {"train-5": "raise"}}),
    "storm": STORM,
}
"""The runs whose states cells are compared with."""


def undisturbed_states(names: Sequence[str]) -> Result:
    """What undisturbed runs lead to, in one process."""
    found: Result = {}
    for key in names:
        fault = UNDISTURBED[key]
        trial = Trial(KEPT / "reference", "reference", "local", fault)
        trial.command()
        with (trial.run / "tasks.csv").open(newline="") as file:
            tasks = [row["task_index"] for row in csv.DictReader(file)]
        found[key] = {"sha": json.loads((trial.run / "summary.json").read_text())["meta_state_sha256"], "tasks": tasks}
        if fault.tracking != "off":
            found[key]["tracked"] = tracked(trial.folder / STORE)
    return found


def reference() -> Result:
    """What undisturbed runs lead to, and how long they take on Ray."""
    found = undisturbed_states(list(UNDISTURBED))
    for key, fault in (("seconds", Fault()), ("storm_seconds", STORM)):
        trial, began = Trial(KEPT / "reference", "reference", "ray", fault), time.monotonic()
        assert trial.command().returncode == 0
        found[key] = time.monotonic() - began
    return found


def page(cells: Sequence[Result], storms: Sequence[Result], undisturbed: Result, command: str) -> list[str]:
    """The page: one line for each kind of fault, and one for each storm."""
    rows = []
    for name in FAULTS:
        of_kind = [one for one in cells if one["fault"] == name]
        if of_kind:
            codes = sorted({" then ".join(map(str, one["codes"])) for one in of_kind})
            wrong = sorted({reason for one in of_kind for reason in one["wrong"]})
            lost = _spread([one["seconds"] - undisturbed["seconds"] for one in of_kind])
            rows.append((name, len(of_kind), ", ".join(codes), lost, "; ".join(wrong) or "–"))
    in_storms = sum(len(one["faults"]) for one in storms)
    bad = sum(bool(one["wrong"]) for one in (*cells, *storms))
    verdict = "every run" if not bad else f"all but {bad} of the runs"
    return [
        *header("Chaos: seeded faults in runs on Ray", command),
        f"{len(cells) + in_storms} faults in {len(cells) + len(storms)} runs; {verdict} ended as documented: in the "
        "state of the undisturbed run (where a task is set aside, in that of a run without it), with each task once, "
        f"the exit codes of the failure table, no traceback, and no process left after {SECONDS_TO_BE_GONE:.0f} s "
        f"(two idle agents of Ray: {SECONDS_OF_AGENTS:.0f} s).",
        "",
        f"## One fault in each of {len(cells)} runs",
        "",
        f"Twelve lakes, a fault at a random moment. An undisturbed run took {undisturbed['seconds']:.0f} s here, most "
        "of it to start Ray; time lost includes the second start of a resume, and 10 to 20 s of patience with a "
        "stopped process.",
        "",
        *table(("fault", "times", "exit codes", "seconds lost: median [least, most]", "wrong"), rows),
        *(_storms(storms, undisturbed) if storms else []),
    ]


def again_page(storms: Sequence[Result], undisturbed: Result, command: str) -> list[str]:
    """The page of storms that went wrong on the page of all, done again after what they found was mended."""
    bad = sum(bool(one["wrong"]) for one in storms)
    return [
        *header("Chaos: storms that went wrong, again", command),
        f"{len(storms)} of the storms of [chaos.md](chaos.md), by their seeds, after what they found was mended: "
        f"{len(storms) - bad} ended as documented.",
        *_storms(storms, undisturbed),
    ]


def _storms(storms: Sequence[Result], undisturbed: Result) -> list[str]:
    counts = Counter(name for one in storms for name in one["faults"])
    lost = [(one["seconds"] - undisturbed["storm_seconds"]) / max(1, len(one["faults"])) for one in storms]
    rows = [
        (
            one["seed"],
            len(one["faults"]),
            ", ".join(map(str, one["codes"])),
            f"{one['seconds'] - undisturbed['storm_seconds']:.0f}",
            "; ".join(one["wrong"]) or "–",
        )
        for one in storms
    ]
    return [
        "",
        f"## Storms: up to {FAULTS_OF_A_STORM} faults in each of {len(storms)} runs",
        "",
        f"{STORM.family['num_tasks']} tracked lakes; the faults follow each other by 0 to 4 tasks, and the run is "
        f"resumed whenever one of them ends it. Done {sum(counts.values())} times in all: "
        f"{', '.join(f'{name} {number}' for name, number in counts.most_common())}. An undisturbed run took "
        f"{undisturbed['storm_seconds']:.0f} s; a fault cost {_spread(lost)} s (median [least, most] over storms).",
        "",
        *table(("storm", "faults", "exit codes", "seconds lost", "wrong"), rows),
    ]


def _spread(values: Sequence[float]) -> str:
    return f"{np.median(values):.0f} [{min(values):.0f}, {max(values):.0f}]"


def stem_of(name: str, seed: int) -> str:
    """The name of a cell's file."""
    return f"{name.replace(' ', '_').replace(':', '').replace(',', '')}-{seed}"


def main() -> None:
    """Do the faults that are not on disk yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="times that each fault is done; default 2")
    parser.add_argument("--storms", type=int, default=20, help="runs with a row of faults; default 20")
    parser.add_argument("--only", nargs="*", help="faults to do; all by default")
    parser.add_argument("--again", nargs="*", type=int, help="these storms alone, to docs/results/chaos_again.md")
    parser.add_argument("--at-once", type=int, default=1, help="cells at the same time; default 1")
    given = parser.parse_args()
    folder = KEPT / code_digest()

    def found_cell(stem: str, compute: Callable[[], Result]) -> Result:
        def told() -> Result:
            found = compute()
            print(f"{stem}: {found.get('codes')} {found.get('wrong') or 'ok'}", flush=True)
            return found

        return kept(folder / f"{stem}.json", told)

    undisturbed = found_cell("reference", reference)

    def one(job: tuple[str, int]) -> Result:
        name, seed = job
        if name == "storm":
            folder = KEPT / f"now-{seed}-storm"
            return found_cell(
                f"storm-{seed}", lambda: until_ray_starts(folder, lambda: storm(seed, undisturbed["storm"]))
            )
        stem = stem_of(name, seed)
        return found_cell(stem, lambda: until_ray_starts(KEPT / f"now-{stem}", lambda: cell(name, seed, undisturbed)))

    jobs = [(name, seed) for seed in range(0 if given.again else given.seeds) for name in given.only or FAULTS]
    with ThreadPoolExecutor(given.at_once) as threads:
        cells = list(threads.map(one, jobs))
        storms = list(threads.map(one, [("storm", seed) for seed in given.again or range(given.storms)]))
    if given.again:
        command = f"python -m benchmarks.chaos --again {' '.join(map(str, given.again))}"
        write("chaos_again.md", again_page(storms, undisturbed, command))
    elif not given.only:
        command = f"make chaos SEEDS={given.seeds} STORMS={given.storms}"
        write("chaos.md", page(cells, storms, undisturbed, command))
    sys.exit(any(one["wrong"] for one in (*cells, *storms)))


if __name__ == "__main__":
    main()
