"""GPTQ: what it does to the outputs, and what it must not do to the grid."""

import pytest
import torch

from labkit.compression.gptq import compensated_groups, compensated_rows
from labkit.compression.rounding import round_groups, round_rows
from labkit.model.linear import QuantizedLinear


def correlated_inputs(*, rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(rows, columns // 8, generator=generator)
    mixed = few @ torch.randn(columns // 8, columns, generator=generator)
    return mixed + 0.1 * torch.randn(rows, columns, generator=generator)


@pytest.mark.parametrize("columns", [64, 160, 256])
@pytest.mark.parametrize("bits", [8, 4])
def test_outputs_err_less_than_by_rounding_to_the_nearest(bits: int, columns: int) -> None:
    x, unseen = correlated_inputs(rows=1200, columns=columns).split((1000, 200))
    weight = torch.randn(48, columns, generator=torch.Generator().manual_seed(1))
    if bits == 8:
        nearest, better = (*round_rows(weight), None), (*compensated_rows(weight, x.T @ x), None)
    else:
        nearest, better = round_groups(weight, 32), compensated_groups(weight, x.T @ x, 32)
    errors = [
        (unseen @ (QuantizedLinear(*parts, bits=bits).dequantized() - weight).T).norm() for parts in (nearest, better)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_codes_stay_within_their_bits_and_on_the_grid_of_their_group() -> None:
    weight = torch.randn(8, 96)
    x = correlated_inputs(rows=300, columns=96)
    codes, scales, zeros = compensated_groups(weight, x.T @ x, 32)
    assert codes.dtype is torch.uint8
    assert codes.max() <= 15
    assert scales.shape == zeros.shape == (8, 3)
    codes, row_scales = compensated_rows(weight, x.T @ x)
    assert codes.dtype is torch.int8
    assert codes.abs().max() <= 127
    assert torch.equal(row_scales, round_rows(weight)[1])


def test_independent_inputs_leave_nothing_to_make_up_for() -> None:
    weight = torch.randn(8, 64)
    codes, _ = compensated_rows(weight, torch.eye(64) * 100)
    assert torch.equal(codes, round_rows(weight)[0])


def test_inputs_that_calibration_never_moved_are_rounded_too() -> None:
    weight = torch.randn(8, 64)
    x = correlated_inputs(rows=100, columns=64)
    x[:, 10:20] = 0
    for moments in (x.T @ x, torch.zeros(64, 64)):
        codes, scales = compensated_rows(weight, moments)
        error = codes[:, 10:20] * scales.float()[:, None] - weight[:, 10:20]
        assert error.abs().max() <= scales.float().max()
