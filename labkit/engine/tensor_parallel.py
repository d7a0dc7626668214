"""Tensor parallelism: every rank computes a part of every layer, and partial results are added up.

Query heads with their keys and values, and neurons of the feed-forward block, go to ranks whole, so that a shard is a
Transformer of fewer heads and neurons: only the outputs of `o_proj` and `down_proj` are summands, for one all-reduce
each. The head is cut by vocabulary and gathered on the first rank. Each rank holds the whole embedding: it reads a row
for a token, and cut by vocabulary it would cost one more all-reduce a step. A tied head is cut all the same, a copy.
Source: Shoeybi et al. 2019, Megatron-LM.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from labkit.engine.shard import Merged, Shard, distribute
from labkit.engine.wire import Wire
from labkit.model.config import ModelConfig
from labkit.model.cut import float_layer, group_size, inputs_of, outputs_of, span
from labkit.model.transformer import Block, Transformer

_UNIT = 32  # neurons, where there are enough: kernels take multiples of it


@dataclass(frozen=True)
class Share:
    """What a rank computes: query heads, the KV head that each of its own KV heads is, neurons, rows of the head."""

    heads: range
    kv_heads: tuple[int, ...]
    neurons: range
    vocabulary: range

    @classmethod
    def of(cls, config: ModelConfig, rank: int, world: int, *, unit: int = 1) -> "Share":
        """Shares are as even as whole heads (KV heads with all of theirs where there are enough) and units allow.

        Where ranks share a KV head each holds a copy; where its query heads would share theirs unevenly, a copy each.
        """
        together = config.num_groups if world <= config.num_kv_heads else 1
        heads = span(config.num_heads, rank, world, unit=together)
        seen = [head // config.num_groups for head in heads]
        kv_heads = tuple(dict.fromkeys(seen))
        if len({seen.count(kv_head) for kv_head in kv_heads}) > 1:
            kv_heads = tuple(seen)
        unit = next(size for size in (unit, 1) if config.intermediate_size >= size * world)
        neurons = span(config.intermediate_size, rank, world, unit=unit)
        return cls(heads, kv_heads, neurons, span(config.vocab_size, rank, world))

    def config(self, whole: ModelConfig) -> ModelConfig:
        """Sizes of the shard."""
        return replace(
            whole, num_heads=len(self.heads), num_kv_heads=len(self.kv_heads), intermediate_size=len(self.neurons)
        )


class TensorShard(Shard):
    """A Transformer of fewer heads and neurons; its logits are whole on the first rank."""

    def complete(self) -> None:
        """Add partial outputs up where they leave a block, and gather those of the head."""
        vocab = [span(self.config.vocab_size, rank, self.wire.world) for rank in range(self.wire.world)]
        if not hasattr(self, "lm_head"):
            rows = vocab[self.wire.rank]
            self.lm_head = float_layer(self.embed_tokens.weight[rows.start : rows.stop].clone(), None)
        widths = [len(rows) for rows in vocab]
        self.add_module("lm_head", Merged(self.lm_head, lambda logits: self.wire.gather(logits, widths)))
        for block in self.layers:
            assert isinstance(block, Block)
            block.self_attn.add_module("o_proj", Merged(block.self_attn.o_proj, self.wire.all_reduce))
            block.mlp.add_module("down_proj", Merged(block.mlp.down_proj, self.wire.all_reduce))


def empty_shard(config: ModelConfig, wire: Wire, *, dtype: torch.dtype, unit: int) -> TensorShard:
    """The shard of this rank, before its weights are there; `config` and `unit` are those of the whole model."""
    share = Share.of(config, wire.rank, wire.world, unit=unit)
    shard = TensorShard(share.config(config), wire, dtype=dtype)
    if hasattr(shard, "lm_head"):
        del shard.lm_head  # whether there is one of its own is seen when it comes
    return shard


def neuron_unit(model: Transformer) -> int:
    """Neurons that stay together: those whose weights share a scale in any `down_proj`, and what kernels take."""
    sizes = {group_size(block.mlp.down_proj) for block in model.layers if isinstance(block, Block)}
    return math.lcm(_UNIT, *(size for size in sizes if size < model.config.intermediate_size))


def split(whole: Transformer, shard: TensorShard, *, unit: int) -> None:
    """Cut a model between heads and neurons; every rank gets its part."""
    config, world = whole.config, shard.wire.world
    shares = [Share.of(config, rank, world, unit=unit) for rank in range(world)]
    distribute(whole, shard, lambda name, layer, rank: (name, _part(name, layer, shares[rank], config.head_dim)))


def _part(name: str, layer: nn.Module, share: Share, width: int) -> nn.Module:
    leaf = name.rpartition(".")[2]
    if leaf == "q_proj":
        return outputs_of(layer, _of_heads(share.heads, width))
    if leaf in ("k_proj", "v_proj"):
        return outputs_of(layer, _of_heads(share.kv_heads, width))
    if leaf in ("gate_proj", "up_proj"):
        return outputs_of(layer, torch.tensor(share.neurons))
    if leaf == "o_proj":
        return inputs_of(layer, range(share.heads.start * width, share.heads.stop * width))
    if leaf == "down_proj":
        return inputs_of(layer, share.neurons)
    return outputs_of(layer, torch.tensor(share.vocabulary)) if leaf == "lm_head" else layer


def _of_heads(heads: Sequence[int], width: int) -> Tensor:
    """Rows of these heads."""
    return (torch.tensor(heads)[:, None] * width + torch.arange(width)).flatten()
