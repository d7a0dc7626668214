"""What techniques that split a model between processes have in common: their processes, their sizes, their refusals."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from labkit.core.errors import LabkitError, Unavailable, UsageError
from labkit.core.machine import usable_cores
from labkit.optimizations.base import Context, Need, Optimization, Slot, knob
from labkit.optimizations.replicas import TWO_CORES

if TYPE_CHECKING:
    from labkit.engine.config import EngineConfig
    from labkit.engine.cost import DecoderCost
    from labkit.model.config import ModelConfig
    from labkit.model.transformer import Transformer

RANK_COMMAND = (sys.executable, "-P", "-m", "labkit.optimizations.rank")
"""Starts another rank than the first."""

CONFLICTS = {
    "compile": "compiled code takes a block from attention to attention, between which ranks have to meet",
    "replicas": "both divide the cores, and a core can only be given away once",
    "prefix_cache": "each rank would keep blocks of its own part, and no two may differ in what they still have",
}


@dataclass(frozen=True)
class Ranks(Optimization, ABC):
    """Base of techniques that split a model between `num` processes; `way` is how."""

    way: ClassVar[str]
    slot: ClassVar[Slot] = Slot.EXECUTOR
    exact: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (TWO_CORES,)
    conflicts: ClassVar[Mapping[str, str]] = CONFLICTS

    num: int = knob(2, "processes that share the model", low=2, high=64)
    oversubscribe: bool = knob(False, "allow more processes than cores", choices=(False, True))

    @property
    def microbatches(self) -> int:
        """Parts in which a batch goes through."""
        return 1

    @property
    def required(self) -> tuple[Need, ...]:
        """A core for each rank, unless they may share."""
        return (Need(f"{self.num} cores", self._missing_cores),)

    def _missing_cores(self) -> str:
        found, num_here = usable_cores(), int(os.environ.get("LOCAL_WORLD_SIZE", self.num))
        if self.oversubscribe or found >= num_here:
            return ""
        return f"this process may use {found}; allowed: num up to that many, or oversubscribe=True"

    @abstractmethod
    def most(self, sizes: "ModelConfig") -> tuple[int, str]:
        """The largest number of processes for a model of these sizes, and what there are no more of."""

    @contextmanager
    def process(self) -> Iterator[Mapping[str, Any]]:
        """Start the other ranks, join them, and share the cores."""
        from labkit.engine.ranks import ranks

        with ranks(self.num, RANK_COMMAND) as facts:
            yield facts

    def transform(self, model: "Transformer", ctx: Context) -> "Transformer":
        """Cut the finished layers, send every rank its part and keep the first."""
        import torch
        from torch import distributed as dist

        from labkit.engine import follow, pipeline_parallel, tensor_parallel
        from labkit.engine.wire import Wire
        from labkit.model.config import plain

        self._check(model.config)
        if not dist.is_initialized():
            raise LabkitError(f"{self.name}: the model was to be split, no other rank runs; enter process() before")
        if ctx.device != "cpu" and torch.cuda.device_count() < self.num:
            raise Unavailable(
                f"{self.name}(num={self.num}) was asked for on {ctx.device}, where each rank needs a GPU; "
                f"this machine has {torch.cuda.device_count()}; allowed: device cpu"
            )
        wire = Wire()
        told = {"way": self.way, "dtype": str(model.dtype).removeprefix("torch.")}
        unit = tensor_parallel.neuron_unit(model)
        follow.announce(
            wire,
            **told,
            unit=unit,
            config=plain(model.config),
            device=ctx.device,
            recipe=ctx.recipe,
            threads=torch.get_num_threads(),
        )
        shard = follow.empty_shard(model.config, wire, unit=unit, **told)
        if isinstance(shard, pipeline_parallel.Stage):
            pipeline_parallel.split(model, shard)
        elif isinstance(shard, tensor_parallel.TensorShard):
            tensor_parallel.split(model, shard, unit=unit)
        return shard

    def configure(self, config: "EngineConfig") -> "EngineConfig":
        """Give the engine the executor."""
        from labkit.engine.split import SplitExecutor

        return replace(config, executor=partial(SplitExecutor, microbatches=self.microbatches))

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """Each rank does its share, and messages are exchanged."""
        self._check(cost.config)
        if cost.draft is not None and not cost.draft.has_weights:
            raise UsageError(
                f"{self.name} was asked for with speculative(draft='half'), whose layers are the model's own and would "
                "be on several ranks; allowed: draft='ngram', or another model by its name"
            )
        return replace(cost, num_ranks=self.num)

    def _check(self, sizes: "ModelConfig") -> None:
        most, what = self.most(sizes)
        if self.num > most:
            raise UsageError(
                f"{self.name}(num={self.num}) was asked for, the model has {most} {what} to share; "
                f"allowed: num up to {most}"
            )
