"""EngineConfig: the mechanisms an Engine is put together from; optimizations replace them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from labkit.engine.cache import KVCache
from labkit.engine.executor import Executor, LocalExecutor
from labkit.engine.sampler import Greedy, Sampler
from labkit.engine.scheduler import OneAtATime, Scheduler
from labkit.model.config import ModelConfig
from labkit.model.transformer import Transformer

CacheFactory = Callable[[ModelConfig, torch.dtype, str], KVCache]


@dataclass(frozen=True)
class EngineConfig:
    """Objects or factories, never names. Defaults are the naive baseline: no cache, one request at a time, greedy."""

    cache: CacheFactory | None = None
    scheduler: Callable[[], Scheduler] = OneAtATime
    executor: Callable[[Transformer, KVCache | None], Executor] = LocalExecutor
    sampler: Sampler = field(default_factory=Greedy)
