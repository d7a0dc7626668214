"""Kernels that pass over zeros, against the dense product."""

from pathlib import Path

import pytest
import torch

from labkit.model import choice, sparse
from labkit.model.kernels import KERNELS
from labkit.model.linear import Linear, finish, relocate

CSR, FOURS = (next(kernel for kernel in KERNELS if kernel.name == name) for name in ("csr", "semi_structured"))


def linear(density: float, *, rows: int = 96, columns: int = 128, dtype: torch.dtype = torch.float32) -> Linear:
    """A layer of which every row holds that share of weights, the others zero."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator)
    least = weight.abs().topk(round((1 - density) * columns), dim=1, largest=False).indices
    layer = Linear(columns, rows, dtype=dtype)
    layer.weight = torch.nn.Parameter(weight.scatter(1, least, 0.0).to(dtype), requires_grad=False)
    return layer


@pytest.mark.parametrize("shape", [(128,), (1, 128), (3, 128), (2, 35, 128)])
@pytest.mark.parametrize("density", [0.3, 1 / 128])
def test_compressed_rows_multiply_by_the_matrix(shape: tuple[int, ...], density: float) -> None:
    layer = linear(density)
    layer.weight[5] = 0  # a row without any
    layer.pack()
    x = torch.randn(shape)
    product = CSR.multiply(layer, x)
    assert product.is_contiguous()
    torch.testing.assert_close(product, x @ layer.weight.T)


@pytest.mark.parametrize(
    ("density", "dtype", "is_usable"),
    [
        (0.3, torch.float32, True),
        (0.6, torch.float32, False),
        (1.0, torch.float32, False),
        (0.1, torch.bfloat16, False),
        (0.1, torch.float16, False),
    ],
)
def test_compressed_rows_are_laid_out_only_where_they_are_fewer_bytes(
    density: float, dtype: torch.dtype, is_usable: bool
) -> None:
    layer = linear(density, dtype=dtype)
    layer.pack()
    assert ("csr" in layer.packed) == is_usable
    assert "semi_structured" not in layer.packed


def test_density_is_that_of_the_whole_matrix_whether_zeros_lie_in_rows_or_anywhere() -> None:
    assert sparse.density(linear(0.25).weight) == 0.25
    anywhere = torch.nn.functional.dropout(torch.ones(4096, 64), 0.7)
    assert sparse.density(anywhere) == pytest.approx(0.3, abs=0.03)
    assert sparse.density(torch.empty(0, 4)) == 0


def test_memory_counts_the_rows_beside_the_matrix() -> None:
    layer = linear(0.25)
    finish(layer)
    num_weights = 96 * 128
    assert layer.num_bytes == 4 * num_weights + 8 * num_weights // 4 + 4 * 97


def test_a_choice_among_dense_layers_does_not_bind_sparse_ones_of_their_shape(fresh_choices: Path) -> None:
    for density in (1.0, 0.25):
        layer = linear(density)
        finish(layer)
        layer(torch.randn(3, 128))
    assert sorted(shape.density for shape in choice.CHOICES) == [0.2, 1.0]


def test_relocated_rows_are_equal_elsewhere() -> None:
    layer = linear(0.25)
    finish(layer)
    x = torch.randn(3, 128)
    (matrix,) = layer.packed["csr"]
    before = CSR.multiply(layer, x)
    relocate(layer)
    (moved,) = layer.packed["csr"]
    for part in ("values", "col_indices", "crow_indices"):
        assert getattr(moved, part)().data_ptr() != getattr(matrix, part)().data_ptr()
    torch.testing.assert_close(CSR.multiply(layer, x), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_two_of_four_multiply_by_the_matrix_on_tensor_cores(dtype: torch.dtype) -> None:
    weight = torch.randn(96, 128, device="cuda", dtype=dtype).view(-1, 4)
    weight = weight.scatter(1, weight.abs().topk(2, dim=1, largest=False).indices, 0.0).view(96, 128)
    layer = Linear(128, 96, dtype=dtype)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    finish(layer)
    assert "semi_structured" in layer.packed
    assert layer.num_bytes < 1.6 * weight.nbytes
    for num_rows in (1, 3, 70):
        x = torch.randn(num_rows, 128, device="cuda", dtype=dtype)
        expected = x.float() @ weight.float().T
        error = (FOURS.multiply(layer, x).float() - expected).norm() / expected.norm()
        assert error < 6e-3
    layer.weight = torch.nn.Parameter(torch.ones_like(weight), requires_grad=False)
    assert not FOURS.is_usable(layer)
