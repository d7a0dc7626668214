"""Tokenizer: text to ids and back, by the tokenizer.json of a checkpoint folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from labkit.core.errors import CheckpointError, UsageError
from labkit.core.workload import Request

_UNUSED = ("<unk>", "<s>", "</s>")  # where Llama checkpoints keep their special ids


class Tokenizer(Protocol):
    """What an engine needs of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Number of ids; every id that `encode` yields is below it."""

    def encode(self, text: str, *, is_start: bool = True) -> list[int]:
        """Ids of a text; where it `is_start`, with the special ones (a leading BOS) that the model was trained with."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special ones and those without a text left out."""


class FileTokenizer:
    """A Hugging Face tokenizer.json."""

    def __init__(self, path: Path, *, vocab_size: int) -> None:
        """Read `path` for a model whose embedding has `vocab_size` rows.

        Raises:
            CheckpointError: the file is missing or no tokenizer.
        """
        if not path.is_file():
            raise CheckpointError(
                f"model folder {path.parent} has no tokenizer.json; remedy: save it there with transformers: "
                f"AutoTokenizer.from_pretrained(NAME).save_pretrained({str(path.parent)!r})"
            )
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path} is no tokenizer that labkit can read: {reason}") from error
        # a file may ask for cut or padded texts, which would change the length of a measured prompt
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._path, self._vocab_size = path, vocab_size

    @property
    def vocab_size(self) -> int:
        """Rows of the model's embedding: every id that `encode` yields is below it."""
        return self._vocab_size

    def encode(self, text: str, *, is_start: bool = True) -> list[int]:
        """Ids of a text; where it `is_start`, with the special ones that the model was trained with.

        Raises:
            CheckpointError: an id has no row in the model's embedding.
        """
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=is_start).ids
        if ids and max(ids) >= self._vocab_size:
            raise CheckpointError(
                f"{self._path} yields token {max(ids)}, the model's embedding has {self._vocab_size:,} rows; "
                "remedy: use the tokenizer this model was trained with"
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special ones and those without a text left out."""
        return str(self._tokenizer.decode(list(ids)))


def prompt_ids(request: Request, tokenizer: Tokenizer) -> list[int]:
    """Ids of a request's prompt, cut to length; every System tokenizes by this.

    A prefix is tokenized apart from what follows it: in one go, the ids around the joint would depend on both, and
    requests that share the text would not share its ids.

    Raises:
        UsageError: a text is too short for the tokens that were asked of it.
    """
    prefix = _cut(tokenizer.encode(request.prefix), request.prefix_tokens) if request.prefix_tokens else []
    own = request.prompt
    ids = tokenizer.encode(own, is_start=not prefix) if isinstance(own, str) else own
    num_tokens = len(prefix) + len(ids) if request.prompt_tokens is None else request.prompt_tokens
    return [*prefix, *_cut(ids, num_tokens - len(prefix))]


def _cut(ids: Sequence[int], num_tokens: int) -> Sequence[int]:
    if len(ids) < num_tokens:
        raise UsageError(f"a prompt of {num_tokens} tokens was asked for, its text holds {len(ids)}")
    return ids[:num_tokens]


def write_byte_tokenizer(path: Path) -> None:
    """Write a tokenizer.json with one id per UTF-8 byte (3 … 258), for models that were never trained on text.

    A text of n characters gives at least n ids, and every text round-trips.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*_UNUSED, *alphabet))}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    path.write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
