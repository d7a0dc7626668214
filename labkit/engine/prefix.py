"""PrefixCache: keys and values of earlier prompts, for prompts that begin alike.

A prompt is cut into blocks of the KV cache's block size. A block is known by a hash of its tokens and of the block
before it, so the same tokens behind another beginning are another block. A prompt gets copies of the longest chain of
known blocks. Who uses a block uses those before it too, and they are noted as used after it: what has not been used for
longest is always the end of a chain, and no block outlives its beginning. Source: the automatic prefix caching of vLLM
(Kwon et al. 2023); Zheng et al. 2024, SGLang, which drops the least recently used leaves of a tree.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping
from collections.abc import Sequence as List
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.core.errors import UsageError
from labkit.core.paths import prefix_path
from labkit.engine.saved_prefix import SavedPrefix
from labkit.engine.sequence import Sequence

if TYPE_CHECKING:
    from labkit.engine.cache import Block, KVCache


class PrefixCache:
    """Blocks beside a KVCache, at most `budget_bytes` of them.

    Args:
        cache: whose blocks are filled from kept ones, and copied to be kept as it stores them.
        budget_bytes: what all blocks together may take.
        origin: what keys and values depend on besides tokens and layout, by name: the model, the steps that changed it.
        folder: the cache folder, where saved prefixes lie.
    """

    def __init__(
        self, cache: "KVCache", *, budget_bytes: int, origin: Mapping[str, str], folder: Path | None = None
    ) -> None:
        self.cache, self.budget_bytes, self.origin, self.folder = cache, budget_bytes, origin, folder
        self.num_hit_tokens = self.num_prompt_tokens = 0
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()  # the least recently used first

    @property
    def num_bytes(self) -> int:
        """Memory held, in bytes."""
        return len(self._blocks) * self.cache.block_bytes

    @property
    def counters(self) -> Mapping[str, float]:
        """Prompt tokens so far, and those of them that were not computed; for the Trace."""
        return {"prefix_hit_tokens": float(self.num_hit_tokens), "prompt_tokens": float(self.num_prompt_tokens)}

    def restore(self, sequence: Sequence) -> int:
        """Copy the longest known beginning of a prompt into its blocks; returns its length in tokens.

        The last token is always left to compute, for its logits.
        """
        keys = self._known(self._keys(sequence.prompt[:-1]))
        if keys:
            self.cache.write(sequence.blocks[: len(keys)], [self._blocks[key] for key in keys])
            self._use(keys)
        num_tokens = len(keys) * self.cache.block_size
        self.num_hit_tokens += num_tokens
        self.num_prompt_tokens += len(sequence.prompt)
        return num_tokens

    def keep(self, sequence: Sequence) -> None:
        """Store the full blocks of a prompt that the cache holds, the first ones where not all fit."""
        self._store(self._keys(sequence.prompt), lambda index: self.cache.read(sequence.blocks[index]))

    def clear(self) -> None:
        """Drop every block."""
        self._blocks.clear()

    def save(self, name: str, tokens: List[int]) -> Path:
        """Write the blocks that these tokens fill, all of which must be stored, for `load` in another process.

        Raises:
            UsageError: the name is none for a file, or the tokens fill no block or more than the budget holds.
        """
        path, keys = self._path(name), self._keys(tokens)
        if not keys:
            raise UsageError(
                f"prefix {name!r} of {len(tokens)} tokens fills no block of {self.cache.block_size}; "
                "save a longer text, or lower kv_cache's block_size"
            )
        self._check_room(name, len(keys))
        if len(self._known(keys)) < len(keys):
            raise ValueError("tokens: not all of their blocks are stored; serve a prompt that begins with them first")
        blocks = [self._blocks[key] for key in keys]
        num_tokens = len(keys) * self.cache.block_size
        SavedPrefix.of(self._facts, tokens[:num_tokens], blocks).write(path)
        return path

    def load(self, name: str) -> None:
        """Store the blocks of a saved prefix.

        Raises:
            UsageError: there is none of that name, it cannot be read, it was made with another model, recipe or layout,
            or it does not fit in the budget.
        """
        saved = SavedPrefix.read(self._path(name), self._facts, self.cache.block_layout)
        keys = self._keys(saved.tokens)
        self._check_room(name, len(keys))
        self._store(keys, lambda index: saved.block(index, self.cache.device))

    @property
    def _facts(self) -> dict[str, str]:
        """What a saved prefix must agree in with who loads it."""
        config = self.cache.config
        return {
            **self.origin,
            "dtype": str(self.cache.dtype).removeprefix("torch."),
            "layers": str(config.num_layers),
            "KV heads": str(config.num_kv_heads),
            "head width": str(config.head_dim),
            "block size": str(self.cache.block_size),
        }

    def _path(self, name: str) -> Path:
        if self.folder is None:
            raise ValueError("folder: a prefix cache without one has no place for saved prefixes")
        return prefix_path(self.folder, name)

    def _check_room(self, name: str, num_blocks: int) -> None:
        needed = num_blocks * self.cache.block_bytes
        if needed > self.budget_bytes:
            raise UsageError(
                f"prefix {name!r} takes {needed:,} bytes, prefix_cache keeps up to {self.budget_bytes:,}; "
                "raise its budget_bytes or save a shorter text"
            )

    def _keys(self, tokens: List[int]) -> list[bytes]:
        """What each full block of these tokens is known by."""
        keys, size, key = [], self.cache.block_size, b""
        for end in range(size, len(tokens) + 1, size):
            key = hashlib.sha256(key + array("q", tokens[end - size : end]).tobytes()).digest()
            keys.append(key)
        return keys

    def _known(self, keys: List[bytes]) -> list[bytes]:
        return list(takewhile(self._blocks.__contains__, keys))

    def _store(self, keys: List[bytes], block_of: "Callable[[int], Block]") -> None:
        """Store what is not known of a chain, from its beginning on and as far as the budget goes."""
        known, chain = self._known(keys), frozenset(keys)
        self._use(known)  # now whatever is older is no part of the chain
        for index in range(len(known), len(keys)):
            if not self._make_room(chain):
                break
            self._blocks[keys[index]] = block_of(index)
        self._use(self._known(keys))

    def _use(self, chain: List[bytes]) -> None:
        for key in reversed(chain):
            self._blocks.move_to_end(key)

    def _make_room(self, chain: frozenset[bytes]) -> bool:
        """Drop the least recently used blocks until one more fits; False if that would take one of `chain`."""
        while self.num_bytes + self.cache.block_bytes > self.budget_bytes:
            oldest = next(iter(self._blocks), None)
            if oldest is None or oldest in chain:
                return False
            del self._blocks[oldest]
        return True
