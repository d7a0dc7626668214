"""Statistics of a model's activations on calibration text: what enters its layers, what its blocks change."""

from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.compression.layers import block_linears
from labkit.model.transformer import Transformer

_SEQUENCES = 8  # run at a time


@torch.no_grad()
def input_norms(model: Transformer, tokens: Tensor) -> dict[str, Tensor]:
    """Euclidean norm of every input of the blocks' linear layers, over all tokens.

    Args:
        model: float weights, not fused.
        tokens: [N, T] int64, on the model's device.

    Returns:
        Name of the layer → fp32 [in].
    """
    layers = block_linears(model)
    names: dict[nn.Module, str] = {layer: name for name, layer in layers.items()}
    squares = {name: torch.zeros(layer.in_features, device=tokens.device) for name, layer in layers.items()}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        squares[names[layer]] += inputs[0].float().square().flatten(0, -2).sum(0)

    with ExitStack() as hooks:
        for layer in names:
            hooks.callback(layer.register_forward_pre_hook(note).remove)
        _run(model, tokens)
    return {name: square.sqrt() for name, square in squares.items()}


@torch.no_grad()
def block_influences(model: Transformer, tokens: Tensor) -> dict[str, Tensor]:
    """How far each block turns the hidden state: 1 - the mean cosine of the angle between its input and its output.

    Args:
        model: see `input_norms`.
        tokens: [N, T] int64, on the model's device.

    Returns:
        Name of the block → fp32 scalar. Source: Men et al. 2024, ShortGPT (there called block influence).
    """
    names: dict[nn.Module, str] = {block: f"layers.{index}" for index, block in enumerate(model.layers)}
    cosines = {name: torch.zeros((), device=tokens.device) for name in names.values()}

    def note(block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        cosines[names[block]] += F.cosine_similarity(inputs[0].float(), output.float(), dim=-1).sum()

    with ExitStack() as hooks:
        for block in names:
            hooks.callback(block.register_forward_hook(note).remove)
        _run(model, tokens)
    return {name: 1 - cosine / tokens.numel() for name, cosine in cosines.items()}


def _run(model: Transformer, tokens: Tensor) -> None:
    """Run the model for its hooks' sake; one position's logits are the fewest it can be asked for."""
    for part in torch.split(tokens, _SEQUENCES):
        model(part, last=torch.zeros(len(part), dtype=torch.int64, device=part.device))
