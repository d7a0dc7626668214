"""Answering: what Systems have in common whose requests are answered whole, by one id: a nearest text, a class."""

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labkit.bench.loadgen import batches
from labkit.core.cost import Cost
from labkit.core.trace import RequestTrace, Trace
from labkit.core.workload import Request, Workload, WorkloadSpec


@dataclass(frozen=True)
class Questions:
    """A Workload and what the System makes of its texts, `inputs[i]` of `workload.requests[i]`."""

    workload: Workload
    inputs: tuple[Any, ...]


class Answering(ABC):
    """A System (see `bench.system`) that answers whole requests, up to `batch_size` of those that wait together.

    A subclass says what texts it is asked (`texts`), implements `answer`, `quality` and `facts`, and may override
    `read`, which is not timed. What `answer` adds to `counters` stands in the Trace of the pass.
    """

    def __init__(self, texts: Sequence[str], *, batch_size: int = 1) -> None:
        self.texts, self.batch_size = texts, batch_size
        self.counters: dict[str, float] = {}

    @abstractmethod
    def answer(self, inputs: Sequence[Any]) -> Sequence[int]:
        """The id that answers each input."""

    @abstractmethod
    def quality(self, effort: str) -> Mapping[str, float]:
        """See System."""

    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """See System."""

    def read(self, texts: Sequence[str], workload: Workload) -> Sequence[Any]:
        """What `answer` takes of each text: by default the text."""
        return texts

    def prepare(self, workload: Workload) -> Questions:
        """Choose the text of each request.

        Raises:
            UsageError: a text that the System cannot answer.
        """
        texts = [question(request, self.texts) for request in workload.requests]
        return Questions(workload, tuple(self.read(texts, workload)))

    def serve(self, prepared: Questions) -> Trace:
        """Answer the requests in order of arrival, batch by batch; the clock runs from the call."""
        workload, inputs = prepared.workload, prepared.inputs
        traces: dict[int, RequestTrace] = {}
        self.counters = {"answered": len(inputs)}
        start_ns = time.perf_counter_ns()
        for batch in batches(workload, self.batch_size, start_ns):
            scheduled_s = (time.perf_counter_ns() - start_ns) * 1e-9
            ids = self.answer([inputs[index] for index, _, _ in batch])
            done_s = (time.perf_counter_ns() - start_ns) * 1e-9
            for (index, arrival_s, sent_s), answer in zip(batch, ids, strict=True):
                traces[index] = RequestTrace(arrival_s, sent_s, scheduled_s, (done_s,), (answer,), 0)
        duration_s = (time.perf_counter_ns() - start_ns) * 1e-9
        return Trace(tuple(traces[index] for index in sorted(traces)), duration_s, self.counters)

    def cost(self, spec: WorkloadSpec) -> Cost:
        """Nothing, unless a System says what it should need."""
        return Cost({})

    def relocate(self) -> None:  # noqa: B027 - not every System can
        """See System."""

    def drop_caches(self) -> None:  # noqa: B027 - few Systems keep any
        """See System."""

    def close(self) -> None:  # noqa: B027 - memory goes with the process
        """See System."""


def question(request: Request, texts: Sequence[str]) -> str:
    """The text that a request asks: a recorded one as it is, else one of these, drawn by the request's own text."""
    if isinstance(request.prompt, str) and request.prompt_tokens is None:
        return request.prompt
    return random.Random(str(request.prompt)).choice(texts)
