"""Scan: inner products of queries with all vectors, held in fp32, fp16 or int8, and the k largest of them.

Nothing is skipped, so the scan is exact but for rounding: reading the vectors is the work, and fewer bytes are less of
it. int8: each vector is rounded to -127 … 127 by a scale of its own that bf16 can hold, each query likewise; integer
sums are exact. The best `_CANDIDATES · k` are then scored again, by the query as it is and vectors in fp16.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from labkit.core.errors import UsageError
from labkit.model.native import products
from labkit.model.native.build import has_kernels
from labkit.model.native.largest import can_select, largest

_CANDIDATES = 4
_PROBES = 5


class Found(NamedTuple):
    """Scores [queries, k], falling, and the positions of the vectors that have them."""

    scores: Tensor
    positions: Tensor


class Scan(Protocol):
    """Vectors [n, rank] that queries [q, rank] are compared with."""

    vectors: Tensor
    """As they are kept: all of them, in order."""

    kernel: str
    """What multiplies."""

    @property
    def num_bytes(self) -> int:
        """Of all that is held."""

    @property
    def read_bytes(self) -> int:
        """Of what every query reads from one end to the other."""

    def top(self, queries: Tensor, k: int) -> Found:
        """The k best of each query."""


class FloatScan:
    """Vectors as floats; on the CPU the fastest of the ways to multiply, by a probe."""

    def __init__(self, vectors: Tensor, dtype: torch.dtype) -> None:
        self.vectors = vectors.to(dtype)
        ways = self._ways()
        self.kernel = _fastest(ways, self.vectors[:1]) if len(ways) > 1 else next(iter(ways))
        self._product = ways[self.kernel]

    @property
    def num_bytes(self) -> int:
        """See Scan."""
        return self.vectors.nbytes

    @property
    def read_bytes(self) -> int:
        """See Scan."""
        return self.vectors.nbytes

    def top(self, queries: Tensor, k: int) -> Found:
        """See Scan."""
        return top_k(self._product(queries.to(self.vectors.dtype)), k)

    def _ways(self) -> dict[str, Callable[[Tensor], Tensor]]:
        vectors, name = self.vectors, str(self.vectors.dtype).removeprefix("torch.")
        ways: dict[str, Callable[[Tensor], Tensor]] = {
            f"torch {name}": lambda queries: (
                torch.mv(vectors, queries[0])[None] if len(queries) == 1 else queries @ vectors.T
            )
        }
        if vectors.dtype is torch.float32 and has_kernels(device=vectors.device.type, dtype=torch.float32):
            ways["native float32"] = products.floats(vectors).multiply
        return ways


class Int8Scan:
    """Integers to scan, with a scale for each vector, and fp16 to judge the best by.

    Without native kernels the integers become floats again for every query.
    """

    def __init__(self, vectors: Tensor) -> None:
        self._product: Callable[[Tensor], Tensor]
        self.vectors = vectors.half()
        codes, scales = _rounded(self.vectors.float())
        if has_kernels(device=vectors.device.type, dtype=torch.float32):
            padded = torch.nn.functional.pad(scales, (0, -len(vectors) % 16))
            packed = products.int8_rounded(products.pack8_rounded(codes), padded, out_features=len(vectors))
            self.kernel, self._product, self._scanned = "native int8 × int8", packed.multiply, packed.tensors
        else:
            self.kernel, self._scanned = "torch int8 to float", (codes, scales)
            self._product = partial(_widened, codes, scales)

    @property
    def num_bytes(self) -> int:
        """See Scan."""
        return self.read_bytes + self.vectors.nbytes

    @property
    def read_bytes(self) -> int:
        """See Scan."""
        return sum(part.nbytes for part in self._scanned)

    def top(self, queries: Tensor, k: int) -> Found:
        """See Scan."""
        num, rank = self.vectors.shape
        _check_count(k, num)
        count = min(_CANDIDATES * k, num)
        positions = top_k(self._product(queries), count).positions  # [q, count]
        near = self.vectors.index_select(0, positions.flatten()).to(queries.dtype).view(len(queries), count, rank)
        scores, order = torch.bmm(near, queries[:, :, None])[:, :, 0].topk(k)
        return Found(scores, positions.gather(1, order))


class SparseScan:
    """Vectors [n, terms] in torch's compressed rows: TF-IDF as it is. Queries are dense."""

    def __init__(self, vectors: Tensor) -> None:
        self.kernel = "torch sparse"
        self.vectors = vectors

    @property
    def num_bytes(self) -> int:
        """See Scan."""
        parts = (self.vectors.values(), self.vectors.col_indices(), self.vectors.crow_indices())
        return sum(part.nbytes for part in parts)

    @property
    def read_bytes(self) -> int:
        """See Scan."""
        return self.num_bytes

    def top(self, queries: Tensor, k: int) -> Found:
        """See Scan."""
        return top_k((self.vectors @ queries.T).T, k)


DTYPES: dict[str, Callable[[Tensor], Scan]] = {
    "fp32": lambda vectors: FloatScan(vectors, torch.float32),
    "fp16": lambda vectors: FloatScan(vectors, torch.float16),
    "int8": Int8Scan,
}
"""What vectors may be held in."""


def top_k(scores: Tensor, k: int) -> Found:
    """The k largest of each row [queries, n].

    Raises:
        UsageError: k is below 1 or above n.
    """
    _check_count(k, scores.shape[1])
    return Found(*(largest(scores, k) if can_select(scores, k) else scores.topk(k)))


def _check_count(k: int, num: int) -> None:
    if not 1 <= k <= num:
        raise UsageError(f"the {k} most similar texts were asked for; allowed: 1 to {num:,}, as many as there are")


def _widened(codes: Tensor, scales: Tensor, queries: Tensor) -> Tensor:
    return queries @ codes.T.to(queries.dtype) * scales


def _rounded(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 [n, rank] and scales bf16 [n], each rounded up, so that no code goes beyond 127."""
    least = vectors.abs().amax(1, keepdim=True) / 127
    scales = least.bfloat16()
    scales = torch.where(scales < least, scales * (1 + 2**-7), scales).clamp(min=1e-30).bfloat16()
    return (vectors / scales.float()).round().to(torch.int8), scales.flatten()


def _fastest(ways: dict[str, Callable[[Tensor], Tensor]], query: Tensor) -> str:
    seconds = {}
    for name, product in ways.items():
        product(query)
        times = []
        for _ in range(_PROBES):
            start_s = time.perf_counter()
            product(query)
            times.append(time.perf_counter() - start_s)
        seconds[name] = min(times)
    return min(seconds, key=seconds.__getitem__)
