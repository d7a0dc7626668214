"""Shard: what one rank holds of a model that several processes compute together, and how it gets there.

The first rank builds the whole model, as if it were alone, so that pruning and quantization see what they always see.
Then it cuts layer by layer, sends each rank its part and lets go of the rest: no other rank ever holds more than its
shard.
"""

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from labkit.engine.wire import Wire
from labkit.model import sparse
from labkit.model.config import ModelConfig
from labkit.model.cut import described, empty_tensors, made
from labkit.model.factored import LowRank
from labkit.model.linear import KernelLayer, Linear
from labkit.model.transformer import RMSNorm, Transformer


class Shard(Transformer):
    """A part of a model, and the wire to the other parts. `part_of` is (weights of all blocks, share that is read)."""

    has_bubble = False  # whether ranks wait for each other's activations

    def __init__(self, config: ModelConfig, wire: Wire, *, dtype: torch.dtype) -> None:
        super().__init__(config, dtype=dtype, device="meta")
        self.wire = wire
        self.part_of: tuple[int, float] = (0, 1.0)

    def complete(self) -> None:
        """Join the layers to the wire, once all are there."""

    def collected(self, logits: Tensor) -> Tensor:
        """On the first rank the logits that the forward passes before gave a stand-in for, in its order."""
        return logits


class Merged(nn.Module):
    """A layer, and what is done with its output together with other ranks; no step with it can be recorded."""

    def __init__(self, layer: nn.Module, merge: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.merge = layer, merge

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        return self.merge(self.layer(x))


Cut = Callable[[str, nn.Module, int], "tuple[str, nn.Module] | None"]
"""From a layer's name and itself to what a rank has of it and calls it; None: nothing."""


def distribute(whole: Transformer, shard: Shard, cut: Cut) -> None:
    """Fill the first rank's shard, and send the others theirs; empties the whole model on the way."""
    wire = shard.wire
    shard.part_of = linear_parameters(whole)
    for name in leaves(whole):
        layer = whole.get_submodule(name)
        for rank in range(wire.world):
            part = cut(name, layer, rank)
            if part is not None and rank:
                facts, tensors = described(part[1])
                _send([part[0], facts], tensors, wire, rank)
            elif part is not None:
                put(shard, *part)
        whole.set_submodule(name, nn.Identity())
    for rank in wire.others:
        _send([], [], wire, rank)
    shard.complete()


def receive(shard: Shard, device: str) -> None:
    """Fill the shard of another rank than the first."""
    while told := _receive(shard.wire):
        name, facts = told
        tensors = list(empty_tensors(facts))
        for tensor in tensors:
            shard.wire.receive(tensor.view(torch.uint8), 0)
        put(shard, name, made(facts, iter([tensor.to(device) for tensor in tensors])))
    shard.complete()


def leaves(model: Transformer) -> list[str]:
    """Names of a model's layers, norms and tables, in the order they are used."""
    names: list[str] = []
    factored: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, LowRank):
            factored = (*factored, f"{name}.")
        if isinstance(module, KernelLayer | LowRank | RMSNorm | nn.Embedding) and not name.startswith(factored):
            names.append(name)
    return names


def put(shard: Shard, name: str, part: "nn.Module | nn.Parameter") -> None:
    """Set a layer; of a norm or a table, which the shard has already, the weight."""
    if isinstance(part, KernelLayer | LowRank):
        owner, _, leaf = name.rpartition(".")
        setattr(shard.get_submodule(owner), leaf, part)
    else:
        weight = part if isinstance(part, nn.Parameter) else part.weight
        shard.get_submodule(name).weight = nn.Parameter(weight.detach(), requires_grad=False)  # type: ignore[operator]


def linear_parameters(model: Transformer) -> tuple[int, float]:
    """Weights of the linear layers of all blocks, and the share of them that is read where zeros can be passed over.

    Of a shard those of the whole model.
    """
    if isinstance(model, Shard):
        return model.part_of
    layers = [module for module in model.layers.modules() if isinstance(module, KernelLayer)]
    sizes = [layer.in_features * layer.out_features for layer in layers]
    read = [size * _density(layer) for size, layer in zip(sizes, layers, strict=True)]
    return sum(sizes), sum(read) / sum(sizes)


def _density(layer: KernelLayer) -> float:
    """Share of weights that is read; a layer that is not packed yet has not looked."""
    return sparse.density(layer.weight) if isinstance(layer, Linear) and not layer.packed else layer.density


def _send(told: list[Any], tensors: list[Tensor], wire: Wire, rank: int) -> None:
    """A name with facts and tensors, or nothing at all, which ends it."""
    text = torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)
    wire.send(torch.tensor([len(text)]), rank)
    wire.send(text, rank)
    for tensor in tensors:
        wire.send(tensor.detach().contiguous().cpu().view(torch.uint8), rank)
    wire.finish()  # before the next layer is cut: no more than one is held beside the shards


def _receive(wire: Wire) -> list[Any]:
    length = int(wire.receive(torch.empty(1, dtype=torch.int64), 0))
    told: list[Any] = json.loads(bytes(wire.receive(torch.empty(length, dtype=torch.uint8), 0).tolist()))
    return told
