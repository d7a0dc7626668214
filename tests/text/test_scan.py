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


def test_int8_reads_about_a_quarter_of_the_bytes_and_holds_three_quarters() -> None:
    known = vectors(1_000, 128)
    held = DTYPES["fp32"](known).num_bytes
    assert Int8Scan(known).read_bytes < 0.27 * held
    assert 0.75 * held <= Int8Scan(known).num_bytes < 0.77 * held


def test_int8_judges_by_more_than_8_bits() -> None:
    known = torch.nn.functional.normalize(vectors(100) + 0.3 * vectors(1), dim=1)
    found = Int8Scan(known).top(known[:20], 25)  # all are candidates
    exact = (known[:20].double() @ known.T.double()).topk(25)
    assert found.scores.double() == pytest.approx(exact.values, abs=5e-4)
    same = [len({*a} & {*b}) for a, b in zip(found.positions.tolist(), exact.indices.tolist(), strict=True)]
    assert sum(same) >= 0.99 * 20 * 25


def test_a_vector_of_zeros_is_near_nothing() -> None:
    known = vectors(20)
    known[3] = 0
    scores = Int8Scan(known).top(known[:1], 20).scores
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("num", [400, 50_021])
@pytest.mark.parametrize("k", [1, 10, 256, 400])
def test_the_k_largest_are_found(num: int, k: int) -> None:
    scores = torch.randn(3, num, generator=GENERATOR)
    found, expected = top_k(scores, k), scores.topk(k)
    assert torch.equal(found.scores, expected.values)
    assert torch.equal(scores.gather(1, found.positions), expected.values)


def test_of_equal_scores_the_first_is_found() -> None:
    scores = torch.tensor([[0.0, 1.0, 1.0, 0.5, 1.0] * 40])
    assert top_k(scores, 4).positions.tolist() == [[1, 2, 4, 6]]


@pytest.mark.parametrize("order", ["falling", "rising"])
def test_the_order_of_scores_does_not_matter(order: str) -> None:
    scores = torch.arange(1_000.0)[None] * (1 if order == "rising" else -1)
    assert torch.equal(top_k(scores, 20).scores, scores.topk(20).values)


@pytest.mark.parametrize("k", [0, 6])
def test_more_than_there_are_cannot_be_found(k: int) -> None:
    with pytest.raises(UsageError, match="allowed: 1 to 5"):
        top_k(torch.zeros(1, 5), k)
