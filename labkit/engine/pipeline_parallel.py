"""Pipeline parallelism: every rank computes some of the layers and hands its activations on to the next.

A batch goes through in microbatches, so that ranks compute at the same time; while the first is on its way in and the
last on its way out, some of them wait (the bubble). The first rank has the embedding and, in the end, the logits.
Source: Huang et al. 2019, GPipe.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from labkit.engine.shard import Merged, Shard, distribute
from labkit.engine.wire import Wire
from labkit.model.config import ModelConfig
from labkit.model.cut import float_layer, span
from labkit.model.transformer import KVStore, Transformer, last_rows


class Stage(Shard):
    """Some layers of a model, the embedding before the first and the head behind the last of them.

    On the first rank a forward pass returns a stand-in, the number of each row of logits [..., 1], and `collected`
    gives what has come back; elsewhere what it returns means nothing.
    """

    has_bubble = True

    def __init__(self, config: ModelConfig, wire: Wire, *, dtype: torch.dtype) -> None:
        own = span(config.num_layers, wire.rank, wire.world)
        super().__init__(replace(config, num_layers=len(own)), wire, dtype=dtype)
        self._shapes: list[tuple[int, ...]] = []  # of the logits that are still on their way
        if hasattr(self, "lm_head"):
            del self.lm_head

    @property
    def is_last(self) -> bool:
        """Whether it computes logits."""
        return self.wire.rank == self.wire.world - 1

    def complete(self) -> None:
        """Give what has no weights here a place where they would be, and layers their index in this rank's cache."""
        device = next(weight.device for weight in self.layers.parameters())
        for module in (self.embed_tokens, self.norm):
            if module.weight.is_meta:
                empty = torch.zeros((1, *module.weight.shape[1:]), dtype=self.dtype, device=device)
                module.weight = nn.Parameter(empty, requires_grad=False)
        if not self.is_last:
            self.add_module("lm_head", nn.Identity())
            return
        head = self.lm_head if hasattr(self, "lm_head") else float_layer(self.embed_tokens.weight, None)
        self.add_module("lm_head", Merged(head, self._sent))

    def forward(self, tokens: Tensor, *, store: KVStore | None = None, last: Tensor | None = None) -> Tensor:
        """See Transformer; activations come from the rank before and go to the one behind."""
        if self.wire.rank == 0:
            x = self.embed_tokens(tokens)
        else:
            x = torch.empty((*tokens.shape, self.config.hidden_size), dtype=self.dtype, device=tokens.device)
            x = self.wire.receive(x, self.wire.rank - 1)
        rotation = self.rotation(store.positions if store is not None else None, tokens.shape[1], x)
        mask = self.mask(store, tokens.shape[1])
        for block in self.layers:
            x = block(x, rotation, mask, store)
        if not self.is_last:
            self.wire.send(x, self.wire.rank + 1)
            return self._stand_in(tokens.shape if last is None else last.shape, tokens.device)
        if last is not None:
            x = last_rows(x, last)
        if not len(x):
            return x.new_empty(0, self.config.vocab_size)  # type: ignore[no-any-return]
        return self.lm_head(self.norm(x))  # type: ignore[no-any-return]

    def collected(self, logits: Tensor) -> Tensor:
        """See Shard: waits for the last rank."""
        if self.wire.rank:
            return logits
        like = self.embed_tokens.weight
        parts = [torch.empty(shape, dtype=self.dtype, device=like.device) for shape in self._shapes]
        for part in parts:
            self.wire.receive(part, self.wire.world - 1)
        self._shapes.clear()
        if not parts:
            return torch.empty(0, self.config.vocab_size, dtype=self.dtype, device=like.device)
        return torch.cat([part.flatten(0, -2) for part in parts])[logits.squeeze(-1)]

    def _sent(self, logits: Tensor) -> Tensor:
        self.wire.send(logits, 0)
        return logits

    def _stand_in(self, shape: torch.Size, device: torch.device) -> Tensor:
        start = sum(torch.Size(known[:-1]).numel() for known in self._shapes)
        if self.wire.rank == 0 and shape.numel():
            self._shapes.append((*shape, self.config.vocab_size))
        return torch.arange(start, start + shape.numel(), device=device).view(*shape, 1)


def split(whole: Transformer, stage: Stage) -> None:
    """Cut a model between layers; every rank gets its part, and its layers count from 0."""
    world = stage.wire.world
    spans = [span(whole.config.num_layers, rank, world) for rank in range(world)]
    homes = {"embed_tokens": {0}, "norm": {world - 1}, "lm_head": {world - 1}}
    if not hasattr(whole, "lm_head"):
        homes["embed_tokens"].add(world - 1)  # a tied head is the embedding

    def cut(name: str, layer: nn.Module, rank: int) -> tuple[str, nn.Module] | None:
        kind, _, inner = name.partition(".")
        if kind in homes:
            return (name, layer) if rank in homes[kind] else None
        number, _, leaf = inner.partition(".")
        index = int(number)
        return (f"{kind}.{index - spans[rank].start}.{leaf}", layer) if index in spans[rank] else None

    distribute(whole, stage, cut)
