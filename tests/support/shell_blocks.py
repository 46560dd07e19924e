"""The shell commands of the pages: collected, parsed as the command line would, and typed into a copy of the checkout.

A fenced block of ``bash`` or ``console`` is typed as it stands. A comment in the line above it changes that:

    <!-- not run: REASON -->          it is only parsed
    <!-- run smaller: OPTIONS -->     OPTIONS are added to metasrl train, compare and sweep

``<!-- no block of this page is run: REASON -->`` holds for a page.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from distributed.cli.app import OVERRIDES, app, split_overrides
from distributed.cli.main import COMMANDS
from distributed.settings.run_file import load_config, run_file_named

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"(?:^<!-- (?!no block)(.*?) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_WHOLE_PAGE = re.compile(r"<!-- no block of this page is run: (.+?) -->")
_TAKING_SETTINGS = re.compile(r"^((?:\w+=\S+ )*metasrl (?:train|compare|sweep)(?:\\\n|[^\n#])*)", re.MULTILINE)
assert COMMANDS, "importing them registers the commands"


@dataclass(frozen=True)
class ShellBlock:
    """A block: its page and line, its commands as text, why it is not run, and options that make it smaller."""

    page: Path
    line: int
    text: str
    reason: str = ""
    smaller: str = ""

    @property
    def typed(self) -> str:
        """What is typed, with the options that make it smaller."""
        return (
            _TAKING_SETTINGS.sub(lambda found: f"{found.group(1).rstrip()} {self.smaller} ", self.text)
            if self.smaller
            else self.text
        )

    def commands(self) -> list[list[str]]:
        """The words of each command, without environment variables before it."""
        joined = re.sub(r"\\\n\s*", " ", self.typed)
        found = [shlex.split(part, comments=True) for line in joined.splitlines() for part in _parts(line)]
        return [words[next((i for i, word in enumerate(words) if not _sets(word)), 0) :] for words in found if words]


def _parts(line: str) -> list[str]:
    """The commands of a line that ``&&`` joins; in quotes it does not occur on the pages."""
    return line.strip().strip("()").split("&&")


def _sets(word: str) -> bool:
    return re.match(r"[A-Z_]+=", word) is not None


def blocks_of(page: Path) -> Iterator[ShellBlock]:
    """The shell blocks of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    whole = _WHOLE_PAGE.search(text)
    for found in _FENCE.finditer(text):
        remark, language, content = found.groups()
        if language not in ("bash", "console", "sh", "shell"):
            continue
        assert language in ("bash", "console"), f"{page.name}: a block of {language}; use bash"
        if language == "console":
            content = "\n".join(line[2:] for line in content.splitlines() if line.startswith("$ "))
        kind, _, rest = (remark or "").partition(": ")
        assert kind in ("", "not run", "run smaller"), f"{page.name}: unknown remark {remark!r}"
        assert bool(kind) == bool(rest.strip()), f"{page.name}: {kind} needs a reason or options"
        reason = rest if kind == "not run" else whole.group(1) if whole else ""
        line = text.count("\n", 0, found.start(3)) + 1
        yield ShellBlock(page, line, content, reason, rest if kind == "run smaller" else "")


def require_parsed(words: Sequence[str]) -> None:
    """Check a command as far as that is possible without running it.

    ``metasrl``: command, options, settings of the run file. ``make``: the target. ``python -m``: the module.
    """
    name, *rest = words
    if name == "metasrl":
        _require_command(rest)
    elif name == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert {word for word in rest if "=" not in word} <= targets, words
    elif name.startswith("python") and rest[:1] == ["-m"] and rest[1] not in ("venv", "pip"):
        place = ROOT.joinpath(*rest[1].split("."))
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), words


def _require_command(given: list[str]) -> None:
    group = typer.main.get_command(app)
    if given[0].startswith("-"):
        assert any(given[0] in option.opts for option in group.params), given
        return
    command = group.commands[given[0]]  # type: ignore[attr-defined]
    accepting = {given[0]} if command.context_settings == OVERRIDES else set()
    rest, pairs = split_overrides(accepting, given)
    context = command.make_context(rest[0], rest[1:])
    assert not context.args, f"{given}: {context.args} are no options"
    if accepting:
        load_config(run_file_named(context.params["run_file"]), pairs)


@dataclass(frozen=True)
class Typed:
    """What typing a page gave: exit code, everything printed, and seconds for each block by its line."""

    code: int
    output: str
    seconds: dict[int, float]


def type_page(page: Path, folder: Path) -> Typed:
    """Type the blocks of a page, one after the other in one shell, into a copy of the checkout in ``folder``."""
    checkout = copy_of_checkout(folder / "metasrl")
    log = folder / "lines.txt"
    script = ["set -eo pipefail"]
    for block in blocks_of(page):
        if not block.reason:
            script += [f"echo {block.line} $(date +%s.%N) >> {log}", block.typed]
    script += [f"echo 0 $(date +%s.%N) >> {log}"]
    given = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    given |= {"PATH": f"{checkout / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    given |= {"PYTHONPATH": str(checkout), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=checkout,
        env=given,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    marks = [line.split() for line in log.read_text().splitlines()] if log.is_file() else []
    times = [(int(line), float(when)) for line, when in marks] + [(0, time.time())]
    seconds = {line: after[1] - when for (line, when), after in itertools.pairwise(times) if line}
    return Typed(done.returncode, done.stdout, seconds)


def copy_of_checkout(folder: Path) -> Path:
    """A copy of the files that git knows, with an environment that borrows the packages of this one."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    (folder / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name != ".ready":
            (folder / ".venv" / part.name).symlink_to(part)
    os.utime(folder / "pyproject.toml", (0, 0))
    (folder / ".venv" / ".ready").touch()  # make setup has nothing to do
    return folder
