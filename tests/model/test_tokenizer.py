"""Text to ids and back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.core.errors import CheckpointError
from labkit.model.tokenizer import FileTokenizer, write_byte_tokenizer

Edit = Callable[[Path, str, Callable[[dict[str, Any]], object]], None]


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> FileTokenizer:
    path = tmp_path_factory.mktemp("bytes") / "tokenizer.json"
    write_byte_tokenizer(path)
    return FileTokenizer(path, vocab_size=300)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_round_trip_any_text(text: str, byte_tokenizer: FileTokenizer) -> None:
    ids = byte_tokenizer.encode(text)
    assert len(ids) == len(text.encode()) >= len(text)
    assert all(3 <= number < 259 for number in ids)
    assert byte_tokenizer.decode(ids) == text


def test_bytes_have_no_special_words(byte_tokenizer: FileTokenizer) -> None:
    assert len(byte_tokenizer.encode("<s></s><unk>")) == 12


def test_ids_without_a_text_decode_to_nothing(byte_tokenizer: FileTokenizer) -> None:
    assert byte_tokenizer.decode([*byte_tokenizer.encode("ab"), 299]) == "ab"


def test_a_file_cannot_cut_or_pad_prompts(folder: Path, edit: Edit) -> None:
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    edit(folder, "tokenizer.json", lambda content: content.update(truncation=cut))
    assert len(FileTokenizer(folder / "tokenizer.json", vocab_size=300).encode("abcdef")) == 6


def test_an_id_outside_the_embedding_is_refused(folder: Path) -> None:
    tokenizer = FileTokenizer(folder / "tokenizer.json", vocab_size=40)
    with pytest.raises(CheckpointError, match=r"yields token \d+, the model's embedding has 40 rows; remedy:"):
        tokenizer.encode("hello")


def test_a_missing_tokenizer_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json; remedy: .*save_pretrained"):
        FileTokenizer(tmp_path / "tokenizer.json", vocab_size=300)


@pytest.mark.parametrize("content", ["", "{}", "[1]", json.dumps({"version": "9"}), "\n\n\x00"])
def test_what_is_no_tokenizer_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is no tokenizer that labkit can read") as caught:
        FileTokenizer(tmp_path / "tokenizer.json", vocab_size=300)
    assert "\n" not in str(caught.value)
