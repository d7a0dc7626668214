"""EngineConfig: the mechanisms an Engine is put together from; optimizations replace them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from labkit.engine.cache import KVCache
from labkit.engine.decoding import Decoding
from labkit.engine.executor import Executor, LocalExecutor
from labkit.engine.prefix import PrefixCache
from labkit.engine.sampler import Greedy, Sampler
from labkit.engine.scheduler import OneAtATime, Scheduler
from labkit.model.config import ModelConfig
from labkit.model.linear import finish
from labkit.model.source import ModelSource
from labkit.model.transformer import Transformer, fuse

CacheFactory = Callable[[ModelConfig, torch.dtype, str], KVCache]
DecodingFactory = Callable[[Transformer, ModelSource, Executor, "EngineConfig"], Decoding]
PrefixFactory = Callable[[KVCache, Mapping[str, str], Path | None], PrefixCache]
"""From a cache, what stored keys and values depend on (see PrefixCache), and the cache folder."""


def finished(model: Transformer) -> Transformer:
    """The model with its matrices joined and packed for their kernels; nothing changes weights after it."""
    finish(fuse(model))
    return model


@dataclass(frozen=True)
class EngineConfig:
    """Objects or factories, never names. Defaults are the naive baseline: no cache, one request at a time, greedy.

    Without `decoding` a step gives each sequence one token. `finish` is done to the model once all techniques have
    changed its weights, `warm` to the finished one before the first request. `facts` are what a Run records besides.
    """

    cache: CacheFactory | None = None
    prefixes: PrefixFactory | None = None
    finish: Callable[[Transformer], Transformer] = finished
    warm: tuple[Callable[[Transformer], None], ...] = ()
    facts: Callable[[], Mapping[str, Any]] = dict
    scheduler: Callable[[KVCache | None], Scheduler] = OneAtATime
    executor: Callable[[Transformer, KVCache | None], Executor] = LocalExecutor
    decoding: DecodingFactory | None = None
    sampler: Sampler = field(default_factory=Greedy)
