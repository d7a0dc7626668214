"""Preload: what the first request would wait for is there before it comes.

Idea: the first request of a process pays for what later ones find ready. Weights are read once as soon as they stand
in memory, so that pages and their addresses are known. With `prefix`, the keys and values of a text that were computed
once and saved (`labkit prefix NAME`) are read from disk into the prefix cache: reading some megabytes is faster than
computing them, and the first request already finds them.
Price: the start takes longer by it, and a file. A saved prefix belongs to one model, one set of steps that change
weights, one dtype and one block size of the cache; anything else is refused.
No gain: once requests have been served, which the warm-up of every measurement does; and a `cold` workload drops what
was preloaded. Reading weights brings little here in any case: the engine copies them out of their file when it loads,
and so has touched them; where a file is mapped and read on first use it brings a disk's worth.
Reference: Gao et al. 2024, CachedAttention (keys and values kept on disk between turns); Fu et al. 2024, ServerlessLLM
(time to the first token of a process that starts).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from labkit.core.paths import prefix_path
from labkit.optimizations.base import Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.engine.cache import KVCache
    from labkit.engine.config import EngineConfig, PrefixFactory
    from labkit.engine.prefix import PrefixCache


@dataclass(frozen=True)
class Preload(Optimization):
    """Read all weights, and a saved prefix if one is named, before the first request."""

    name: ClassVar[str] = "preload"
    title: ClassVar[str] = "Preload"
    slot: ClassVar[Slot] = Slot.CACHE_EXTRA
    exact: ClassVar[bool] = True

    prefix: str = knob("", "saved prefix to load, by its name; none: weights only", is_open=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prefix:
            prefix_path(Path(), self.prefix)  # a name that could lead elsewhere is refused before anything runs

    @property
    def is_exact(self) -> bool:
        """A saved prefix is rounded as the recipe that saved it, so the fp32 engine of a proof cannot load it."""
        return not self.prefix

    @property
    def partners(self) -> tuple[str, ...]:
        """A saved prefix needs a place."""
        return ("prefix_cache",) if self.prefix else ()

    def configure(self, config: "EngineConfig") -> "EngineConfig":
        """Have the engine read its weights, and fill its prefix cache."""
        from labkit.model.linear import touch

        config = replace(config, warm=(*config.warm, touch))
        if not self.prefix:
            return config
        assert config.prefixes is not None  # prefix_cache is its partner and comes before it
        return replace(config, prefixes=partial(self._fill, config.prefixes))

    def _fill(
        self, make: "PrefixFactory", cache: "KVCache", origin: Mapping[str, str], folder: Path | None
    ) -> "PrefixCache":
        prefixes = make(cache, origin, folder)
        prefixes.load(self.prefix)
        return prefixes
