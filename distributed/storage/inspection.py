"""``metasrl inspect``: what is in a checkpoint, a learned start or a run directory, in words. Runs no code from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from distributed.settings.errors import ConfigurationError
from distributed.storage.checkpoints import DamagedFileError, load_arrays

_LONGEST = 100


def inspect(path: Path) -> str:
    """Markdown about the files at ``path``: a .safetensors or .json of a pair, or a folder that holds such pairs.

    Raises:
        ConfigurationError: there is nothing of that kind.
        DamagedFileError: a single pair was named and is damaged.
    """
    if path.is_dir():
        stems = sorted({file.with_suffix("") for file in path.rglob("*.safetensors")})
        if not stems:
            raise ConfigurationError(f"{path}: holds no checkpoint and no start (no .safetensors file under it)")
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
    return f"| {stem} | {facts.get('kind', '–')} | {len(arrays)} | {size:.3f} | whole |"


def _pair(stem: Path) -> str:
    arrays, facts = load_arrays(stem)
    lines = [f"{stem}: whole, schema version {facts['schema_version']}", "", "| fact | value |", "|---|---|"]
    lines += [f"| {name} | {_told(value)} |" for name, value in facts.items() if name != "schema_version"]
    lines += ["", "| array | shape | type | least | mean | largest | not finite |", "|---|---|---|---|---|---|---|"]
    for name, array in arrays.items():
        lines.append(f"| {name} | {list(array.shape)} | {array.dtype} | {_numbers(array)} |")
    return "\n".join(lines)


def _numbers(array: np.ndarray[Any, Any]) -> str:
    if array.size == 0 or array.dtype.kind not in "iuf":
        return "– | – | – | –"
    finite = array[np.isfinite(array)]
    if finite.size == 0:
        return f"– | – | – | {array.size}"
    return f"{finite.min():.4g} | {finite.mean():.4g} | {finite.max():.4g} | {array.size - finite.size}"


def _told(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
