"""Far prefill: prompts are computed by a twin of the model on another device, which hands over keys and values."""

from collections.abc import Sequence as List

from torch import Tensor

from labkit.core.errors import UsageError
from labkit.engine.cache import KVCache
from labkit.engine.config import finished
from labkit.engine.executor import LocalExecutor
from labkit.engine.sequence import Sequence
from labkit.model.placement import is_plain, twin
from labkit.model.transformer import Transformer


class FarPrefill:
    """Makes the twin from the weights as techniques left them, then the executor that uses both."""

    def __init__(self, *, device: str) -> None:
        self.device = device
        self._far: Transformer

    def finish(self, model: Transformer) -> Transformer:
        """Pack both models, each for its device.

        Raises:
            UsageError: the weights of a layer are in no tensors that can be copied.
        """
        if not is_plain(model):
            raise UsageError(
                "prefill_on_gpu was asked for with layers that torchao quantized, which cannot be copied; "
                "allowed: quantize(kernel='fastest')"
            )
        self._far = finished(twin(model, self.device)).eval()
        return finished(model)

    def executor(self, model: Transformer, cache: KVCache | None) -> "FarPrefillExecutor":
        """For the finished model and its cache."""
        assert cache is not None  # kv_cache is required
        far_cache = KVCache(
            cache.config,
            dtype=cache.dtype,
            compute_dtype=cache.compute_dtype,
            device=self.device,
            block_size=cache.block_size,
        )
        return FarPrefillExecutor(model, cache, LocalExecutor(self._far, far_cache))


class FarPrefillExecutor(LocalExecutor):
    """A LocalExecutor but for prompts, which `far` computes.

    What is known of a prompt's beginning goes there first; what is new comes back. Prefill leaves no `shapes` here.
    """

    def __init__(self, model: Transformer, cache: KVCache, far: LocalExecutor) -> None:
        super().__init__(model, cache)
        self.far = far

    def prefill(self, sequences: List[Sequence]) -> Tensor:
        """See LocalExecutor."""
        cache, far_cache = self.cache, self.far.cache
        assert cache is not None
        assert far_cache is not None
        guests = [Sequence(one.index, one.tokens, 0, arrival_s=0.0) for one in sequences]
        far_cache.admit(guests)
        try:
            for sequence, guest in zip(sequences, guests, strict=True):
                _copy(cache, sequence, far_cache, guest, 0, sequence.num_cached)
                guest.num_cached = sequence.num_cached
            logits = self.far.prefill(guests)
            for sequence, guest in zip(sequences, guests, strict=True):
                _copy(far_cache, guest, cache, sequence, sequence.num_cached, guest.num_cached)
                sequence.num_cached = guest.num_cached
        finally:
            far_cache.release(guests)
        return logits.to(self.device)


def _copy(source: KVCache, there: Sequence, target: KVCache, here: Sequence, start: int, end: int) -> None:
    """Copy what a cache holds of tokens `start`, which begins a block, to `end` into another's blocks."""
    blocks = slice(start // source.block_size, -(-end // source.block_size))
    if end > start:
        target.write(here.blocks[blocks], [source.read(block) for block in there.blocks[blocks]])
