"""Truncated SVD: the k largest singular values of a matrix and their vectors, by three methods.

full        all of them, then the first k (LAPACK): the reference; cubic in the smaller side
lanczos     the first k by products with the matrix alone (ARPACK, by way of SciPy)
randomized  a random sketch of the range, sharpened by power iterations, then a small exact SVD. Halko, Martinsson
            and Tropp, "Finding structure with randomness" (2011), algorithms 4.4 and 5.1
"""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from labkit.core.errors import UsageError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ALGORITHMS = ("randomized", "lanczos", "full")

_OVERSAMPLES = 10
_POWER_ITERATIONS = 4


class Factors(NamedTuple):
    """u [m, k] · diag(s [k]) · vt [k, n], the singular values falling."""

    u: Tensor
    s: Tensor
    vt: Tensor


def truncated_svd(
    matrix: "csr_array", k: int, *, algorithm: str = "randomized", device: str = "cpu", seed: int = 0
) -> Factors:
    """The first k singular triplets of a sparse matrix [m, n], in fp32.

    Signs are settled by the largest entry of each row of vt, which is positive.

    Args:
        matrix: in compressed rows.
        k: how many; ARPACK finds one less than the smaller side at most.
        algorithm: one of `ALGORITHMS`.
        device: where `randomized` computes; the others know the CPU only, and their factors move there afterwards.
        seed: of the random sketch or starting vector.

    Raises:
        UsageError: an unknown algorithm, or k is below 1 or above what it can find.
    """
    if algorithm not in ALGORITHMS:
        raise UsageError.unknown("SVD algorithm", algorithm, ALGORITHMS)
    most = min(matrix.shape) - (algorithm == "lanczos")
    if not 1 <= k <= most:
        raise UsageError(
            f"rank {k} was asked for of a matrix of {matrix.shape[0]:,} texts and {matrix.shape[1]:,} terms; "
            f"allowed: 1 to {most:,}; choose a smaller rank, or bring more texts"
        )
    methods: dict[str, Callable[[], Factors]] = {
        "full": lambda: _full(matrix, k),
        "lanczos": lambda: _lanczos(matrix, k, seed),
        "randomized": lambda: randomized_svd(*_both_ways(matrix, device), k, seed=seed),
    }
    u, s, vt = methods[algorithm]()
    sign = torch.sign(vt.gather(1, vt.abs().argmax(1, keepdim=True)))  # [k, 1]
    return Factors(*(factor.float().contiguous().to(device) for factor in (u * sign.T, s, vt * sign)))


def randomized_svd(
    matrix: Tensor,
    transposed: Tensor,
    k: int,
    *,
    oversamples: int = _OVERSAMPLES,
    iterations: int = _POWER_ITERATIONS,
    seed: int = 0,
) -> Factors:
    """Factors of a dense or sparse matrix [m, n], given with its transpose [n, m]: sparse products run along rows.

    A sketch of k + oversamples columns spans the range all the better, the more power iterations sharpen it. What they
    multiply by is the matrix times its transpose, less a shift up to which the spectrum is none of ours: what lies
    below fades faster (Feng, Xie, Song, Yu and Tang, "dashSVD", ACM Transactions on Mathematical Software, 2024).
    """
    if matrix.shape[0] > matrix.shape[1]:  # the basis is of the shorter columns
        u, s, vt = randomized_svd(transposed, matrix, k, oversamples=oversamples, iterations=iterations, seed=seed)
        return Factors(vt.T, s, u.T)
    width = min(k + oversamples, *matrix.shape)
    generator = torch.Generator().manual_seed(seed)
    sketch = torch.randn(matrix.shape[1], width, generator=generator, dtype=matrix.dtype).to(matrix.device)
    basis, _ = _independent(matrix @ sketch)  # [m, width]
    shift = 0.0
    for _ in range(iterations):
        basis, s = _independent(matrix @ (transposed @ basis) - shift * basis)
        shift = max(shift, (shift + float(s[0])) / 2)
    basis = torch.linalg.qr(basis).Q
    across, r = torch.linalg.qr(transposed @ basis)  # (basisᵀ · matrix)ᵀ = across [n, width] · r
    left, s, right = torch.linalg.svd(r.T)
    return Factors(basis @ left[:, :k], s[:k], right[:k] @ across.T)


def _independent(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Nearly orthonormal columns of the same span [m, n], and the singular values, rising: a third of a QR's cost.

    By way of the Gram matrix, which squares the ratio of singular values: columns of those that drown in rounding come
    out shorter than 1, and the next call stretches them again.
    """
    squares, vectors = torch.linalg.eigh(columns.T @ columns)
    s = squares.clamp(min=float(squares[-1]) * torch.finfo(squares.dtype).eps).sqrt()
    return columns @ (vectors / s), s


def _full(matrix: "csr_array", k: int) -> Factors:
    u, s, vt = torch.linalg.svd(torch.from_numpy(matrix.toarray()), full_matrices=False)
    return Factors(u[:, :k], s[:k], vt[:k])


def _lanczos(matrix: "csr_array", k: int, seed: int) -> Factors:
    from scipy.sparse.linalg import svds

    u, s, vt = (torch.from_numpy(factor.copy()) for factor in svds(matrix, k=k, rng=seed))
    order = s.argsort(descending=True)
    return Factors(u[:, order], s[order], vt[order])


def _both_ways(matrix: "csr_array", device: str) -> tuple[Tensor, Tensor]:
    """The matrix and its transpose in compressed rows, as torch has them."""
    return to_torch(matrix).to(device), to_torch(matrix.T.tocsr()).to(device)


def to_torch(matrix: "csr_array") -> Tensor:
    """The same in torch's compressed rows, with whole numbers of 64 bits."""
    crow, columns, values = map(torch.from_numpy, (matrix.indptr, matrix.indices, matrix.data))
    return compressed(crow, columns, values, matrix.shape)


def with_rows(matrix: Tensor, columns: Tensor, values: Tensor, starts: Tensor) -> Tensor:
    """A matrix in compressed rows with more rows below, which begin at `starts` of their columns and values."""
    crow = matrix.crow_indices()
    ends = torch.cat([starts[1:], torch.tensor([len(columns)])]).to(crow.device) + crow[-1]
    parts = (
        torch.cat([crow, ends]),
        torch.cat([matrix.col_indices(), columns.to(crow.device)]),
        torch.cat([matrix.values(), values.to(crow.device)]),
    )
    return compressed(*parts, (matrix.shape[0] + len(starts), matrix.shape[1]))


def compressed(
    crow: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int], *, is_checked: bool = False
) -> Tensor:
    """A matrix in compressed rows; checked where its parts come from a file. Raises RuntimeError for what is none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(crow.long(), columns.long(), values, size=shape, check_invariants=is_checked)
