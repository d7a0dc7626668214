"""A safetensors file or a JSON file that lies is refused in one line that says how."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from labkit.core.errors import CheckpointError
from labkit.model.header import read_header, read_json

A = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
B = {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}


def packed(header: Any, data_bytes: int = 32, *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data_bytes)


def test_a_sound_header_gives_every_tensor(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed({"__metadata__": {"format": "pt"}, "b": B, "a": A}))
    entries = read_header(path)
    assert {name: (entry.dtype, entry.shape) for name, entry in entries.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("BF16", (4,)),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is truncated or no safetensors file: a header needs 8 more, the file has 0"),
        (b"\x01\x02", "a header needs 8 more, the file has 2"),
        (packed({"a": A}, length=10**15), "its header claims 1,000,000,000,000,000 bytes, the file has"),
        (packed({"a": A, "b": B})[:-1], "is truncated: tensor 'b' ends at byte 32 of the data, the file holds 31"),
        (packed({"a": A, "b": B}, 40), "its tensors take 32 bytes, the file holds 40 of data"),
        (packed({"a": A}), "its tensors take 24 bytes, the file holds 32 of data"),
        (packed({"a": A, "b": B | {"data_offsets": [16, 24]}}), "tensor 'b' overlaps the tensor before it"),
        (packed({"a": A, "b": B | {"data_offsets": [32, 40]}}, 40), "tensor 'b' leaves a hole before it"),
        (packed({"a": A | {"data_offsets": [0, 20]}, "b": B}), "needs 24 bytes; its offsets 0 to 20 hold 20"),
        (packed({"a": A | {"data_offsets": [24, 0]}, "b": B}), "needs 24 bytes; its offsets 24 to 0 hold -24"),
        (packed({"a": A | {"data_offsets": [-24, 0]}}), "has a shape or offset that is no whole number from 0"),
        (packed({"a": A | {"shape": [2, 3.0]}}), "has a shape or offset that is no whole number from 0"),
        (packed({"a": A | {"shape": [-2, -3]}}), "has a shape or offset that is no whole number from 0"),
        (packed({"a": A | {"shape": "23"}}), "has a shape or offset that is no whole number from 0"),
        (packed({"a": A | {"dtype": "F8_E4M3"}}), "has dtype 'F8_E4M3'; allowed: F64, F32, F16, BF16"),
        (packed({"a": A | {"dtype": ["F32"]}}), "has dtype ['F32']; allowed"),
        (packed({"a": {"dtype": "F32"}}), "header of tensor 'a' lacks dtype, shape or two data_offsets"),
        (packed({"a": 7}), "header of tensor 'a' lacks dtype"),
        (packed({"a": A | {"data_offsets": [0, 12, 24]}}), "header of tensor 'a' lacks dtype"),
        (packed(b"{not json"), "is no JSON that labkit can read"),
        (packed(b'{"a": 1, "a": 2}'), "is no JSON that labkit can read: a name appears twice"),
        (packed(b"[" * 200_000), "is no JSON that labkit can read"),
        (packed(b"\xff\xfe\x00\xd8"), "is no JSON that labkit can read"),
        (packed([1]), "holds a JSON list; expected an object"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a Git LFS pointer, not the weights; remedy: git lfs pull",
        ),
    ],
)
def test_a_lying_file_is_refused_in_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_header_above_100_mb_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        os.truncate(file.fileno(), 200_000_000)  # sparse
    with pytest.raises(CheckpointError, match="claims 100,000,001 bytes; allowed: up to 100,000,000"):
        read_header(path)


def test_a_missing_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json; remedy: copy the whole folder"):
        read_json(tmp_path / "config.json")


def test_a_json_file_must_hold_an_object(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json holds a JSON list; expected an object"):
        read_json(tmp_path / "config.json")
