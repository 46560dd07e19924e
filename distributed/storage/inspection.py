"""``metasrl inspect``: describe checkpoints and learned starts. Reading them executes no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from distributed.settings.bounded_reading import shortened
from distributed.settings.errors import ConfigurationError
from distributed.storage.checkpoints import DamagedFileError, load_arrays

_LONGEST = 100


def inspect(path: Path) -> str:
    """Describe the files at ``path`` in Markdown: one file of a pair, or a folder that contains pairs.

    Raises:
        ConfigurationError: There is no such file.
        DamagedFileError: ``path`` names a single pair, and it is damaged.
    """
    if path.is_dir():
        stems = sorted({file.with_suffix("") for file in path.rglob("*.safetensors")})
        if not stems:
            raise ConfigurationError(f"{path}: contains neither a checkpoint nor a start (no .safetensors file)")
        return "\n".join(["| file | kind | arrays | megabytes | state |", "|---|---|---|---|---|", *map(_row, stems)])
    if path.suffix not in (".safetensors", ".json"):
        raise ConfigurationError(f"{path}: must be a folder, or the .safetensors or .json file of a checkpoint")
    if not path.exists():
        raise ConfigurationError(f"{path}: does not exist")
    return _pair(path.with_suffix(""))


def _row(stem: Path) -> str:
    try:
        arrays, facts = load_arrays(stem)
    except DamagedFileError as error:
        return f"| {stem} | – | – | – | damaged: {str(error).rpartition(': ')[2]} |"
    size = sum(array.nbytes for array in arrays.values()) / 1e6
    return f"| {stem} | {shortened(str(facts.get('kind', '–')))} | {len(arrays)} | {size:.3f} | intact |"


def _pair(stem: Path) -> str:
    arrays, facts = load_arrays(stem)
    lines = [f"{stem}: intact, schema version {facts['schema_version']}", "", "| fact | value |", "|---|---|"]
    lines += [
        f"| {shortened(name)} | {_shortened(value)} |" for name, value in facts.items() if name != "schema_version"
    ]
    lines += ["", "| array | shape | type | minimum | mean | maximum | not finite |", "|---|---|---|---|---|---|---|"]
    for name, array in arrays.items():
        lines.append(f"| {shortened(name)} | {list(array.shape)} | {array.dtype} | {_statistics(array)} |")
    return "\n".join(lines)


def _statistics(array: np.ndarray[Any, Any]) -> str:
    if array.size == 0 or array.dtype.kind not in "iuf":
        return "– | – | – | –"
    finite = array[np.isfinite(array)]
    if finite.size == 0:
        return f"– | – | – | {array.size}"
    return f"{finite.min():.4g} | {finite.mean():.4g} | {finite.max():.4g} | {array.size - finite.size}"


def _shortened(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
