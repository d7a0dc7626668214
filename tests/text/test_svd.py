"""Truncated SVD: three ways to the same factors."""

import pytest
import torch
from scipy.sparse import csr_array, random_array

from labkit.core.errors import UsageError
from labkit.text.corpus import load_corpus
from labkit.text.svd import ALGORITHMS, randomized_svd, to_torch, truncated_svd, with_rows
from labkit.text.vectorizer import Vectorizer


@pytest.fixture(scope="module")
def matrix() -> csr_array:
    return Vectorizer.fit(load_corpus().texts[::10])[1]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_factors_are_orthonormal_and_singular_values_fall(matrix: csr_array, algorithm: str) -> None:
    u, s, vt = truncated_svd(matrix, 20, algorithm=algorithm)
    assert u.T @ u == pytest.approx(torch.eye(20), abs=1e-4)
    assert vt @ vt.T == pytest.approx(torch.eye(20), abs=1e-4)
    assert torch.equal(s, s.sort(descending=True).values)


def test_lanczos_finds_what_the_full_decomposition_finds(matrix: csr_array) -> None:
    full, lanczos = (truncated_svd(matrix, 12, algorithm=algorithm) for algorithm in ("full", "lanczos"))
    assert lanczos.s == pytest.approx(full.s, rel=1e-4)
    assert (lanczos.vt[:5] * full.vt[:5]).sum(1) == pytest.approx(torch.ones(5), abs=1e-3)  # signs too


def error(matrix: csr_array, s: torch.Tensor) -> float:
    """Of the best approximation from these singular values, which are those of a projection: Frobenius, squared."""
    return float((matrix.data.astype(float) ** 2).sum() - (s.double() ** 2).sum())


def test_the_randomized_error_is_that_of_scikit_learn_within_a_percent(matrix: csr_array) -> None:
    from sklearn.utils.extmath import randomized_svd as theirs

    full = truncated_svd(matrix, 32, algorithm="full")
    ours = error(matrix, truncated_svd(matrix, 32).s)
    other = error(matrix, torch.from_numpy(theirs(matrix, 32, n_iter=4, random_state=0)[1].copy()))
    assert ours == pytest.approx(other, rel=0.01)
    assert error(matrix, full.s) <= ours <= 1.02 * error(matrix, full.s)


def test_more_iterations_come_nearer(matrix: csr_array) -> None:
    pair = to_torch(matrix), to_torch(matrix.T.tocsr())
    errors = [error(matrix, randomized_svd(*pair, 32, iterations=count).s) for count in (0, 1, 4)]
    assert errors[0] > errors[1] > errors[2]


def test_a_matrix_of_low_rank_comes_back_whole() -> None:
    a = torch.randn(60, 7) @ torch.randn(7, 40)
    u, s, vt = randomized_svd(a, a.T.contiguous(), 7)
    assert u @ torch.diag(s) @ vt == pytest.approx(a, abs=1e-3)


@pytest.mark.parametrize(("algorithm", "k", "most"), [("randomized", 0, 30), ("full", 31, 30), ("lanczos", 30, 29)])
def test_a_rank_that_cannot_be_had_is_refused(algorithm: str, k: int, most: int) -> None:
    matrix = csr_array(random_array((30, 50), density=0.2, dtype="float32", rng=0))
    with pytest.raises(UsageError, match=f"rank {k} was asked for .*; allowed: 1 to {most}"):
        truncated_svd(matrix, k, algorithm=algorithm)


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown SVD algorithm 'guess'; allowed: randomized, lanczos, full"):
        truncated_svd(csr_array((3, 3)), 1, algorithm="guess")


def test_rows_can_be_put_below_a_sparse_matrix(matrix: csr_array) -> None:
    top, below = matrix[:30], matrix[30:50]
    parts = (torch.from_numpy(part.copy()) for part in (below.indices, below.data, below.indptr[:-1]))
    assert torch.equal(with_rows(to_torch(top), *parts).to_dense(), to_torch(matrix[:50]).to_dense())
