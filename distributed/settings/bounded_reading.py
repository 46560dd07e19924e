"""Read a file of somebody else: regular files only, and no more bytes, depth or repetition than a real one has."""

from __future__ import annotations

import errno
import json
import os
import re
import reprlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MOST_YAML_BYTES = 2**20
MOST_JSON_BYTES = 2**26
MOST_TABLE_BYTES = 2**30
MOST_ARRAY_BYTES = 2**32
_MOST_DEPTH = 50
_MOST_NODES = 30_000
_MOST_ALIASES = 1000
_LONGEST = 200
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


class RefusedFileError(ValueError):
    """A file is not one that is read; the message names it, what it is, and what would be right."""


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes; never waits for a pipe or reads a device.

    Raises:
        RefusedFileError: It is something else, or larger.
        OSError: It cannot be read.
    """
    _require_regular(path, path.stat(), most)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        _require_regular(path, os.fstat(descriptor), most)  # the one that was opened, should it have changed
        content = file.read(most + 1)
    if len(content) > most:
        raise RefusedFileError(f"{path}: is larger than {most} bytes, the most that is read of such a file")
    return content


def _require_regular(path: Path, found: os.stat_result, most: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise RefusedFileError(f"{path}: must be a regular file, not a device, a pipe or a socket")
    if found.st_size > most:
        raise RefusedFileError(f"{path}: has {found.st_size} bytes; at most {most} are read of such a file")


def read_text(path: Path, most: int) -> str:
    """As :func:`read_bytes`, as text in UTF-8.

    Raises:
        RefusedFileError: It is not a regular file of text, or larger.
        OSError: It cannot be read.
    """
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedFileError(f"{path}: is not text in UTF-8 ({error.reason} at byte {error.start})") from error


def json_text(path: Path) -> str:
    """The text of a JSON file whose brackets are nested at most 50 deep, so that any parser can take it.

    Raises:
        RefusedFileError: It is not such a file.
        OSError: It cannot be read.
    """
    text = read_text(path, MOST_JSON_BYTES)
    require_shallow(text, str(path))
    return text


def read_json(path: Path) -> Any:
    """The content of a JSON file (see :func:`json_text`).

    Raises:
        RefusedFileError: It is not such a file, or not JSON.
        OSError: It cannot be read.
    """
    return parse_json(json_text(path), str(path))


def parse_json(text: str, source: str) -> Any:
    """Parse JSON whose brackets are nested at most 50 deep.

    Raises:
        RefusedFileError: It is nested deeper, or not JSON; the message names ``source``.
    """
    require_shallow(text, source)
    try:
        return json.loads(text)
    except ValueError as error:
        raise RefusedFileError(f"{source}: is not JSON: {shortened(str(error))}") from error


def require_shallow(text: str, source: str) -> None:
    """Check that the brackets of ``text`` are nested at most 50 deep.

    Raises:
        RefusedFileError: They are nested deeper; the message names ``source``.
    """
    depth = 0
    for token in _TOKENS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > _MOST_DEPTH:
            raise RefusedFileError(f"{source}: is nested more than {_MOST_DEPTH} levels deep")


def parse_yaml(text: str) -> Any:
    """Parse one document of YAML into plain data, within bounds on depth, length and repetition by aliases.

    Raises:
        yaml.YAMLError: It is not YAML, not plain data, or beyond a bound.
    """
    _require_bounded(yaml.parse(text, yaml.SafeLoader))
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded(node, {}) > _MOST_NODES:
            raise yaml.YAMLError(f"its aliases stand for more than {_MOST_NODES} values")
        return loader.construct_document(node)
    except ValueError as error:  # of a date or a number that is none
        raise yaml.YAMLError(shortened(str(error))) from error
    finally:
        loader.dispose()


def _require_bounded(events: Iterator[yaml.Event]) -> None:
    """Raise YAMLError for a document that is too deep, too long or too full of aliases, before it is built."""
    depth = aliases = 0
    for number, event in enumerate(events):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > _MOST_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {_MOST_DEPTH} levels deep")
        if number > _MOST_NODES:
            raise yaml.YAMLError(f"it holds more than {_MOST_NODES} values")
        if aliases > _MOST_ALIASES:
            raise yaml.YAMLError(f"it holds more than {_MOST_ALIASES} aliases")


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """Number of values that ``node`` stands for with every alias written out. ``known``: those of earlier nodes."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = _MOST_NODES + 1  # what a node that contains itself finds
        parts = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_expanded(part, known) for part in parts)
    return known[id(node)]


def shown(value: object) -> str:
    """A value as an error message shows it: at most 200 characters, whatever it contains."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = _LONGEST
    brief.maxlevel, brief.maxlist, brief.maxtuple, brief.maxdict = 4, 12, 12, 12
    return shortened(brief.repr(value))


def shortened(text: str, most: int = _LONGEST) -> str:
    """``text``, cut after ``most`` characters."""
    return text if len(text) <= most else f"{text[:most]} ... ({len(text)} characters)"
