"""Follow: what another rank than the first does all its life, namely what it is told."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from labkit.engine import pipeline_parallel, split, tensor_parallel
from labkit.engine.cache import KVCache
from labkit.engine.config import EngineConfig
from labkit.engine.executor import LocalExecutor
from labkit.engine.mirror import Mirror
from labkit.engine.sequence import Chunk
from labkit.engine.shard import Shard, receive
from labkit.engine.wire import Wire
from labkit.model.config import ModelConfig
from labkit.model.linear import relocate

Configure = Callable[[str], EngineConfig]
"""From the text of a recipe to its mechanisms."""


@dataclass
class Follower:
    """A shard with its cache and executor."""

    shard: Shard
    cache: KVCache | None
    executor: LocalExecutor
    mirror: Mirror

    @classmethod
    def built(cls, wire: Wire, told: dict[str, Any], configure: Configure) -> "Follower":
        """Receive what `announce` told of."""
        torch.set_num_threads(told["threads"])
        device = "cpu" if told["device"] == "cpu" else f"cuda:{torch.cuda.current_device()}"
        shard = empty_shard(ModelConfig(**told["config"]), wire, told["way"], told["dtype"], told["unit"])
        receive(shard, device)
        config = configure(told["recipe"])
        config.finish(shard).eval()
        cache = config.cache(shard.config, shard.dtype, device) if config.cache else None
        if cache is not None:
            cache.budget_bytes = None  # the first rank decides who runs
        for warm in config.warm:
            warm(shard)
        return cls(shard, cache, LocalExecutor(shard, cache), Mirror(cache))

    def do(self, what: int, numbers: list[int]) -> None:
        """One thing that the first rank does, too."""
        if what == split.REPORT:
            split.report(self.shard, self.cache)
        elif what == split.RELOCATE:
            relocate(self.shard)
        elif what == split.MEASURE:
            split.measured_link(self.shard.wire, self.executor.device)
        elif what == split.COMPUTE:
            self.executor.compute(torch.tensor(numbers[2:], device=self.executor.device).view(*numbers[:2]))
        elif what == split.MIXED:
            self._mixed_step(numbers[0], numbers[1], numbers[2:])
        else:
            self._step(what, numbers[0], numbers[1:])
        self.shard.wire.finish()

    def _step(self, what: int, microbatches: int, numbers: list[int]) -> None:
        sequences, drafts = self.mirror.read(iter(numbers))
        batches = zip(split.parts(sequences, microbatches), split.parts(drafts, microbatches), strict=True)
        for some, guesses in batches:
            if what == split.VERIFY:
                self.executor.verify(some, guesses)
            else:
                self.executor.execute(some)

    def _mixed_step(self, microbatches: int, num_chunks: int, numbers: list[int]) -> None:
        sequences, _ = self.mirror.read(iter(numbers[num_chunks:]))
        assert self.cache is not None  # continuous batching requires one
        for sequence in sequences:
            self.cache.extend(sequence, sequence.num_tokens)
        chunks = [Chunk(*pair) for pair in zip(sequences, numbers[:num_chunks], strict=False)]
        for part in split.mixed_parts(chunks, sequences[num_chunks:], microbatches):
            self.executor.execute_mixed(*part)


def announce(wire: Wire, **told: Any) -> None:
    """On the first rank: tell the others to build a shard."""
    wire.tell([split.BUILD, *json.dumps(told).encode()])


def empty_shard(config: ModelConfig, wire: Wire, way: str, dtype: str, unit: int) -> Shard:
    """This rank's shard before its weights are there; `way` is "tensor" or "pipeline"."""
    if way == "pipeline":
        return pipeline_parallel.Stage(config, wire, dtype=getattr(torch, dtype))
    return tensor_parallel.empty_shard(config, wire, dtype=getattr(torch, dtype), unit=unit)


@torch.inference_mode()
def follow(wire: Wire, configure: Configure) -> None:
    """Do what the first rank tells, until the connection ends (WorkerDied)."""
    follower: Follower | None = None
    while True:
        what, *numbers = wire.hear()
        if what == split.BUILD:
            follower = Follower.built(wire, json.loads(bytes(numbers)), configure)
        elif what == split.CLOSE:
            follower = None
        elif follower is not None:
            follower.do(what, numbers)
