"""Split execution: the first rank's executor, and how the other ranks do the same with their shards.

Before each step the first rank tells which sequences it is about, what is new in them and how much of each is in the
cache; every rank then runs the same LocalExecutor on its shard, with a cache of its own heads or layers.
"""

import statistics
import time
from collections.abc import Mapping
from collections.abc import Sequence as List
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.bench.link import Link, best_link
from labkit.engine.cache import KVCache
from labkit.engine.engine import weights_bytes
from labkit.engine.executor import LocalExecutor
from labkit.engine.mirror import Narrator
from labkit.engine.sequence import Chunk, Sequence
from labkit.engine.shard import Shard
from labkit.engine.wire import Wire
from labkit.model.transformer import Transformer

BUILD, EXECUTE, MIXED, VERIFY, COMPUTE, REPORT, RELOCATE, MEASURE, CLOSE = range(9)
"""What the first rank tells the others to do."""

_SHORT, _LONG = 2**8, 2**20  # numbers in an all-reduce: one of latency, one of bandwidth
_REPEATS = 20

Item = TypeVar("Item")


class SplitExecutor(LocalExecutor):
    """The first rank: tells the others what it does, and gives logits once they are whole.

    A batch goes through in up to `microbatches` parts. See Executor.
    """

    def __init__(self, model: Transformer, cache: KVCache | None, *, microbatches: int = 1) -> None:
        super().__init__(model, cache)
        assert isinstance(model, Shard)
        self.shard, self.wire, self.microbatches = model, model.wire, microbatches
        self._narrator = Narrator(cache)

    def execute(self, sequences: List[Sequence]) -> Tensor:
        """See Executor."""
        self._tell(EXECUTE, sequences, [[] for _ in sequences])
        logits = [super(SplitExecutor, self).execute(part) for part in parts(sequences, self.microbatches)]
        return self._whole(logits, sequences)

    def execute_mixed(self, chunks: List[Chunk], decoding: List[Sequence]) -> Tensor:
        """See Executor. Chunks are a part of their own where there are several."""
        sequences = [*(chunk.sequence for chunk in chunks), *decoding]
        told = self._narrator.told(sequences, [[] for _ in sequences])
        sizes = [num_tokens for _, num_tokens in chunks]
        self.wire.tell([MIXED, self.microbatches, len(sizes), *sizes, *told])
        logits = [super(SplitExecutor, self).execute_mixed(*part)
                  for part in mixed_parts(chunks, decoding, self.microbatches)]  # fmt: skip
        return self._whole(logits, sequences)

    def verify(self, sequences: List[Sequence], drafts: List[list[int]]) -> Tensor:
        """See Executor."""
        self._tell(VERIFY, sequences, drafts)
        batches = zip(parts(sequences, self.microbatches), parts(drafts, self.microbatches), strict=True)
        return self._whole([super(SplitExecutor, self).verify(*batch) for batch in batches], sequences)

    def compute(self, tokens: Tensor) -> Tensor:
        """See Executor."""
        self.wire.tell([COMPUTE, *tokens.shape, *tokens.flatten().tolist()])
        return self._whole([super().compute(tokens)], [])

    @property
    def counters(self) -> Mapping[str, float]:
        """Seconds and bytes of communication so far, and of waiting in a pipeline: means over the ranks."""
        figures = [sum(of_ranks) / len(of_ranks) for of_ranks in zip(*self._report(), strict=True)]
        counters = {**super().counters, "communication_s": figures[0], "communication_bytes": figures[2]}
        return counters | ({"bubble_s": figures[1]} if self.shard.has_bubble else {})

    def complete(self, facts: Mapping[str, Any], cache_folder: Path | None) -> Mapping[str, Any]:
        """See Executor: ranks, how they are connected, and what the others hold besides."""
        _, _, _, weights, cached, threads = zip(*self._report(), strict=True)
        device = self.device.type
        completed: dict[str, Any] = {
            **facts,
            "weights_bytes": facts["weights_bytes"] + int(sum(weights[1:])),
            "kv_cache_bytes": int(sum(cached)),
            "rank_threads": [int(num) for num in threads],
            "rank_weights_bytes": {f"of rank {rank}": int(num) for rank, num in enumerate(weights)},
        }
        if cache_folder is not None:
            link = best_link(f"{device}-{self.wire.world}", cache_folder, self._measured_link)
            completed["link"] = link.to_dict()
        return completed

    def relocate(self) -> None:
        """See Executor."""
        self.wire.tell([RELOCATE])

    def close(self) -> None:
        """Let the other ranks give their memory back."""
        self.wire.tell([CLOSE])

    def _tell(self, what: int, sequences: List[Sequence], drafts: List[list[int]]) -> None:
        self.wire.tell([what, self.microbatches, *self._narrator.told(sequences, drafts)])

    def _whole(self, logits: list[Tensor], sequences: List[Sequence]) -> Tensor:
        """Logits of all parts, of which those of short drafts are padded."""
        if logits[0].ndim > 2:
            longest = max(part.shape[1] for part in logits)
            logits = [F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in logits]
        found = self.shard.collected(torch.cat(logits))
        self.wire.finish()
        self._narrator.note(sequences)
        return found

    def _report(self) -> list[list[float]]:
        self.wire.tell([REPORT])
        return report(self.shard, self.cache)

    def _measured_link(self) -> Link:
        self.wire.tell([MEASURE])
        return measured_link(self.wire, self.device)


def parts(items: List[Item], num: int) -> list[List[Item]]:
    """Up to `num` parts of a list, in order and as even as they go."""
    num = min(num, len(items))
    size, more = divmod(len(items), num)
    starts = [index * size + min(index, more) for index in range(num + 1)]
    return [items[start:stop] for start, stop in pairwise(starts)]


def mixed_parts(chunks: List[Chunk], decoding: List[Sequence], num: int) -> list[tuple[List[Chunk], List[Sequence]]]:
    """A mixed step in up to `num` parts: the chunks, then those that decode; in one, all of it."""
    if num == 1 or not decoding:
        return [(chunks, decoding)]
    return [(chunks, []), *(([], part) for part in parts(decoding, num - 1))]


def report(shard: Shard, cache: KVCache | None) -> list[list[float]]:
    """Figures of all ranks: communication_s, wait_s, sent_bytes, bytes of weights, bytes of the cache, threads."""
    traffic = shard.wire.traffic
    cached = cache.num_bytes if cache is not None else 0
    own = (traffic.communication_s, traffic.wait_s, traffic.sent_bytes)
    return shard.wire.report([*own, weights_bytes(shard), cached, torch.get_num_threads()])


def measured_link(wire: Wire, device: torch.device) -> Link:
    """What an all-reduce takes, from a short and a long one; all ranks do this at once."""
    seconds = []
    for length in (_SHORT, _LONG):
        x, times_s = torch.zeros(length, device=device), []
        for _ in range(_REPEATS):
            start_ns = time.perf_counter_ns()
            wire.all_reduce(x)
            times_s.append((time.perf_counter_ns() - start_ns) * 1e-9)
        seconds.append(statistics.median(times_s))
    sent_bytes = 2 * 4 * _LONG * (wire.world - 1) / wire.world
    return Link(latency_s=seconds[0], bytes_per_s=sent_bytes / max(seconds[1] - seconds[0], 1e-9))
