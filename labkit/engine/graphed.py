"""GraphedStep: a decoding step on a GPU as one CUDA graph, replayed by a single call.

A GPU computes a step of a small batch sooner than Python starts its some hundred kernels. A graph holds the kernels
with their arguments, so shapes and addresses must not change: tokens, lengths and tables are written to where they
always are, attention gathers and sees a whole bucket of positions behind a mask, and a batch is filled up to a power of
two with copies of its first sequence, which store the same keys and values at the same place once more.

Reference: Gray 2019, Getting Started with CUDA Graphs; Kwon et al. 2023, vLLM, which records a graph for each size of
the batch.
"""

from collections.abc import Callable
from collections.abc import Sequence as List

import torch
from torch import Tensor

from labkit.engine.cache import CacheView, KVCache
from labkit.engine.compiled import CompiledBlock
from labkit.model.linear import KernelLayer
from labkit.model.transformer import Transformer

LEAST_LENGTH = 128
"""Positions that the smallest bucket holds; the others are powers of two."""

MOST_GATHERED_BYTES = 2**28
"""Of one layer's keys and values; where a step would gather more, that costs more than starting its kernels one by one.
"""

Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""What makes a replay of a computation whose inputs lie where they are; it may compute it first."""


class CudaGraphs:
    """Captures CUDA graphs, which share the memory that they need while they run: only one does at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See Capture; the replay's output is overwritten by the next one."""
        compute()  # chooses kernels and compiles, which a graph cannot hold
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = compute()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


class GraphedStep:
    """One step of up to `batch` sequences that decode one token each and see up to `length` positions.

    Args:
        model, cache: what a step computes with; see `can_graph`.
        batch, length: see `batch_bucket` and `length_bucket`.
        capture: makes the graph, at the first call.
    """

    def __init__(self, model: Transformer, cache: KVCache, batch: int, length: int, *, capture: Capture) -> None:
        self.model, self.cache, self.batch, self.length = model, cache, batch, length
        self._head = model.lm_head
        assert isinstance(self._head, KernelLayer)
        self._version, self._stored = self._head.version, cache.layers[0]
        self._capture = capture
        self._replay: Callable[[], Tensor] | None = None
        # a row for each sequence: its token, how many are stored of it, its blocks
        num_columns = 2 + -(-length // cache.block_size)
        self._sent = torch.zeros(batch, num_columns, dtype=torch.int64)
        self._written = self._sent.numpy()  # the same memory
        self._inputs = torch.zeros(batch, num_columns, dtype=torch.int64, device=cache.device)
        self._last = torch.zeros(batch, dtype=torch.int64, device=cache.device)

    @property
    def is_current(self) -> bool:
        """Whether weights and cache are still where they were."""
        return self._version == self._head.version and self._stored is self.cache.layers[0]

    def __call__(self, tokens: List[int], view: CacheView) -> Tensor:
        """Logits [B, V] after one token of each sequence, which is stored on the way."""
        blocks = view.block_rows
        self._written[: len(tokens), 0], self._written[: len(tokens), 1] = tokens, view.starts
        self._written[: len(tokens), 2 : 2 + len(blocks[0])] = blocks
        self._written[len(tokens) :] = self._written[0]
        self._inputs.copy_(self._sent)  # no longer needed here once this returns
        if self._replay is None:
            self._replay = self._capture(self._compute)
        return self._replay()[: len(tokens)].clone()

    def _compute(self) -> Tensor:
        store = GraphView(self.cache, self._inputs[:, 1], self._inputs[:, 2:], length=self.length)
        return self.model(self._inputs[:, :1], store=store, last=self._last)  # type: ignore[no-any-return]


class GraphView(CacheView):
    """A CacheView whose facts lie on the device: `lengths` [B] and `tables` [B, columns] may change between replays."""

    def __init__(self, cache: KVCache, lengths: Tensor, tables: Tensor, *, length: int) -> None:
        self.cache, self.lengths, self.tables = cache, lengths, tables
        self.batch, self.num_new, self.length = len(lengths), 1, length
        self.needs_mask = self.is_ragged = True
        self._row = None


def batch_bucket(batch: int) -> int:
    """The batch that a graph for so many sequences computes."""
    return 1 << (batch - 1).bit_length()


def length_bucket(length: int) -> int:
    """The positions that a graph for sequences of this length sees."""
    return max(LEAST_LENGTH, 1 << (length - 1).bit_length())


def can_graph(model: Transformer, cache: KVCache, *, batch: int, length: int) -> bool:
    """Whether a recipe asks for graphs, and all that such a step does is started on one GPU by this process."""
    first = model.layers[0]
    positions = batch_bucket(batch) * length_bucket(length)
    return (
        positions * cache.block_bytes <= MOST_GATHERED_BYTES * cache.config.num_layers * cache.block_size
        and isinstance(first, CompiledBlock)
        and first.is_graphed
        and torch.device(cache.device).type == "cuda"
        and not any(block._forward_pre_hooks for block in model.layers)  # what is done before a block would be left out
    )
