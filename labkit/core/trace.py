"""Trace: the raw event log of one pass. Every metric is derived from it; nothing here is rounded or summarised.

Times are seconds on `time.perf_counter_ns`, counted from the start of the pass.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class RequestTrace:
    """What happened to one request.

    `arrival_s` is when it was meant to be sent, `sent_s` when it was, `scheduled_s` when work on it began,
    `output_s[i]` when output `i` was there. Latency counts from `arrival_s`.
    """

    arrival_s: float
    sent_s: float
    scheduled_s: float
    output_s: tuple[float, ...]
    output_ids: tuple[int, ...]
    prompt_tokens: int

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "RequestTrace":
        """The inverse of `dataclasses.asdict`, after JSON has turned tuples into lists."""
        output_s, output_ids = tuple(fields["output_s"]), tuple(fields["output_ids"])
        return cls(**{**fields, "output_s": output_s, "output_ids": output_ids})


@dataclass(frozen=True)
class Trace:
    """One pass: its requests in order of arrival, how long it took, and what the System counted meanwhile.

    Counters of an engine: `steps` (passes of the model); `decoding_steps` and `decoded`, over how many sequences these
    went; `prompt_rows`, rows of activations computed for prompts, and `padding_rows`, those of them without a token;
    `scheduling_s`, seconds spent on what to do next; `preemptions`, with continuous batching. Of one that keeps
    prefixes: `prompt_tokens`, `prefix_hit_tokens` (those of them that were copied and not computed) and `prefix_bytes`
    (held at the end). Of a model that several processes share, each the mean over them: `communication_s` and
    `communication_bytes` (sent), and in a pipeline `bubble_s` (waited for each other). Of a System that answers whole
    requests, and has no tokens to tell of: `answered`, how many; of text similarity `vectorize_s`.
    """

    requests: tuple[RequestTrace, ...]
    duration_s: float
    counters: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Trace":
        """The inverse of `to_dict`."""
        requests = tuple(RequestTrace.of(request) for request in fields["requests"])
        return cls(requests, fields["duration_s"], dict(fields.get("counters", {})))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @property
    def num_outputs(self) -> int:
        """Output tokens (or answers) of all requests."""
        return sum(len(request.output_s) for request in self.requests)

    @property
    def checksum(self) -> str:
        """Identifies the outputs: two passes over the same Workload by an exact System agree in it."""
        ids = ";".join(",".join(map(str, request.output_ids)) for request in self.requests)
        return hashlib.sha256(ids.encode()).hexdigest()[:16]
