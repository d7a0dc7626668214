"""Kernels that pass over zeros: compressed rows on the CPU, two of four on CUDA; see `labkit.model.linear`."""

import warnings

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.sparse import SparseSemiStructuredTensor, to_sparse_semi_structured

from labkit.core.cost import csr_bytes

_SAMPLED_ROWS = 64
_FOURS_DTYPES = (torch.float16, torch.bfloat16)
_FOURS_MULTIPLES = (32, 64)  # of rows and columns


def density(weight: Tensor) -> float:
    """Share of the weights that are not zero, from rows spread over the matrix: pruning leaves none of them whole."""
    sample = weight[:: max(1, len(weight) // _SAMPLED_ROWS)]
    return int(sample.count_nonzero()) / max(1, sample.numel())


def fits_csr(weight: Tensor, share: float) -> bool:
    """Whether compressed rows of this density are fewer bytes to read than the matrix, in a dtype torch has them in."""
    return weight.device.type == "cpu" and weight.dtype is torch.float32 and csr_bytes(share, 4) < 4


def pack_csr(weight: Tensor) -> tuple[Tensor, ...]:
    """The values that are not zero, with the index of their column in 32 bits."""
    with warnings.catch_warnings(action="ignore"):  # torch calls the layout a beta
        rows = weight.detach().to_sparse_csr()
        starts, columns = rows.crow_indices().int(), rows.col_indices().int()
        return (torch.sparse_csr_tensor(starts, columns, rows.values(), rows.shape),)


def multiply_csr(x: Tensor, matrix: Tensor) -> Tensor:
    """x [..., in] times the transposed matrix [out, in]: [..., out]."""
    rows = x.reshape(-1, x.shape[-1])
    product = torch.mv(matrix, rows[0]) if len(rows) == 1 else (matrix @ rows.T).T  # one row has a faster product
    return product.reshape(*x.shape[:-1], len(matrix)).contiguous()


def fits_fours(weight: Tensor, share: float) -> bool:
    """Whether each four neighbours in a row hold at most two weights, and this GPU multiplies by such a matrix."""
    return (
        weight.device.type == "cuda"
        and weight.dtype in _FOURS_DTYPES
        and all(size % multiple == 0 for size, multiple in zip(weight.shape, _FOURS_MULTIPLES, strict=True))
        and torch.cuda.get_device_capability(weight.device) >= (8, 0)
        and share <= 0.5
        and int((weight.view(-1, 4) != 0).sum(dim=1).max()) <= 2
    )


def pack_fours(weight: Tensor) -> tuple[Tensor, ...]:
    """Two weights of each four and where they stand."""
    with warnings.catch_warnings(action="ignore"):  # torch calls the layout a prototype
        return (to_sparse_semi_structured(weight.detach().contiguous()),)


def multiply_fours(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., in] times the transposed matrix: [..., out]."""
    return F.linear(x, weight)


def num_bytes(tensor: Tensor) -> int:
    """Memory of a packed tensor, in bytes."""
    return sum(part.nbytes for part in _parts(tensor))


def address(tensor: Tensor) -> int:
    """Where a packed tensor lies; one that is made of others, where the first of them does."""
    return _parts(tensor)[0].data_ptr()


def _parts(tensor: Tensor) -> list[Tensor]:
    if isinstance(tensor, SparseSemiStructuredTensor):
        return [part for part in (tensor.packed, tensor.meta) if part is not None]
    if tensor.layout is torch.sparse_csr:
        return [tensor.values(), tensor.col_indices(), tensor.crow_indices()]
    return [tensor]
