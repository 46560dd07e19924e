"""The page of a run: self-contained, small, complete, and safe with any text."""

from __future__ import annotations

import base64
import gzip
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meta.reporting.html_page import Page, method_table, page_figures, page_html, task_table
from meta.reporting.summary import RunSummary

INTERVAL = {"mean": 0.5, "ci95": [0.4, 0.6], "n": 20}


def summary(**changes: Any) -> RunSummary:
    entry = {
        "gap": INTERVAL,
        "reward": INTERVAL,
        "violation": INTERVAL,
        "violation_during_adaptation": {"mean": 0.25, "ci95": [None, None], "n": 1},
        "score": 0.5,
        "env_steps": 300.0,
        "starts_used": [20],
        "learning_rates": [1.0, 0.5, 0.5],
        "reward_curve": [0.1, 0.2, 0.3],
        "cost_curve": [[0.5, 0.1], [0.4, 0.2], [0.3, 0.3]],
        "episodic_curve": None,
    }
    content = {
        "name": "lakes",
        "family": "frozen_lake",
        "seed": 3,
        "num_iterations": 2,
        "algorithm": "crpo",
        "evaluation": "exact",
        "pool": "ray",
        "num_workers": 2,
        "tasks_per_round": 4,
        "num_tasks": 8,
        "mean_reward": 0.5,
        "taog": 0.125,
        "tacv": [0.0, 0.25],
        "taog_last_half": 0.1,
        "tacv_last_half": [0.0, 0.25],
        "learning_rates": [1.0, 0.5, 0.5],
        "meta_state_sha256": "0" * 64,
        "groups": None,
        "env_steps": 2400,
        "estimates": {
            **{"left_out": 1, "down_weighted": 0, "mean_weight": 0.9, "failed": 1},
            **{"reasons": {}, "problems": []},
        },
        "failure_signature": {"gap": None, "violation_during_adaptation": None},
        "similarity": None,
        "limits_mean": [0.45, 0.3],
        "wall_seconds": 12.0,
        "test": {"random": entry, "meta_srl": entry},
        **changes,
    }
    return RunSummary.model_validate(content)


def rows(count: int, **changes: Any) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    names = ("mean_correction", "effective_sample_size", "missing_mass", "flow_residual")
    return [
        {
            "task_index": index,
            "round": index // 4,
            "gap": float(rng.random()),
            "gap_bound": float("nan"),
            "reward": float(rng.random()),
            "score": 0.5,
            "f_hat": 0.5,
            "weight": 1.0,
            "failed_diagnostics": "",
            "estimate_problem": "",
            "violation_1": 0.0,
            "violation_2": 0.0,
            "violation_during_1": float(rng.random()),
            "violation_during_2": 0.0,
            "limit_1": 0.45,
            "limit_2": 0.3,
            "learning_rate_0": 1.0,
            "learning_rate_1": 0.5,
            "seconds": 0.25,
            **{f"dice_{name}": float(rng.random()) for name in names},
            **changes,
        }
        for index in range(count)
    ]


class Tags(HTMLParser):
    """Tags, and references to anything outside."""

    def __init__(self) -> None:
        super().__init__()
        self.tags = list[str]()
        self.outside = list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [v for name, v in attrs if name in ("src", "href") and v and not v.startswith("data:")]


def read(text: str) -> Tags:
    parser = Tags()
    parser.feed(text)
    return parser


def test_a_page_holds_all_and_loads_nothing() -> None:
    text = page_html(Page(summary(), rows(8), "seed: 3\n", {"python": "3.11"}, ["metasrl train x"]))
    found = read(text)
    assert found.outside == []
    assert found.tags.count("tr") == 1 + 2 + 1 + 8 + 1 + 1
    assert "1 were left out" in text
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert set(figures) == {"adaptation", "held_out", "training", "learning_rates", "estimation"}
    packed = re.search(r'id="plotly">(.*?)</script>', text, re.DOTALL)[1]  # type: ignore[index]
    assert b"Plotly" in gzip.decompress(base64.b64decode(packed))


def test_the_plots_hold_the_numbers() -> None:
    figures = page_figures(summary(), rows(8))
    adaptation = figures["adaptation"]
    assert [list(trace.y) for trace in adaptation.data[::2]] == [[0.1, 0.2, 0.3], [0.5, 0.4, 0.3], [0.1, 0.2, 0.3]]
    assert [list(trace.y) for trace in adaptation.data[1::2]] == [[0.1, 0.2, 0.3], [0.5, 0.4, 0.3], [0.1, 0.2, 0.3]]
    assert [shape.y0 for shape in adaptation.layout.shapes] == [0.45, 0.3]
    gaps = [row["gap"] for row in rows(8)]
    training = figures["training"]
    assert list(training.data[1].y) == pytest.approx(np.cumsum(gaps) / np.arange(1, 9))
    bars = figures["held_out"].data
    assert [(list(bar.x), list(bar.error_x.array)) for bar in bars[:2]] == [
        ([0.5, 0.5], pytest.approx([0.1, 0.1])),
        ([0.25, 0.25], [0.0, 0.0]),
    ]


def test_a_page_without_a_model_and_without_estimates_shows_rewards() -> None:
    nothing = {f"dice_{name}": float("nan") for name in ("mean_correction", "effective_sample_size")}
    given = summary(taog=None, test={})
    figures = page_figures(given, rows(8, gap=float("nan"), **nothing))
    assert set(figures) == {"training", "learning_rates"}
    assert figures["training"].layout.annotations[0].text == "reward"
    assert "mean reward 0.5" in page_html(Page(given, rows(8, gap=float("nan"), **nothing), "", {}, []))


def test_a_column_without_a_value_is_left_out_and_a_single_missing_one_is_a_dash() -> None:
    given = rows(8, gap=float("nan"), estimate_problem="no data")
    given[3]["f_hat"] = float("nan")
    text = page_html(Page(summary(taog=None), given, "", {}, []))
    table = text[text.index('id="task-table"') :].split("</table>")[0]
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", table)
    assert "gap" not in heads
    assert {"reward", "f hat", "estimate problem", "violation 1"} <= set(heads)
    assert "nan" not in table
    assert table.count("<td>–</td>") == 1
    assert "Empty for every task, and left out: gap, failed diagnostics." in text
    assert all(
        re.search(rf'<th title="[^"]+">{head}</th>', table) for head in ("f hat", "violation during 2", "seconds")
    )


def test_a_column_in_which_all_are_equal_has_no_best() -> None:
    alike = method_table(summary().test)
    assert not any("\u2605" in cell for row in alike for cell in row)


def test_text_from_outside_cannot_become_code() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    page = Page(summary(name=evil, family=evil), rows(2, estimate_problem=evil), evil, {evil: evil}, [evil])
    clean = page_html(Page(summary(), rows(2, estimate_problem="no data"), "", {"a": "b"}, [""]))
    assert read(page_html(page)).tags == read(clean).tags


def test_a_video_is_in_the_page_and_a_large_one_is_named(tmp_path: Path) -> None:
    small, large = tmp_path / "small.mp4", tmp_path / "large.mp4"
    small.write_bytes(b"film")
    large.write_bytes(bytes(1_500_001))
    text = page_html(Page(summary(), rows(2), "", {}, [], [small, large]))
    assert f"data:video/mp4;base64,{base64.b64encode(b'film').decode()}" in text
    assert "large.mp4 is too large" in text


def held_out_rows(index: int, method: str, **changes: Any) -> list[dict[str, Any]]:
    """Three iterates of one task: reward 1, 2, 3 and costs that fall to half."""
    limits = {"limit_1": 2.0, "limit_2": 0.0}
    return [
        {
            **{"method": method, "task_index": index, "parameters": '{"speed": 1.5}', **limits, "iteration": m},
            **{"reward": 1.0 + m, "cost_1": 4.0 - m, "cost_2": 1.0 - m / 4, **changes},
        }
        for m in range(3)
    ]


def test_the_learned_starts_tasks_are_shown_with_their_first_and_last_iterate() -> None:
    table = [*held_out_rows(0, "random"), *held_out_rows(0, "meta_srl"), *held_out_rows(1, "meta_srl", reward=0.5)]
    heads, *cells = task_table(table)
    assert heads[:4] == ["task", "parameters", "reward, start", "reward, end"]
    assert heads[4:] == [f"cost {i} / limit {i}, {when}" for i in (1, 2) for when in ("start", "end")]
    assert cells == [
        ["0", '{"speed": 1.5}', "1", "3", "2", "1", "1", "0.5"],
        ["1", '{"speed": 1.5}', "0.5", "0.5", "2", "1", "1", "0.5"],
    ]
    text = page_html(Page(summary(), rows(8), "", {}, [], held_out=table))
    assert read(text).outside == []
    assert "The 2 new tasks from the learned start" in text
    assert "held_out.csv of the run directory" in text
    assert "by-task-table" not in page_html(Page(summary(), rows(8), "", {}, []))


def test_long_parameters_are_cut_and_cannot_become_code() -> None:
    evil = '{"word": "' + "</td><script>" * 20 + '"}'
    (_, cells) = task_table(held_out_rows(0, "meta_srl", parameters=evil))
    assert len(cells[1]) == 80
    tags = [
        read(
            page_html(Page(summary(), rows(2), "", {}, [], held_out=held_out_rows(0, "meta_srl", parameters=given)))
        ).tags
        for given in (evil, "{}")
    ]
    assert tags[0] == tags[1]


def test_a_thousand_tasks_stay_under_five_megabytes() -> None:
    began = time.monotonic()
    assert len(page_html(Page(summary(), rows(1000), "", {}, [])).encode()) < 5_000_000
    assert time.monotonic() - began < 60.0
