"""Second moments of what enters each linear layer, on calibration text, taken block after changed block."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from labkit.model.linear import Linear
from labkit.model.transformer import Block, Transformer

Change = Callable[[str, Linear, Tensor], None]
"""Called with a layer's name, the layer, and the sum of x xᵀ over its inputs x, fp32 [in, in]."""


@torch.no_grad()
def change_in_order(model: Transformer, tokens: Tensor, change: Change) -> None:
    """Let `change` alter the linear layers of each block; the moments of a block see what was changed before it.

    A block is run once to watch what enters its layers, changed, and run again for the block after it.

    Args:
        model: float weights, not fused. tokens: [N, T] int64.
    """
    names = {module: name for name, module in model.named_modules()}

    def watch_and_change(block: nn.Module, inputs: tuple[Any, ...]) -> None:
        moments: dict[nn.Module, Tensor] = {}

        def note(layer: nn.Module, entering: tuple[Tensor, ...]) -> None:
            rows = entering[0].flatten(0, -2).float()
            moments[layer] = rows.T @ rows

        layers = [layer for layer in block.modules() if isinstance(layer, Linear)]
        with ExitStack() as hooks:
            for layer in layers:
                hooks.callback(layer.register_forward_pre_hook(note).remove)
            block.forward(*inputs)  # not block(…), which would come back here
        for layer in layers:
            change(names[layer], layer, moments[layer])

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, Block):
                hooks.callback(module.register_forward_pre_hook(watch_and_change).remove)
        model(tokens, last=torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device))
