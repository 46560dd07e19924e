"""The verdict of ``metasrl compare``, which stands before its tables."""

from __future__ import annotations

from distributed.jobs.compare import told_claims
from meta.judging.task_numbers import Numbers


def cells(gaps: list[float], during: list[float]) -> list[Numbers]:
    """A cell of every seed, with one held-out task."""
    return [
        {"test": {"gap": [gap], "reward": [-gap], "violation_during": [violation], "violation": [0.0]}}
        for gap, violation in zip(gaps, during, strict=True)
    ]


def test_it_names_the_methods_by_the_interval_of_their_paired_difference() -> None:
    judged = {
        "random": cells([0.50, 0.61, 0.55], [0.4, 0.5, 0.6]),
        "fal": cells([0.11, 0.22, 0.31], [0.0, 0.3, 0.1]),
        "reptile": cells([0.05, 0.15, 0.25], [0.0, 0.0, 0.0]),
        "meta_srl": cells([0.10, 0.21, 0.29], [0.1, 0.2, 0.3]),
    }
    assert told_claims(judged) == [
        "**`meta_srl`**, by 95 % intervals of differences paired by seed:",
        "",
        "- gap: better than `random`; worse than `reptile`; no difference shown against `fal`.",
        "- violation during adaptation: better than `random`; no difference shown against `fal` and `reptile`.",
        "",
    ]


def test_one_seed_and_one_method_show_nothing() -> None:
    ours, other = cells([0.1], [0.1]), cells([0.5], [0.5])
    assert told_claims({"meta_srl": ours, "random": other})[2] == "- gap: no difference shown against `random`."
    assert told_claims({"meta_srl": ours}) == []
    assert told_claims({"random": other}) == []
