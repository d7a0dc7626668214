"""Scan: inner products of queries with all vectors, held in fp32, fp16 or int8, and the k largest of them.

Nothing is skipped, so the scan is exact but for rounding: reading the vectors is the work, and fewer bytes are less of
it. int8: each vector is rounded to -127 … 127 by a scale of its own that bf16 can hold, each query likewise; integer
sums are exact. The best `_CANDIDATES · k` are then scored again with the query as it is.
"""

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from labkit.core.errors import UsageError
from labkit.model.native import products
from labkit.model.native.build import has_kernels

_BLOCK = 64
_MANY = 1 << 15  # scores from which on blocks pay
_CANDIDATES = 4
_PROBES = 5


class Found(NamedTuple):
    """Scores [queries, k], falling, and the positions of the vectors that have them."""

    scores: Tensor
    positions: Tensor


class Scan(Protocol):
    """Vectors [n, rank] that queries [q, rank] are compared with."""

    @property
    def kernel(self) -> str:
        """What multiplies."""

    @property
    def num_bytes(self) -> int:
        """Of all that a query reads."""

    def top(self, queries: Tensor, k: int) -> Found:
        """The k best of each query."""


class FloatScan:
    """Vectors as floats; on the CPU the fastest of the ways to multiply, by a probe."""

    def __init__(self, vectors: Tensor, dtype: torch.dtype) -> None:
        self._vectors = vectors.to(dtype)
        ways = self._ways()
        self.kernel = _fastest(ways, self._vectors[:1]) if len(ways) > 1 else next(iter(ways))
        self._product = ways[self.kernel]

    @property
    def num_bytes(self) -> int:
        """See Scan."""
        return self._vectors.nbytes

    def top(self, queries: Tensor, k: int) -> Found:
        """See Scan."""
        return top_k(self._product(queries.to(self._vectors.dtype)), k)

    def _ways(self) -> dict[str, Callable[[Tensor], Tensor]]:
        vectors, name = self._vectors, str(self._vectors.dtype).removeprefix("torch.")
        ways: dict[str, Callable[[Tensor], Tensor]] = {
            f"torch {name}": lambda queries: (
                torch.mv(vectors, queries[0])[None] if len(queries) == 1 else queries @ vectors.T
            )
        }
        if vectors.dtype is torch.float32 and has_kernels(device=vectors.device.type, dtype=torch.float32):
            ways["native float32"] = products.floats(vectors).multiply
        return ways


class Int8Scan:
    """Vectors as integers with a scale each; without native kernels they become floats again for every query."""

    def __init__(self, vectors: Tensor) -> None:
        largest = vectors.abs().amax(1, keepdim=True) / 127
        scales = largest.bfloat16()
        scales = torch.where(scales < largest, scales * (1 + 2**-7), scales).clamp(min=1e-30).bfloat16()  # rounded up
        self._codes = (vectors / scales.float()).round().to(torch.int8)
        self._scales = scales.flatten()
        self._packed: products.Packed | None = None
        self.kernel = "torch int8 to float"
        if has_kernels(device=vectors.device.type, dtype=torch.float32):
            padded = torch.nn.functional.pad(self._scales, (0, -len(vectors) % 16))
            codes = products.pack8_rounded(self._codes)
            self._packed = products.int8_rounded(codes, padded, out_features=len(vectors))
            self.kernel = "native int8 × int8"

    @property
    def num_bytes(self) -> int:
        """See Scan."""
        return self._codes.nbytes + self._scales.nbytes

    def top(self, queries: Tensor, k: int) -> Found:
        """See Scan."""
        if self._packed is None:
            return top_k(queries @ self._codes.T.to(queries.dtype) * self._scales, k)
        positions = top_k(self._packed.multiply(queries), min(_CANDIDATES * k, len(self._codes))).positions  # [q, c]
        codes, scales = self._codes[positions].float(), self._scales[positions].float()
        scores, order = ((codes @ queries[:, :, None])[:, :, 0] * scales).topk(k)
        return Found(scores, positions.gather(1, order))


class SparseScan:
    """Vectors [n, terms] in torch's compressed rows: TF-IDF as it is. Queries are dense."""

    def __init__(self, vectors: Tensor) -> None:
        self.kernel = "torch sparse"
        self._vectors = vectors

    @property
    def num_bytes(self) -> int:
        """See Scan."""
        parts = (self._vectors.values(), self._vectors.col_indices(), self._vectors.crow_indices())
        return sum(part.nbytes for part in parts)

    def top(self, queries: Tensor, k: int) -> Found:
        """See Scan."""
        return top_k((self._vectors @ queries.T).T.contiguous(), k)


DTYPES: dict[str, Callable[[Tensor], Scan]] = {
    "fp32": lambda vectors: FloatScan(vectors, torch.float32),
    "fp16": lambda vectors: FloatScan(vectors, torch.float16),
    "int8": Int8Scan,
}
"""What vectors may be held in."""


def top_k(scores: Tensor, k: int) -> Found:
    """The k largest of each row [queries, n]. Of many, blocks are ranked by their largest, then the k best sorted.

    Raises:
        UsageError: k is below 1 or above n.
    """
    num = scores.shape[1]
    if not 1 <= k <= num:
        raise UsageError(f"the {k} most similar texts were asked for; allowed: 1 to {num:,}, as many as there are")
    if num < _MANY or k * _BLOCK > num or scores.device.type != "cpu":
        return Found(*scores.topk(k))
    blocks = torch.nn.functional.pad(scores, (0, -num % _BLOCK), value=-torch.inf).view(len(scores), -1, _BLOCK)
    best = blocks.amax(2).topk(k).indices  # [q, k]
    members = blocks.gather(1, best[:, :, None].expand(-1, -1, _BLOCK)).flatten(1)  # [q, k · block]
    values, order = members.topk(k)
    return Found(values, best.gather(1, order // _BLOCK) * _BLOCK + order % _BLOCK)


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
