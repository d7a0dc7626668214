"""TensorEntry: where a tensor lies, by headers read before anything is mapped: downloads are cut and files can lie."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.core.errors import CheckpointError

MAX_JSON_BYTES = 100_000_000
"""Also the most that safetensors itself allows for a header."""

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of one weight, by the dtypes labkit reads; quantized checkpoints hold others."""


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: the shard, its name there, its dtype in safetensors' words and its shape."""

    shard: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        CheckpointError: the file is missing, unreadable, above 100 MB, or holds no JSON object.
    """
    if not path.is_file():
        raise CheckpointError(f"model folder {path.parent} has no {path.name}; remedy: copy the whole folder")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    return _parse(content, str(path))


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Tensors of one safetensors file by name, proven to cover its data exactly, once each.

    Layout: 8 bytes of header length (little endian), a JSON header, the data. Source: the safetensors format.

    Raises:
        CheckpointError: the file is cut short, or its header contradicts itself or the file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            _check_length(path, prefix, length, size)
            content = file.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    header = _parse(content, f"header of {path}")
    header.pop("__metadata__", None)
    entries = [_entry(path, name, fields) for name, fields in header.items()]
    _check_cover(path, entries, size - 8 - length)
    return {entry.name: entry for entry in entries}


def _check_length(path: Path, prefix: bytes, length: int, size: int) -> None:
    if prefix == b"version ":
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; remedy: git lfs pull")
    if len(prefix) < 8 or length > size - 8:
        claim = f"its header claims {length:,} bytes" if len(prefix) == 8 else "a header needs 8 more"
        raise CheckpointError(f"{path} is truncated or no safetensors file: {claim}, the file has {size:,}")
    if length > MAX_JSON_BYTES:
        raise CheckpointError(f"{path}: its header claims {length:,} bytes; allowed: up to {MAX_JSON_BYTES:,}")


def _entry(path: Path, name: str, fields: Any) -> TensorEntry:
    try:
        dtype, shape, (begin, end) = fields["dtype"], tuple(fields["shape"]), fields["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise CheckpointError(f"{path}: header of tensor {name!r} lacks dtype, shape or two data_offsets") from None
    if not (isinstance(dtype, str) and dtype in ITEM_BYTES):
        raise CheckpointError(
            f"{path}: tensor {name!r} has dtype {dtype!r}; allowed: {', '.join(ITEM_BYTES)}, no quantized checkpoint"
        )
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise CheckpointError(f"{path}: tensor {name!r} has a shape or offset that is no whole number from 0")
    needed = math.prod(shape) * ITEM_BYTES[dtype]
    if end - begin != needed:
        raise CheckpointError(
            f"{path}: tensor {name!r}, shape {list(shape)} in {dtype}, needs {needed:,} bytes; "
            f"its offsets {begin} to {end} hold {end - begin:,}"
        )
    return TensorEntry(path, name, dtype, shape, begin, end)


def _check_cover(path: Path, entries: list[TensorEntry], data_bytes: int) -> None:
    reached = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != reached:
            fault = "overlaps the tensor before it" if entry.begin < reached else "leaves a hole before it"
            raise CheckpointError(f"{path}: tensor {entry.name!r} {fault} (starts at {entry.begin}, not {reached})")
        if entry.end > data_bytes:
            raise CheckpointError(
                f"{path} is truncated: tensor {entry.name!r} ends at byte {entry.end:,} of the data, "
                f"the file holds {data_bytes:,}; remedy: download it again"
            )
        reached = entry.end
    if reached != data_bytes:
        raise CheckpointError(f"{path}: its tensors take {reached:,} bytes, the file holds {data_bytes:,} of data")


def _parse(content: bytes, what: str) -> dict[str, Any]:
    if len(content) > MAX_JSON_BYTES:
        raise CheckpointError(f"{what} is above {MAX_JSON_BYTES:,} bytes, the most labkit reads")
    try:
        parsed = json.loads(content.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is no JSON that labkit can read: {error}") from None
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{what} holds a JSON {type(parsed).__name__}; expected an object")
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) < len(pairs):
        raise ValueError("a name appears twice")
    return parsed
