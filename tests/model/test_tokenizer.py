"""Text to ids and back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from labkit.core.errors import CheckpointError, UsageError
from labkit.core.workload import Request, WorkloadSpec
from labkit.model.source import open_model
from labkit.model.tokenizer import FileTokenizer, prompt_ids, write_byte_tokenizer

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


SHARED = WorkloadSpec("shared", "offline", prompt_tokens=150, new_tokens=1, num_requests=8, shared_prefix_tokens=128)


def with_bos(tokenizer: FileTokenizer, folder: Path) -> FileTokenizer:
    """The same, with `<s>` before every text, as Llama's has."""
    inner = tokenizers.Tokenizer.from_str(tokenizer._tokenizer.to_str())
    inner.add_special_tokens(["<s>"])
    bos = inner.token_to_id("<s>")
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    inner.save(str(folder / "tokenizer.json"))
    return FileTokenizer(folder / "tokenizer.json", vocab_size=300)


@pytest.mark.parametrize("name", ["bytes", "bytes with BOS", "pylm"])
def test_a_shared_prefix_is_shared_in_its_ids(name: str, byte_tokenizer: FileTokenizer, tmp_path: Path) -> None:
    tokenizer = open_model("pylm").tokenizer if name == "pylm" else byte_tokenizer
    if name == "bytes with BOS":
        tokenizer = with_bos(byte_tokenizer, tmp_path)
    prompts = [prompt_ids(request, tokenizer) for index in range(4) for request in SHARED.draw(index).requests]
    assert {len(prompt) for prompt in prompts} == {150}
    assert len({tuple(prompt[:128]) for prompt in prompts}) == 1
    assert len({tuple(prompt[128:]) for prompt in prompts}) > 0.9 * len(prompts)  # so few bytes may well repeat
    if name == "bytes with BOS":
        assert [prompt.count(1) for prompt in prompts] == [1] * len(prompts)
        assert prompts[0][0] == 1


def test_ids_at_the_joint_would_differ_if_both_were_tokenized_at_once() -> None:
    tokenizer = open_model("pylm").tokenizer
    prefix, own = "def read_lin", "es(path):"
    num = len(tokenizer.encode(prefix))
    assert tokenizer.encode(prefix + own)[:num] != tokenizer.encode(prefix)
    request = Request(own, 1, num + 2, prefix=prefix, prefix_tokens=num)
    assert prompt_ids(request, tokenizer) == [*tokenizer.encode(prefix), *tokenizer.encode(own)[:2]]


def test_a_text_that_is_too_short_for_its_tokens_is_refused(byte_tokenizer: FileTokenizer) -> None:
    with pytest.raises(UsageError, match="a prompt of 9 tokens was asked for, its text holds 2"):
        prompt_ids(Request("ab", 1, 9), byte_tokenizer)
    with pytest.raises(UsageError, match="a prompt of 4 tokens was asked for, its text holds 3"):
        prompt_ids(Request("abcdefgh", 1, 9, prefix="xyz", prefix_tokens=4), byte_tokenizer)
