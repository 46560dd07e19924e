"""Every shell command of README, tour and guides: parsed, and by the slow tests typed into a copy of the checkout."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.shell_blocks import PAGES, ROOT, ShellBlock, blocks_of, require_parsed, type_page

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
TYPED = sorted({block.page for block in BLOCKS if not block.reason}, key=str)


def _go(block: ShellBlock, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the folder where a block leaves the shell."""
    for words in block.commands():
        if words[0] == "cd":
            monkeypatch.chdir(words[1])


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page.name}:{block.line}")
def test_every_command_is_one(block: ShellBlock, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = block.commands()
    assert commands, "a block without a command"
    monkeypatch.chdir(ROOT)
    for words in commands:
        own = re.search(
            r"^cd (docs/examples)$", "\n".join(b.text for b in BLOCKS if b.page == block.page), re.MULTILINE
        )
        if own:
            monkeypatch.chdir(ROOT / own.group(1))
        require_parsed(words)


def test_no_command_hides_outside_the_blocks() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        hidden = re.findall(r"^ {4}(?:metasrl|make|python|ray|mlflow|docker|kubectl|pip) .*", text, re.MULTILINE)
        assert not hidden, f"{page.name}: put into a block of bash: {hidden}"


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("metasrl adapt latest --task-index 3", False),
        ("metasrl adapt latest --task-number 3", True),
        ("metasrl train frozen_lake --family.similarity low", False),
        ("metasrl train frozen_lake --family.similarity little", True),
        ("metasrl train frozen_pond", True),
        ("metasrl grow", True),
        ("make train RUN=x.yaml", False),
        ("make trian", True),
        ("python -m benchmarks.tour", False),
        ("python -m benchmarks.tower", True),
    ],
)
def test_a_wrong_command_is_found(words: str, wrong: bool) -> None:
    if not wrong:
        require_parsed(words.split())
        return
    with pytest.raises(Exception, match=r"."):
        require_parsed(words.split())


def test_remarks_are_read_and_unknown_ones_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\nA=1 metasrl train a.yaml  # why\n```\n\n<!-- not run: no cluster -->\n```bash\nmetasrl jobs\n```\n"
        "<!-- run smaller: --x.y 1 -->\n```bash\nA=1 metasrl train a.yaml  # why\nmetasrl families\n```\n"
        "```console\n$ metasrl jobs\n| no | command |\n```\n```python\nmetasrl\n```\n"
    )
    first, second, third, fourth = blocks_of(page)
    assert (first.line, first.reason, first.commands()) == (2, "", [["metasrl", "train", "a.yaml"]])
    assert second.reason == "no cluster"
    assert third.commands() == [["metasrl", "train", "a.yaml", "--x.y", "1"], ["metasrl", "families"]]
    assert fourth.commands() == [["metasrl", "jobs"]]
    page.write_text(f"<!-- no block of this page is run: made by a program -->\n{page.read_text()}")
    assert {block.reason for block in blocks_of(page)} == {"made by a program", "no cluster"}
    page.write_text("<!-- skip: later -->\n```bash\nmetasrl jobs\n```\n")
    with pytest.raises(AssertionError, match="unknown remark"):
        list(blocks_of(page))


@pytest.mark.slow
@pytest.mark.parametrize("page", TYPED, ids=lambda page: page.name)
def test_the_commands_of_a_page_work_as_typed(page: Path, tmp_path: Path) -> None:
    typed = type_page(page, tmp_path)
    print(json.dumps({"page": page.name, "seconds": {line: round(took) for line, took in typed.seconds.items()}}))
    assert typed.code == 0, f"after {list(typed.seconds)}:\n{typed.output[-6000:]}"
    assert "Traceback" not in typed.output
