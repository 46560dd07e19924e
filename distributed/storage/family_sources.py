"""Digests of sources, kept with what they computed, so that results of two versions are never mixed unnoticed."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from distributed.settings.bounded_reading import RefusedFileError, read_json
from distributed.settings.errors import ConfigurationError
from distributed.settings.run_config import CODE_KINDS
from distributed.storage.checkpoints import DamagedFileError, write_atomically
from tasks.contract.family_registry import BUILT_IN

SOURCES = "family_sources.json"
"""The digests in a run directory."""
_ROOT = Path(__file__).resolve().parent.parent.parent
_ROOMS = tuple(_ROOT / room for room in ("tasks", "policies", "meta", "distributed"))
_INSTALLED = ("site-packages", "dist-packages")
Sources = Mapping[str, str]
"""SHA-256 by the file's path from the folder of the family."""


def sources_of(*names: str) -> Sources:
    """The files of all ``names``, the family's first; see :func:`_sources_of`.

    A file of the same place in another folder comes with the name that it belongs to.
    """
    found = dict[str, str]()
    for name in names:
        for key, digest in _sources_of(name).items():
            found[key if found.get(key, digest) == digest else f"{name}/{key}"] = digest
    return dict(sorted(found.items()))


def _sources_of(name: str) -> Sources:
    """The family's module and the modules beside it that it imports; none for a built-in family, or a class of Ray.

    "Beside" is the folder of the file, or the folder that holds the top-level package; of an installed package only the
    package itself. The imports are read from the source, also those inside functions; data files are not covered.
    """
    if name in BUILT_IN or name.startswith("ray."):
        return {}
    first, base, package = _place(name.rpartition(":")[0])
    found, waiting = dict[str, str](), [first]
    while waiting:
        file = waiting.pop()
        key = file.relative_to(base).as_posix()
        if key in found:
            continue
        content = file.read_bytes()
        found[key] = hashlib.sha256(content).hexdigest()
        waiting += [one for one in _imported(content, file, base) if package is None or one.is_relative_to(package)]
    return dict(sorted(found.items()))


@functools.cache
def sources_digest() -> str:
    """Digest of the source code of tasks, policies and meta; stored with every cell to recognise stale ones."""
    digest = hashlib.sha256()
    for room in _ROOMS[:3]:
        for path in sorted(room.rglob("*.py")):
            digest.update(f"{path.relative_to(_ROOT)}".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _place(module: str) -> tuple[Path, Path, Path | None]:
    """The file of a module, the folder that imports are looked up in, and the package that they must stay in."""
    if module.endswith(".py"):
        file = Path(module).expanduser().resolve()
        return file, file.parent, None
    given = getattr(sys.modules.get(module), "__file__", None)
    if given is None:
        raise ConfigurationError(f"family.name: module {module!r} has no source file that a run could keep track of")
    file, parts = Path(given).resolve(), module.split(".")
    inner = file.parent if file.name == "__init__.py" else file
    base = inner.parents[len(parts) - 1]
    return file, base, base / parts[0] if set(_INSTALLED) & set(base.parts) else None


def _imported(content: bytes, file: Path, base: Path) -> Iterator[Path]:
    """The files below ``base`` that the source ``content`` of ``file`` imports."""
    try:
        nodes = list(ast.walk(ast.parse(content)))
    except (SyntaxError, ValueError):
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(base, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            begin = base if node.level == 0 else file.parents[node.level - 1]
            parts = [] if node.module is None else node.module.split(".")
            for alias in node.names:
                yield from _files(begin, [*parts, alias.name])


def _files(begin: Path, parts: list[str]) -> Iterator[Path]:
    """The modules that importing ``parts`` from ``begin`` may run, but for those of this project."""
    for count in range(len(parts) + 1):
        place = begin.joinpath(*parts[:count])
        for file in (place / "__init__.py", place.with_name(f"{place.name}.py")) if count else ():
            with contextlib.suppress(OSError):
                if file.is_file() and not any(file.resolve().is_relative_to(room) for room in _ROOMS):
                    yield file.resolve() if file.resolve().is_relative_to(begin.resolve()) else file


def differing(earlier: Sources, now: Sources) -> str:
    """The files that differ, as text; empty without any."""
    names = [name for name in sorted({*earlier, *now}) if earlier.get(name) != now.get(name)]
    kinds = {name: "new" if name not in earlier else "gone" if name not in now else "changed" for name in names}
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())


def write_sources(folder: Path, code: Mapping[str, str]) -> None:
    """Keep the sources of ``code`` (``RunConfig.code``) in a run directory; nothing for a built-in family alone."""
    sources = sources_of(*code.values())
    if sources:
        content = {"family": code["family.name"], "files": sources}
        write_atomically(folder / SOURCES, json.dumps(content, indent=1).encode())


def require_same_sources(folder: Path, code: Mapping[str, str], *, changed: bool) -> None:
    """Check that ``code`` is what the run in ``folder`` began with; ``changed``: the user knows of another source.

    A run of an earlier version, which kept nothing, is taken as it is.

    Raises:
        ConfigurationError: Its source differs.
        DamagedFileError: What was kept is damaged.
    """
    file = folder / SOURCES
    if not file.is_file():
        return
    try:
        earlier = read_json(file)["files"]
        difference = differing(earlier, sources_of(*code.values()))
    except (AttributeError, KeyError, OSError, RefusedFileError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{file}: does not say which source the run began with ({error!r})") from error
    if difference and not changed:
        raise ConfigurationError(
            f"--resume {folder}: {_told(code)} has another source than the run began with: {difference}; restore it, "
            "begin a new run, or give --changed-family to train on with the new source from here"
        )
    if difference:
        write_sources(folder, code)


def _told(code: Mapping[str, str]) -> str:
    """The classes of ``code`` in a message, each once."""
    return ", or ".join(dict.fromkeys(f"the {CODE_KINDS[key]} {name}" for key, name in code.items()))
