"""A recurrent layer over whole sequences in one call; see recurrence.c. Inference on the CPU, there is no gradient."""

import torch
from torch import Tensor

from labkit.model.cells import GATES, Cell
from labkit.model.native.build import call

_FORMATS = (torch.float32, torch.bfloat16, torch.int8)  # in the order of `enum format`
_LANES = 16  # a state's width is a multiple of this
_MAX_HIDDEN = 512


def can_recur(hidden: int) -> bool:
    """Whether `recur` takes a state of this width."""
    return hidden % _LANES == 0 and 0 < hidden <= _MAX_HIDDEN


def recur(
    ids: Tensor, inputs: Tensor, recurrent: Tensor, bias: Tensor, *, cell: Cell, scales: Tensor | None = None
) -> Tensor:
    """The last state of each sequence, from a state of zeros; where the id is 0, the state stays.

    Args:
        ids: int32 [B, T], below the number of rows of a table.
        inputs: what is added to each step: a table [V, gates · H] by id, or values [B, T, gates · H]; fp32, bf16 or,
            with scales, int8. Gates as Keras orders them: z, r, h of a GRU, i, f, c, o of an LSTM.
        recurrent: fp32 [H, gates · H].
        bias: fp32 [gates · H], of the product with the state.
        scales: fp32, one for each row of inputs.

    Returns:
        fp32 [B, H].
    """
    (batch, tokens), hidden = ids.shape, len(recurrent)
    y = torch.empty(batch, hidden)
    number = list(GATES).index(cell)  # as in `enum cell`
    is_table, form = inputs.dim() == 2, _FORMATS.index(inputs.dtype)
    call("labkit_recur", y, ids, inputs, scales, recurrent, bias, batch, tokens, hidden, number, is_table, form)
    return y
