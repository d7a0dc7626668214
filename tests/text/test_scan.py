"""Scans: whatever vectors are held in, the nearest are found."""

import pytest
import torch

from labkit.core.errors import UsageError
from labkit.text import scan
from labkit.text.scan import DTYPES, Int8Scan, top_k

GENERATOR = torch.Generator().manual_seed(0)


def vectors(num: int, rank: int = 48) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(num, rank, generator=GENERATOR), dim=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num", "num_queries"), [(17, 1), (1_000, 1), (1_000, 9), (40_000, 2)])
def test_the_nearest_are_those_of_exact_products(dtype: str, num: int, num_queries: int) -> None:
    known, queries = vectors(num), vectors(num_queries)
    found = DTYPES[dtype](known).top(queries, 10)
    exact = (queries.double() @ known.T.double()).topk(10)
    same = [len({*a} & {*b}) for a, b in zip(found.positions.tolist(), exact.indices.tolist(), strict=True)]
    assert sum(same) >= (10 if dtype == "fp32" else 9) * num_queries
    assert found.scores.float() == pytest.approx(exact.values.float(), abs=1e-5 if dtype == "fp32" else 5e-3)


def test_int8_without_native_kernels_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    known, queries = vectors(500), vectors(3)
    fast = Int8Scan(known).top(queries, 5)
    monkeypatch.setattr(scan, "has_kernels", lambda **_: False)
    slow = Int8Scan(known)
    assert slow.kernel == "torch int8 to float"
    assert torch.equal(slow.top(queries, 5).positions, fast.positions)


def test_int8_takes_about_a_quarter_of_the_bytes() -> None:
    known = vectors(1_000, 128)
    assert Int8Scan(known).num_bytes < 0.27 * DTYPES["fp32"](known).num_bytes


def test_a_vector_of_zeros_is_near_nothing() -> None:
    known = vectors(20)
    known[3] = 0
    scores = Int8Scan(known).top(known[:1], 20).scores
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("num", [1 << 15, (1 << 15) + 1, 50_021])
@pytest.mark.parametrize("k", [1, 10, 100])
def test_blocks_find_the_k_largest(num: int, k: int) -> None:
    scores = torch.randn(3, num, generator=GENERATOR)
    found, expected = top_k(scores, k), scores.topk(k)
    assert torch.equal(found.scores, expected.values)
    assert torch.equal(scores.gather(1, found.positions), expected.values)


@pytest.mark.parametrize("k", [0, 6])
def test_more_than_there_are_cannot_be_found(k: int) -> None:
    with pytest.raises(UsageError, match="allowed: 1 to 5"):
        top_k(torch.zeros(1, 5), k)
