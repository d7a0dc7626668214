"""Pruning: the model without the weights, heads, neurons or blocks that matter least.

A score says what matters. By magnitude it is the size of the weights themselves; with statistics of activations, what
a weight is multiplied by counts as well: |w| · ‖x‖ is the size of what it adds to the output. Sources: Sun et al. 2023,
A Simple and Effective Pruning Approach for Large Language Models (Wanda); Men et al. 2024, ShortGPT (blocks).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from labkit.compression.layers import block_linears
from labkit.compression.sizes import pruned_config
from labkit.model.config import ModelConfig
from labkit.model.linear import Linear
from labkit.model.transformer import Attention, Block, FeedForward, Transformer

Statistics = Mapping[str, Tensor]
"""What `labkit.compression.statistics` found: `block_influences` for the pattern "layer", else `input_norms`."""


@torch.no_grad()
def prune(model: Transformer, *, sparsity: float, pattern: str, statistics: Statistics | None) -> None:
    """Prune in place, layer by layer. Weights are replaced, never written to: who shares them keeps them whole.

    Args:
        model: float weights, not fused.
        sparsity: share that goes, 0 to 1.
        pattern: "unstructured" and "2:4" set weights to zero; "channel" and "layer" leave a smaller model, whose
            sizes are those of `pruned_config`.
        statistics: of activations; None judges by magnitude.

    Raises:
        UsageError: see `pruned_config`.
    """
    smaller = pruned_config(model.config, sparsity, pattern)
    if pattern == "layer":
        _remove_blocks(model, smaller.num_layers, statistics)
    elif pattern == "channel":
        for name, module in model.layers.named_modules(prefix="layers"):
            if isinstance(module, Attention):
                _remove_heads(module, smaller, _norms(f"{name}.o_proj", statistics))
            elif isinstance(module, FeedForward):
                _remove_neurons(module, smaller.intermediate_size, _norms(f"{name}.down_proj", statistics))
    else:
        for name, layer in block_linears(model).items():
            _zero_weights(layer, sparsity, pattern, _norms(name, statistics))
    model.config = smaller


def _norms(name: str, statistics: Statistics | None) -> Tensor | None:
    return None if statistics is None else statistics[name]


def _zero_weights(layer: Linear, sparsity: float, pattern: str, norms: Tensor | None) -> None:
    """Set the share of least score to zero: of each four neighbours, of each row, or by magnitude of the matrix."""
    scores = layer.weight.float().abs()
    if norms is not None:
        scores *= norms
    if pattern == "2:4":
        size = 4
    else:
        size = scores.numel() if norms is None else layer.in_features
    least = scores.view(-1, size).topk(round(sparsity * size), dim=1, largest=False, sorted=False).indices
    _set_weight(layer, layer.weight.view(-1, size).scatter(1, least, 0.0).view_as(layer.weight))


def _remove_heads(attention: Attention, smaller: ModelConfig, norms: Tensor | None) -> None:
    """Keep the heads of highest score, the same number in each KV group; where a group has one, it goes with it."""
    num_groups, kv_heads, width = (
        attention.num_heads // attention.num_kv_heads,
        attention.num_kv_heads,
        smaller.head_dim,
    )
    scores = _columns(attention.o_proj, norms).view(-1, width).norm(dim=1)
    if norms is None:
        scores *= _rows(attention.q_proj).view(-1, width).norm(dim=1)
    if num_groups == 1:
        heads = kept = _most(scores, smaller.num_heads)
    else:
        kept = torch.arange(kv_heads, device=scores.device)
        heads = (_most(scores.view(kv_heads, num_groups), smaller.num_groups) + num_groups * kept[:, None]).flatten()
    within = torch.arange(width, device=scores.device)
    rows, kv_rows = ((indices[:, None] * width + within).flatten() for indices in (heads, kept))
    _keep_outputs(attention.q_proj, rows)
    _keep_outputs(attention.k_proj, kv_rows)
    _keep_outputs(attention.v_proj, kv_rows)
    _keep_inputs(attention.o_proj, rows)
    attention.num_heads, attention.num_kv_heads = smaller.num_heads, smaller.num_kv_heads


def _remove_neurons(block: FeedForward, num_kept: int, norms: Tensor | None) -> None:
    scores = _columns(block.down_proj, norms)
    if norms is None:
        scores *= _rows(block.gate_proj) * _rows(block.up_proj)
    neurons = _most(scores, num_kept)
    _keep_outputs(block.gate_proj, neurons)
    _keep_outputs(block.up_proj, neurons)
    _keep_inputs(block.down_proj, neurons)


def _remove_blocks(model: Transformer, num_kept: int, statistics: Statistics | None) -> None:
    if statistics is None:
        scores = torch.stack(
            [
                torch.stack([parameter.float().norm() for parameter in block.parameters()]).norm()
                for block in model.layers
            ]
        )
    else:
        scores = torch.stack([statistics[f"layers.{index}"] for index in range(len(model.layers))])
    kept = _most(scores, num_kept).tolist()
    model.layers = nn.ModuleList(model.layers[index] for index in kept)
    for index, block in enumerate(model.layers):
        assert isinstance(block, Block)
        block.self_attn.index = index  # where the cache keeps its keys and values


def _columns(layer: Linear, norms: Tensor | None) -> Tensor:
    """Size of what each input adds to the output, [in]; with inputs of size 1 where no norms are known."""
    sizes: Tensor = layer.weight.float().norm(dim=0)
    return sizes if norms is None else sizes * norms


def _rows(layer: Linear) -> Tensor:
    """Size of each output's weights, [out]."""
    sizes: Tensor = layer.weight.float().norm(dim=1)
    return sizes


def _most(scores: Tensor, num_kept: int) -> Tensor:
    """Indices of the highest scores along the last dimension, in their old order."""
    return scores.topk(num_kept, dim=-1).indices.sort(dim=-1).values


def _keep_outputs(layer: Linear, rows: Tensor) -> None:
    _set_weight(layer, layer.weight[rows])
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[rows], requires_grad=False)


def _keep_inputs(layer: Linear, columns: Tensor) -> None:
    _set_weight(layer, layer.weight[:, columns].contiguous())


def _set_weight(layer: Linear, weight: Tensor) -> None:
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.out_features, layer.in_features = weight.shape
