"""EngineConfig: the mechanisms an Engine is put together from; optimizations replace them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from labkit.engine.cache import KVCache
from labkit.engine.decoding import Decoding
from labkit.engine.executor import Executor, LocalExecutor
from labkit.engine.sampler import Greedy, Sampler
from labkit.engine.scheduler import OneAtATime, Scheduler
from labkit.model.config import ModelConfig
from labkit.model.source import ModelSource
from labkit.model.transformer import Transformer

CacheFactory = Callable[[ModelConfig, torch.dtype, str], KVCache]
DecodingFactory = Callable[[Transformer, ModelSource, Executor, "EngineConfig"], Decoding]


@dataclass(frozen=True)
class EngineConfig:
    """Objects or factories, never names. Defaults are the naive baseline: no cache, one request at a time, greedy.

    Without `decoding` a step gives each sequence one token.
    """

    cache: CacheFactory | None = None
    scheduler: Callable[[], Scheduler] = OneAtATime
    executor: Callable[[Transformer, KVCache | None], Executor] = LocalExecutor
    decoding: DecodingFactory | None = None
    sampler: Sampler = field(default_factory=Greedy)
