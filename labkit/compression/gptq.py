"""GPTQ: rounding column by column, each column's error made up for by the columns that are still to come.

What has to stay small is not the error of the weights but that of the outputs, and inputs are correlated: a weight that
was rounded up can be answered by a neighbour that is rounded down. The least squared error of the outputs has a closed
solution for the remaining columns, from the inverse of the inputs' second moments. Source: Frantar et al. 2022, GPTQ:
Accurate Post-Training Quantization for Generative Pre-trained Transformers.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from labkit.compression.rounding import round_groups, round_rows

_DAMPING = 0.01  # of the mean second moment, so that inputs that calibration never moved leave it invertible
_BLOCK = 128  # columns after which the rest of the matrix hears of their errors

Grid = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Scale and zero, each [out, 1], for the columns [out, group] of a group."""


def compensated_rows(weight: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
    """`round_rows` with errors made up for.

    Args:
        weight: fp32 [out, in].
        moments: fp32 [in, in], the sum of x xᵀ over calibration inputs x.

    Returns:
        codes int8 [out, in] in -127 … 127; scales bf16 [out].
    """
    _, scales = round_rows(weight)
    steps, zeros = scales.float()[:, None], torch.zeros(len(weight), 1, device=weight.device)
    codes, _, _ = _compensated(weight, moments, weight.shape[1], lambda group: (steps, zeros), low=-127, high=127)
    return codes.to(torch.int8), scales


def compensated_groups(weight: Tensor, moments: Tensor, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """`round_groups` with errors made up for; a group's scale and zero are chosen when its first column is met.

    Args:
        weight: fp32 [out, in], `in` a multiple of `group_size`.
        moments: fp32 [in, in], the sum of x xᵀ over calibration inputs x.

    Returns:
        codes uint8 [out, in] in 0 … 15; scales and zeros bf16 [out, in / group].
    """

    def grid(group: Tensor) -> tuple[Tensor, Tensor]:
        _, scales, zeros = round_groups(group, group_size)
        return scales.float(), zeros.float()

    codes, scales, zeros = _compensated(weight, moments, group_size, grid, low=-8, high=7)
    return (codes + 8).to(torch.uint8), scales.bfloat16(), zeros.bfloat16()


def _compensated(
    weight: Tensor, moments: Tensor, group_size: int, grid: Grid, *, low: int, high: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [out, in] as floats; scales and zeros [out, in / group] that `grid` gave for the columns as they were."""
    weight, inverse = weight.clone(), _inverse_factor(moments)
    codes = torch.empty_like(weight)
    grids: list[tuple[Tensor, Tensor]] = []
    for start in range(0, weight.shape[1], min(_BLOCK, group_size)):
        block = slice(start, min(start + min(_BLOCK, group_size), weight.shape[1]))
        if start % group_size == 0:
            grids.append(grid(weight[:, start : start + group_size]))
        scale, zero = grids[-1]
        errors = torch.zeros_like(weight[:, block])
        for offset, column in enumerate(range(block.start, block.stop)):
            code = ((weight[:, column, None] - zero) / scale).round().clamp(low, high)
            error = (weight[:, column, None] - (code * scale + zero)) / inverse[column, column]
            codes[:, column, None], errors[:, offset, None] = code, error
            weight[:, column + 1 : block.stop] -= error * inverse[column, column + 1 : block.stop]
        weight[:, block.stop :] -= errors @ inverse[block, block.stop :]
    return codes, torch.cat([scale for scale, _ in grids], dim=1), torch.cat([zero for _, zero in grids], dim=1)


def _inverse_factor(moments: Tensor) -> Tensor:
    """Upper triangular U with Uᵀ U the inverse of the damped moments: row j says how later columns answer column j."""
    damped = moments.double()
    diagonal = damped.diagonal()
    mean = diagonal.mean().item() or 1.0
    damped = damped + torch.diag(torch.full_like(diagonal, _DAMPING * mean))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()
