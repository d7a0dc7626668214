"""Peer: what other engines have in common as Systems: labkit's prompts, token ids, lengths and clock."""

import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from labkit.bench.loadgen import batches
from labkit.core.cost import Cost
from labkit.core.errors import Unavailable, UsageError
from labkit.core.trace import RequestTrace, Trace
from labkit.core.workload import Workload, WorkloadSpec
from labkit.model.tokenizer import prompt_ids

if TYPE_CHECKING:
    from labkit.model.source import ModelSource

TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class Prepared:
    """A Workload whose prompts are token ids, `prompts[i]` those of `workload.requests[i]`."""

    workload: Workload
    prompts: tuple[TokenIds, ...]

    @property
    def max_tokens(self) -> int:
        """Length of the longest sequence when it is done, prompt and new tokens."""
        pairs = zip(self.prompts, self.workload.requests, strict=True)
        return max(len(prompt) + request.max_new_tokens for prompt, request in pairs)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every peer is built from; `batch` is the most requests it serves together, None: all that wait."""

    source: "ModelSource"
    device: str
    dtype: str
    batch: int | None
    threads: int
    cache_folder: Path


class Peer(ABC):
    """Another engine as a System: requests in, greedy token ids with their times out, in static batches.

    A batch is what is waiting when the engine is free, at most `settings.batch` requests; it runs to its longest
    request, as static batching does. A subclass builds its engine and implements `generate` and `facts`.
    """

    dtypes: ClassVar[tuple[str, ...]]
    """Dtypes of the weights, the default first."""
    devices: ClassVar[tuple[str, ...]]
    """Devices it runs on here."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.max_positions = settings.source.config.max_positions

    @abstractmethod
    def generate(self, prompts: Sequence[TokenIds], num_tokens: int, stamps: list[int]) -> list[TokenIds]:
        """Greedy continuation of each prompt by `num_tokens` ids, end-of-sequence ignored.

        Appends `time.perf_counter_ns()` to `stamps` once for each step, when the ids of that step are known.
        """

    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """What a Run records of the build: weights_bytes, threads (read back), version, kernels, notes."""

    def prepare(self, workload: Workload) -> Prepared:
        """Tokenize the prompts with the model's own tokenizer and cut them to length.

        Raises:
            UsageError: a prompt is too short, or a request does not fit in the context.
        """
        tokenizer = self.settings.source.tokenizer
        prompts = tuple(tuple(prompt_ids(request, tokenizer)) for request in workload.requests)
        prepared = Prepared(workload, prompts)
        if prepared.max_tokens > self.max_positions:
            raise UsageError(
                f"workload {workload.name!r} needs {prepared.max_tokens:,} positions; {self.settings.source.name} "
                f"holds {self.max_positions:,} here; lower --prompt-tokens or --new-tokens"
            )
        return prepared

    def relocate(self) -> None:  # noqa: B027  # most engines have nothing to override
        """Nothing: where another engine keeps its weights is its own affair, unless it lets us move them."""

    def drop_caches(self) -> None:  # noqa: B027  # most engines have nothing to override
        """Nothing: no peer keeps anything of a request that is done."""

    def serve(self, prepared: Prepared) -> Trace:
        """Serve the requests in order of arrival, batch by batch; the clock runs from the call."""
        start_ns = time.perf_counter_ns()
        traces: dict[int, RequestTrace] = {}
        for batch in batches(prepared.workload, self.settings.batch, start_ns):
            scheduled_s, stamps = (time.perf_counter_ns() - start_ns) * 1e-9, list[int]()
            requests = [prepared.workload.requests[index] for index, _, _ in batch]
            prompts = [prepared.prompts[index] for index, _, _ in batch]
            outputs = self.generate(prompts, max(request.max_new_tokens for request in requests), stamps)
            times = tuple((stamp - start_ns) * 1e-9 for stamp in stamps)
            for request, prompt, ids, sent in zip(requests, prompts, outputs, batch, strict=True):
                index, arrival_s, sent_s = sent
                num = request.max_new_tokens
                traces[index] = RequestTrace(arrival_s, sent_s, scheduled_s, times[:num], ids[:num], len(prompt))
        return Trace(tuple(traces[index] for index in sorted(traces)), (time.perf_counter_ns() - start_ns) * 1e-9)

    def quality(self, effort: str) -> Mapping[str, float]:
        """Nothing: quality is stated against the engine's own fp32 reference."""
        return {}

    def cost(self, spec: WorkloadSpec) -> Cost:
        """Nothing: labkit does not predict what another engine should need."""
        return Cost({})

    @abstractmethod
    def close(self) -> None:
        """Give the weights back."""


def import_package(package: str, *, peer: str, remedy: str) -> Any:
    """Import a package that only a peer needs.

    Raises:
        Unavailable: it is missing or cannot be loaded.
    """
    try:
        return importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:  # a package around a C library fails in more ways than one
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unavailable(f"peer {peer!r} needs the package {package!r}: {reason}; remedy: {remedy}") from None
